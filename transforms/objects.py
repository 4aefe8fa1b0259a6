"""Object stores: what `transforms.files` needs of them beyond Beam's FileSystems, and their errors as the system's.

Each client has errors of its own, which are no OSErrors; here they become some, so that nobody else has to know them.
"""

import base64
import contextlib
import io
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any, NoReturn

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from transforms.errors import RunError, UsageError

BINARY = "application/octet-stream"
NOT_FOUND = 404  # of HTTP: what clients of Google's and of other object stores call `code`
WILDCARDS = re.compile(r"([*?[])")


@contextlib.contextmanager
def as_os_errors(path: str) -> Iterator[None]:
    """Raises what a client of an object store raises as an OSError; what is not there as a FileNotFoundError.

    Args:
        path: What it is about.
    """
    try:
        yield
    except (RunError, UsageError):
        raise
    except Exception as error:  # noqa: BLE001  each client has its own
        _raise(path, error)


def _raise(path: str, error: Exception) -> NoReturn:
    cause: Any = error
    while isinstance(cause, BeamIOError) and cause.exception_details:
        cause = next(iter(cause.exception_details.values()))  # Beam's own words are those of many files at once
    if isinstance(cause, FileNotFoundError) or getattr(cause, "code", cause) == NOT_FOUND:
        raise FileNotFoundError(f"{path} is not there") from error
    if type(cause) is OSError or isinstance(cause, ConnectionError):
        raise cause
    kind = "" if isinstance(cause, int) else f"{type(cause).__name__}: "
    raise OSError(f"{kind}{' '.join(str(cause).split())}") from error


class _Object(io.RawIOBase):
    """An object, for a `BufferedReader`: Beam's reads byte by byte where a line is asked for."""

    def __init__(self, path: str) -> None:
        self._path = path
        with as_os_errors(path):
            self._file = FileSystems.open(path, BINARY, CompressionTypes.UNCOMPRESSED)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with as_os_errors(self._path):
            data: bytes = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with as_os_errors(self._path):
            self._file.seek(offset, whence)
            return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def open_object(path: str) -> IO[bytes]:
    """Opens an object for reading, as stored.

    Raises:
        OSError: It cannot be opened; FileNotFoundError if it is not there.
    """
    return io.BufferedReader(_Object(path), io.DEFAULT_BUFFER_SIZE)


def look_up(pattern: str) -> list[FileMetadata]:
    """Objects that a path or glob names, without those that stand for folders.

    Raises:
        OSError: The look-up failed.
    """
    if pattern.endswith("/"):
        return []
    with as_os_errors(pattern):
        if not WILDCARDS.search(pattern):
            # A glob would list all whose names begin so, of a folder of a million objects a million.
            return [FileSystems.get_filesystem(pattern).metadata(pattern)] if FileSystems.exists(pattern) else []
        found = FileSystems.match([pattern])[0].metadata_list
    return [file for file in found if not file.path.endswith("/")]


def below(folder: str) -> list[FileMetadata]:
    """Objects in a folder and below, whatever wildcards its name holds.

    Raises:
        OSError: The look-up failed.
    """
    return look_up(f"{literal(folder.rstrip('/'))}/**")


def literal(path: str) -> str:
    """A glob that names one path.

    >>> literal("gs://bucket/a*")
    'gs://bucket/a[*]'
    """
    return WILDCARDS.sub(r"[\1]", path)


def ask_checksum(path: str) -> tuple[int, int]:
    """Size and crc32c of an object in Google Cloud Storage, from the service itself.

    crc32c is base64, most significant byte first: https://cloud.google.com/storage/docs/json_api/v1/objects

    Raises:
        OSError: It cannot be asked; FileNotFoundError if the object is not there.
    """
    with as_os_errors(path):
        system = FileSystems.get_filesystem(path)
        return system.size(path), int.from_bytes(base64.b64decode(system.checksum(path)), "big")


def delete(paths: Iterable[str]) -> None:
    """Deletes objects, and of a path with a slash at its end all whose names begin so.

    Raises:
        OSError: Some are still there.
    """
    for path in paths:
        with as_os_errors(path):
            # Beam takes names for globs, except those with a slash; and of these it only logs what stays.
            FileSystems.delete([path if path.endswith("/") else literal(path)])
        if path.endswith("/"):
            stays = below(path)
            if stays:
                raise OSError(f"{stays[0].path} and {len(stays) - 1} more could not be deleted")
