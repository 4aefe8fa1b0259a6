"""Accesses object stores: adds what `storage.files` needs beyond Beam's FileSystems, and converts errors to OSErrors.

Each store's client has its own errors, which are not OSErrors. This module converts them, so that no other module has
to know them.
"""

import base64
import contextlib
import io
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any, NoReturn

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from transforms import compat
from transforms.errors import RunError, UsageError
from transforms.storage import globs

BINARY = "application/octet-stream"
NOT_FOUND = 404  # the HTTP status, which clients of Google's and other object stores call `code`
GOOGLE = "gs://"
WILDCARDS = re.compile(r"([*?[])")


@contextlib.contextmanager
def as_os_errors(path: str) -> Iterator[None]:
    """Converts an error of an object store's client to an OSError, or to a FileNotFoundError if the path is missing.

    Args:
        path: The path that the errors are about.
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
        cause = next(iter(cause.exception_details.values()))  # Beam's own message covers many files at once
    if isinstance(cause, FileNotFoundError) or getattr(cause, "code", cause) == NOT_FOUND:
        raise FileNotFoundError(f"{path} is not there") from error
    if type(cause) is OSError or isinstance(cause, ConnectionError):
        raise cause
    kind = "" if isinstance(cause, int) else f"{type(cause).__name__}: "
    raise OSError(f"{kind}{' '.join(str(cause).split())}") from error


class Stored(FileMetadata):
    """A file that a look-up found.

    Attributes:
        version: The version of the file, see `records.Source`.
        identity: A value that is equal for two names of the same file.
    """

    def __init__(self, path: str, size: int, updated: float = 0.0, version: str = "", identity: Any = None) -> None:
        """Keeps what the look-up found. Without an identity, as for an object, the path is the identity."""
        super().__init__(path, size, updated)
        self.version = version
        self.identity = path if identity is None else identity


class _Object(io.RawIOBase):
    """Wraps an object for a `BufferedReader`. Beam's own reader reads a line byte by byte."""

    def __init__(self, path: str, version: str) -> None:
        self._path = path
        with as_os_errors(path):
            if version:
                self._file = _open_generation(path, int(version))
            else:
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


def open_object(path: str, version: str = "") -> IO[bytes]:
    """Opens an object for reading, as stored.

    Args:
        path: The object.
        version: The generation to open, in Google Cloud Storage; empty for the newest one.

    Raises:
        OSError: The object cannot be opened; FileNotFoundError if it does not exist, or was replaced.
    """
    return io.BufferedReader(_Object(path, version), io.DEFAULT_BUFFER_SIZE)


def _open_generation(path: str, generation: int) -> Any:
    """Opens one generation of an object, otherwise as Beam does.

    If the object was replaced, before or during the reading, the generation is reported as missing.
    """
    from apache_beam.io.gcp import gcsio

    store = _google_store(path)
    bucket, name = gcsio.parse_gcs_path(path)
    blob = store.client.bucket(bucket).blob(name, generation=generation)
    return gcsio.BeamBlobReader(blob, gcsio.DEFAULT_READ_BUFFER_SIZE, retry=compat.google_retry(store))


def create(path: str, text: bytes) -> None:
    """Writes an object to Google Cloud Storage unless an object of this name exists.

    https://cloud.google.com/storage/docs/request-preconditions

    Raises:
        OSError: The request failed.
    """
    from apache_beam.io.gcp import gcsio
    from google.api_core.exceptions import PreconditionFailed

    with as_os_errors(path), contextlib.suppress(PreconditionFailed):
        bucket, name = gcsio.parse_gcs_path(path)
        _google_store(path).client.bucket(bucket).blob(name).upload_from_string(text, if_generation_match=0)


def look_up(pattern: str) -> list[Stored]:
    """Looks up the objects that a path or glob names, without the objects that represent folders.

    Raises:
        OSError: The look-up failed.
    """
    if pattern.endswith("/"):
        return []
    with as_os_errors(pattern):
        found = _google(pattern) if pattern.startswith(GOOGLE) else _any(pattern)
    return [file for file in found if not file.path.endswith("/")]


