"""Splits delimited text into chunks that end with a record, and chunks into rows.

A source is read once from front to back, because only the quotes before a line end tell whether it ends a record.
"""

from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np

from transforms.errors import RunError
from transforms.formats.base import Cut
from transforms.formats.csv.dialect import NEWLINE, RETURN, Dialect
from transforms.formats.csv.scan import scan
from transforms.records import Positions, Rows

BOM = b"\xef\xbb\xbf"
BLOCK_BYTES = 1 << 20  # a block of 4 MB takes twice as long a byte, since its memory is new each time


class Header(NamedTuple):
    """The first record of a source.

    Attributes:
        text: Its bytes, without the line end and without a byte order mark.
        end: The position after it.
        line_end: Its line end.
    """

    text: bytes
    end: int
    line_end: bytes


def read_header(file: IO[bytes], size: int, dialect: Dialect) -> Header:
    """Reads the first record that is not blank; an empty one if there is none.

    Raises:
        RunError: The file does not begin with whole records.
    """
    for base, data, _ in _whole_records(file, size, dialect):
        found = rows(data, dialect, first=bom_size(data) if base == 0 else 0, base=base)
        if len(found.starts):
            start, end = int(found.starts[0]), int(found.ends[0])
            following = int(after(data, found.ends[:1])[0])
            return Header(data[start:end], base + following, data[end:following] or b"\n")
    return Header(b"", 0, b"\n")


def bom_size(data: bytes) -> int:
    """Returns the size of the byte order mark at the start of a source's text; 0 if there is none."""
    return len(BOM) if data.startswith(BOM) else 0


def cuts(file: IO[bytes], size: int, chunk_bytes: int, chunk_rows: int | None, dialect: Dialect) -> Iterator[Cut]:
    """Splits a file into chunks that end with a record. The header is in the first chunk.

    Args:
        file: The file.
        size: Its size in bytes.
        chunk_bytes: A chunk ends with the record that makes it at least this long.
        chunk_rows: The most records of a chunk, the header and blank lines too. With None or 0 there is no such limit.
        dialect: The dialect of the text.

    Yields:
        The end of each chunk.

    Raises:
        RunError: The quotes of the file do not say where its records end, or a record is too long.
    """
    start = records = 0
    least = read_header(file, size, dialect).end if dialect.has_header else 0
    for base, data, newlines in _whole_records(file, size, dialect):
        if not chunk_rows and start + chunk_bytes > base + len(data):
            continue  # no chunk ends here, so the ends of these records are not needed
        ends = (_newlines(data, dialect, base) if newlines is None else newlines) + base + 1
        done = 0
        while True:
            end = int(np.searchsorted(ends, max(start + chunk_bytes, least)))
            if chunk_rows:
                end = min(end, max(done + chunk_rows - records - 1, int(np.searchsorted(ends, least))))
            if end >= len(ends) or ends[end] >= size:
                records += len(ends) - done
                break
            yield Cut(int(ends[end]), int(ends[end]) - start)
            start, records, done = int(ends[end]), 0, end + 1
    if start < size:
        yield Cut(size, size - start)


def _newlines(data: bytes, dialect: Dialect, base: int) -> Positions:
    return scan(data, dialect, first=0 if base else bom_size(data), base=base, cells=False).newlines


def _whole_records(file: IO[bytes], size: int, dialect: Dialect) -> Iterator[tuple[int, bytes, Positions | None]]:
    """Reads a file in blocks of whole records.

    Yields:
        The position of each block, its bytes, and the places of the newlines that end records; None instead if the
        block has no quotes, so that every newline ends a record.

    Raises:
        RunError: The quotes of the file do not say where its records end, or a record is too long.
    """
    at, wanted = 0, BLOCK_BYTES
    while at < size:
        file.seek(at)
        data = file.read(min(wanted, size - at))
        if not data:
            raise RunError(f"the file ends at byte {at}, before its size of {size} bytes; run again once it is whole")
        whole, newlines = at + len(data) >= size, None
        if (dialect.quote is not None and data.find(dialect.quote) >= 0) or len(data) > dialect.row_bytes:
            first = 0 if at else bom_size(data)
            newlines = scan(data, dialect, first=first, base=at, cells=False, whole=whole).newlines
            ends = newlines + 1
            _check_sizes(np.append(ends, len(data)), at, dialect)
            end = len(data) if whole else int(ends[-1]) if len(ends) else 0
        else:
            end = len(data) if whole else data.rfind(b"\n") + 1
        if not end:
            wanted *= 2
            continue
        yield at, data[:end], newlines
        at, wanted = at + end, BLOCK_BYTES


def _check_sizes(ends: Positions, base: int, dialect: Dialect) -> None:
    starts = np.concatenate([[0], ends[:-1]])
    long = np.flatnonzero(ends - starts > dialect.row_bytes)
    if len(long):
        raise RunError(
            f"the record at byte {base + int(starts[long[0]])} is longer than {dialect.row_bytes:,} bytes; look for a "
            "quote that is missing there, or raise --max_row_bytes"
        )


def rows(data: bytes, dialect: Dialect, *, first: int = 0, base: int = 0) -> Rows:
    """Finds the records that are not blank.

    Args:
        data: Whole records.
        dialect: The dialect of the text.
        first: The place of the first record.
        base: The position of the text in its source, for messages.

    Returns:
        The places of the records, without their line ends, and how many lines are blank.
    """
    newlines = scan(data, dialect, first=first, base=base, cells=False).newlines
    starts = np.concatenate([[first], newlines + 1]).astype(np.int64)
    ends = np.append(newlines, len(data))
    if starts[-1] >= len(data):
        starts, ends = starts[:-1], ends[:-1]
    ends = content_ends(data, starts, ends)
    filled = ends > starts
    return Rows(starts[filled], ends[filled], int(len(starts) - filled.sum()))


def content_ends(data: bytes, starts: Positions, ends: Positions) -> Positions:
    """Returns where the content of each record ends: before the carriage return of its line end, if it has one.

    Args:
        data: The text.
        starts: The place of each record.
        ends: The place of the newline that ends it, or the end of the text.
    """
    if not len(ends):
        return ends
    octets = np.frombuffer(data, np.uint8)
    returns = (ends > starts) & (ends < len(data)) & (octets[np.maximum(ends - 1, 0)] == RETURN)
    return ends - returns


def after(data: bytes, ends: Positions) -> Positions:
    """Returns the place after the line end of each record, from the end of its content."""
    if not len(ends):
        return ends
    octets, last = np.frombuffer(data, np.uint8), len(data) - 1
    is_return = (octets[np.minimum(ends, last)] == RETURN) & (ends < last)
    ends = ends + is_return
    return ends + ((ends <= last) & (octets[np.minimum(ends, last)] == NEWLINE))
