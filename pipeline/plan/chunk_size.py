"""Chooses how large a chunk is: by bytes of input, and by rows where their predictions are large.

Nothing here is measured by a clock, so that a source is cut at the same places in every run.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from transforms.columns import OPEN_SIZE, STRING_BYTES
from transforms.dtypes import STRING
from transforms.formats.base import Reader
from transforms.records import Feature
from transforms.saved_model.model import Tensor
from transforms.scoring.bisect import MULTIPLE

CHUNK_BYTES = 64 << 20
PREDICTION_BYTES = 32 << 20  # of a chunk, at most: a run holds several times as much (benchmarks/NOTES.md)
WEIGHT_BYTES = 1 << 40  # that the rows of a chunk are computed with, at most: minutes, where each counts a few times


class ChunkSize(NamedTuple):
    """How large a chunk is.

    Attributes:
        bytes: About how many bytes of input it has.
        rows: How many rows it has at most; None if rows are so small that they need no limit.
    """

    bytes: int
    rows: int | None


class Expected(NamedTuple):
    """What the sampled rows let expect; nothing that is written depends on it.

    Attributes:
        predictions: Bytes of predictions for each byte of input.
        chunk_bytes: Bytes of input that the largest chunk has.
    """

    predictions: float
    chunk_bytes: float


class RowSize(NamedTuple):
    """Bytes of a row, in the input and of its predictions."""

    text: float
    predictions: int


def expect(chunk: ChunkSize, row: RowSize, largest: int) -> Expected:
    """What to expect of a run.

    Args:
        chunk: How large chunks are.
        row: How large a row is.
        largest: Bytes of the largest source.
    """
    size = min(chunk.bytes, largest, (chunk.rows or math.inf) * row.text)
    return Expected(row.predictions / row.text, size)


def choose(chunk_bytes: int | None, row: int, weights: int, reader: Reader, features: Sequence[Feature]) -> ChunkSize:
    """Chooses the size of chunks.

    Args:
        chunk_bytes: What `--chunk_bytes` says, if it was given.
        row: Bytes of a row's predictions.
        weights: Bytes of the model's variables that take part in each row. They count only where `--chunk_bytes` was
            not given.
        reader: Of the input.
        features: What feeds the model.
    """
    size = chunk_bytes or CHUNK_BYTES
    rows = most_rows(row, 0 if chunk_bytes else weights)
    return ChunkSize(size, rows if rows < size // reader.least_bytes(features) else None)


def most_rows(row: int, weights: int) -> int:
    """How many rows a chunk has at most, in whole batches of the smallest size where that is possible.

    Args:
        row: Bytes of a row's predictions.
        weights: Bytes of the model's variables that take part in each row.

    >>> most_rows(4 * 768, 0), most_rows(1 << 20, 0), most_rows(4, 440 << 20)
    (10848, 32, 2304)
    """
    rows = max(1, min(PREDICTION_BYTES // max(row, 1), WEIGHT_BYTES // max(weights, 1)))
    return rows // MULTIPLE * MULTIPLE or rows


def row_bytes(predictions: Sequence[Tensor]) -> int:
    """Bytes of a row's predictions; a string counts as `STRING_BYTES`, and a size that nobody knows as `OPEN_SIZE`.

    >>> row_bytes([Tensor("a", "float32", (3, 2), ""), Tensor("b", "string", (2,), "")])
    536
    """
    return sum(_item_bytes(tensor.dtype) * math.prod(_shape(tensor)) for tensor in predictions)


def _shape(tensor: Tensor) -> Sequence[int]:
    shape = (None,) if tensor.shape is None else tensor.shape
    return [OPEN_SIZE if size is None else size for size in shape]


def _item_bytes(dtype: str) -> int:
    return STRING_BYTES if dtype == STRING else np.dtype(dtype).itemsize
