"""The watch over a local run: what its chunks come to, and no more of them once the budget of bad rows is gone."""

import itertools
import math
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from pipeline.budget import Breach, Budget
from transforms.chunks import most_bytes
from transforms.records import Chunk, PartReceipt, Predictions, Receipt, Source, unpack_bad

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
        self.bytes += chunk.end - chunk.start
        self.dead.update(dead)


class Watch:
    """Counts what the chunks of a run come to.

    It stays in this process, where the local runner's steps are, too: pickled, it is a name for itself.

    Each chunk counts once it is read and scored. What cannot be written shows only when parts are, which
    is when the wave is scored; then what the parts say counts instead.
    """

    def __init__(
        self,
        budget: Budget,
        sources: Sequence[Source],
        least: int,
        bytes_a_second: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins to count.

        Args:
            budget: What is allowed.
            sources: All input files.
            least: Bytes that a good row takes at least.
            bytes_a_second: How much input is scored in a second at most; None if that is not known.
            clock: Seconds.
        """
        self._budget, self._least, self._clock = budget, least, clock
        # One more each for the end of a last line, which may lack its newline.
        self._bytes = most_bytes(sources) + len(sources)
        self._written, self._scored = _Count(), _Count()
        # Chunks of which the one is known, and not yet the other.
        self._read: dict[str, Receipt] = {}
        self._unscored: dict[str, bytes] = {}
        self._parts: list[PartReceipt] = []
        self._stopped = False
        self._sources, self._parts_of = len(sources), dict[str, int]()
        self._begun = 0  # bytes of chunks, in this wave
        self._wave_began = clock()
        self._bytes_a_second = bytes_a_second or math.inf  # later, of the last wave
        self._number = next(_numbers)
        _watches[self._number] = self

    def __reduce__(self) -> tuple[object, ...]:
        return _find, (self._number,)

    def begin_wave(self) -> None:
        """A wave begins now."""
        self._begun, self._wave_began = 0, self._clock()

    def begins(self, chunk: Chunk) -> bool:
        """Whether another chunk may be begun in this wave, which is to take about `WAVE_SECONDS`."""
        seconds = max(self._clock() - self._wave_began, self._begun / self._bytes_a_second)
        if not self.goes_on() or (self._begun and seconds >= WAVE_SECONDS):
            return False
        self._begun += chunk.end - chunk.start
        return True

    def cut(self, chunks: Iterable[Chunk]) -> None:
        """Sees chunks that sources were cut into."""
        self._parts_of.update((chunk.source, chunk.parts) for chunk in chunks)

    def parts(self) -> int | None:
        """How many parts the run will write; None until each source is cut."""
        return sum(self._parts_of.values()) if len(self._parts_of) == self._sources else None

    def goes_on(self) -> bool:
        """Whether another chunk may be begun."""
        self._stopped = self._stopped or self.breach() is not None
        return not self._stopped

    def breach(self) -> Breach | None:
        """The limit that is exceeded, whatever is still to come."""
        counts = (self._written, self._scored)
        dead = self._written.dead + self._scored.dead
        left = self._bytes - sum(count.bytes for count in counts)
        return self._budget.breach(dead, sum(count.rows for count in counts), left // self._least)

    def stopped(self) -> Breach | None:
        """Why the run stopped before its end; None if it did not."""
        return self.breach() if self._stopped else None

    def read(self, element: tuple[str, Receipt]) -> tuple[str, Receipt]:
        """Sees what was read of a chunk, and hands it on."""
        key, self._read[key] = element
        self._count(key)
        return element

    def scored(self, element: tuple[str, Predictions]) -> tuple[str, Predictions]:
        """Sees what was scored of a chunk, and hands it on."""
        key, predictions = element
        self._unscored[key] = predictions.bad
        self._count(key)
        return element

    def _count(self, key: str) -> None:
        if key in self._read and key in self._unscored:
            receipt = self._read.pop(key)
            dead = Counter(bad.reason for bad in (*unpack_bad(receipt.bad), *unpack_bad(self._unscored.pop(key))))
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


def _find(number: int) -> Watch:
    return _watches[number]
