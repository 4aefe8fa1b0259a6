"""Counts the bad rows of a local run, and stops it early once an error limit must be exceeded."""

import functools
import itertools
import math
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from pipeline.job.progress import Progress
from pipeline.options.error_limits import ErrorLimits, ExceededLimit
from transforms.errors import StoppedError
from transforms.records import BadRow, Chunk, PartReceipt, Predictions, Receipt, Source, unpack_bad
from transforms.split_into_chunks import most_bytes
from transforms.storage import files

# So many rows that fail alone do not stop a chunk. So the chunk of a small input is written, with its dead letters.
FINISHED_ROWS = 100
# keyjoin counts the rows of the input only after so many rows failed alone, and only if the input has at most so many
# bytes. Counting the rows of a megabyte takes as long as one model call.
COUNTED_FROM, COUNTED_BYTES = 1_000, 4 << 30
BLOCK_BYTES = 1 << 20

WAVE_SECONDS = 30.0  # about how long a pipeline scores before it writes

_numbers = itertools.count()
_watches: "weakref.WeakValueDictionary[int, Watch]" = weakref.WeakValueDictionary()


class _Count:
    """Sums of rows, bytes and dead letters over chunks."""

    def __init__(self) -> None:
        self.rows = self.bytes = 0
        self.dead: Counter[str] = Counter()

    def add(self, chunk: Chunk, rows: int, dead: Mapping[str, int]) -> None:
        self.rows += rows
        self.bytes += chunk.nbytes
        self.dead.update(dead)


class _Failing(NamedTuple):
    """A chunk that is being scored, and has rows that fail alone.

    Attributes:
        rows: How many of its rows went into the model.
        dead: How many of these failed so far, by reason code.
    """

    rows: int
    dead: Counter[str]


