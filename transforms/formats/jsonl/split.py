"""Splits JSON Lines files into chunks that end with a newline, and chunks into rows.

It also finds the first and the last byte of each row that is not a space.
"""

import io
from collections.abc import Iterator
from typing import IO

import numpy as np

from transforms.formats.base import Cut
from transforms.records import Positions, Rows

NEWLINE = 0x0A
SPACES = b" \t\r"
# Looked up by `take`. In brackets an index of bytes becomes int64, and NumPy crashes if no memory is left for it.
IS_SPACE = np.isin(np.arange(256), list(SPACES))
SPACE_STEPS = 16  # so many spaces are skipped for all lines at once; what remains is skipped line by line
BOM = b"\xef\xbb\xbf"
SEARCH_BYTES = 1 << 18
LONG_LINE = 512  # bytes; for lines of this mean length or more, reading line by line is faster than a mask


def cuts(file: IO[bytes], size: int, chunk_bytes: int, chunk_rows: int | None) -> Iterator[Cut]:
    """Splits a file into chunks that end with a newline, except perhaps the last.

    Args:
        file: The file.
        size: Its size in bytes.
        chunk_bytes: A chunk ends with the line that makes it at least this long.
        chunk_rows: The most lines of a chunk, blank lines too. With None or 0 there is no such limit.

    Yields:
        The end of each chunk.
    """
    end = 0
    while end < size:
        start, most = end, end + chunk_bytes - 1
        end = min(after_newline(file, most), size)
        if chunk_rows:
            end = after_lines(file, start, end, chunk_rows)
        yield Cut(end, end - start)


def rows(data: bytes, *, first: bool) -> Rows:
    """Finds the lines that are not blank. A line of spaces, tabs and carriage returns is blank.

    Args:
        data: The lines.
        first: Whether the data is the start of a source, so that a byte order mark may precede its first row.

    Returns:
        The places of the rows, without their newlines, and how many lines are blank.
    """
    newlines = _newlines(data)
    starts = np.concatenate([[0], newlines + 1]).astype(np.int64)
    ends = np.concatenate([newlines, [len(data)]]).astype(np.int64)
    if starts[-1] == len(data):  # no line begins after the last newline
        starts, ends = starts[:-1], ends[:-1]
    if first and data.startswith(BOM):
        starts[0] = len(BOM)
    filled = last_not_space(data, starts, ends) >= starts
    return Rows(starts[filled], ends[filled], int(len(starts) - filled.sum()))


def _newlines(data: bytes) -> Positions:
    """Finds the positions of the newlines. Two ways give the same result; one of them is faster for long lines."""
    if data.count(b"\n", 0, SEARCH_BYTES) * LONG_LINE <= min(len(data), SEARCH_BYTES):
        ends = np.cumsum(np.fromiter(map(len, io.BytesIO(data)), np.int64))
        return ends[: len(ends) - (not data.endswith(b"\n"))] - 1
    # In blocks, because allocating a mask for the whole chunk takes longer than filling it.
    octets = np.frombuffer(data, np.uint8)
    blocks = range(0, len(octets), SEARCH_BYTES)
    return np.concatenate([np.flatnonzero(octets[at : at + SEARCH_BYTES] == NEWLINE) + at for at in blocks])


def after_newline(file: IO[bytes], position: int) -> int:
    """Returns the position after the first newline at or after `position`; past the file's end if there is none."""
    file.seek(position)
    while block := file.read(SEARCH_BYTES):
        found = block.find(b"\n")
        if found >= 0:
            return position + found + 1
        position += len(block)
    return position + 1


def after_lines(file: IO[bytes], start: int, end: int, lines: int) -> int:
    """Returns the end of the first lines in a range of a file.

    Args:
        file: The file.
        start: The first byte of the range.
        end: One past its last byte.
        lines: How many lines to count.

    Returns:
        The position after these lines; `end` if the range has fewer lines.
    """
    file.seek(start)
    position = start
    while position < end and (block := file.read(min(SEARCH_BYTES, end - position))):
        found = block.count(b"\n")
        if found >= lines:
            return position + int(np.flatnonzero(np.frombuffer(block, np.uint8) == NEWLINE)[lines - 1]) + 1
        lines -= found
        position += len(block)
    return end


def last_not_space(data: bytes, starts: Positions, ends: Positions) -> Positions:
    """Returns the position of each line's last byte that is not a space; a position before its start if it is blank."""
    octets = np.frombuffer(data, np.uint8)
    last = ends - 1
    moving = np.flatnonzero(last >= starts)
    for _ in range(SPACE_STEPS):
        moving = moving[IS_SPACE.take(octets[last[moving]])]
        last[moving] -= 1
        moving = moving[last[moving] >= starts[moving]]
    for line in moving:
        last[line] = starts[line] + len(data[starts[line] : last[line] + 1].rstrip(SPACES)) - 1
    return last


def first_not_space(data: bytes, rows: Rows) -> Positions:
    """Returns the position of each row's first byte that is not a space. No row may be blank."""
    octets = np.frombuffer(data, np.uint8)
    first = rows.starts.copy()
    moving = np.arange(len(first))
    for _ in range(SPACE_STEPS):
        moving = moving[IS_SPACE.take(octets[first[moving]])]
        first[moving] += 1
    for row in moving:
        first[row] = rows.ends[row] - len(data[first[row] : rows.ends[row]].lstrip(SPACES))
    return first
