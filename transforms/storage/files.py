"""Reads and writes whole files and byte ranges, on this machine directly, on other storage through Beam's FileSystems.

All reading and writing of data goes through this module. FileSystems:
https://beam.apache.org/releases/pydoc/2.77.0/apache_beam.io.filesystems.html
"""

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, NamedTuple, TypeVar, cast

import google_crc32c
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.errors import RunError
from transforms.storage import objects, paths, stdin
from transforms.storage.regular import open_regular
from transforms.storage.remedies import remedy as remedy
from transforms.storage.remedies import store_remedy

T = TypeVar("T")
BLOCK_BYTES = 1 << 18  # of lines that are written together
SMALL_BYTES = 1 << 26  # most bytes that `read_small` reads of a file whose length is not known
READ_BYTES = 1 << 19  # a block of this size stays in the processor's cache until its checksum is computed


def is_local(path: str) -> bool:
    """Returns whether a path is on a file system of this machine."""
    return FileSystems.get_scheme(path) is None


def absolute(path: str) -> str:
    """Returns a path that does not depend on the current folder, see `paths.absolute`."""
    return paths.absolute(path) if is_local(path) else path


def open_raw(path: str) -> IO[bytes]:
    """Opens an input file for reading, as stored. It follows links and decompresses nothing.

    Raises:
        OSError: The file cannot be opened.
    """
    return open(stdin.place(path), "rb") if is_local(path) else objects.open_object(path)


def open_own(path: str, mode: str = "rb", buffering: int = -1) -> IO[bytes]:
    """Opens a file that keyjoin writes or has written in an output folder. Every such file is opened here.

    This function refuses a link in place of the file. `below` refuses links in the folders above it.

    Raises:
        RunError: The path is not a regular file but, for example, a link or a pipe. Opening a pipe could wait forever.
        OSError: The file cannot be opened.
    """
    if not is_local(path):
        return objects.open_object(path)
    return cast(IO[bytes], open(path, mode, buffering, opener=open_regular))


def read_range(path: str, start: int, end: int, *, own: bool = False) -> bytes:
    """Reads the bytes [start, end) of a file.

    Args:
        path: The file.
        start: The first byte to read.
        end: One past the last byte to read.
        own: Whether keyjoin wrote the file, see `open_own`.

    Raises:
        RunError: The file cannot be read, or ends before `end`.
    """
    try:
        with (open_own if own else open_raw)(path) as file:
            return read_of(file, path, start, end)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}; see that it is there, and run again") from error


def read_of(file: IO[bytes], path: str, start: int, end: int) -> bytes:
    """Reads the bytes [start, end) of an open file.

    Raises:
        OSError: The bytes cannot be read.
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
    """The size and checksum of a file that was written.

    Attributes:
        bytes: The size of the file in bytes.
        checksum: crc32c of its content (RFC 3720, appendix B.4).
    """

    bytes: int
    checksum: int


NOTHING = Written(0, 0)  # stands for a file that does not exist


def write_whole(path: str, blocks: Iterable[Any]) -> Written:
    """Writes a file that appears under its name complete or not at all, and reads it back.

    An error when a file is closed or renamed does not prove that the write failed. The function therefore reads the
    file back and decides by its content.

    Args:
        path: The path to write to.
        blocks: Bytes-like objects, in order.

    Returns:
        The size and checksum of the file.

    Raises:
        RunError: The file cannot be written, or it reads back different from what was written.
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
    """Renames a file and replaces any file at the target. In an object store, it copies the file and keeps the source.

    Returns:
        Whether the source existed.

    Raises:
        RunError: The file cannot be moved.
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
    """Returns a new unique path for a file until it is complete, in the same folder.

    The leading underscore hides leftovers from Spark, Hive and Beam readers. `pipeline.run_folder.names` recognizes
    such names.
    """
    folder, name = os.path.split(path)
    return os.path.join(folder, f"_{name}.{uuid.uuid4().hex}.tmp")


def _write_object(path: str, blocks: Iterable[Any]) -> Written:
    """Writes an object. It needs no temporary name: an object store shows an object only once it is complete."""
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
    """Syncs a folder, so that the name of a new file survives a power loss. Syncing the file saves its content only."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def read_back(path: str) -> Written | None:
    """Returns the size and crc32c of a file that keyjoin wrote; None if it does not exist.

    Google Cloud Storage reports both. On other storage the function reads the file.

    Raises:
        RunError: The file cannot be read.
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
    """Reads a file that keyjoin wrote; None if it does not exist.

    Args:
        path: The file.
        most: Most bytes that the file should have. Of a longer file, one byte more is read: the result then differs
            from every file of the allowed size.

    Raises:
        RunError: The file cannot be read.
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
    """Joins lines, given without newlines, into blocks to write. Writing a line alone costs more than making it."""
    block: list[bytes] = []
    size = 0
    for line in lines:
        block.append(line)
        size += len(line) + 1
        if size >= BLOCK_BYTES:
            yield b"\n".join([*block, b""])
            block, size = [], 0
    if block:
        yield b"\n".join([*block, b""])