class Watch:
    """Counts the rows and bad rows of a run's chunks, and decides whether the run continues.

    A watch stays in this process, where the steps of the local runner run too. A pickled watch is only its number,
    so all steps share one object.

    A chunk counts in three stages:

    - While the chunk is being scored, its rows that fail alone count. So a model that refuses all rows is not called
      with each of them.
    - Once the chunk is read and scored, all of its rows count.
    - At the end of the pipeline, the receipts of its parts replace these counts. Only then are the rows known that
      cannot be written, because the runner writes parts after it has scored all chunks.

    Several threads may report rows that fail alone at the same time.

    Attributes:
        progress: Counts what is done, for the display.
    """

    def __init__(
        self,
        limits: ErrorLimits,
        sources: Sequence[Source],
        least: int,
        line_end: bytes = b"",
        clock: Callable[[], float] = time.monotonic,
        progress: Progress | None = None,
    ) -> None:
        """Starts with all counts at zero.

        Args:
            limits: The error limits of the run.
            sources: All input files.
            least: The least bytes of a good row, with the end of its line. From it follows how many good rows the
                unread bytes can hold at most. It is 0 if they can hold any number.
            line_end: The bytes that end each line; empty if rows are not lines.
            clock: Returns the time in seconds.
            progress: Counts what is done, for the display; None for a new one.
        """
        self.progress = progress or Progress()
        self._limits, self._least, self._clock = limits, least, clock
        # One byte more for each source, because its last line may lack the newline that `least` includes.
        self._bytes = most_bytes(sources) + len(sources)
        self._written, self._scored = _Count(), _Count()
        # By chunk key: receipts of chunks that are not scored yet, and bad rows of chunks that have no receipt yet.
        self._read: dict[str, Receipt] = {}
        self._unscored: dict[str, bytes] = {}
        self._parts: list[PartReceipt] = []
        self._failing: dict[str, _Failing] = {}
        self._lengths: dict[str, int] = {}  # bytes of the chunks that have started and are not scored yet, by key
        self._sources, self._line_end, self._most_rows, self._refused = sources, line_end, sys.maxsize, 0
        self._example = ""  # the message of a bad row of the stopped chunk, which will have no dead letter file
        self._changing = threading.RLock()
        self._stopped = False
        self._begun = 0  # bytes of the chunks that started in this pipeline
        self._wave_began = clock()
        self._bytes_a_second = math.inf  # the speed of the last pipeline; infinite if it is not known
        self._number = next(_numbers)
        _watches[self._number] = self

    def __reduce__(self) -> tuple[object, ...]:
        return _find, (self._number,)

    def begin_wave(self) -> None:
        """Marks the start of a pipeline. A wave takes several pipelines if it is slow."""
        self._begun, self._wave_began = 0, self._clock()

    def may_start(self, chunk: Chunk) -> bool:
        """Decides whether another chunk starts in this pipeline, which should take about `WAVE_SECONDS`.

        The first chunk of a pipeline always starts, unless an error limit must be exceeded.

        Args:
            chunk: The chunk.
        """
        seconds = max(self._clock() - self._wave_began, self._begun / self._bytes_a_second)
        if not self.may_continue() or (self._begun and seconds >= WAVE_SECONDS):
            return False
        self._lengths[chunk.key] = chunk.nbytes
        self._begun += chunk.nbytes
        self.progress.begin()
        return True

    def may_continue(self) -> bool:
        """Returns whether the run continues. Once an error limit must be exceeded, the answer stays False."""
        self._stopped = self._stopped or self.exceeded() is not None
        return not self._stopped

    def exceeded(self) -> ExceededLimit | None:
        """Returns an error limit that the run exceeds even if all remaining rows are good; None if there is none."""
        with self._changing:
            counts, failing = (self._written, self._scored), self._failing.values()
            dead = sum((one.dead for one in failing), self._written.dead + self._scored.dead)
            known = sum(count.bytes for count in counts) + sum(self._lengths.get(key, 0) for key in self._failing)
            bad = sum(one.dead.total() for one in failing)
            rows = sum(count.rows for count in counts) + bad
            unread = (self._bytes - known) // self._least if self._least else sys.maxsize
            good = unread + sum(one.rows for one in failing) - bad
            return self._limits.exceeded(dead, rows, min(good, self._most_rows - rows))

    def _count_rows(self) -> None:
        """Counts the lines of the input, which are an upper bound for its rows.

        The bound that follows from the bytes is several times higher. So counting lets the run stop much earlier.
        """
        local = all(files.is_local(source.path) and source.codec is None for source in self._sources)
        if self._line_end and local and self._bytes <= COUNTED_BYTES:
            self._most_rows = sum(_lines(source.path, self._line_end) for source in self._sources)

    def refused(self, key: str, rows: int, bad: BadRow) -> None:
        """Counts a row that fails alone, while its chunk is being scored.

        Args:
            key: The chunk's key.
            rows: How many rows of the chunk went into the model.
            bad: The row that failed. Its `row` is a number within the rows that went into the model.

        Raises:
            StoppedError: An error limit must be exceeded, and more than `FINISHED_ROWS` rows have failed alone.
        """
        with self._changing:
            self._failing.setdefault(key, _Failing(rows, Counter())).dead[bad.reason] += 1
            self._refused += 1
            if self._refused == COUNTED_FROM:
                self._count_rows()
            if self._refused > FINISHED_ROWS and not self.may_continue():
                self._example = bad.message
                raise StoppedError

    def stopped(self) -> ExceededLimit | None:
        """Returns the error limit that stopped the run early; None if the run did not stop."""
        exceeded = self.exceeded() if self._stopped else None
        return exceeded and exceeded._replace(example=self._example)

    def read(self, element: tuple[str, Receipt]) -> tuple[str, Receipt]:
        """Records the receipt of a chunk that was read.

        Args:
            element: The chunk's key and its receipt.

        Returns:
            The same element.
        """
        key, self._read[key] = element
        self.progress.read()
        self._count(key)
        return element

    def scored(self, element: tuple[str, Predictions | None]) -> tuple[str, Predictions | None]:
        """Records the bad rows of a chunk that was scored.

        Args:
            element: The chunk's key and its predictions, which are None if its scoring was stopped.

        Returns:
            The same element.
        """
        key, predictions = element
        if predictions is not None:
            self._unscored[key] = predictions.bad
            self._count(key)
        return element

    def _count(self, key: str) -> None:
        if key in self._read and key in self._unscored:
            receipt = self._read.pop(key)
            dead = Counter(bad.reason for bad in (*unpack_bad(receipt.bad), *unpack_bad(self._unscored.pop(key))))
            with self._changing:
                self._failing.pop(key, None)
                self._lengths.pop(key, None)
                self._scored.add(receipt.chunk, receipt.rows, dead)
            self.progress.scored(receipt.chunk, receipt.rows, dead)

    def wrote(self, part: PartReceipt) -> PartReceipt:
        """Records a part that was written.

        Args:
            part: The receipt of the part.

        Returns:
            The same receipt.
        """
        self.progress.wrote(part)
        return self._take(part)

    def found(self, part: PartReceipt) -> PartReceipt:
        """Records a part that an earlier attempt wrote.

        Args:
            part: The receipt of the part.

        Returns:
            The same receipt.
        """
        self.progress.found(part)
        return self._take(part)

    def _take(self, part: PartReceipt) -> PartReceipt:
        self._written.add(part.chunk, part.rows, part.dead)
        self._parts.append(part)
        return part

    def end_wave(self) -> list[PartReceipt]:
        """Ends a pipeline, whose parts are all written. From here on, the counts in their receipts apply.

        Returns:
            The receipts of all parts since the last call.
        """
        seconds = self._clock() - self._wave_began
        # A short pipeline gives no speed, because its graph may have taken most of the time.
        self._bytes_a_second = self._begun / seconds if seconds >= WAVE_SECONDS else math.inf
        parts, self._parts, self._scored = self._parts, [], _Count()
        return parts


def _lines(path: str, end: bytes) -> int:
    with files.open_raw(path) as file:
        return 1 + sum(block.count(end) for block in iter(functools.partial(file.read, BLOCK_BYTES), b""))


def _find(number: int) -> Watch:
    return _watches[number]
