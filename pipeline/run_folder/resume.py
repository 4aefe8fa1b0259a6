"""Detects what an earlier run left in the output folder, and decides whether this run may resume it.

A folder is in one of these states. Each step of a run changes the state by a single file operation:

    nothing      -> `_keyjoin/job.json` is written            -> unfinished
    unfinished   -> `_SUCCESS` is written                     -> complete
    unfinished   -> too many bad rows: `_keyjoin/job.json` is removed -> committed
    committed    -> `_keyjoin/job.json` is written            -> unfinished
    complete     -> `_keyjoin/ready` is written in `_keyjoin/temp/next` -> ready
    ready        -> `_SUCCESS` is written, `_keyjoin/ready` is removed -> complete

A complete output stays complete until a new result is whole. Until then `--overwrite`, `--incremental` and a replay
write to the folder `_keyjoin/temp/next`, which itself is in one of the first three states. A folder that is ready has a
new result which is whole. Every command puts it in place before anything else, see `pipeline.run_folder.replace`.
"""

import enum
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from pipeline.options.flag import flags_of
from pipeline.options.groups import FolderOptions
from pipeline.options.run_options import RunOptions
from pipeline.plan.preflight import Inputs
from pipeline.run_folder import manifest, records
from pipeline.run_folder.lock import locked
from pipeline.run_folder.names import (
    JOB,
    LOCK,
    MANIFEST,
    NEXT,
    PARTS,
    REPORT,
    SOURCES,
    STATISTICS,
    SUCCESS,
    TEMP,
    TRACEBACK,
    is_temporary,
)
from pipeline.run_folder.place import Place, in_place, own_names, staged
from pipeline.run_folder.records import Job, LoadedSettings, Manifest, Settings
from pipeline.run_folder.unexpected_files import leftovers
from transforms import formats
from transforms.errors import RunError, UsageError
from transforms.formats import drift
from transforms.formats.base import Reader
from transforms.formats.spec import FormatSpec
from transforms.read_chunk import checksum_now
from transforms.records import Chunk, PartReceipt, Source
from transforms.split_into_chunks import SPILL, open_plain
from transforms.storage import files
from transforms.threads import in_threads
from transforms.write_part import written_of
from transforms.write_receipts import LISTS, RECEIPTS, decode, read_list, write_receipt

# The code of all other recorded versions can change the bytes of a part. Model libraries are among it.
NOT_COMPARED = frozenset({"python", "apache-beam"})
OVERWRITE_HINT = "--overwrite starts anew"


class Stage(enum.Enum):
    """How far an earlier run came; the value is the text for messages."""

    UNFINISHED = "is unfinished"
    COMMITTED = "has no _SUCCESS"
    COMPLETE = "is complete"


class Earlier(NamedTuple):
    """An earlier run, as far as its files describe it.

    Attributes:
        folder: The folder that it wrote to.
        stage: How far it came.
        record: Its `_keyjoin/job.json` if it is unfinished, else its `_keyjoin/manifest.json`.
        sources: The sources that it planned to read; None if their list is missing or not whole.
    """

    folder: str
    stage: Stage
    record: Job | Manifest
    sources: Sequence[Source] | None


def find_earlier(output: str) -> Earlier | None:
    """Reads what an earlier run left in a folder; None if a run cannot continue from it.

    Raises:
        UsageError: A file of the earlier run is damaged.
    """
    success, made, job = (files.read_small(files.join(output, name)) for name in (SUCCESS, MANIFEST, JOB))
    complete = made is not None and success == manifest.success_of(made)
    if job is not None and not complete and _is_whole(job):
        begun = _decoded(output, JOB, job, Job)
        return Earlier(output, Stage.UNFINISHED, begun, manifest.read_planned(files.join(output, TEMP), begun))
    if made is None:
        return None
    ended = _decoded(output, MANIFEST, made, Manifest)
    for name, listed in ended.files.items():
        if files.read_back(files.join(output, name)) != listed:
            raise UsageError(f"--output {output}: {name} is not what {MANIFEST} says of it; {OVERWRITE_HINT}")
    stage = Stage.COMPLETE if complete else Stage.COMMITTED
    try:
        return Earlier(output, stage, ended, list(manifest.read_sources(files.join(output, SOURCES))))
    except RunError as error:
        raise UsageError(f"--output {output}: {error}") from error