def probe(path: str) -> None:
    """Sends one request to check that a path's store can be reached. The path itself need not exist.

    Raises:
        OSError: The store cannot be reached; FileNotFoundError if the bucket does not exist.
    """
    with as_os_errors(path):
        if not path.startswith(GOOGLE):
            FileSystems.exists(path)
            return
        from apache_beam.io.gcp import gcsio

        store = _google_store(path)
        bucket, name = gcsio.parse_gcs_path(path, object_optional=True)
        found = store.client.list_blobs(bucket, prefix=name, max_results=1, retry=compat.google_retry(store))
        next(iter(found), None)


def _any(pattern: str) -> list[Stored]:
    if WILDCARDS.search(pattern):
        found = FileSystems.match([pattern])[0].metadata_list
    else:
        # `match` would list every object whose name begins with the path: a million for a folder of a million objects.
        found = [FileSystems.get_filesystem(pattern).metadata(pattern)] if FileSystems.exists(pattern) else []
    return [Stored(file.path, file.size_in_bytes, file.last_updated_in_seconds) for file in found]


def _google(pattern: str) -> list[Stored]:
    """Looks up objects in Google Cloud Storage as Beam does, but with their generations, which Beam does not return."""
    from apache_beam.io.gcp import gcsio

    store = _google_store(pattern)
    fixed = WILDCARDS.split(pattern)[0]
    bucket, name = gcsio.parse_gcs_path(fixed, object_optional=True)
    if fixed == pattern:
        blob = store.client.bucket(bucket).get_blob(name, retry=compat.google_retry(store))
        return [] if blob is None else [_stored(blob)]
    blobs = store.client.list_blobs(bucket, prefix=name, retry=compat.google_retry(store))
    matches = globs.regex(pattern)
    return [file for file in map(_stored, blobs) if matches(file.path)]


def _google_store(path: str) -> Any:
    """Returns Beam's client, with the credentials that the pipeline's options name."""
    return compat.google_store(FileSystems.get_filesystem(path))


def _stored(blob: Any) -> Stored:
    path = f"{GOOGLE}{blob.bucket.name}/{blob.name}"
    return Stored(path, blob.size, blob.updated.timestamp(), str(blob.generation))


def below(folder: str) -> list[Stored]:
    """Looks up the objects in a folder and below. Wildcards in the folder's name have no special meaning.

    Raises:
        OSError: The look-up failed.
    """
    return look_up(f"{literal(folder.rstrip('/'))}/**")


def literal(path: str) -> str:
    """Makes a glob that matches exactly one path.

    >>> literal("gs://bucket/a*")
    'gs://bucket/a[*]'
    """
    return WILDCARDS.sub(r"[\1]", path)


def ask_checksum(path: str) -> tuple[int, int]:
    """Requests the size and crc32c of an object from Google Cloud Storage.

    The service reports crc32c in base64, most significant byte first:
    https://cloud.google.com/storage/docs/json_api/v1/objects

    Raises:
        OSError: The request failed; FileNotFoundError if the object does not exist.
    """
    with as_os_errors(path):
        system = FileSystems.get_filesystem(path)
        return system.size(path), int.from_bytes(base64.b64decode(system.checksum(path)), "big")


def delete(paths: Iterable[str]) -> None:
    """Deletes objects. For a path that ends in a slash, deletes every object whose name begins with the path.

    Raises:
        OSError: An object could not be deleted.
    """
    for path in paths:
        with as_os_errors(path):
            # Beam reads a name as a glob unless it ends in a slash. For these, it only logs what it could not delete.
            FileSystems.delete([path if path.endswith("/") else literal(path)])
        if path.endswith("/"):
            stays = below(path)
            if stays:
                raise OSError(f"{stays[0].path} and {len(stays) - 1} more could not be deleted")