def _write_blocks(file: IO[bytes], blocks: Iterable[Any]) -> Written:
    size, checksum = 0, 0
    for block in blocks:
        view = memoryview(block)
        file.write(view)
        size += view.nbytes
        checksum = google_crc32c.extend(checksum, block)
    return Written(size, checksum)


def join(folder: str, *names: str) -> str:
    """Joins a folder and names to a path, on any file system."""
    path: str = FileSystems.join(folder, *names)
    return path


def below(folder: str, name: str) -> str:
    """Returns a path below a folder to write to, and refuses a path that leads out of the folder.

    Neither `..` in the name nor a link among its folders may lead out. The last step of the name may be a link, because
    the written file replaces that link.

    Raises:
        RunError: The path leads out of the folder.
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
    """Lists the files in a folder and below. It does not follow links.

    Wildcards in the folder's name have no special meaning.

    Returns:
        Name relative to the folder -> size in bytes, sorted by name.

    Raises:
        RunError: A folder cannot be listed. An empty list would say that its files do not exist.
    """
    if is_local(folder):
        return dict(sorted(_walk(folder)))
    cut = len(folder.rstrip("/")) + 1
    # Sorts pairs of name and size only, so that memory for a million files stays small.
    return dict(sorted((file.path[cut:], file.size_in_bytes) for file in stored(objects.below, folder)))


def stored(look: Callable[[str], T], path: str) -> T:
    """Calls a look-up function of `objects` and returns its result.

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
            with contextlib.suppress(FileNotFoundError):  # deleted since the folder was listed
                yield path[cut:], os.lstat(path).st_size


def refuse(error: OSError) -> None:
    """Raises an error of `os.walk`, which ignores errors without such a function. A missing folder is no error.

    Raises:
        RunError: A folder exists and cannot be listed.
    """
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):  # the folder does not exist, or no longer
        raise RunError(f"{error.filename} cannot be listed: {error}; {remedy(error)}, and run again") from error


def names_in(folder: str) -> set[str]:
    """Lists the names of the files and folders directly in a folder."""
    if is_local(folder):
        return set(os.listdir(folder)) if os.path.isdir(folder) else set()
    return {name.split("/")[0] for name in list_below(folder)}


def delete_files(folder: str, names: Iterable[str]) -> None:
    """Deletes files below a folder if they exist, and their folders if they are empty afterwards.

    Raises:
        RunError: A name, or a link on the way to it, leads out of the folder, or an object cannot be deleted.
    """
    if not is_local(folder):
        _delete_objects(below(folder, name) for name in names)
        return
    for name in names:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # it does not exist, or its folder does not
            os.unlink(below(folder, name))
        while name := os.path.dirname(name):
            with contextlib.suppress(OSError):  # the folder is not empty
                os.rmdir(os.path.join(folder, name))


def delete_tree(path: str) -> None:
    """Deletes a file, or a folder and everything below it, if it exists."""
    if is_local(path):
        # Beam would read the name as a glob. A check whether the path exists would report an error as "does not exist".
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            try:
                os.unlink(path)
            except (IsADirectoryError, PermissionError):  # Linux raises the first for a folder, others the second
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
