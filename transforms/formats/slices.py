"""Slices: the rows of a chunk, read some megabytes at a time in threads."""

import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa

from transforms import columns
from transforms.records import BadRow, Feature, Rows
from transforms.threads import in_threads

SLICE_BYTES = 1 << 22  # what a thread reads at a time
Why = tuple[str, str]  # reason code, message
Found = tuple[pa.RecordBatch, Iterable[tuple[int, Why]]]  # inputs of the good rows; which ones are bad, and why


def read(
    data: bytes, rows: Rows, features: Sequence[Feature], read_slice: Callable[[Rows], Found]
) -> tuple[pa.RecordBatch, list[BadRow]]:
    """Reads a chunk, see `transforms.formats.Format.read`.

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
