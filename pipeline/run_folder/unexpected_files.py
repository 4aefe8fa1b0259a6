"""Refuses an output folder before a run if keyjoin must not read or replace the files in it.

It also refuses an output inside the output of another run or around one, and sources whose files could not be written.
"""

import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Sequence

from pipeline.options.groups import FolderOptions
from pipeline.run_folder.names import (
    FILES,
    JOB,
    MANIFEST,
    MODEL,
    NEXT,
    OLDER,
    PLANNED,
    SUCCESS,
    TEMP,
    is_nothing,
    is_ours,
    is_part,
    is_temporary,
    is_unfinished,
    whole_name,
    without_number,
)
from transforms.errors import RunError, UsageError
from transforms.reasons import DEAD_LETTERS, OWN
from transforms.records import Source
from transforms.split_into_chunks import SPILL, most_bytes
from transforms.storage import files, objects
from transforms.storage.compression import plain_name
from transforms.storage.regular import kind_of, not_regular
from transforms.write_part import dead_letters_name
from transforms.write_receipts import LISTS, RECEIPTS

FOLDERS = (OWN, TEMP, DEAD_LETTERS, *(f"{TEMP}/{name}" for name in (PLANNED, NEXT, MODEL, RECEIPTS, LISTS, SPILL)))
MARKS = (JOB, MANIFEST, SUCCESS, *OLDER)
SMALL_CHUNK = 1 << 16  # bytes; `_longest` assumes that no chunk is smaller than both this and --chunk_bytes
OBJECT_NAME = 1024  # bytes: https://cloud.google.com/storage/docs/objects#naming


def check_folder(options: FolderOptions, there: Iterable[str], sources: Sequence[Source], *, is_resumed: bool) -> None:
    """Refuses a folder that holds files that keyjoin did not write.

    Args:
        options: The options of the command.
        there: Names of the files in the output folder.
        sources: The sources that the run will read, and those that earlier runs have read.
        is_resumed: Whether an earlier run is resumed or added to.

    Raises:
        UsageError: It is refused.
    """
    check_alone(options.output, there)
    names = [name for name in there if not is_nothing(name)]
    if names == [JOB]:  # if this file is not whole, its run had not begun
        return
    if names and not is_resumed and not options.overwrite:
        unknown = [name for name in names if not is_ours(name)]
        if unknown:  # --overwrite would refuse the folder, too
            raise UsageError(
                f"--output {options.output} holds {unknown[0]}, which keyjoin did not write; choose another folder"
            )
        raise UsageError(
            f"--output {options.output} is not empty; choose another folder, or replace it with --overwrite"
        )
    parts = [name for name in names if is_part(name) and not is_temporary(name)]
    ours = of_sources(parts, sources)
    foreign = [name for name in names if not is_ours(name)] or [name for name in parts if name not in ours]
    if foreign:
        raise UsageError(
            f"--output {options.output} holds {foreign[0]}, which keyjoin did not write; move it, or choose another "
            "folder"
        )
    if names and not {JOB, MANIFEST} & set(names):
        raise UsageError(
            f"--output {options.output} holds {names[0]} and neither {JOB} nor {MANIFEST}, so it is not known which "
            "files are of a run; move them, or choose another folder"
        )


def check_alone(output: str, there: Iterable[str]) -> None:
    """Refuses an output that is inside the output of another run, or that holds one.

    Each of the two runs would take files of the other for its own.

    Args:
        output: The output folder.
        there: Names of the files in the folder and below.

    Raises:
        UsageError: It is refused.
    """
    for name in there:
        mark = next((mark for mark in MARKS if name.endswith(f"/{mark}")), None)
        if mark is not None and not name.startswith(f"{OWN}/"):
            folder = files.join(output, name.removesuffix(f"/{mark}"))
            raise UsageError(f"--output {output} holds the output of another run, {folder}; choose another one")
    for folder in _above(output):
        found = next((name for name in MARKS if _is_there(files.join(folder, name))), None)
        if found is not None:
            raise UsageError(
                f"--output {output} lies in the output of another run, {folder}, which has {found}; choose another one"
            )


