"""Watches a local run: adds up its chunks, and starts no new one once an error limit must be exceeded."""

import functools
import itertools
import math
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from pipeline.options.error_limits import ErrorLimits, ExceededLimit
from transforms.errors import StoppedError
from transforms.records import BadRow, Chunk, PartReceipt, Predictions, Receipt, Source, unpack_bad
from transforms.split_into_chunks import most_bytes
from transforms.storage import files

FINISHED_ROWS = 100  # that fail alone stop no chunk: that of a small input is written, with its dead letters
# A call of a model takes as long as counting the rows of a megabyte.
COUNTED_FROM, COUNTED_BYTES = 1_000, 4 << 30  # rows that failed; bytes of the input
BLOCK_BYTES = 1 << 20

WAVE_SECONDS = 30.0  # about how long a run scores before it writes

_numbers = itertools.count()
_watches: "weakref.WeakValueDictionary[int, Watch]" = weakref.WeakValueDictionary()


class _Count:
    """Sums over chunks."""

    def __init__(self) -> None:
        self.rows = self.bytes = 0
        self.dead: Counter[str] = Counter()

    def add(self, chunk: Chunk, rows: int, dead: Mapping[str, int]) -> None:
        self.rows += rows
        self.bytes += chunk.nbytes
        self.dead.update(dead)


class _Failing(NamedTuple):
    """A chunk that is being scored, and of which rows fail alone.

    Attributes:
        rows: Its rows that were read and are good.
        dead: Those of them that failed, by reason.
    """

    rows: int
    dead: Counter[str]


class Watch:
    """Counts what the chunks of a run come to.

    It stays in this process, where the local runner's steps are, too: pickled, it is a name for itself.

    Each chunk counts once it is read and scored. What cannot be written shows only when parts are, which
    is when the wave is scored; then what the parts say counts instead. Before it is scored, its rows count that fail
    alone, so that a model which refuses all of them is not called with each. Thread-safe as far as that goes.
    """

    def __init__(
        self,
        limits: ErrorLimits,
        sources: Sequence[Source],
        least: int,
        line_end: bytes = b"",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins to count.

        Args:
            limits: What is allowed.
            sources: All input files.
            least: Bytes that a good row takes at least.
            line_end: What ends each line; empty if rows are not lines.
            clock: Seconds.
        """
        self._limits, self._least, self._clock = limits, least, clock
        # One more each for the end of a last line, which may lack its newline.
        self._bytes = most_bytes(sources) + len(sources)
        self._written, self._scored = _Count(), _Count()
        # Chunks of which the one is known, and not yet the other.
        self._read: dict[str, Receipt] = {}
        self._unscored: dict[str, bytes] = {}
        self._parts: list[PartReceipt] = []
        self._failing: dict[str, _Failing] = {}
        self._lengths: dict[str, int] = {}  # of chunks that were begun, in bytes
        self._sources, self._line_end, self._most_rows, self._refused = sources, line_end, sys.maxsize, 0
        self._example = ""  # what was wrong with a row of a chunk that will not be written
        self._changing = threading.RLock()
        self._stopped = False
        self._parts_of = dict[str, int]()
        self._begun = 0  # bytes of chunks, in this wave
        self._wave_began = clock()
        self._bytes_a_second = math.inf  # later, of the last wave
        self._number = next(_numbers)
        _watches[self._number] = self

    def __reduce__(self) -> tuple[object, ...]:
        return _find, (self._number,)

    def begin_wave(self) -> None:
        """A wave begins now."""
        self._begun, self._wave_began = 0, self._clock()

    def may_start(self, chunk: Chunk) -> bool:
        """Whether another chunk may be begun in this wave, which is to take about `WAVE_SECONDS`."""
        seconds = max(self._clock() - self._wave_began, self._begun / self._bytes_a_second)
        if not self.may_continue() or (self._begun and seconds >= WAVE_SECONDS):
            return False
        self._lengths[chunk.key] = chunk.nbytes
        self._begun += chunk.nbytes
        return True

    def cut(self, chunks: Iterable[Chunk]) -> None:
        """Sees chunks that sources were cut into."""
        self._parts_of.update((chunk.source, chunk.parts) for chunk in chunks)

    def parts(self) -> int | None:
        """How many parts the run will write; None until each source is cut."""
        return sum(self._parts_of.values()) if len(self._parts_of) == len(self._sources) else None

    def may_continue(self) -> bool:
        """Whether another chunk may be begun."""
        self._stopped = self._stopped or self.exceeded() is not None
        return not self._stopped

    def exceeded(self) -> ExceededLimit | None:
        """The limit that is exceeded, whatever is still to come."""
        with self._changing:
            counts, failing = (self._written, self._scored), self._failing.values()
            dead = sum((one.dead for one in failing), self._written.dead + self._scored.dead)
            known = sum(count.bytes for count in counts) + sum(self._lengths.get(key, 0) for key in self._failing)
            bad = sum(one.dead.total() for one in failing)
            rows = sum(count.rows for count in counts) + bad
            good = (self._bytes - known) // self._least + sum(one.rows for one in failing) - bad
            return self._limits.exceeded(dead, rows, min(good, self._most_rows - rows))

    def _count_rows(self) -> None:
        """Finds how many rows the input has at most: what its bytes could hold is several times as much."""
        local = all(files.is_local(source.path) and not source.is_gzip for source in self._sources)
        if self._line_end and local and self._bytes <= COUNTED_BYTES:
            self._most_rows = sum(_lines(source.path, self._line_end) for source in self._sources)

    def refused(self, key: str, rows: int, bad: BadRow) -> None:
        """Sees a row that fails alone, before its chunk is scored.

        Args:
            key: The chunk's key.
            rows: Its rows that were read and are good.
            bad: One of these; `row` counts them.

        Raises:
            StoppedError: A limit is exceeded, whatever is still to come, and many rows have failed.
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
        """Why the run stopped before its end; None if it did not."""
        exceeded = self.exceeded() if self._stopped else None
        return exceeded and exceeded._replace(example=self._example)

    def read(self, element: tuple[str, Receipt]) -> tuple[str, Receipt]:
        """Sees what was read of a chunk, and hands it on."""
        key, self._read[key] = element
        self._count(key)
        return element

    def scored(self, element: tuple[str, Predictions | None]) -> tuple[str, Predictions | None]:
        """Sees what was scored of a chunk, and hands it on; None if scoring was stopped."""
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

    def wrote(self, part: PartReceipt) -> PartReceipt:
        """Sees what was written of a chunk, and hands it on."""
        self._written.add(part.chunk, part.rows, part.dead)
        self._parts.append(part)
        return part

    def end_wave(self) -> list[PartReceipt]:
        """All parts of the wave are written: what they say counts now, and is given."""
        seconds = self._clock() - self._wave_began
        # Of a short wave, the graph may have taken most of the time.
        self._bytes_a_second = self._begun / seconds if seconds >= WAVE_SECONDS else math.inf
        parts, self._parts, self._scored = self._parts, [], _Count()
        return parts


def _lines(path: str, end: bytes) -> int:
    with files.open_raw(path) as file:
        return 1 + sum(block.count(end) for block in iter(functools.partial(file.read, BLOCK_BYTES), b""))


def _find(number: int) -> Watch:
    return _watches[number]
