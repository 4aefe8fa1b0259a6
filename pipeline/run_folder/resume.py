"""What an earlier run left in the output folder, and whether this one may go on from it.

A folder is in one of these states; each step of a run leads from one to another in a single file operation:

    nothing      -> `_keyjoin/job.json` is written            -> unfinished
    unfinished   -> `_SUCCESS` is written                     -> complete
    unfinished   -> too many bad rows: `_keyjoin/job.json` goes -> committed
    committed    -> `_keyjoin/job.json` is written            -> unfinished
    complete     -> in `_keyjoin/temp/next` `_keyjoin/ready` is written -> ready
    ready        -> `_SUCCESS` is written, `_keyjoin/ready` goes -> complete

What is complete stays complete until a new result is whole: `--overwrite`, `--incremental` and a replay write to the
folder `_keyjoin/temp/next`, which is in one of the first three states itself. A folder that is ready has a new result
which is whole: every command puts it in place before anything else, see `pipeline.run_folder.replace`.
"""

import enum
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from pipeline.options.flag import flags_of
from pipeline.options.groups import FolderOptions
from pipeline.options.run_options import RunOptions
from pipeline.plan.preflight import Inputs
from pipeline.run_folder import manifest, records
from pipeline.run_folder.lock import locked
from pipeline.run_folder.names import JOB, LOCK, MANIFEST, NEXT, PARTS, SOURCES, SUCCESS, TEMP, TRACEBACK, is_temporary
from pipeline.run_folder.place import Place, in_place, own_names, staged
from pipeline.run_folder.records import Job, LoadedSettings, Manifest, Settings
from pipeline.run_folder.unexpected_files import leftovers
from transforms import formats
from transforms.errors import RunError, UsageError
from transforms.formats.base import Reader
from transforms.read_chunk import checksum_now
from transforms.records import Chunk, PartReceipt, Source
from transforms.split_into_chunks import SPILL, open_plain
from transforms.storage import files
from transforms.threads import in_threads
from transforms.write_part import written_of
from transforms.write_receipts import LISTS, RECEIPTS, decode, read_list, write_receipt

# All other versions are of code that the bytes of a part come from, model libraries among it.
NOT_COMPARED = frozenset({"python", "apache-beam"})
ANEW = "--overwrite starts anew"


class Stage(enum.Enum):
    """How far an earlier run came; the value says it."""

    UNFINISHED = "is unfinished"
    COMMITTED = "has no _SUCCESS"
    COMPLETE = "is complete"


class Earlier(NamedTuple):
    """What an earlier run left.

    Attributes:
        folder: Where.
        stage: How far it came.
        record: Its `_keyjoin/job.json` if it was not finished, else its `_keyjoin/manifest.json`.
        sources: What it was to read; None if it was killed before that was written.
    """

    folder: str
    stage: Stage
    record: Job | Manifest
    sources: Sequence[Source] | None


