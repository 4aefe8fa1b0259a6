"""Splits a source file into chunks that end on row boundaries and can be read again by position.

A gzip source is decompressed to a temporary file first, because gzip cannot be read from the middle.
"""

import contextlib
import dataclasses
import gzip
import posixpath
import uuid
import zlib
from collections.abc import Iterable, Iterator
from typing import IO

import apache_beam as beam

from transforms.errors import RunError
from transforms.formats import foreign
from transforms.formats.base import Cut, Reader
from transforms.records import Chunk, Source
from transforms.storage import files, versions
from transforms.storage.compression import begins_as_gzip, open_gzip, plain_name

COPY_BYTES = 1 << 22
SPILL = "spill"
# The highest ratio of plain bytes to bytes compressed by deflate: https://zlib.net/zlib_tech.html
DEFLATE = 1032


def split_source(
    source: Source, data: str, size: int, reader: Reader, chunk_bytes: int, chunk_rows: int | None = None
) -> Iterator[Chunk]:
    """Splits one source into chunks that cover all of its rows. An empty source has one empty chunk.

    Args:
        source: The source.
        data: The file that holds its bytes.
        size: The size of that file in bytes.
        reader: The reader of its format.
        chunk_bytes: The approximate size of a chunk in bytes; rows are never cut.
        chunk_rows: Most rows of a chunk; None for no limit.

    Raises:
        RunError: The file's framing is damaged, or the file is not the version that was planned.
    """
    cuts = [Cut(0, 0)]
    version = source.version if data == source.path else ""
    if size:
        try:
            with versions.open_version(data, version) as file:
                cuts = list(reader.split(file, size, chunk_bytes, chunk_rows))
        except RunError as error:
            raise RunError(f"{source.path}: {error}") from error
    start = 0
    for number, cut in enumerate(cuts):
        part = f"{source.stem}-{number:05d}-of-{len(cuts):05d}{source.suffix}"
        nbytes = None if reader.unit == "byte" else cut.bytes
        yield Chunk(source.path, data, start, cut.end, number, len(cuts), part, version, nbytes)
        start = cut.end


def chunks_of(source: Source, reader: Reader, chunk_bytes: int, chunk_rows: int | None, temp: str) -> Iterator[Chunk]:
    """Splits one source into chunks. A gzip source is decompressed first.

    Args:
        source: The source.
        reader: The reader of its format.
        chunk_bytes: The approximate size of a chunk in bytes; rows are never cut.
        chunk_rows: Most rows of a chunk; None for no limit.
        temp: Folder for files that are deleted after the run.

    Raises:
        RunError: The source cannot be read, is damaged, or is not the version that was planned.
    """
    data, size = source.path, source.size
    if source.is_gzip:
        data, size = spill(source, posixpath.join(temp, SPILL))
    return split_source(source, data, size, reader, chunk_bytes, chunk_rows)


def most_bytes(sources: Iterable[Source]) -> int:
    """Returns an upper bound for the decompressed size of sources. The exact size is known only after decompression."""
    return sum(source.size * (DEFLATE if source.is_gzip else 1) for source in sources)


def spill(source: Source, folder: str) -> tuple[str, int]:
    """Decompresses all members of a gzip source to a file that can be read by position.

    Returns:
        The path of the file and its size in bytes.

    Raises:
        RunError: The source cannot be read, is not gzip, is damaged, ends early, or is not the version that was
            planned.
    """
    # Each attempt writes its own copy. Writing a copy again makes another object, and readers of the first would fail.
    name = plain_name(f"{source.stem}{source.suffix}")
    path = files.join(folder, *f"{name}.{uuid.uuid4().hex[:16]}".split("/"))
    try:
        with open_plain(source, source.version) as plain:
            return path, files.write_whole(path, _blocks(plain, source.path)).bytes
    except (EOFError, RunError) as error:
        if other := other_kind(source):
            raise RunError(other) from error
        if isinstance(error, EOFError):
            raise _damaged(source.path, error) from error
        raise
    except OSError as error:
        raise RunError(f"{source.path} cannot be read: {error}; see that it is there, and run again") from error


def other_kind(source: Source) -> str | None:
    """Describes a source whose name says gzip and whose first bytes do not, with the remedy; None for other sources."""
    with contextlib.suppress(OSError), files.open_raw(source.path) as stored:
        first = stored.read(foreign.FIRST_BYTES)
        if source.is_gzip and not begins_as_gzip(first):
            kind = foreign.by_bytes(first) or foreign.PLAIN
            return f"{source.path}: {foreign.refusal(kind, source.path, packed=False)}"
    return None


def _damaged(path: str, error: Exception) -> RunError:
    return RunError(f"{path}: not a whole gzip file ({error}); copy it again from where it was written")


@contextlib.contextmanager
def open_plain(source: Source, version: str = "") -> Iterator[IO[bytes]]:
    """Opens a source for reading, decompressed.

    Args:
        source: The source.
        version: The only version that may be read, see `versions.open_version`; empty to accept any version.

    Raises:
        OSError: The source cannot be opened.
        EOFError: The name says that the source is gzip, and it has no bytes.
        RunError: The source has another version.
    """
    with versions.open_version(source.path, version) as stored:
        if not source.is_gzip:
            yield stored
            return
        with open_gzip(stored) as plain:
            yield plain


def _blocks(file: IO[bytes], path: str) -> Iterator[bytes]:
    try:
        while block := file.read(COPY_BYTES):
            yield block
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _damaged(path, error) from error


@dataclasses.dataclass(eq=False)
class SplitIntoChunks(beam.PTransform[beam.PCollection[Source], beam.PCollection[Chunk]]):
    """Splits sources into chunks.

    Input:  PCollection[Source]
    Output: PCollection[Chunk], which covers every row of every source exactly once
    """

    reader: Reader
    chunk_bytes: int
    chunk_rows: int | None
    temp: str

    def expand(self, sources: beam.PCollection[Source]) -> beam.PCollection[Chunk]:
        """Wires the step."""
        return sources | "SplitSource" >> beam.FlatMap(self._split).with_output_types(Chunk)

    def _split(self, source: Source) -> Iterator[Chunk]:
        return chunks_of(source, self.reader, self.chunk_bytes, self.chunk_rows, self.temp)