def _above(output: str) -> Iterator[str]:
    """Yields the folders that an output is in, the nearest first."""
    if files.is_local(output):
        at = os.path.realpath(output)
        while (above := os.path.dirname(at)) != at:
            yield (at := above)
        return
    scheme, _, path = output.rstrip("/").partition("://")
    while (path := path.rpartition("/")[0]) != "":
        yield f"{scheme}://{path}"


def _is_there(path: str) -> bool:
    if files.is_local(path):
        return os.path.lexists(path)
    try:
        return bool(files.stored(objects.look_up, objects.literal(path)))
    except RunError:  # a user without access to this folder may still have access to the output in it
        return False


def of_sources(names: Collection[str], sources: Iterable[Source]) -> set[str]:
    """Selects the files that are parts or dead letters of sources, of any chunk number, finished or unfinished.

    Args:
        names: Files, relative to the output folder.
        sources: The sources of a run.
    """
    if not names:
        return set()
    known = {f"{source.stem}{source.suffix}" for source in sources}
    return {name for name in names if known & _made_from(name)}


def leftovers(names: Iterable[str], sources: Iterable[Source]) -> list[str]:
    """Selects the unfinished files of a run whose process was killed.

    Args:
        names: Files, relative to the output folder.
        sources: The sources of the run.
    """
    unfinished = [name for name in names if is_unfinished(name)]
    ours = of_sources(unfinished, sources)
    return [name for name in unfinished if name in ours or whole_name(name).split("/")[0] in (OWN, SUCCESS)]


def _made_from(name: str) -> set[str]:
    """Returns the names (stem and suffix) of the sources that a part or a dead letter file can come from."""
    whole = whole_name(name)
    if not is_part(whole):
        return set()
    plain = without_number(whole)
    in_dead_letters = plain.removeprefix(f"{DEAD_LETTERS}/")
    return {plain} if in_dead_letters == plain else {in_dead_letters, in_dead_letters.removesuffix(".jsonl")}


def check_layout(output: str) -> None:
    """Refuses an output of an older version, which kept its own files beside the parts.

    This version neither reads nor replaces such an output.

    Raises:
        UsageError: An older version wrote the output.
    """
    older = next((name for name in OLDER if _is_there(files.join(output, name))), None)
    if older is not None:
        raise UsageError(
            f"{output} has {older}, so an older version of keyjoin wrote it; use that version for this folder, or "
            "choose another folder"
        )


def check_files(output: str) -> set[str]:
    """Refuses an output folder with a link, pipe, socket or device under any name that keyjoin uses.

    Also refuses a folder in the place of a file, and a file in the place of a folder. keyjoin refuses the whole output,
    so that no command follows a link or waits for a pipe. For an output of an older version, see `check_layout`.

    Returns:
        The folders below the output, relative to it; an empty set in an object store.

    Raises:
        UsageError: The output is refused, or a folder cannot be listed.
    """
    check_layout(output)
    folders: set[str] = set()
    if not files.is_local(output):
        return folders
    for folder, name in itertools.product((output, os.path.join(output, TEMP, NEXT)), (*FILES, *FOLDERS)):
        path = os.path.join(folder, name)
        if os.path.lexists(path) and (kind_of(path) == "a folder") != (name in FOLDERS):
            raise UsageError(not_regular(path))
    for name, entry in _scan(output):
        if entry.is_dir(follow_symlinks=False):
            folders.add(name)
        elif is_ours(name) and not entry.is_file(follow_symlinks=False):
            raise UsageError(not_regular(entry.path))
    return folders


