"""Chooses the size of chunks: in bytes of input, and also in rows if a row's predictions or weights are large.

The size never depends on measured time, so every run splits a source at the same positions.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from transforms.columns import OPEN_SIZE, STRING_BYTES
from transforms.dtypes import STRING
from transforms.formats.base import Reader
from transforms.mapping import partitions
from transforms.records import Feature
from transforms.saved_model.model import Tensor
from transforms.scoring.bisect import MULTIPLE

CHUNK_BYTES = 64 << 20
PREDICTION_BYTES = 32 << 20  # most predictions of a chunk; a run holds several times as much (benchmarks/NOTES.md)
WEIGHT_BYTES = 1 << 40  # most rows x weights of a chunk: minutes of work for a model that uses each weight a few times


class ChunkSize(NamedTuple):
    """The size of a chunk.

    Attributes:
        bytes: About how many bytes of input a chunk has.
        rows: The most rows of a chunk; None if so many rows never fit into `bytes`.
    """

    bytes: int
    rows: int | None


class Expected(NamedTuple):
    """Sizes estimated from the sampled rows. The output does not depend on them.

    Attributes:
        predictions: Bytes of predictions for each byte of input.
        chunk_bytes: Bytes of input of the largest chunk.
    """

    predictions: float
    chunk_bytes: float


class RowSize(NamedTuple):
    """The bytes of a row.

    Attributes:
        text: Bytes of the row in the input.
        predictions: Bytes of its predictions.
    """

    text: float
    predictions: int


def expect(chunk: ChunkSize, row: RowSize, largest: int) -> Expected:
    """Estimates the sizes of a run.

    Args:
        chunk: The size of chunks.
        row: The size of a row.
        largest: Bytes of the largest source.
    """
    size = min(chunk.bytes, largest, (chunk.rows or math.inf) * row.text)
    return Expected(row.predictions / row.text, size)


def choose(chunk_bytes: int | None, row: int, weights: int, reader: Reader, features: Sequence[Feature]) -> ChunkSize:
    """Chooses the size of chunks.

    Args:
        chunk_bytes: The value of `--chunk_bytes`, if it was given.
        row: Bytes of a row's predictions.
        weights: Bytes of the model's variables that are used for each row. They are ignored if `--chunk_bytes` was
            given.
        reader: The reader of the input.
        features: The features that feed the model's inputs.
    """
    size = chunk_bytes or CHUNK_BYTES
    rows = most_rows(row, 0 if chunk_bytes else weights)
    least = reader.least_bytes(partitions.in_rows(features))
    return ChunkSize(size, rows if not least or rows < size // least else None)


def most_rows(row: int, weights: int) -> int:
    """Returns the most rows of a chunk: a multiple of `MULTIPLE`, unless it is smaller than that.

    Args:
        row: Bytes of a row's predictions.
        weights: Bytes of the model's variables that are used for each row.

    >>> most_rows(4 * 768, 0), most_rows(1 << 20, 0), most_rows(4, 440 << 20)
    (10848, 32, 2304)
    """
    rows = max(1, min(PREDICTION_BYTES // max(row, 1), WEIGHT_BYTES // max(weights, 1)))
    return rows // MULTIPLE * MULTIPLE or rows


def row_bytes(predictions: Sequence[Tensor]) -> int:
    """Returns the bytes of a row's predictions. A string counts as `STRING_BYTES`, an unknown size as `OPEN_SIZE`.

    >>> row_bytes([Tensor("a", "float32", (3, 2), ""), Tensor("b", "string", (2,), "")])
    536
    """
    return sum(_item_bytes(tensor.dtype) * math.prod(_shape(tensor)) for tensor in predictions)


def _shape(tensor: Tensor) -> Sequence[int]:
    shape = (None,) if tensor.shape is None else tensor.shape
    return [OPEN_SIZE if size is None else size for size in shape]


def _item_bytes(dtype: str) -> int:
    return STRING_BYTES if dtype == STRING else np.dtype(dtype).itemsize
