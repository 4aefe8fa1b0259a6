"""Finds the line number of each dead letter in a text source.

Workers read chunks independently, so a worker does not know how many lines precede its chunk. keyjoin counts them only
for chunks that have dead letters. A run without dead letters reads nothing twice.
"""

from collections.abc import Sequence

from transforms.formats.base import Block
from transforms.records import Chunk
from transforms.storage import files, versions

BLOCK_BYTES = 1 << 24
# A worker counts by reading the source from its beginning. The limit bounds this cost: if every chunk of a larger
# source had a bad row, every worker would read the whole source.
MOST_BYTES = 1 << 32


class Lines:
    """Counts the lines of sources. It keeps its counts for the other chunks of a source. Thread-safe."""

    def __init__(self, end: bytes) -> None:
        """Takes the bytes that end a line; empty if rows are not lines."""
        self._end = end
        self._counted: dict[tuple[str, str, int], int] = {}

    def numbers(self, chunk: Chunk, block: Block, rows: Sequence[int]) -> Sequence[int | None]:
        """Finds the lines of the source at which some rows of a chunk begin.

        Lines count from 1, and blank lines count too.

        Args:
            chunk: The chunk.
            block: Its rows.
            rows: The numbers of some of these rows, in order.

        Returns:
            A line number for each row; None where rows are not lines, and in chunks that begin after `MOST_BYTES`.

        Raises:
            RunError: The source cannot be read, or it is not the version that was planned.
        """
        if not self._end or chunk.start > MOST_BYTES:
            return [None] * len(rows)
        before = self._before(chunk)
        return [before + line + 1 for line in block.line_numbers(rows) or ()]

    def at(self, chunk: Chunk, position: int) -> int | None:
        """Finds the line of a position in a chunk; None where `numbers` gives None.

        Args:
            chunk: The chunk.
            position: A position of its source, in bytes.

        Raises:
            RunError: The source cannot be read, or it is not the version that was planned.
        """
        if not self._end or chunk.start > MOST_BYTES:
            return None
        return self._before(chunk) + self._count(chunk, chunk.start, position) + 1

    def _before(self, chunk: Chunk) -> int:
        """Counts the lines before a chunk."""
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
