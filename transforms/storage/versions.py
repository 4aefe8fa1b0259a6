"""Versions of a source: it is read as it was planned, or the run fails."""

import contextlib
import os
from collections.abc import Iterator
from typing import IO

from transforms.errors import RunError
from transforms.records import Chunk
from transforms.storage import files, objects


def version_of(found: os.stat_result) -> str:
    """What tells a file on this machine from one of the same name and size: its times and its inode.

    No program sets the time of the last change of an inode: it also tells of a file whose other time was put back.
    """
    return f"{found.st_mtime_ns}-{found.st_ctime_ns}-{found.st_ino}"


@contextlib.contextmanager
def open_version(path: str, version: str) -> Iterator[IO[bytes]]:
    """Opens a file of which only one version may be read, as stored. In an object store no other one is read at all.

    Args:
        path: The file.
        version: See `records.Source`; empty for whatever is there.

    Raises:
        OSError: It cannot be opened.
        RunError: It is of another version, or became so while it was read: what was read counts for nothing.
    """
    if not version:
        with files.open_raw(path) as file:
            yield file
    elif files.is_local(path):
        with open(path, "rb") as file:
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
        RunError: The file cannot be read, or is another than the one that was planned.
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
