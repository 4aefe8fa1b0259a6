"""Splits the rows of a chunk into slices of a few megabytes, so that threads read and write them in parallel."""

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from transforms import columns
from transforms.records import BadRow, Feature, Positions, Rows
from transforms.threads import in_threads

# The most rows and bytes of a slice: small against a chunk, so that there are enough slices for every thread.
SLICE_ROWS, SLICE_BYTES = 16_384, 1 << 22
Why = tuple[str, str]  # reason code, message
Found = tuple[pa.RecordBatch, Iterable[tuple[int, Why]]]  # inputs of the good rows; number and reason of each bad row


def read(
    data: bytes, rows: Rows, features: Sequence[Feature], read_slice: Callable[[Rows], Found]
) -> tuple[pa.RecordBatch, list[BadRow]]:
    """Reads a chunk slice by slice, in threads, see `transforms.formats.base.Block.inputs`.

    Args:
        data: The chunk's bytes.
        rows: The places of its rows.
        features: The model's inputs, and the fields that feed them.
        read_slice: Reads the rows of a slice. It returns their inputs, and the bad rows in order, each by its number
            in the slice.

    Returns:
        The inputs of the good rows, and the bad rows, in order.
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
    """Returns how many rows a thread writes at a time.

    Args:
        rows: How many rows the chunk has.
        size: The bytes that these rows and their predictions take.
    """
    return max(1, min(SLICE_ROWS, SLICE_BYTES * rows // max(1, size)))


def between(rows: Mapping[int, bytes], first: int, end: int) -> dict[int, bytes]:
    """Returns those output rows of bad rows whose numbers are in [first, end).

    Args:
        rows: Number of a bad row -> its output row, in the order of the numbers.
        first: The first number.
        end: One past the last number.
    """
    numbers = list(rows)
    return {number: rows[number] for number in numbers[bisect_left(numbers, first) : bisect_left(numbers, end)]}


def merge(written: pa.LargeBinaryArray, numbers: Positions, nulls: Mapping[int, bytes]) -> pa.LargeBinaryArray:
    """Merges output rows with and without a prediction, in the order of their numbers.

    Args:
        written: The rows with a prediction.
        numbers: Their numbers.
        nulls: Number of a row without a prediction -> its output row.
    """
    both = pa.concat_arrays([written, pa.array(list(nulls.values()), pa.large_binary())])
    return both.take(pa.array(np.argsort([*numbers, *nulls])))
