"""Reading and writing whole files and ranges through Beam's FileSystems: one place for all I/O on data.

https://beam.apache.org/releases/pydoc/2.77.0/apache_beam.io.filesystems.html
"""

import contextlib
import itertools
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, NamedTuple, TypeVar, cast

import google_crc32c
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.errors import RunError
from transforms.storage import objects, paths
from transforms.storage.regular import open_regular
from transforms.storage.remedies import remedy as remedy
from transforms.storage.remedies import store_remedy

T = TypeVar("T")
BLOCK_LINES = 1 << 10
SMALL_BYTES = 1 << 26  # what is read at most of a file that is read whole, unless its length is known
READ_BYTES = 1 << 19  # stays in the processor's cache until its checksum is taken


def is_local(path: str) -> bool:
    """Whether a path is on this machine's own file system."""
    return FileSystems.get_scheme(path) is None


def absolute(path: str) -> str:
    """A path that does not depend on the current folder, see `paths.absolute`."""
    return paths.absolute(path) if is_local(path) else path


def open_raw(path: str) -> IO[bytes]:
    """Opens an input file for reading, as stored: nothing is decompressed, links are followed.

    Raises:
        OSError: It cannot be opened.
    """
    return open(path, "rb") if is_local(path) else objects.open_object(path)


def open_own(path: str, mode: str = "rb", buffering: int = -1) -> IO[bytes]:
    """Opens a file that keyjoin writes or has written in an output folder; every such file is opened here.

    Links on the way to it are refused by `below`.

    Raises:
        RunError: Something that is no regular file stands there: a link, or a pipe, which could be waited for for ever.
        OSError: It cannot be opened.
    """
    if not is_local(path):
        return objects.open_object(path)
    return cast(IO[bytes], open(path, mode, buffering, opener=open_regular))


def read_range(path: str, start: int, end: int, *, own: bool = False) -> bytes:
    """The bytes [start, end) of a file.

    Args:
        path: The file.
        start: Its first byte to read.
        end: One past the last.
        own: Whether it is a file of keyjoin's own, see `open_own`.

    Raises:
        RunError: The file cannot be read, or ends before `end`.
    """
    try:
        with (open_own if own else open_raw)(path) as file:
            return read_of(file, path, start, end)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}; see that it is there, and run again") from error


def read_of(file: IO[bytes], path: str, start: int, end: int) -> bytes:
    """The bytes [start, end) of a file that is open.

    Raises:
        OSError: They cannot be read.
        RunError: The file ends before `end`.
    """
    file.seek(start)
    data = file.read(end - start)
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


NOTHING = Written(0, 0)  # what stands for a file that is not there


def write_whole(path: str, blocks: Iterable[Any]) -> Written:
    """Writes a file that appears under its name complete or not at all, and reads it back.

    An error while a file is closed or renamed is no proof that it failed: what counts is what is there then.

    Args:
        path: Where to.
        blocks: Bytes-like objects, in order.

    Raises:
        RunError: It cannot be written, or what is there afterwards is not what was given.
    """
    return _write_local(path, blocks) if is_local(path) else _write_object(path, blocks)


def _write_local(path: str, blocks: Iterable[Any]) -> Written:
    folder, temporary = os.path.dirname(path), temporary_of(path)
    try:
        os.makedirs(folder or ".", exist_ok=True)
        with open_own(temporary, "xb") as file:
            written = _write_blocks(file, blocks)
            file.flush()
            os.fsync(file.fileno())
        if read_back(temporary) != written:
            raise RunError(f"{path} reads back otherwise than it was written; the disk is faulty: check it")
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise _not_written(path, error) from error
        raise
    try:
        os.replace(temporary, path)
        _sync_folder(folder or ".")
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if read_back(path) != written:
            raise _not_written(path, error) from error
    return written


def move(source: str, target: str) -> bool:
    """Gives a file another name, in the place of what has it. In an object store it is copied, and stays as well.

    Returns:
        Whether it was there.

    Raises:
        RunError: It cannot be moved.
    """
    if not is_local(target):
        with open_raw(source) as file:
            write_whole(target, iter(lambda: file.read(READ_BYTES), b""))
        return True
    folder = os.path.dirname(target)
    try:
        os.makedirs(folder, exist_ok=True)
        os.replace(source, target)
        _sync_folder(folder)
    except FileNotFoundError:
        return False
    except OSError as error:
        if os.path.lexists(source):
            raise _not_written(target, error) from error
    return True


def temporary_of(path: str) -> str:
    """What a file is called until it is whole, beside its place; another name each time.

    The leading underscore hides a leftover from Spark, Hive and Beam readers; `pipeline.run_folder.names` knows it.
    """
    folder, name = os.path.split(path)
    return os.path.join(folder, f"_{name}.{uuid.uuid4().hex}.tmp")


