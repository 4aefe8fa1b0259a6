"""Reads the first rows of the input, in the order of its sources, for `--limit` and `--canary`."""

import contextlib
import io
from collections.abc import Iterator, Sequence

from pipeline.plan.read_sample import SIZES, SomeRows, opened, read_head
from transforms.errors import RunError, UsageError, about
from transforms.formats.base import Reader
from transforms.records import Chunk, Source

BLOCK_BYTES = 1 << 22
# The end of a row is found by reading all rows before it. Of a compressed source these are read at once.
MOST_PACKED = 1 << 30


def limited(sources: Sequence[Source], reader: Reader, count: int) -> list[Source]:
    """Returns the sources that have the first rows of the input; the last of them ends after the last of these rows.

    Args:
        sources: The input files, in their order.
        reader: The reader of their format.
        count: How many rows.

    Raises:
        UsageError: A source cannot be read, or is damaged before these rows end.
    """
    ends = {some.source.path: some.end for some in first_rows(sources, reader, count)}
    last = max((at for at, source in enumerate(sources) if source.path in ends), default=len(sources) - 1)
    return [source._replace(end=ends.get(source.path)) for source in sources[: last + 1]]


def first_rows(sources: Sequence[Source], reader: Reader, count: int) -> Iterator[SomeRows]:
    """Yields the first rows of the input, block by block; all rows if there are fewer.

    Args:
        sources: The input files, in their order.
        reader: The reader of their format.
        count: How many rows.

    Raises:
        UsageError: A source cannot be read, or is damaged before these rows end.
    """
    left = count
    for source in sources:
        for some in _blocks(source, reader, left):
            rows = len(some.block.positions)
            if rows > left:
                yield some._replace(block=some.block.take(range(left)), end=int(some.block.positions[left]))
                return
            left -= rows
            yield some if not left else some._replace(end=None)
            if not left:
                return


def _blocks(source: Source, reader: Reader, count: int) -> Iterator[SomeRows]:
    if not source.size:
        return
    try:
        with about(source.path):
            if source.codec and reader.unit == "byte":
                yield _beginning(source, reader, count)
            else:
                yield from _plain_blocks(source, reader)
    except RunError as error:
        raise UsageError(str(error)) from error


def _plain_blocks(source: Source, reader: Reader) -> Iterator[SomeRows]:
    """Yields all rows of a source. It opens the source twice: to find the ends of blocks, and to load them."""
    with contextlib.ExitStack() as stack:
        ahead, file = (stack.enter_context(opened(source)) for _ in range(2))
        size = ahead.seek(0, io.SEEK_END) if source.codec else source.size
        start = 0
        cuts = reader.split(ahead, size, BLOCK_BYTES)
        cut = next(cuts, None)
        while cut is not None:
            chunk = Chunk(source.path, source.path, start, cut.end, 0, 1, "", source.version)
            start, cut = cut.end, next(cuts, None)
            yield SomeRows(source, reader.load(file, chunk), chunk, None if cut is None else start)


def _beginning(source: Source, reader: Reader, count: int) -> SomeRows:
    """Reads more and more of a compressed source, until it has more rows than asked for, or ends."""
    size = SIZES[0]
    while True:
        head = read_head(source, reader, [size])
        if len(head.block.positions) > count or len(head.text) < size:
            return SomeRows(source, head.block, None)
        if size >= MOST_PACKED:
            raise UsageError(
                f"{source.path}: its first {count:,} rows have more than {MOST_PACKED:,} bytes, too many to look for "
                "their end in a compressed file; decompress it, or ask for fewer rows"
            )
        size *= 4
