"""Describes the first rows of the input, from which a run is planned."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pipeline.plan.read_sample import Head, read_heads
from transforms.columns import MAX_BATCH
from transforms.formats.base import Block, Instance, Reader
from transforms.mapping import partitions, ragged
from transforms.records import Feature, Source
from transforms.saved_model.model import Arrays
from transforms.scoring.bisect import MULTIPLE
from transforms.scoring.groups import Group, largest
from transforms.threads import THREADS

SMALL_SAMPLE = 1_000  # rows


class Sample(NamedTuple):
    """The first rows of the input.

    Attributes:
        reader: The reader of the input's format.
        block: The first rows.
        rows: The readable rows among the first of the block, each as field -> value.
        size: Bytes of the whole input, as stored.
        largest: Bytes of the largest source, as stored.
        heads: The first rows of the sources that `check_first_rows` may score before the run.
        folders: The names of the fields that the folders of the sources hold, see `transforms.mapping.partitions`.
        paths: Paths of all sources.
        head: The source that the block is of, and its first bytes; None if no source has readable rows.
    """

    reader: Reader
    block: Block
    rows: list[dict[str, Any]]
    size: int
    largest: int
    heads: Iterable[Head]
    folders: tuple[str, ...] = ()
    paths: Sequence[str] = ()
    head: Head | None = None

    @property
    def fields(self) -> set[str]:
        """The names of the rows' fields, and of those that folders hold."""
        return {name for row in self.rows if not isinstance(row, Instance) for name in row} | set(self.folders)

    @property
    def row_bytes(self) -> float:
        """The mean bytes of a row; at least 1 for a block without rows."""
        return max(self.block.nbytes, 1) / max(len(self.block.positions), 1)

    def batch_most(self, chunk_bytes: int) -> int | None:
        """Returns the most rows of a batch for which a chunk has a batch for each core.

        Args:
            chunk_bytes: Bytes of input of a chunk.

        Returns:
            The number of rows, a multiple of `MULTIPLE`; None if a chunk has too few rows for that.
        """
        rows = min(chunk_bytes, self.largest) / self.row_bytes
        if rows < THREADS * MULTIPLE:
            return None
        return min(MAX_BATCH, math.ceil(rows / THREADS / MULTIPLE) * MULTIPLE)

    def call_rows(self, batch_size: int, chunk_bytes: int, multiple: int) -> int:
        """Returns the rows of the largest model call of a run.

        Args:
            batch_size: Most rows of one call.
            chunk_bytes: Bytes of input of a chunk.
            multiple: Calls are filled up with copies to a multiple of this number of rows.
        """
        rows = math.ceil(min(chunk_bytes, self.largest) / self.row_bytes)
        return min(batch_size, math.ceil(rows / multiple) * multiple)

    def arrays(self, features: Sequence[Feature], count: int) -> Arrays | None:
        """Returns the model inputs of the good rows among the first rows; None if there is no good row.

        If rows have inputs of different shapes, only the rows of the most frequent shape are returned.

        Args:
            features: The features that feed the model's inputs.
            count: How many of the first rows to read.

        Returns:
            Data input -> (rows, …).
        """
        group = self.group(features, count)
        return group and group.whole

    def group(self, features: Sequence[Feature], count: int) -> Group | None:
        """Does the same as `arrays`, but does not yet pad the rows."""
        first = self.block.take(range(min(count, len(self.block.positions))))
        inputs, _ = partitions.inputs(first, features)
        return largest(inputs, features) if inputs.num_rows else None

    def typical(self, features: Sequence[Feature]) -> tuple[Feature, ...]:
        """Returns the features, with each open size set to its size in the first rows, if there is a good row."""
        rows = self.arrays(features, SMALL_SAMPLE) if self.rows and any(f.is_open for f in features) else None
        return tuple(f._replace(shape=ragged.row_shape(rows[f.name])) for f in features) if rows else tuple(features)


def read_sample(found: Sequence[Source], reader: Reader) -> tuple[Head | None, Iterable[Head]]:
    """Reads sources until one has readable rows.

    Args:
        found: The input files.
        reader: The reader of the input's format.

    Returns:
        The first rows of that source, or None if no source has readable rows. Then the first rows of all sources from
        the first one on; those after that source are read only when the caller iterates to them.
    """
    heads, seen = read_heads(found, reader), list[Head]()
    for head in heads:
        seen.append(head)
        if head.rows:
            return head, itertools.chain(seen, heads)
    return None, seen
