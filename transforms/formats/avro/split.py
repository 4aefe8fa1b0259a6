"""Splits Avro files into chunks of whole records, by the headers of their blocks."""

from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np

from transforms.formats.avro.container import Header, Place, places, read_block, read_header
from transforms.formats.base import Cut
from transforms.records import Chunk, Positions

MEASURED = 64  # the ratio of compression is measured at each block whose number is a multiple of this
INDEXES = 64  # how many files' indexes a process keeps


def cuts(file: IO[bytes], chunk_bytes: int, chunk_rows: int | None) -> Iterator[Cut]:
    """Splits a file into chunks that end with a block, or with a record where a block has too many records.

    Args:
        file: The file.
        chunk_bytes: A chunk ends with the block that makes it at least this long. The length counts before
            compression: its ratio is measured at some blocks.
        chunk_rows: The most records of a chunk. With None there is no such limit.

    Yields:
        The end of each chunk. A file without records has no chunks.

    Raises:
        RunError: The header of the file or of a block is damaged.
    """
    header = read_header(file)
    start = row = start_bytes = 0
    total, ratio = 0, 1.0
    for number, place in enumerate(places(file, header)):
        if not place.rows:
            continue
        if number % MEASURED == 0:
            ratio = len(read_block(file, header, place)) / max(1, place.end - place.data)
        first, before = row, total
        row, total = row + place.rows, total + max(1, round((place.end - place.start) * ratio))
        while chunk_rows and row - start > chunk_rows:
            start += chunk_rows
            here = before + (total - before) * (start - first) // place.rows
            yield Cut(start, here - start_bytes)
            start_bytes = here
        if total - start_bytes >= chunk_bytes:
            yield Cut(row, total - start_bytes)
            start, start_bytes = row, total
    if start < row:
        yield Cut(row, total - start_bytes)


class Index(NamedTuple):
    """The blocks of a file.

    Attributes:
        places: The place of each block.
        ends: The number of the record after each block. int64, (blocks,).
    """

    places: list[Place]
    ends: Positions


_indexes: dict[tuple[str, str, bytes, int], Index] = {}


def index(file: IO[bytes], header: Header, chunk: Chunk) -> Index:
    """Returns the blocks of a chunk's file. A process reads the headers of a file's blocks once for all chunks.

    Args:
        file: The file.
        header: The file's header.
        chunk: A chunk of the file.

    Raises:
        RunError: A block's header is damaged.
    """
    # A sync marker is 16 random bytes, which each file has for itself.
    key = (chunk.data or chunk.source, chunk.version, header.sync, header.size)
    if key not in _indexes:
        found = list(places(file, header))
        while len(_indexes) >= INDEXES:
            _indexes.pop(next(iter(_indexes)), None)
        _indexes[key] = Index(found, np.cumsum([place.rows for place in found], dtype=np.int64))
    return _indexes[key]
