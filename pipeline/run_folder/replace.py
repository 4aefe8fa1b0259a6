"""Replaces a complete output: puts a new result in place once it is whole.

The run writes the new result to a separate folder, `_keyjoin/temp/next`, and the output stays complete meanwhile. The
folder holds the new files that the output does not have yet. It also holds lists and a manifest of all files of the new
result. The run writes `_keyjoin/ready` there last. From then on every command on the output first does these steps, and
repeats them if it was killed:

    remove `_SUCCESS` -> put files in place -> remove files that only the former result lists -> write lists, manifest
                      -> write `_SUCCESS` -> remove `_keyjoin/ready` and the temporary folder
"""

import contextlib
import os
from collections.abc import Callable

from pipeline.run_folder import manifest, records
from pipeline.run_folder.lock import locked
from pipeline.run_folder.names import (
    JOB,
    MANIFEST,
    PARTS,
    READY,
    REPORT,
    SOURCES,
    STATISTICS,
    SUCCESS,
    TEMP,
    is_inside,
    is_unfinished,
)
from pipeline.run_folder.place import staged
from pipeline.run_folder.unexpected_files import leftovers
from pipeline.terminal.report import print_line
from pipeline.terminal.warning import errors_as_warnings
from transforms.errors import RunError
from transforms.storage import files
from transforms.threads import in_threads
from transforms.write_part import written_of
from transforms.write_receipts import read_list


def is_ready(output: str) -> bool:
    """Returns whether a new result is whole, and has to be put in place."""
    return manifest.is_complete(staged(output).work, READY)


class LostError(RunError):
    """A file of a new result is missing."""


def finish_if_ready(output: str, *, overwrite: bool) -> bool:
    """Puts a new result in place if an earlier command was killed before it had done so.

    Args:
        output: The output folder.
        overwrite: Whether to discard a new result that has lost a file, because the command starts a run anew.

    Returns:
        Whether there was something to put in place.

    Raises:
        UsageError: Another run holds the folder.
        RunError: A file of the new result is lost, or cannot be written.
    """
    if is_ready(output):
        with locked(output) as prove_lock:
            if is_ready(output):  # checked again under the lock: another command may have put it in place
                print_line("resumes", "an interrupted command, whose new result is put in place")
                try:
                    return finish(output, prove_lock)
                except LostError:
                    if not overwrite:
                        raise
                    files.delete_tree(files.join(staged(output).work, READY))
    return False


def finish(output: str, prove_lock: Callable[[], None]) -> bool:
    """Puts a new result in place, and removes the files that were needed for that.

    Args:
        output: The output folder.
        prove_lock: Raises a RunError if another run has taken the folder over.

    Returns:
        Whether there was something to put in place.

    Raises:
        RunError: A file of the new result is lost, or cannot be written.
    """
    changed = put(output, prove_lock)
    # The result is in place, so a failure to remove these files is only a warning.
    with errors_as_warnings(f"{output} keeps {TEMP} or unfinished files, which the same command removes"):
        # This command holds the lock, so unfinished files are left by an attempt that was killed.
        there = [name for name in files.list_below(output) if is_unfinished(name)]
        ours = leftovers(there, manifest.read_sources(files.join(output, SOURCES))) if there else []
        files.delete_files(output, ours)
        clear(output)
    return changed


def put(output: str, prove_lock: Callable[[], None] = lambda: None) -> bool:
    """Puts a new result in place.

    Several processes may do this one after another or at once, so it removes none of the files that they need for it;
    `clear` does.

    Args:
        output: The output folder.
        prove_lock: Raises a RunError if another run has taken the folder over.

    Returns:
        Whether the result was not in place before.

    Raises:
        RunError: A file of the new result is lost, or cannot be written.
    """
    work = staged(output).work
    made, text = records.read(work, records.Manifest), files.read_small(files.join(work, MANIFEST))
    if made is None or text is None:
        raise RunError(f"{work} has no {MANIFEST} any more: another run works there; wait for it, and run again")
    success, path = manifest.success_of(text), files.join(output, SUCCESS)
    if files.read_small(path) == success:
        return False
    prove_lock()
    files.delete_tree(path)
    _put_files(output, work)
    for name in (PARTS, SOURCES, STATISTICS, MANIFEST):
        with files.open_own(files.join(work, name)) as file:
            files.write_whole(files.join(output, name), iter(lambda: file.read(files.READ_BYTES), b""))
    prove_lock()
    if made.status == records.COMPLETE:
        manifest.write_mark(path, success)
    return True


def clear(output: str) -> None:
    """Removes the files that were needed to put a new result in place."""
    for name in (JOB, READY):  # in this order: a job without READY counts as an unfinished run
        files.delete_tree(files.join(staged(output).work, name))
    manifest.clear(output)


def _put_files(output: str, work: str) -> None:
    """Puts parts and dead letters in place, and deletes the files that only the former result lists."""
    new, there = files.list_below(work), files.list_below(output)

    def put_one(pair: tuple[str, files.Written]) -> str:
        name, written = pair
        source, target = files.below(work, name), files.below(output, name)
        moved = name in new and files.move(source, target)
        size = _size(target) if files.is_local(target) else written.bytes if moved else there.get(name)
        if size != written.bytes:
            raise LostError(f"{output}: {name} is lost; run again with --overwrite")
        return name

    listed = (pair for part in read_list(files.join(work, PARTS)) for pair in written_of(part))
    named = set(in_threads(put_one, listed))
    if REPORT in there:  # of the former result
        files.delete_files(output, [REPORT])
    if PARTS in there:
        # `is_inside` skips names that no run gives a part: the list was edited.
        parts = (part for part in read_list(files.join(output, PARTS)) if is_inside(part.chunk.part))
        former = (name for part in parts for name, _ in written_of(part))
        files.delete_files(output, (name for name in former if name not in named))


def _size(path: str) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        return os.lstat(path).st_size
    return None