def _scan(folder: str) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Yields each entry in a folder and below, with its name relative to the folder. Links are not followed."""
    left = [""]
    while left:
        below = left.pop()
        try:
            with os.scandir(os.path.join(folder, below)) as entries:
                found = list(entries)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise UsageError(f"{error.filename} cannot be listed: {error}; {files.remedy(error)}") from error
        for entry in found:
            name = os.path.join(below, entry.name)
            yield name, entry
            if entry.is_dir(follow_symlinks=False):
                left.append(name)


def check_names(output: str, sources: Sequence[Source], chunk_bytes: int, folders: Collection[str]) -> None:
    """Refuses sources whose parts, receipts, dead letters or temporary files could not all be written.

    Args:
        output: The output folder.
        sources: The sources that the run will read.
        chunk_bytes: The approximate size of a chunk in bytes.
        folders: The folders below the output, see `check_files`.

    Raises:
        UsageError: A name or path would be too long, or a file would have the name of a folder.
    """
    _check_clashes(output, sources, folders)
    name_limit, path_limit, place = _limits(output)
    for source in sources:
        for name in _longest(source, chunk_bytes):
            base, path = os.path.basename(name), files.join(place, name)
            if len(os.fsencode(base)) > name_limit:
                size = f"{len(os.fsencode(base))} bytes, the file system of --output {output} allows {name_limit}"
                raise UsageError(f"{source.path}: the name is too long: a file made from it has {size}; rename it")
            if len(os.fsencode(path)) > path_limit:
                size = f"{len(os.fsencode(path))} bytes, {path_limit} are allowed"
                raise UsageError(
                    f"{source.path}: the path of a file made from it in --output {output} has {size}; choose an output "
                    "with a shorter path"
                )


def _longest(source: Source, chunk_bytes: int) -> Iterator[str]:
    """Yields the longest names of files made from a source, relative to the output folder.

    These are the temporary names that the files have while they are written.
    """
    chunks = most_bytes([source]) // min(chunk_bytes, SMALL_CHUNK) + 1
    part = f"{source.stem}-{chunks:05d}-of-{chunks:05d}{source.suffix}"
    for name in (f"{TEMP}/{RECEIPTS}/{part}.json", dead_letters_name(part)):
        yield files.temporary_of(f"{TEMP}/{NEXT}/{name}")


def _limits(output: str) -> tuple[int, int, str]:
    """Returns the most bytes of a file name, the most bytes of a path, and the output as such a path begins."""
    if not files.is_local(output):
        return OBJECT_NAME, OBJECT_NAME, output.partition("://")[2].partition("/")[2]
    there = os.path.realpath(output)
    place = there
    while not os.path.isdir(there):
        there = os.path.dirname(there)
    # The limit of a path includes the NUL byte at its end.
    return os.pathconf(there, "PC_NAME_MAX"), os.pathconf(there, "PC_PATH_MAX") - 1, place


def _check_clashes(output: str, sources: Sequence[Source], folders: Collection[str]) -> None:
    read = _folders(sources)
    there = set(map(_without_root, folders))
    numbered = {without_number(folder): folder for folder in read | there if is_part(folder)}
    for source in sources:
        part = f"{source.stem}{source.suffix}"
        made = (part, f"{part}.json", dead_letters_name(part).removeprefix(f"{DEAD_LETTERS}/"))
        folder = next((numbered[name] for name in made if name in numbered), None)
        unpacked = plain_name(part)
        if folder is None and unpacked != part and unpacked in read:
            folder = unpacked
        if folder is not None:
            what = "the input has a folder" if folder in read else f"--output {output} has a folder"
            raise UsageError(
                f"{source.path}: {what} {folder}, and a file that is made from this source can have the same name; "
                "rename one of them, or move it away"
            )


def _folders(sources: Iterable[Source]) -> set[str]:
    """Returns the folders that the sources are in. The output has folders of the same names."""
    found: set[str] = set()
    for folder in {os.path.dirname(source.stem) for source in sources}:
        while folder and folder not in found:
            found.add(folder)
            folder = os.path.dirname(folder)
    return found


def _without_root(folder: str) -> str:
    """Returns a folder below an output, relative to the folder that repeats the folders of the sources.

    Parts, receipts and dead letters each have such a folder.
    """
    name = folder.removeprefix(f"{TEMP}/{NEXT}/")
    roots = (f"{TEMP}/{RECEIPTS}/", f"{DEAD_LETTERS}/")
    return next((name[len(root) :] for root in roots if name.startswith(root)), name)
