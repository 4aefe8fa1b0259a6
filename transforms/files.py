"""Reading and writing whole files and ranges through Beam's FileSystems: one place for all I/O on data.

https://beam.apache.org/releases/pydoc/2.77.0/apache_beam.io.filesystems.html
"""

import itertools
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple

import google_crc32c
from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from transforms.errors import RunError, UsageError

BLOCK_LINES = 1 << 10


def match(pattern: str) -> list[FileMetadata]:
    """Files that a path or glob names, sorted by path.

    A relative glob without a folder is looked up in the current folder (Beam's local match finds
    nothing for it), and a path that exists is taken as it is, whatever brackets it holds.

    Raises:
        UsageError: The file system refuses the look-up.
    """
    bare = FileSystems.get_scheme(pattern) is None and "/" not in pattern
    asked = f"./{pattern}" if bare else pattern
    if is_local(asked) and os.path.isfile(asked):
        return [FileMetadata(pattern, os.path.getsize(asked), os.path.getmtime(asked))]
    found = _look_up(asked)
    if is_local(asked):
        cut = 2 if bare else 0
        kept = (f for f in found if not os.path.isdir(f.path))
        found = [FileMetadata(f.path[cut:], f.size_in_bytes, f.last_updated_in_seconds) for f in kept]
    return sorted(found, key=lambda f: f.path)


def _look_up(pattern: str) -> list[FileMetadata]:
    try:
        found: list[FileMetadata] = FileSystems.match([pattern])[0].metadata_list
    except (BeamIOError, OSError, ValueError) as error:
        raise UsageError(f"cannot look up {pattern}: {error}; check the path and your permissions") from error
    return found


def match_below(folder: str) -> list[FileMetadata]:
    """Files in a folder and below, sorted by path; nothing if there is no such folder.

    Raises:
        UsageError: It holds a link to another folder.
    """
    if not is_local(folder):
        return match(join(folder, "**"))
    paths = [os.path.join(folder, name) for name in list_below(folder)]
    for path in paths:
        if os.path.isdir(path):
            raise UsageError(f"{path} is a link to a folder; give that folder as an --input of its own")
    # A link that leads nowhere counts as a file, so that it is found to be unreadable.
    return [FileMetadata(path, os.path.getsize(path) if os.path.exists(path) else 0) for path in paths]


def is_local(path: str) -> bool:
    """Whether a path is on this machine's own file system."""
    return FileSystems.get_scheme(path) is None


def absolute(path: str) -> str:
    """A path that does not depend on the current folder."""
    return os.path.abspath(path) if is_local(path) else path


def open_raw(path: str) -> IO[bytes]:
    """Opens a file for reading, as stored: nothing is decompressed."""
    file: IO[bytes] = FileSystems.open(
        path, mime_type="application/octet-stream", compression_type=CompressionTypes.UNCOMPRESSED
    )
    return file


def read_range(path: str, start: int, end: int) -> bytes:
    """The bytes [start, end) of a file.

    Raises:
        RunError: The file cannot be read, or ends before `end`.
    """
    try:
        with open_raw(path) as file:
            file.seek(start)
            data = file.read(end - start)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}; see that it is there, and run again") from error
    if len(data) != end - start:
        raise RunError(
            f"{path}: {len(data)} bytes at {start} where {end - start} were expected: the file was truncated "
            "during the run; run again once it is complete"
        )
    return data


class Written(NamedTuple):
    """A file that was written.

    Attributes:
        bytes: Its size.
        checksum: crc32c of its content (RFC 3720, appendix B.4).
    """

    bytes: int
    checksum: int


def write_whole(path: str, blocks: Iterable[Any]) -> Written:
    """Writes a file that appears under its name complete or not at all.

    Args:
        path: Where to.
        blocks: Bytes-like objects, in order.

    Raises:
        RunError: It cannot be written.
    """
    if not is_local(path):
        # An object store shows an object only once it is closed, whole.
        with FileSystems.create(path, "application/octet-stream", CompressionTypes.UNCOMPRESSED) as file:
            return _write_blocks(file, blocks)
    folder, name = os.path.split(path)
    # The leading underscore hides a leftover from Spark, Hive and Beam readers.
    temporary = os.path.join(folder, f"_{name}.{uuid.uuid4().hex}.tmp")
    try:
        os.makedirs(folder or ".", exist_ok=True)
        with FileSystems.create(temporary, "application/octet-stream", CompressionTypes.UNCOMPRESSED) as file:
            written = _write_blocks(file, blocks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise RunError(f"cannot write {path}: {error}; free the space or the permission and run again") from error
    return written


def in_blocks(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines, given without their newlines, as blocks to write: one at a time would cost more than to make it."""
    left = iter(lines)
    while block := list(itertools.islice(left, BLOCK_LINES)):
        block.append(b"")
        yield b"\n".join(block)


def _write_blocks(file: IO[bytes], blocks: Iterable[Any]) -> Written:
    size, checksum = 0, 0
    for block in blocks:
        view = memoryview(block)
        file.write(view)
        size += view.nbytes
        checksum = google_crc32c.extend(checksum, block)
    return Written(size, checksum)


def join(folder: str, *names: str) -> str:
    """A path below a folder, on any file system."""
    path: str = FileSystems.join(folder, *names)
    return path


def below(folder: str, name: str) -> str:
    """A path below a folder, to write to: neither its name nor a link on the way leads out of the folder.

    A link that the name itself stands for is no way out: what is written replaces it.

    Raises:
        RunError: It leads out.
    """
    path = join(folder, name)
    is_out = name.startswith("/") or ".." in name.split("/")
    if not is_out and is_local(folder):
        root = os.path.realpath(folder)
        is_out = not os.path.join(os.path.realpath(os.path.dirname(path)), "").startswith(os.path.join(root, ""))
    if is_out:
        raise RunError(f"{path} leads out of {folder}; remove the link or rename the input, and run again")
    return path


def list_below(folder: str) -> dict[str, int]:
    """Files in a folder and below: name relative to the folder -> bytes. Links are not followed.

    The folder's name is taken as it is, whatever wildcards it holds.
    """
    if is_local(folder):
        return dict(sorted(_walk(folder)))
    cut = len(folder.rstrip("/")) + 1
    # Sorted as pairs of a name and a size: of a million files nothing else is kept.
    return dict(sorted((file.path[cut:], file.size_in_bytes) for file in _look_up(join(folder, "**"))))


def _walk(folder: str) -> Iterator[tuple[str, int]]:
    # One look at each file: a million of them take seconds.
    cut = len(os.path.join(folder, ""))
    for at, folders, names in os.walk(folder):
        links = (name for name in folders if os.path.islink(os.path.join(at, name)))
        for name in (*names, *links):
            path = os.path.join(at, name)
            yield path[cut:], os.lstat(path).st_size


def delete_below(folder: str) -> None:
    """Deletes all that is in a folder; the folder itself stays, it may be a link or a mount."""
    if not is_local(folder):
        FileSystems.delete([join(folder, name) for name in list_below(folder)])
        return
    for name in list_below(folder):
        os.unlink(os.path.join(folder, name))
    for at, _, _ in os.walk(folder, topdown=False):
        if at != folder:
            os.rmdir(at)


def delete_tree(path: str) -> None:
    """Deletes a file, or a folder and all below it, if it is there."""
    if is_local(path):
        # Not by Beam, which takes the name for a glob.
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)
    elif FileSystems.exists(path):
        FileSystems.delete([path])