class Start(NamedTuple):
    """The start of a run.

    Attributes:
        place: The folders that it writes to.
        earlier: The run that it resumes, or whose output it adds to; None if it starts anew.
        known: The sources whose parts the output may hold.
    """

    place: Place
    earlier: Earlier | None
    known: Sequence[Source]


def start(options: RunOptions, inputs: Inputs) -> Start:
    """Decides how a run starts, by what earlier runs left in its output.

    Raises:
        UsageError: A file of an earlier run is damaged, and `--overwrite` is not given.
    """
    output = options.output
    earlier = _find_to_overwrite(output) if options.overwrite else find_earlier(output)
    known = (earlier and earlier.sources) or ()
    if earlier is None or earlier.stage is not Stage.COMPLETE:
        # If an earlier attempt of the same --overwrite command was interrupted, the run resumes it.
        begun = earlier is not None and earlier.record.options.overwrite
        anew = options.overwrite and not (begun and _is_same(earlier, options, inputs))
        return Start(in_place(output), None if anew else earlier, known)
    place = staged(output)
    new = unfinished(output)
    if new is not None and _is_same(new, options, inputs):
        return Start(place, new, [*(new.sources or ()), *known])
    return Start(place, None if options.overwrite else earlier, known)


def is_same(options: RunOptions, inputs: Inputs) -> bool:
    """Returns whether an output comes from this command, and no source is new or has changed since."""
    return _is_same(_find_to_overwrite(options.output), options, inputs)


def unfinished(output: str) -> Earlier | None:
    """Reads the unfinished run that will replace a complete output; None if there is none."""
    found = _find_to_overwrite(staged(output).work)
    if found is None or (isinstance(found.record, Manifest) and found.record.status == records.COMPLETE):
        return None  # a complete record is left by a replay that was killed before it wrote its last file
    return found


def _find_to_overwrite(folder: str) -> Earlier | None:
    """Does the same as `find_earlier`, but returns None if a file is damaged."""
    try:
        return find_earlier(folder)
    except UsageError:
        return None


def _is_same(earlier: Earlier | None, options: RunOptions, inputs: Inputs) -> bool:
    """Returns whether an earlier run comes from this command, and no source is new or has changed since."""
    try:
        return earlier is not None and earlier.sources is not None and not check(earlier, options, inputs)
    except UsageError:
        return False


def _is_whole(job: bytes) -> bool:
    """Returns whether `_keyjoin/job.json` was written to its end.

    An object store may keep a part of a failed write. The run of such a file had not begun.
    """
    try:
        json.loads(job)
    except ValueError:
        return False
    except RecursionError:  # it is whole, but keyjoin did not write it
        pass
    return True


def _decoded(output: str, name: str, text: bytes, kind: type[records.Record]) -> records.Record:
    try:
        return records.decode(text, kind)
    except records.OtherVersionError as error:
        raise UsageError(
            f"--output {output} was written by another version of keyjoin: {error}; {OVERWRITE_HINT}"
        ) from error
    except ValueError as error:
        raise UsageError(f"--output {output}: {name} is damaged ({error}); {OVERWRITE_HINT}") from error


def check_settings(earlier: Earlier, options: FolderOptions, settings: Settings) -> None:
    """Checks that a run has the settings of an earlier one, as far as they are known.

    Raises:
        UsageError: The model, an option or a version has changed; the message says which, and how.
    """
    changed = list(differences(earlier.record, settings))
    if changed:
        raise UsageError(
            f"--output {options.output} holds a run that {earlier.stage.value}, with other settings: "
            f"{'; '.join(changed)}: give the earlier ones, or choose another folder; {OVERWRITE_HINT}"
        )


def check(earlier: Earlier, options: RunOptions, inputs: Inputs) -> list[Source]:
    """Checks that a run may resume an earlier one or add to it, as far as keyjoin knows this without loading the model.

    Returns:
        The sources that are new since the earlier run.

    Raises:
        UsageError: The model, an option, a version or a source has changed; the message says which, and how.
    """
    check_settings(earlier, options, inputs.settings)
    if earlier.sources is None:
        return []
    now = inputs.matched.sources
    refused = next(changed_sources(earlier.sources, now), None) or _changed_rows(earlier, inputs)
    if refused:
        raise UsageError(
            f"--output {options.output} holds a run that {earlier.stage.value}, but {refused}; {OVERWRITE_HINT}"
        )
    known = {source.path for source in earlier.sources}
    new = [source for source in now if source.path not in known]
    if new and not options.incremental:
        raise UsageError(
            f"--output {options.output} holds a run that {earlier.stage.value}, and {new[0].path} is new since; "
            f"--incremental takes it along, {OVERWRITE_HINT}"
        )
    return new


