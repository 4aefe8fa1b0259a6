"""Splits a source file into chunks that end on row boundaries and can be read again by position.

A compressed source is decompressed to a temporary file first, because it cannot be read from the middle.
"""

import contextlib
import dataclasses
import posixpath
import uuid
from collections.abc import Iterable, Iterator
from typing import IO

import apache_beam as beam

from transforms.errors import RunError, about
from transforms.formats import drift, foreign
from transforms.formats.base import Cut, Reader
from transforms.records import Chunk, Source
from transforms.storage import compression, files, versions
from transforms.storage.compression import Codec, DamagedError, plain_name

SPILL = "spill"


def split_source(
    source: Source,
    data: str,
    size: int,
    reader: Reader,
    chunk_bytes: int,
    chunk_rows: int | None = None,
    header: str = "",
) -> Iterator[Chunk]:
    """Splits one source into chunks that cover all rows to read. An empty source has one empty chunk.

    Args:
        source: The source.
        data: The file that holds its bytes.
        size: The size of that file in bytes.
        reader: The reader of its format.
        chunk_bytes: The approximate size of a chunk in bytes; rows are never cut.
        chunk_rows: Most rows of a chunk; None for no limit.
        header: The header whose columns the source must have; empty if it may have any.

    Raises:
        RunError: The file's framing is damaged, it has other columns, or it is not the version that was planned.
    """
    cuts = [Cut(0, 0)]
    version = source.version if data == source.path else ""
    if size:
        with about(source.path), versions.open_version(data, version) as file:
            if header:
                _check_header(file, size, reader, header)
            found = reader.split(file, size, chunk_bytes, chunk_rows)
            cuts = list(up_to(source.end, found)) or cuts  # a file may have no rows
    start = 0
    for number, cut in enumerate(cuts):
        part = f"{source.stem}-{number:05d}-of-{len(cuts):05d}{source.suffix}"
        nbytes = None if reader.unit == "byte" else cut.bytes
        yield Chunk(source.path, data, start, cut.end, number, len(cuts), part, version, nbytes)
        start = cut.end


