"""Slices: some megabytes of the rows of a chunk, which are read and written in threads."""

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from transforms import columns
from transforms.records import BadRow, Feature, Positions, Rows
from transforms.threads import in_threads

SLICE_ROWS, SLICE_BYTES = 16_384, 1 << 22  # at most: enough slices for every thread, small beside the chunk
Why = tuple[str, str]  # reason code, message
Found = tuple[pa.RecordBatch, Iterable[tuple[int, Why]]]  # inputs of the good rows; which ones are bad, and why


def read(
    data: bytes, rows: Rows, features: Sequence[Feature], read_slice: Callable[[Rows], Found]
) -> tuple[pa.RecordBatch, list[BadRow]]:
    """Reads a chunk, see `transforms.formats.base.Format.read`.

    Args:
        data: The chunk's bytes.
        rows: Where its rows lie.
        features: What the model needs.
        read_slice: Reads some rows that follow each other, and tells the bad ones by their numbers among these,
            in order.
    """
    borders = np.searchsorted(rows.starts, np.arange(0, len(data), SLICE_BYTES))
    pairs = itertools.pairwise([*borders.tolist(), len(rows.starts)])
    parts = [(first, Rows(rows.starts[first:end], rows.ends[first:end])) for first, end in pairs if first < end]
    found = list(in_threads(lambda part: read_slice(part[1]), parts))
    bad = [
        BadRow(first + row, "read", *why)
        for (first, _), (_, refused) in zip(parts, found, strict=True)
        for row, why in refused
    ]
    return columns.concatenate([inputs for inputs, _ in found], features), bad


def row_count(rows: int, size: int) -> int:
    """How many of a chunk's rows, which take so many bytes with their predictions, a thread writes at a time."""
    return max(1, min(SLICE_ROWS, SLICE_BYTES * rows // max(1, size)))


def between(rows: Mapping[int, bytes], first: int, end: int) -> dict[int, bytes]:
    """Some of the rows that are written for bad ones, of a mapping in order: those numbered [first, end)."""
    numbers = list(rows)
    return {number: rows[number] for number in numbers[bisect_left(numbers, first) : bisect_left(numbers, end)]}


def merge(written: pa.LargeBinaryArray, numbers: Positions, nulls: Mapping[int, bytes]) -> pa.LargeBinaryArray:
    """The rows with a prediction and those without, in the order of their numbers."""
    both = pa.concat_arrays([written, pa.array(list(nulls.values()), pa.large_binary())])
    return both.take(pa.array(np.argsort([*numbers, *nulls])))