def _write_object(path: str, blocks: Iterable[Any]) -> Written:
    """An object store shows an object only once it is closed, whole."""
    written, failed = None, None
    try:
        with FileSystems.create(path, objects.BINARY, CompressionTypes.UNCOMPRESSED) as file:
            written = _write_blocks(file, blocks)
    except RunError:
        raise
    except Exception as error:
        if written is None:
            raise _not_written(path, error) from error
        failed = error
    found = read_back(path)
    if found != written:
        raise _not_written(path, failed or ValueError(f"{written} was written, {found} is there")) from failed
    return written


def _not_written(path: str, error: Exception) -> RunError:
    return RunError(f"cannot write {path}: {error}; {remedy(error)}, and run again")


def _sync_folder(folder: str) -> None:
    """Has a file's name survive a loss of power, as its content does."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def read_back(path: str) -> Written | None:
    """Size and crc32c of what a file of keyjoin's own holds; None if it is not there.

    On Google Cloud Storage both are asked for; elsewhere the file is read.

    Raises:
        RunError: It cannot be read.
    """
    try:
        if FileSystems.get_scheme(path) == "gs":
            return Written(*objects.ask_checksum(path))
        return _sum_blocks(open_own(path, buffering=0))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}; {remedy(error)}, and run again") from error


def _sum_blocks(opened: IO[bytes]) -> Written:
    size = checksum = 0
    with opened as file:
        while block := file.read(READ_BYTES):
            size += len(block)
            checksum = google_crc32c.extend(checksum, block)
    return Written(size, checksum)


def read_small(path: str, most: int = SMALL_BYTES) -> bytes | None:
    """The bytes of a file of keyjoin's own; None if it is not there.

    Args:
        path: The file.
        most: Bytes that it may have. Of a longer one these and the next are read, so that it is like no other.

    Raises:
        RunError: It cannot be read.
    """
    try:
        with open_own(path) as file:
            return b"".join(_first(file, most + 1))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}; {remedy(error)}, and run again") from error


def _first(file: IO[bytes], size: int) -> Iterator[bytes]:
    while size and (block := file.read(min(size, READ_BYTES))):
        size -= len(block)
        yield block


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

    Raises:
        RunError: A folder cannot be listed: what it holds must not be taken for gone.
    """
    if is_local(folder):
        return dict(sorted(_walk(folder)))
    cut = len(folder.rstrip("/")) + 1
    # Sorted as pairs of a name and a size: of a million files nothing else is kept.
    return dict(sorted((file.path[cut:], file.size_in_bytes) for file in stored(objects.below, folder)))


def stored(look: Callable[[str], T], path: str) -> T:
    """What a function of `objects` finds in an object store.

    Raises:
        RunError: The look-up failed.
    """
    try:
        return look(path)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot look up {path}: {error}; {store_remedy(path)}") from error


def _walk(folder: str) -> Iterator[tuple[str, int]]:
    cut = len(os.path.join(folder, ""))
    for at, folders, names in os.walk(folder, onerror=refuse):
        links = (name for name in folders if os.path.islink(os.path.join(at, name)))
        for path in (os.path.join(at, name) for name in (*names, *links)):
            with contextlib.suppress(FileNotFoundError):  # it has just gone
                yield path[cut:], os.lstat(path).st_size


def refuse(error: OSError) -> None:
    """What `os.walk` calls with an error, which it would keep to itself.

    Raises:
        RunError: A folder is there and cannot be listed.
    """
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):  # there is no such folder, or no longer
        raise RunError(f"{error.filename} cannot be listed: {error}; {remedy(error)}, and run again") from error


def names_in(folder: str) -> set[str]:
    """Names of the files and folders right in a folder."""
    if is_local(folder):
        return set(os.listdir(folder)) if os.path.isdir(folder) else set()
    return {name.split("/")[0] for name in list_below(folder)}


def delete_files(folder: str, names: Iterable[str]) -> None:
    """Deletes files below a folder, if they are there, and folders that are empty then.

    Raises:
        RunError: A name, or a link on the way, leads out of the folder.
    """
    if not is_local(folder):
        _delete_objects(below(folder, name) for name in names)
        return
    for name in names:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # it went with a folder
            os.unlink(below(folder, name))
        while name := os.path.dirname(name):
            with contextlib.suppress(OSError):  # it is not empty
                os.rmdir(os.path.join(folder, name))


def delete_tree(path: str) -> None:
    """Deletes a file, or a folder and all below it, if it is there."""
    if is_local(path):
        # Not by Beam, which takes the name for a glob; and not asked first, where an error would read as "not there".
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            try:
                os.unlink(path)
            except (IsADirectoryError, PermissionError):  # the latter is what other systems than Linux say of a folder
                if not os.path.isdir(path):
                    raise
                shutil.rmtree(path)
        return
    _delete_objects(
        [path] * bool(stored(objects.look_up, objects.literal(path))) + [f"{path}/"] * bool(list_below(path))
    )


def _delete_objects(paths: Iterable[str]) -> None:
    try:
        objects.delete(paths)
    except OSError as error:
        raise RunError(f"cannot delete: {error}; {remedy(error)}, and run again") from error
