"""Finds rows that are spread over sources: for `keyjoin check`, and for the trial before a run."""

import bisect
import contextlib
import io
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

from pipeline.plan.read_sample import SomeRows, read_head
from transforms.errors import RunError, UsageError, about
from transforms.formats.base import Cut, Reader
from transforms.records import Chunk, Source, Unit
from transforms.split_into_chunks import open_plain, up_to
from transforms.storage import files

SOURCES = 100  # most sources that are read; of more, so many are picked at equal distances
ROWS = 1_000  # about how many rows are read of all sources together
FEWEST_ROWS = 4  # rows of a place
PLACES = 3
WINDOW = 1 << 18  # bytes of a place, which has whole rows
# Some formats find the ends of rows only from front to back. Of a larger source, the middle and the end are those of
# its first bytes.
SCANNED = 1 << 30
SCANNED_BY_RUN = 1 << 28  # the same for a run, in about 0.1 seconds; less of a source in an object store
SCANNED_REMOTE = 1 << 24
LONGEST = 1 << 26  # bytes of a row that is read before a run


def picked(sources: Sequence[Source]) -> list[Source]:
    """Returns the sources to read: all that are not empty, or `SOURCES` of them at equal distances.

    The result depends on the list of sources only, so each call reads the same ones.

    Args:
        sources: The input files.
    """
    filled = [source for source in sources if source.size]
    count = min(SOURCES, len(filled))
    return [filled[number * len(filled) // count] for number in range(count)]


def read_pieces(sources: Sequence[Source], reader: Reader) -> Iterator[SomeRows]:
    """Reads rows of sources, one source after the other.

    Of a compressed source it reads only the beginning, because the rest can be reached only by decompressing all.

    Args:
        sources: The sources to read, see `picked`.
        reader: The reader of their format.

    Yields:
        The rows of each place of each source.

    Raises:
        UsageError: A source cannot be read, is damaged, or has another format.
    """
    rows = max(FEWEST_ROWS, ROWS // (PLACES * max(1, len(sources))))
    for source in sources:
        if source.codec:
            block = read_head(source, reader).block
            count = int((block.positions < (sys.maxsize if source.end is None else source.end)).sum())
            yield SomeRows(source, block.take(range(min(rows, count))), None)
            continue
        try:
            with about(source.path), open_plain(source, source.version) as file:
                yield from _places(source, file, reader, rows)
        except RunError as error:
            raise UsageError(str(error)) from error
        except OSError as error:
            raise UsageError(f"{source.path} cannot be read: {error}; repair the file, or exclude it") from error


class Place(NamedTuple):
    """Rows of a source that follow each other.

    Attributes:
        file: The open source, or its first rows, decompressed.
        chunk: Where the rows are.
        bytes: About how many bytes of the decompressed source they take.
    """

    file: IO[bytes]
    chunk: Chunk
    bytes: float


def middles(sources: Sequence[Source], count: int, unit: Unit) -> Iterator[tuple[Source, int]]:
    """Yields where the middles of equal parts of all bytes are: a source, and a byte of it.

    So each part is represented by rows of its own, whatever the sizes and the order of the sources, and no row is
    there only because it is the first one.

    Args:
        sources: The sources, at least one of which is not empty.
        count: How many parts there are.
        unit: The unit of positions in sources.

    >>> one, two = Source("a", 10, "a", ".jsonl"), Source("b", 80, "b", ".jsonl")
    >>> [(source.path, at) for source, at in middles([one, two], 3, "byte")]
    [('b', 5), ('b', 35), ('b', 65)]
    """
    sizes = [source.size if unit == "row" else source.extent(unit) or source.size for source in sources]
    ends = list(itertools.accumulate(sizes))
    for number in range(count):
        at = (2 * number + 1) * ends[-1] // (2 * count)
        found = bisect.bisect_right(ends, at)
        yield sources[found], at - ends[found] + sizes[found]


def rows_at(source: Source, at: int, reader: Reader, window: int, stack: contextlib.ExitStack) -> Place | None:
    """Finds whole rows around a byte of a source; the first rows where only they are found in a short time.

    Args:
        source: The source.
        at: The byte. Of a large source with rows that are found only from its beginning on, it is an earlier one.
        reader: The reader of its format.
        window: About how many bytes the rows have.
        stack: Closes the file.

    Returns:
        The place; None if the rest of the source is one row, or the row there is very long.
    """
    is_local = files.is_local(source.path)
    if source.codec or (reader.unit == "row" and not (reader.traits.has_index or (is_local and source.size < SCANNED))):
        return _first_rows(source, reader, stack)
    at = min(at, SCANNED_BY_RUN if is_local else SCANNED_REMOTE)
    file = stack.enter_context(open_plain(source))
    if reader.unit == "row":
        return _cut_at(source, at, file, list(reader.split(file, source.size, window)))
    size, start = source.extent("byte") or source.size, max(0, at - window // 2)
    if start:
        start = next(reader.split(file, size, start)).end
    if start >= size:
        return None
    end = start + next(reader.split(io.BufferedReader(_From(file, start)), size - start, window)).end
    return Place(file, _chunk(source, start, end), end - start) if end - start <= LONGEST else None


def _first_rows(source: Source, reader: Reader, stack: contextlib.ExitStack) -> Place:
    head = read_head(source, reader)
    block = head.block
    if reader.unit == "byte":
        return Place(io.BytesIO(head.text[: block.nbytes]), _chunk(source, 0, block.nbytes), block.nbytes)
    return Place(stack.enter_context(open_plain(source)), _chunk(source, 0, len(block.positions)), block.stored)


def _cut_at(source: Source, at: int, file: IO[bytes], cuts: Sequence[Cut]) -> Place | None:
    """Returns the rows of the cut that has a byte of the source. Cuts are measured before compression."""
    ratio = source.size / max(1, sum(cut.bytes for cut in cuts))
    start, done = 0, 0.0
    for cut in cuts:
        done += cut.bytes * ratio
        if done > at or cut is cuts[-1]:
            return Place(file, _chunk(source, start, cut.end), cut.bytes * ratio)
        start = cut.end
    return None


def _chunk(source: Source, start: int, end: int) -> Chunk:
    return Chunk(source.path, source.path, start, end, 0, 1, f"part{source.suffix}")


def _places(source: Source, file: IO[bytes], reader: Reader, rows: int) -> Iterator[SomeRows]:
    by_row, end_of_file = reader.unit == "row", source.extent(reader.unit)
    found = _row_ranges(file, source, reader, rows) if by_row else _byte_ranges(file, end_of_file or 0, reader)
    for start, end in list(found):
        chunk = Chunk(source.path, source.path, start, end, 0, 1, "", source.version)
        block = reader.load(file, chunk)
        count = len(block.positions)
        if (start, end) == (0, end_of_file):
            numbers = list(_spread(count, rows))
        else:
            numbers = [(max(0, count - rows), count) if end == end_of_file else (0, min(rows, count))]
        yield from (SomeRows(source, block.take(range(*some)), chunk) for some in numbers)


def _spread(count: int, rows: int) -> Iterator[tuple[int, int]]:
    """Yields the ranges of the first, the middle and the last ones of numbered rows, without overlaps.

    >>> list(_spread(10, 2)), list(_spread(5, 2)), list(_spread(0, 2))
    ([(0, 2), (4, 6), (8, 10)], [(0, 2), (2, 4), (4, 5)], [])
    """
    done = 0
    for start in (0, (count - rows) // 2, count - rows):
        start = max(start, done)
        done = min(start + rows, count)
        if start < done:
            yield start, done


def _row_ranges(file: IO[bytes], source: Source, reader: Reader, rows: int) -> Iterator[tuple[int, int]]:
    """Yields the ranges of the places where positions are numbers of rows."""
    cuts = up_to(source.end, reader.split(file, source.size, source.size))
    return _spread(max((cut.end for cut in cuts), default=0), rows)


def _byte_ranges(file: IO[bytes], size: int, reader: Reader) -> Iterator[tuple[int, int]]:
    """Yields the ranges of the places where positions are bytes. Each begins and ends at the border of a row.

    A small source is one range. Otherwise the reader finds the borders from the beginning of the source on, so a
    newline in a quoted cell is none. The end is missing if a row there is longer than about half a `WINDOW`.
    """
    if size <= PLACES * WINDOW:
        yield 0, size
        return
    step = (size - WINDOW) // 2 if size <= SCANNED else SCANNED // PLACES
    cuts = itertools.islice(reader.split(file, min(size, SCANNED), step), PLACES - 1)
    done = 0
    for start in [0, *(cut.end for cut in cuts)]:
        if done <= start < size:
            rest = io.BufferedReader(_From(file, start))
            done = start + next(reader.split(rest, size - start, WINDOW)).end
            yield start, done


class _From(io.RawIOBase):
    """A file from a position on, which is its position 0."""

    def __init__(self, file: IO[bytes], start: int) -> None:
        self._file, self._start, self._at = file, start, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            offset += self._at if whence == io.SEEK_CUR else self._file.seek(0, io.SEEK_END) - self._start
        self._at = offset
        return offset

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._at)
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