def differences(before: LoadedSettings, now: Settings) -> Iterator[str]:
    """Yields the differences that may change the output, such as `--batch_size was 1024, is now 512`."""
    old, new = (records.to_json(settings.options) for settings in (before, now))
    for name, flag in sorted(flags_of(RunOptions).items()):
        if not flag.may_change and old[name] != new[name]:
            yield f"--{name} was {_spelled(old[name])}, is now {_spelled(new[name])}"
    yield from _changed_format(before.format, now.format)
    then, model = records.to_json(before.model), records.to_json(now.model)
    for name in sorted(model.keys() - {"path", "ops", "batch_dependence"}):
        if then[name] != model[name]:
            what = "the sha256 of the model's files" if name == "sha256" else f"the model's {name}"
            yield f"{what} was {_spelled(then[name])}, is now {_spelled(model[name])}"
    for name in sorted((before.versions.keys() | now.versions.keys()) - NOT_COMPARED):
        old, new = before.versions.get(name), now.versions.get(name)
        if old != new:
            yield f"{name} was {old or 'not recorded'}, is now {new or 'not recorded'}"


def _changed_format(before: FormatSpec, now: FormatSpec) -> Iterator[str]:
    """Yields the differences between two formats.

    Headers count only as far as they describe other columns. A schema that is not planned yet will be that of before.
    """
    schema = now.schema or before.schema
    old = msgspec.structs.replace(before, header="")
    new = msgspec.structs.replace(now, header="", schema=schema)
    if old != new:
        yield f"the format was {_spelled_format(old)}, is now {_spelled_format(new)}"
    elif now.needed_header != before.needed_header:
        columns = ("the earlier run", before.needed_header), ("the input", now.needed_header)
        yield from drift.between(formats.load(now).reader, *columns)


def _spelled_format(spec: FormatSpec) -> str:
    return ", ".join(f"{name} {value}" for name, value in records.to_json(spec).items()).removeprefix("name ")


def _spelled(value: Any) -> str:
    if value in (None, "", [], {}):
        return "not given"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    return value if isinstance(value, str) else json.dumps(value)


def changed_sources(before: Iterable[Source], now: Iterable[Source]) -> Iterator[str]:
    """Yields the changes that keyjoin detects without reading: a source is gone, or has another size or name."""
    there = {source.path: source for source in now}
    for old in before:
        new = there.get(old.path)
        if new is None:
            other = next((path for path in there if files.absolute(path) == files.absolute(old.path)), None)
            yield (
                f"{old.path} is not among the input any more"
                if other is None
                else f"{old.path} is given as {other} now, and keys of rows hold the path: give it as {old.path}"
            )
        elif new.size != old.size:
            yield f"{old.path} had {old.size} bytes, and has {new.size} now"
        elif (new.stem, new.suffix) != (old.stem, old.suffix):
            was, would = (f"{source.stem}-…{source.suffix}" for source in (old, new))
            yield f"the parts of {old.path} were called {was}, and would be {would} now"


def _changed_rows(earlier: Earlier, inputs: Inputs) -> str | None:
    """Describes the first source whose scored rows have changed; None if there is none.

    Reads only sources that were written since the earlier run, and only the chunks that it scored.
    """
    before = {source.path: source.written for source in earlier.sources or ()}
    touched = {
        source.path: source
        for source in inputs.matched.sources
        if before.get(source.path, source.written) != source.written
    }
    if not touched:
        return None
    reader = formats.load(inputs.format).reader
    parts = (part for part in _receipts(earlier, touched.values()) if part.chunk.source in touched)
    for path, receipts in itertools.groupby(parts, key=lambda part: part.chunk.source):
        try:
            other = _first_changed(touched[path], receipts, reader)
        except OSError as error:
            return f"{path} was written since and cannot be read: {error}"
        if other is not None:
            return f"{path} has other {reader.unit}s now, from {other.start} to {other.end}"
    return None