def up_to(end: int | None, cuts: Iterable[Cut]) -> Iterator[Cut]:
    """Yields the cuts of a source up to a position. The cut at or after this position moves there, and is the last one.

    Args:
        end: The position, at the end of a row; None for all cuts.
        cuts: The cuts. No cut after the last one is asked for.

    >>> [cut.end for cut in up_to(15, [Cut(10, 10), Cut(20, 10), Cut(30, 10)])]
    [10, 15]
    """
    start = 0
    for cut in cuts:
        if end is not None and cut.end >= end:
            # Where positions are rows, the bytes of a part of them are estimated.
            yield Cut(end, cut.bytes * (end - start) // (cut.end - start))
            return
        yield cut
        start = cut.end


def _check_header(file: IO[bytes], size: int, reader: Reader, header: str) -> None:
    """Refuses a source whose columns differ from the planned ones. The plan reads the headers of the first files only.

    Raises:
        RunError: The columns differ.
    """
    found = drift.between(reader, ("the first file", header), ("it", reader.read_header(file, size)))
    if found:
        raise RunError(f"{found[0]}; score it alone, or run again with --schema_drift=union --overwrite")
    file.seek(0)


def chunks_of(
    source: Source, reader: Reader, chunk_bytes: int, chunk_rows: int | None, temp: str, header: str = ""
) -> Iterator[Chunk]:
    """Splits one source into chunks. A compressed source is decompressed first.

    Args:
        source: The source.
        reader: The reader of its format.
        chunk_bytes: The approximate size of a chunk in bytes; rows are never cut.
        chunk_rows: Most rows of a chunk; None for no limit.
        temp: Folder for files that are deleted after the run.
        header: The header whose columns the source must have; empty if it may have any.

    Raises:
        RunError: The source cannot be read, is damaged, has other columns, or is not the version that was planned.
    """
    data, size = source.path, source.size
    codec = source.codec
    if codec:
        most = source.end if reader.unit == "byte" else None
        data, size = spill(source, codec, posixpath.join(temp, SPILL), most)
    if reader.unit == "byte" and source.end is not None:
        size = source.end  # what follows the rows to read is not looked at
    return split_source(source, data, size, reader, chunk_bytes, chunk_rows, header)


def most_bytes(sources: Iterable[Source]) -> int:
    """Returns an upper bound for the decompressed size of sources. The exact size is known only after decompression."""
    return sum(source.size * (source.codec.ratio if source.codec else 1) for source in sources)


def spill(source: Source, codec: Codec, folder: str, most: int | None = None) -> tuple[str, int]:
    """Decompresses all members of a compressed source to a file that can be read by position.

    Args:
        source: The source.
        codec: Its codec.
        folder: The folder of the new file.
        most: How many bytes to decompress; None for all.

    Returns:
        The path of the file and its size in bytes.

    Raises:
        RunError: The source cannot be read, is not compressed as its name says, is damaged, ends early, or is not the
            version that was planned.
    """
    # Each attempt writes its own copy. Writing a copy again makes another object, and readers of the first would fail.
    name = plain_name(f"{source.stem}{source.suffix}")
    path = files.join(folder, *f"{name}.{uuid.uuid4().hex[:16]}".split("/"))
    try:
        with versions.open_version(source.path, source.version) as stored:
            return path, files.write_whole(path, _first_bytes(_plain_blocks(source, codec, stored), most)).bytes
    except OSError as error:
        raise _unreadable(source, error) from error


def _first_bytes(blocks: Iterator[bytes], most: int | None) -> Iterator[bytes]:
    if most is None:
        yield from blocks
        return
    for block in blocks:
        yield block[:most]
        most -= len(block)
        if most <= 0:
            return


def _plain_blocks(source: Source, codec: Codec, stored: IO[bytes]) -> Iterator[bytes]:
    """Decompresses a source. Its errors are not OSErrors, which would be errors of writing the copy.

    Raises:
        RunError: The source cannot be read, or is damaged.
    """
    try:
        yield from compression.blocks(stored, codec)
    except DamagedError as error:
        damaged = f"{source.path}: {error}; copy it again from where it was written"
        raise RunError(other_kind(source) or damaged) from error
    except OSError as error:
        raise _unreadable(source, error) from error


def _unreadable(source: Source, error: OSError) -> RunError:
    return RunError(f"{source.path} cannot be read: {error}; see that it is there, and run again")


def other_kind(source: Source) -> str | None:
    """Describes a source whose first bytes are not those of the codec that its name gives, with the remedy.

    Returns:
        The description; None for other sources.
    """
    with contextlib.suppress(OSError), files.open_raw(source.path) as stored:
        first = stored.read(foreign.FIRST_BYTES)
        if source.codec and not source.codec.begins(first):
            kind = foreign.by_bytes(first) or foreign.PLAIN
            return f"{source.path}: {foreign.refusal(kind, source.path)}"
    return None


@contextlib.contextmanager
def open_plain(source: Source, version: str = "") -> Iterator[IO[bytes]]:
    """Opens a source for reading, decompressed.

    Args:
        source: The source.
        version: The only version that may be read, see `versions.open_version`; empty to accept any version.

    Raises:
        OSError: The source cannot be opened. Reading it raises `compression.DamagedError` if it is not whole.
        RunError: The source has another version.
    """
    with versions.open_version(source.path, version) as stored:
        if source.codec is None:
            yield stored
            return
        with compression.open_plain(stored, source.codec) as plain:
            yield plain


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
    header: str = ""

    def expand(self, sources: beam.PCollection[Source]) -> beam.PCollection[Chunk]:
        """Wires the step."""
        return sources | "SplitSource" >> beam.FlatMap(self._split).with_output_types(Chunk)

    def _split(self, source: Source) -> Iterator[Chunk]:
        return chunks_of(source, self.reader, self.chunk_bytes, self.chunk_rows, self.temp, self.header)