def look(output: str) -> Earlier | None:
    """What an earlier run left in a folder; None if nothing that one could go on from.

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
            raise UsageError(f"--output {output}: {name} is not what {MANIFEST} says of it; {ANEW}")
    stage = Stage.COMPLETE if complete else Stage.COMMITTED
    try:
        return Earlier(output, stage, ended, list(manifest.read_sources(files.join(output, SOURCES))))
    except RunError as error:
        raise UsageError(f"--output {output}: {error}") from error


class Start(NamedTuple):
    """How a run starts.

    Attributes:
        place: Where it writes.
        earlier: The run that it resumes, or whose output it adds to; None if it starts anew.
        known: The sources whose parts the output may hold.
    """

    place: Place
    earlier: Earlier | None
    known: Sequence[Source]


def start(options: RunOptions, inputs: Inputs) -> Start:
    """How a run starts, by what earlier ones left in its output.

    Raises:
        UsageError: A file of an earlier run is damaged, and is not to be overwritten.
    """
    output = options.output
    earlier = _look_to_overwrite(output) if options.overwrite else look(output)
    known = (earlier and earlier.sources) or ()
    if earlier is None or earlier.stage is not Stage.COMPLETE:
        # The same command may have been interrupted: then it is resumed.
        begun = earlier is not None and earlier.record.options.overwrite
        anew = options.overwrite and not (begun and _is_same(earlier, options, inputs))
        return Start(in_place(output), None if anew else earlier, known)
    place = staged(output)
    new = unfinished(output)
    if new is not None and _is_same(new, options, inputs):
        return Start(place, new, [*(new.sources or ()), *known])
    return Start(place, None if options.overwrite else earlier, known)


def is_same(options: RunOptions, inputs: Inputs) -> bool:
    """Whether an output is of that command, and of nothing else."""
    return _is_same(_look_to_overwrite(options.output), options, inputs)


def unfinished(output: str) -> Earlier | None:
    """The run that is to replace a complete output once it is whole; None if there is none."""
    found = _look_to_overwrite(staged(output).work)
    if found is None or (isinstance(found.record, Manifest) and found.record.status == records.COMPLETE):
        return None  # the latter is what a replay leaves that was killed before its last file
    return found


def _look_to_overwrite(folder: str) -> Earlier | None:
    """As `look`; what is damaged is nothing."""
    try:
        return look(folder)
    except UsageError:
        return None


def _is_same(earlier: Earlier | None, options: RunOptions, inputs: Inputs) -> bool:
    """Whether an unfinished run is of that command, and of nothing else."""
    try:
        return earlier is not None and earlier.sources is not None and not check(earlier, options, inputs)
    except UsageError:
        return False


def _is_whole(job: bytes) -> bool:
    """Whether `_keyjoin/job.json` was written to its end; an object store may keep what came of a write that failed.

    One that was not is of a run that had not begun.
    """
    try:
        json.loads(job)
    except ValueError:
        return False
    except RecursionError:  # to its end, but not by keyjoin
        pass
    return True


def _decoded(output: str, name: str, text: bytes, kind: type[records.Record]) -> records.Record:
    try:
        return records.decode(text, kind)
    except records.OtherVersionError as error:
        raise UsageError(f"--output {output} was written by another version of keyjoin: {error}; {ANEW}") from error
    except ValueError as error:
        raise UsageError(f"--output {output}: {name} is damaged ({error}); {ANEW}") from error


def check_settings(earlier: Earlier, options: FolderOptions, settings: Settings) -> None:
    """Whether a run has the settings of an earlier one, as far as they are known.

    Raises:
        UsageError: The model, an option or a version is not what it was; says which, and how.
    """
    changed = list(differences(earlier.record, settings))
    if changed:
        raise UsageError(
            f"--output {options.output} holds a run that {earlier.stage.value}, with other settings: "
            f"{'; '.join(changed)}: give the earlier ones, or choose another folder; {ANEW}"
        )


def check(earlier: Earlier, options: RunOptions, inputs: Inputs) -> list[Source]:
    """Whether a run may go on from an earlier one, as far as it is known without the model.

    Returns:
        Sources that are new since.

    Raises:
        UsageError: The model, an option, a version or a source is not what it was; says which, and how.
    """
    check_settings(earlier, options, inputs.settings)
    if earlier.sources is None:
        return []
    now = inputs.matched.sources
    refused = next(changed_sources(earlier.sources, now), None) or _changed_rows(earlier, inputs)
    if refused:
        raise UsageError(f"--output {options.output} holds a run that {earlier.stage.value}, but {refused}; {ANEW}")
    known = {source.path for source in earlier.sources}
    new = [source for source in now if source.path not in known]
    if new and not options.incremental:
        raise UsageError(
            f"--output {options.output} holds a run that {earlier.stage.value}, and {new[0].path} is new since; "
            f"--incremental takes it along, {ANEW}"
        )
    return new


def differences(before: LoadedSettings, now: Settings) -> Iterator[str]:
    """How settings differ in what may change the output, such as `--batch_size was 1024, is now 512`."""
    asked, asks = (records.to_json(settings.options) for settings in (before, now))
    for name, flag in sorted(flags_of(RunOptions).items()):
        if not flag.may_change and asked[name] != asks[name]:
            yield f"--{name} was {_spelled(asked[name])}, is now {_spelled(asks[name])}"
    if before.format != now.format:
        yield f"the format was {before.format}, is now {now.format}"
    then, model = records.to_json(before.model), records.to_json(now.model)
    for name in sorted(model.keys() - {"path", "ops", "batch_dependence"}):
        if then[name] != model[name]:
            what = "the sha256 of the model's files" if name == "sha256" else f"the model's {name}"
            yield f"{what} was {_spelled(then[name])}, is now {_spelled(model[name])}"
    for name in sorted((before.versions.keys() | now.versions.keys()) - NOT_COMPARED):
        old, new = before.versions.get(name), now.versions.get(name)
        if old != new:
            yield f"{name} was {old or 'not recorded'}, is now {new or 'not recorded'}"


def _spelled(value: Any) -> str:
    if value in (None, "", [], {}):
        return "not given"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    return value if isinstance(value, str) else json.dumps(value)


def changed_sources(before: Iterable[Source], now: Iterable[Source]) -> Iterator[str]:
    """What can be told of changes without reading: sources that are gone, have another size, or another name."""
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
    """Reads sources again that were written since, as far as they were scored; says which has other rows."""
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
        except (OSError, EOFError, zlib.error) as error:
            return f"{path} was written since and cannot be read: {error}"
        if other is not None:
            return f"{path} has other {reader.unit}s now, from {other.start} to {other.end}"
    return None


def _first_changed(source: Source, receipts: Iterable[PartReceipt], reader: Reader) -> Chunk | None:
    """The first chunk of a source whose rows are not those that were scored."""
    with open_plain(source) as file:
        for part in sorted(receipts, key=lambda part: part.chunk.number):
            if checksum_now(file, part.chunk, reader) != part.input_checksum:
                return part.chunk
    return None


def _receipts(earlier: Earlier, sources: Iterable[Source]) -> Iterator[PartReceipt]:
    """Receipts that an earlier run left, at least those of some sources; those of a source follow each other."""
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
        return None  # damaged: its chunk will be scored again


def lost_parts(output: str) -> list[str]:
    """Files that a complete run has listed, and that are not there in their size; their content is not read."""
    there = files.list_below(output)
    listed = (pair for part in read_list(files.join(output, PARTS)) for pair in written_of(part))
    return [name for name, written in listed if there.get(name) != written.bytes]


def clean(output: str) -> None:
    """Removes what a run that was killed after its `_SUCCESS` has left, but no unfinished run that is to replace it.

    Raises:
        UsageError: It is still there, and holds the folder.
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
    """Makes a folder ready, so that it says what is going on in it, whenever this process is killed.

    Args:
        place: Where the run writes.
        settings: What will run, see `pipeline.run_folder.manifest.begin`.
        sources: What it will read.
        earlier: What it goes on from; None if it starts anew.
        there: Names of the files in the folder that the run writes to.
        overwrite: Whether all else that an earlier run left in the output goes.

    Raises:
        RunError: The temporary folder is a link that leads out of the output, or a file cannot be written.
    """
    output, temp = place.work, place.temp
    if place.is_staged:
        if earlier is None or earlier.folder != output:
            files.below(place.output, f"{TEMP}/{NEXT}/_")
            files.delete_tree(output)
    else:
        # `_SUCCESS` goes first: from then on nobody takes what is there for a result.
        files.delete_tree(files.join(output, SUCCESS))
    if earlier is None or earlier.sources is None:
        files.delete_tree(temp)
    else:
        for name in (LISTS, SPILL):
            files.delete_tree(files.below(output, f"{TEMP}/{name}"))
        if earlier.stage is not Stage.UNFINISHED:
            _restore(files.join(earlier.folder, PARTS), temp)
    manifest.begin(output, settings, sources)
    # From here on `_keyjoin/job.json` tells what the folder is; what else an earlier run wrote about itself can go.
    if overwrite and earlier is None and not place.is_staged:
        # These and no more: see `check_folder`. What has appeared since is not keyjoin's.
        files.delete_files(output, [name for name in there if name not in (LOCK, JOB) and not is_temporary(name)])
        return
    stale = [name for name in there if name in (MANIFEST, PARTS, SOURCES, TRACEBACK)]
    files.delete_files(output, [*stale, *leftovers(there, sources)])


def _restore(listed: str, temp: str) -> None:
    """Writes a receipt beside each part again, from the list of a run that was committed."""
    for _ in in_threads(lambda part: write_receipt(temp, part), read_list(listed)):
        pass