def _first_changed(source: Source, receipts: Iterable[PartReceipt], reader: Reader) -> Chunk | None:
    """Returns the first chunk of a source whose rows are not those that were scored; None if there is none."""
    with open_plain(source) as file:
        for part in sorted(receipts, key=lambda part: part.chunk.number):
            if checksum_now(file, part.chunk, reader) != part.input_checksum:
                return part.chunk
    return None


def _receipts(earlier: Earlier, sources: Iterable[Source]) -> Iterator[PartReceipt]:
    """Yields receipts of an earlier run, at least those of the given sources. Those of a source follow each other."""
    if earlier.stage is not Stage.UNFINISHED:
        yield from read_list(files.join(earlier.folder, PARTS))
        return
    temp = files.join(earlier.folder, TEMP)
    names = files.list_below(files.join(temp, RECEIPTS))
    for source in sources:
        for name in names:
            if name.startswith(f"{source.stem}-") and name.endswith(f"{source.suffix}.json"):
                found = files.read_small(files.join(temp, RECEIPTS, name))
                with_source = _receipt(found)
                if with_source is not None and with_source.chunk.source == source.path:
                    yield with_source


def _receipt(text: bytes | None) -> PartReceipt | None:
    try:
        return None if text is None else decode(text)
    except ValueError:
        return None  # damaged: the run scores its chunk again


def lost_parts(output: str) -> list[str]:
    """Lists the files of a complete run that are missing or have another size. Their content is not read."""
    there = files.list_below(output)
    listed = (pair for part in read_list(files.join(output, PARTS)) for pair in written_of(part))
    return [name for name, written in listed if there.get(name) != written.bytes]


def clean(output: str) -> None:
    """Removes the temporary files of a run that was killed after it wrote `_SUCCESS`.

    Removes nothing if an unfinished run will replace the output.

    Raises:
        UsageError: A run is still active, and holds the lock.
    """
    if own_names(output) & {JOB, TEMP, LOCK} and unfinished(output) is None:
        with locked(output):
            manifest.clear(output)


def begin(
    place: Place,
    settings: LoadedSettings,
    sources: Sequence[Source],
    earlier: Earlier | None,
    there: Iterable[str],
    *,
    overwrite: bool = False,
) -> None:
    """Prepares a folder for a run. If this process is killed at any time, the folder's files still show its state.

    Args:
        place: The folders that the run writes to.
        settings: The settings of the run, see `pipeline.run_folder.manifest.begin`.
        sources: The sources that it will read.
        earlier: The run that it resumes or adds to; None if it starts anew.
        there: Names of the files in the folder that the run writes to.
        overwrite: Whether to remove all other files that an earlier run left in the output.

    Raises:
        RunError: The temporary folder is a link that leads out of the output, or a file cannot be written.
    """
    output, temp = place.work, place.temp
    if place.is_staged:
        if earlier is None or earlier.folder != output:
            files.below(place.output, f"{TEMP}/{NEXT}/_")
            files.delete_tree(output)
    else:
        # `_SUCCESS` is removed first: from then on no reader takes the folder for a result.
        files.delete_tree(files.join(output, SUCCESS))
    if earlier is None or earlier.sources is None:
        files.delete_tree(temp)
    else:
        for name in (LISTS, SPILL):
            files.delete_tree(files.below(output, f"{TEMP}/{name}"))
        if earlier.stage is not Stage.UNFINISHED:
            _restore(files.join(earlier.folder, PARTS), temp)
    manifest.begin(output, settings, sources)
    # From here on `_keyjoin/job.json` describes the folder, so other records of an earlier run can be removed.
    if overwrite and earlier is None and not place.is_staged:
        # Only the files that `check_folder` has accepted: keyjoin did not write files that appeared since.
        files.delete_files(output, [name for name in there if name not in (LOCK, JOB) and not is_temporary(name)])
        return
    stale = [name for name in there if name in (MANIFEST, PARTS, SOURCES, STATISTICS, TRACEBACK, REPORT)]
    files.delete_files(output, [*stale, *leftovers(there, sources)])


def _restore(listed: str, temp: str) -> None:
    """Writes the receipt of each part again, from the list of parts of a committed run."""
    for _ in in_threads(lambda part: write_receipt(temp, part), read_list(listed)):
        pass
