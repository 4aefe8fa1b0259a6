"""Parses many JSON lines in one call of `pyarrow.json`, and marks the lines that it would read wrongly."""

import contextlib
import mmap
import threading
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from transforms import columns
from transforms.errors import RunError
from transforms.formats.jsonl import diagnose, split
from transforms.records import Mask, Rows

OPEN, CLOSE = b"{}"
BLOCK_BYTES = 1 << 20
# The most memory that pyarrow's reader takes, measured: bytes for each byte of a block, and bytes on top of that.
READER_BLOCKS, READER_BYTES = 4, 20 << 20
_long_lines = threading.Lock()  # `_check_memory` reserves nothing: two threads could both count on the same memory
# RapidJSON, which pyarrow uses, reads these words as numbers in any field, but they are not JSON. Each word is searched
# for by itself: RE2 finds a literal with SIMD instructions, and the search does not hold the interpreter's lock.
NOT_NUMBERS = ("NaN", "Inf")


def suspect(data: bytes, rows: Rows) -> Mask:
    """Marks the lines that must not be parsed with others: those that are no object, not UTF-8, or hold NaN.

    Args:
        data: The chunk's bytes.
        rows: The places of lines, ascending.

    Returns:
        bool, (rows,).
    """
    return _not_objects(data, rows) | _not_utf8(data, rows) | _not_numbers(data, rows)


def _not_objects(data: bytes, rows: Rows) -> Mask:
    """Marks the lines that do not begin with `{` and end with `}`.

    Each line without a mark is exactly one row, if pyarrow reads as many rows as there are such lines. The reason is
    that no object can continue on the next line. It would need a comma or a string across the newline. But one line
    ends with `}`, the next begins with `{`, and a JSON string holds no newline.
    """
    octets = np.frombuffer(data, np.uint8)
    first = octets[split.first_not_space(data, rows)]
    last = octets[split.last_not_space(data, rows.starts, rows.ends)]
    mask: Mask = (first != OPEN) | (last != CLOSE)
    return mask


def _not_utf8(data: bytes, rows: Rows) -> Mask:
    mask = np.zeros(len(rows.starts), np.bool_)
    offsets = np.array([rows.starts[0], rows.ends[-1]], np.int64)
    whole = pa.LargeStringArray.from_buffers(1, pa.py_buffer(offsets), pa.py_buffer(data))
    try:
        whole.validate(full=True)
    except pa.ArrowInvalid:
        for row, (start, end) in enumerate(zip(rows.starts, rows.ends, strict=True)):
            try:
                data[start:end].decode()
            except UnicodeDecodeError:
                mask[row] = True
    return mask


def _not_numbers(data: bytes, rows: Rows) -> Mask:
    """Marks the lines with a word that pyarrow would read as a number, such as NaN. Words in strings are allowed."""
    mask = np.zeros(len(rows.starts), np.bool_)
    whole = columns.gather(data, rows.starts[:1], rows.ends[-1:])
    for word in NOT_NUMBERS:
        if not pc.match_substring_regex(whole, word)[0].as_py():
            continue
        found = pc.match_substring_regex(columns.gather(data, rows.starts, rows.ends), word)
        for row in np.flatnonzero(found.to_numpy(zero_copy_only=False) & ~mask):
            mask[row] = diagnose.syntax(data[rows.starts[row] : rows.ends[row]]) is not None
    return mask


def read_by_schema(lines: pa.LargeBinaryArray, schema: pa.Schema, *, exact: bool) -> pa.Table | None:
    """Reads lines by a schema; None if a line cannot be read by it."""
    text = columns.contents(lines)
    others: Literal["error", "ignore"] = "error" if exact else "ignore"
    longest = int(columns.sizes(lines).max()) + 1
    block = min(max(BLOCK_BYTES, longest), text.size + 1)  # holds the longest line; allocated in full
    with _long_lines if longest > BLOCK_BYTES else contextlib.nullcontext():
        _check_memory(block)
        try:
            return pyarrow.json.read_json(
                pa.BufferReader(text),
                pyarrow.json.ReadOptions(use_threads=False, block_size=block),
                pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=others),
            )
        except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeDecodeError):
            return None


def _check_memory(block: int) -> None:
    """Checks that there is memory to read a block. Without it, the parser inside pyarrow would end the process.

    Args:
        block: Size of the block in bytes.

    Raises:
        RunError: There is not enough memory.
    """
    needed = READER_BLOCKS * block + READER_BYTES
    try:
        _require_memory(needed)
    except MemoryError as error:
        raise RunError(
            f"there are no {needed:,} bytes of memory left to read lines of up to {block:,} bytes; raise --max_memory "
            "if it is given, or lower --chunk_bytes and --wave_bytes"
        ) from error


def _require_memory(size: int) -> None:
    """Checks that the system would allocate `size` bytes now. It maps the memory but does not touch it.

    Raises:
        MemoryError: The system refuses the allocation.
    """
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError as error:
        raise MemoryError(f"{size:,} bytes") from error
