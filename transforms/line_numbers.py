"""Counts lines: which line of its source each dead letter of a text is.

Chunks are read apart from each other, so nobody knows how many lines stand before one. They are counted where a
chunk has dead letters, and nowhere else: a run without them reads nothing twice.
"""

from collections.abc import Sequence

from transforms.formats.base import Block
from transforms.records import Chunk
from transforms.storage import files, versions

BLOCK_BYTES = 1 << 24
# A worker reads a source from its beginning to count, so a source has its lines counted up to here. A bad row in each
# chunk of a larger one would have each worker read all of it.
MOST_BYTES = 1 << 32


class Lines:
    """Counts the lines of sources. What it has counted of one is kept, for its other chunks. Thread-safe."""

    def __init__(self, end: bytes) -> None:
        """Takes what ends a line; no bytes where rows are not lines."""
        self._end = end
        self._counted: dict[tuple[str, str, int], int] = {}

    def numbers(self, chunk: Chunk, block: Block, rows: Sequence[int]) -> Sequence[int | None]:
        """The lines at which rows of a chunk begin, from 1, blank lines counted.

        Args:
            chunk: The chunk.
            block: Its rows.
            rows: The numbers of some of them, in order.

        Returns:
            A number a row; None where rows are not lines, and in chunks that begin after `MOST_BYTES`.

        Raises:
            RunError: The source cannot be read, or is another than the one that was planned.
        """
        if not self._end or chunk.start > MOST_BYTES:
            return [None] * len(rows)
        before = self._before(chunk)
        return [before + line + 1 for line in block.line_numbers(rows) or ()]

    def _before(self, chunk: Chunk) -> int:
        """How many lines stand before a chunk."""
        blocks = chunk.start // BLOCK_BYTES
        rest = self._count(chunk, blocks * BLOCK_BYTES, chunk.start)
        return sum(self._block(chunk, number) for number in range(blocks)) + rest

    def _block(self, chunk: Chunk, number: int) -> int:
        block = chunk.data, chunk.version, number
        if block not in self._counted:
            self._counted[block] = self._count(chunk, number * BLOCK_BYTES, (number + 1) * BLOCK_BYTES)
        return self._counted[block]

    def _count(self, chunk: Chunk, start: int, end: int) -> int:
        if start == end:
            return 0
        with versions.open_chunk(chunk) as file:
            return files.read_of(file, chunk.data, start, end).count(self._end)
