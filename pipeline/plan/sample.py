"""The beginning of the input: what the plan of a run is made from."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pipeline.plan.read_sample import Head, read_heads
from transforms.columns import MAX_BATCH
from transforms.formats.base import Block, Instance, Reader
from transforms.mapping import ragged
from transforms.records import Feature, Source
from transforms.saved_model.model import Arrays
from transforms.scoring.bisect import MULTIPLE
from transforms.scoring.groups import Group, largest
from transforms.threads import THREADS

SMALL_SAMPLE = 1_000


class Sample(NamedTuple):
    """The beginning of the input.

    Attributes:
        reader: Of its format.
        block: Its first rows.
        rows: The readable ones among the first of them, each as field -> value.
        size: Bytes of the whole input, as stored.
        largest: Bytes of the largest source, as stored.
        heads: The beginnings of sources, whose rows are scored before the run.
    """

    reader: Reader
    block: Block
    rows: list[dict[str, Any]]
    size: int
    largest: int
    heads: Iterable[Head]

    @property
    def fields(self) -> set[str]:
        """Names of the rows' fields."""
        return {name for row in self.rows if not isinstance(row, Instance) for name in row}

    @property
    def row_bytes(self) -> float:
        """Bytes of a row."""
        return max(self.block.nbytes, 1) / max(len(self.block.positions), 1)

    def batch_most(self, chunk_bytes: int) -> int | None:
        """Rows of a batch at most, so that a chunk has one for each core; None if it has too few rows for that."""
        rows = min(chunk_bytes, self.largest) / self.row_bytes
        if rows < THREADS * MULTIPLE:
            return None
        return min(MAX_BATCH, math.ceil(rows / THREADS / MULTIPLE) * MULTIPLE)

    def call_rows(self, batch_size: int, chunk_bytes: int, multiple: int) -> int:
        """Rows of the largest call of a run, whose calls are filled up to a multiple of so many rows."""
        rows = math.ceil(min(chunk_bytes, self.largest) / self.row_bytes)
        return min(batch_size, math.ceil(rows / multiple) * multiple)

    def arrays(self, features: Sequence[Feature], count: int) -> Arrays | None:
        """The good ones among the first rows, as the model is called with them; None if there is none.

        Of rows whose inputs have different shapes, those of the most frequent shape.
        """
        group = self.group(features, count)
        return group and group.whole

    def group(self, features: Sequence[Feature], count: int) -> Group | None:
        """The same, where rows that are padded are as long as they are."""
        first = self.block.take(range(min(count, len(self.block.positions))))
        inputs, _ = first.inputs(features)
        return largest(inputs, features) if inputs.num_rows else None

    def typical(self, features: Sequence[Feature]) -> tuple[Feature, ...]:
        """The features with the sizes that the first rows have where a feature leaves one open, as far as known."""
        rows = self.arrays(features, SMALL_SAMPLE) if self.rows and any(f.is_open for f in features) else None
        return tuple(f._replace(shape=ragged.row_shape(rows[f.name])) for f in features) if rows else tuple(features)


def read_sample(found: Sequence[Source], reader: Reader) -> tuple[Head | None, Iterable[Head]]:
    """The first source that has readable rows; and all sources that are looked at, from the first one on."""
    heads, seen = read_heads(found, reader), list[Head]()
    for head in heads:
        seen.append(head)
        if head.rows:
            return head, itertools.chain(seen, heads)
    return None, seen
