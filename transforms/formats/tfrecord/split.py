"""Splits TFRecord files into chunks that end with a record, and frames records.

The frame of a record, see https://www.tensorflow.org/tutorials/load_data/tfrecord, with little-endian integers:

    length: 8 bytes | its masked crc32c: 4 | data: length bytes | its masked crc32c: 4

If a length is damaged, the records after it cannot be found, so the run fails. If data is damaged, only that row is
bad.
"""

import functools
import itertools
import struct
from collections.abc import Iterator
from typing import IO

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms import columns
from transforms.errors import RunError
from transforms.formats.base import Cut
from transforms.records import Positions, Rows
from transforms.storage import compression

HEADER, FOOTER = 12, 4
MASK_DELTA = np.uint32(0xA282EAD8)
LENGTH = struct.Struct("<Q")
BLOCK_BYTES = 1 << 22
STREAK = 8  # after so many headers equal to the one before, `_repeats` looks for more of them
REMEDY = "copy the file again from where it was written"
Checksums = npt.NDArray[np.uint32]


def cuts(file: IO[bytes], size: int, chunk_bytes: int, chunk_rows: int | None) -> Iterator[Cut]:
    """Splits a file into chunks that end with a record.

    Args:
        file: The file.
        size: Its size in bytes.
        chunk_bytes: A chunk ends with the record that makes it at least this long.
        chunk_rows: The most records of a chunk. With None or 0 there is no such limit.

    Yields:
        The end of each chunk.

    Raises:
        RunError: A header does not match its checksum, or the file ends inside a record.
    """
    start = end = rows = 0
    most_rows = chunk_rows or size  # `size` never limits: every record is longer than a byte
    while end < size:
        # Seek to the start of the next record: back if the last block ended inside a header, forward if it ended inside
        # a record's data.
        file.seek(end)
        block, first = file.read(min(BLOCK_BYTES, size - end)), end
        for end in record_ends(block, first, size):
            rows += 1
            if (end - start >= chunk_bytes or rows == most_rows) and end < size:
                yield Cut(end, end - start)
                start, rows = end, 0
        if end == first:
            raise _ends_inside(end, size)
    if start < size:
        yield Cut(size, size - start)


def rows(data: bytes) -> Rows:
    """Finds the places of records, each with its frame.

    Raises:
        RunError: The data is not a number of whole records, so it is not the data that was split.
    """
    ends = np.fromiter(record_ends(data, 0, len(data)), np.int64)
    bounds = np.concatenate([[0], ends]).astype(np.int64)
    if bounds[-1] != len(data):
        raise _ends_inside(int(bounds[-1]), len(data))
    return Rows(bounds[:-1], bounds[1:])


def record_ends(data: bytes, first: int, size: int) -> Iterator[int]:
    """Finds the ends of the records whose headers are in a part of a file.

    Args:
        data: The part. It begins with a header and may end anywhere, even inside a header.
        first: The position in the file at which the part begins.
        size: The size of the file in bytes.

    Yields:
        The position in the file after each record.

    Raises:
        RunError: A header does not match its checksum, or a record is longer than the rest of the file.
    """
    at, before, streak = 0, b"", 0
    while at + HEADER <= len(data):
        header = data[at : at + HEADER]
        length = data_length(header)
        if length is None:
            codec = compression.detect(data) if first == at == 0 else None
            remedy = f"it is {codec.name}: let its name end in {codec.suffix}" if codec else REMEDY
            raise RunError(f"not a TFRecord header at byte {first + at}: its checksum differs; {remedy}")
        frame = HEADER + length + FOOTER
        if first + at + frame > size:
            raise _ends_inside(first + at, size)
        streak = streak + 1 if header == before else 0
        at, before = at + frame, header
        yield first + at
        if streak == STREAK:
            streak, repeated = 0, _repeats(data, at, frame)
            yield from range(first + at + frame, first + at + repeated * frame + 1, frame)
            at += repeated * frame


def _repeats(data: bytes, at: int, frame: int) -> int:
    """Counts the whole records that follow a record and have the same header. It compares many headers at once.

    Args:
        data: The records.
        at: The position after the record.
        frame: The size of the record with its frame, in bytes.
    """
    octets = np.frombuffer(data, np.uint8)
    header = octets[at - frame :][:HEADER]
    most = max(0, len(data) - at) // frame
    found, tried = 0, STREAK
    while tried := min(2 * tried, most - found):
        start = at + found * frame
        same = (octets[start : start + tried * frame].reshape(tried, frame)[:, :HEADER] == header).all(axis=1)
        if not same.all():
            return found + int(np.argmin(same))
        found += tried
    return found


def _ends_inside(start: int, size: int) -> RunError:
    return RunError(f"the file ends at byte {size}, inside the record that starts at byte {start}; {REMEDY}")


# The records of a file have few different lengths, so most headers come from the cache.
@functools.lru_cache(4096)
def _header(length: int) -> bytes:
    packed = LENGTH.pack(length)
    return packed + _masked(np.array([google_crc32c.value(packed)], np.uint32)).tobytes()


@functools.lru_cache(4096)
def data_length(header: bytes) -> int | None:
    """Returns the length of a record's data in bytes; None if the header's checksum differs."""
    (length,) = LENGTH.unpack_from(header)
    return length if header == _header(length) else None


def _masked(checksums: Checksums) -> npt.NDArray[np.uint8]:
    """Masks checksums as TFRecord files store them, 4 bytes each.

    https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/lib/hash/crc32c.h
    """
    return ((checksums >> 15 | checksums << 17) + MASK_DELTA).astype("<u4").view(np.uint8).reshape(-1, FOOTER)


def written_checksums(data: bytes, ends: Positions) -> Checksums:
    """Returns the checksums that are stored after the data of records, unmasked. `ends` are the ends of the data."""
    written = np.frombuffer(data, np.uint8)[ends[:, None] + np.arange(FOOTER)]
    rotated: Checksums = written.view("<u4").reshape(-1).astype(np.uint32) - MASK_DELTA
    return (rotated >> 17 | rotated << 15).astype(np.uint32)


def data_checksums(pieces: pa.LargeBinaryArray, before: Checksums | None = None) -> Checksums:
    """Returns the crc32c of each piece.

    Args:
        pieces: The bytes.
        before: For each piece, the crc32c of bytes that precede it. The result then covers these bytes and the piece.
    """
    known = itertools.repeat(0) if before is None else before.tolist()
    return np.fromiter(map(google_crc32c.extend, known, pieces.to_pylist()), np.uint32)


def framed(pieces: list[pa.LargeBinaryArray], first: Checksums | None = None) -> pa.Buffer:
    """Joins the pieces of each record, frames the records, and puts them side by side in one buffer.

    Args:
        pieces: The pieces of the records. Each array holds one piece for each record.
        first: The crc32c of the pieces in the first array, if it is known.
    """
    sizes = np.sum([columns.sizes(piece) for piece in pieces], axis=0)
    coded = pa.array(sizes).dictionary_encode()
    headers = pa.array([_header(size) for size in coded.dictionary.to_pylist()], pa.large_binary()).take(coded.indices)
    footers = _masked(data_checksums(columns.join(pieces if first is None else pieces[1:]), first))
    ends = np.arange(len(sizes)) * FOOTER
    checksums = columns.gather(pa.py_buffer(footers), ends, ends + FOOTER)
    return columns.contents(columns.join([headers, *pieces, checksums]))
