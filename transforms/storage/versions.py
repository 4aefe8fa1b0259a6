"""Opens a source only in the version that was planned. If the source changed, the run fails."""

import contextlib
import os
from collections.abc import Iterator
from typing import IO

from transforms.errors import RunError
from transforms.records import Chunk
from transforms.storage import files, objects, stdin


def version_of(found: os.stat_result) -> str:
    """Makes the version of a local file from its times and its inode.

    It distinguishes the file from another one of the same name and size. Programs can reset the modification time
    (mtime) of a file, but no program can set the change time (ctime) of its inode.
    """
    return f"{found.st_mtime_ns}-{found.st_ctime_ns}-{found.st_ino}"


@contextlib.contextmanager
def open_version(path: str, version: str) -> Iterator[IO[bytes]]:
    """Opens one version of a file for reading, as stored.

    An object store never gives the bytes of another version. A local file is checked after it is read.

    Args:
        path: The file.
        version: The version, see `records.Source`; empty to accept any version.

    Raises:
        OSError: The file cannot be opened.
        RunError: The file has another version, or changed while it was read. Discard what was read.
    """
    if not version:
        with files.open_raw(path) as file:
            yield file
    elif files.is_local(path):
        with open(stdin.place(path), "rb") as file:
            yield file
            if version_of(os.fstat(file.fileno())) != version:
                raise _changed(path)
    else:
        try:
            with objects.open_object(path, version) as file:
                yield file
        except FileNotFoundError as error:
            raise _changed(path) from error


@contextlib.contextmanager
def open_chunk(chunk: Chunk) -> Iterator[IO[bytes]]:
    """Opens the file that holds the rows of a chunk.

    Raises:
        RunError: The file cannot be read, or is not the version that was planned.
    """
    try:
        with open_version(chunk.data, chunk.version) as file:
            yield file
    except OSError as error:
        raise RunError(f"{chunk.data} cannot be read: {error}; see that it is there, and run again") from error


def _changed(path: str) -> RunError:
    return RunError(
        f"{path} changed during the run: it was written again, touched or replaced; see that nobody writes there, and "
        "run again"
    )
