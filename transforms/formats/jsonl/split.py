"""Where lines lie: the borders of chunks and rows, and the first and last byte that is no space."""

import io
from collections.abc import Iterator
from typing import IO

import numpy as np

from transforms.formats.base import Cut
from transforms.records import Positions, Rows

NEWLINE = 0x0A
SPACES = b" \t\r"
IS_SPACE = np.isin(np.arange(256), list(SPACES))
SPACE_STEPS = 16  # lines are trimmed side by side for so many bytes, then one by one
BOM = b"\xef\xbb\xbf"
SEARCH_BYTES = 1 << 18
LONG_LINE = 512  # bytes: where lines are as long as that, it is faster to go from one to the next


def cuts(file: IO[bytes], size: int, chunk_bytes: int, chunk_rows: int | None) -> Iterator[Cut]:
    """Cuts a file behind a newline after `chunk_bytes` or `chunk_rows` lines, blank ones too, and at its end."""
    end = 0
    while end < size:
        start, most = end, end + chunk_bytes - 1
        end = min(after_newline(file, most), size)
        if chunk_rows:
            end = after_lines(file, start, end, chunk_rows)
        yield Cut(end, end - start)


def rows(data: bytes, *, first: bool) -> Rows:
    """Lines that hold more than spaces; a byte order mark before the first one belongs to no row."""
    newlines = _newlines(data)
    starts = np.concatenate([[0], newlines + 1]).astype(np.int64)
    ends = np.concatenate([newlines, [len(data)]]).astype(np.int64)
    if starts[-1] == len(data):  # the last newline ends a line, it does not begin one
        starts, ends = starts[:-1], ends[:-1]
    if first and data.startswith(BOM):
        starts[0] = len(BOM)
    filled = last_not_space(data, starts, ends) >= starts
    return Rows(starts[filled], ends[filled], int(len(starts) - filled.sum()))


def _newlines(data: bytes) -> Positions:
    """Where the newlines are; two ways to the same answer, of which one is fast for long lines."""
    if data.count(b"\n", 0, SEARCH_BYTES) * LONG_LINE <= min(len(data), SEARCH_BYTES):
        ends = np.cumsum(np.fromiter(map(len, io.BytesIO(data)), np.int64))
        return ends[: len(ends) - (not data.endswith(b"\n"))] - 1
    # Block by block, since a mask of the whole chunk is slower to come by than to fill.
    octets = np.frombuffer(data, np.uint8)
    blocks = range(0, len(octets), SEARCH_BYTES)
    return np.concatenate([np.flatnonzero(octets[at : at + SEARCH_BYTES] == NEWLINE) + at for at in blocks])


def after_newline(file: IO[bytes], position: int) -> int:
    """The position after the first newline at or after `position`; past the end where there is none."""
    file.seek(position)
    while block := file.read(SEARCH_BYTES):
        found = block.find(b"\n")
        if found >= 0:
            return position + found + 1
        position += len(block)
    return position + 1


def after_lines(file: IO[bytes], start: int, end: int, lines: int) -> int:
    """The position after so many of the lines in [start, end), or `end` if there are no more than these."""
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
    """Of each line the position of its last byte that is no space; below its start where there is none."""
    octets = np.frombuffer(data, np.uint8)
    last = ends - 1
    moving = np.flatnonzero(last >= starts)
    for _ in range(SPACE_STEPS):
        moving = moving[IS_SPACE[octets[last[moving]]]]
        last[moving] -= 1
        moving = moving[last[moving] >= starts[moving]]
    for line in moving:
        last[line] = starts[line] + len(data[starts[line] : last[line] + 1].rstrip(SPACES)) - 1
    return last


def first_not_space(data: bytes, rows: Rows) -> Positions:
    """Of each row, which holds more than spaces, the position of its first byte that is none."""
    octets = np.frombuffer(data, np.uint8)
    first = rows.starts.copy()
    moving = np.arange(len(first))
    for _ in range(SPACE_STEPS):
        moving = moving[IS_SPACE[octets[first[moving]]]]
        first[moving] += 1
    for row in moving:
        first[row] = rows.ends[row] - len(data[first[row] : rows.ends[row]].lstrip(SPACES))
    return first
