"""Keeps the figures of a command's progress: what is scored, read and on disk, and what the command waits for.

This module draws nothing, see `pipeline.terminal.progress`. It imports nothing large, because the display is up before
Beam is imported.
"""

import enum
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pipeline.run_folder.ledger import Totals
    from transforms.records import Chunk, PartReceipt, Source

STALL_SECONDS = 20.0  # without a finished chunk, after which the display says what the run waits for
REMOTE_STALL_SECONDS = 120.0  # the same on a remote runner, which starts workers, and whose counts come late
BUSY = 0.05  # the share of a core from which on a process counts as computing
LEAST_SECONDS, SHARE_OF_TIME = 15.0, 0.3  # see `Rate`
MOST_POINTS = 120  # of a timeline


class Phase(str, enum.Enum):
    """What a command does."""

    STARTING = "starting"
    PLANNING = "planning"
    LOADING = "loading the model"
    SAMPLING = "scoring sampled rows"
    SCORING = "scoring"
    RUNNING = "the job is running"
    FINISHING = "checking the ledger"
    CHECKING = "checking lists, names and sizes"
    READING = "reading files"
    AGAIN = "scoring rows again"
    COMPARING = "comparing"


class Waits(str, enum.Enum):
    """What a run waits for if no chunk finishes."""

    SPLITTING = "keyjoin is splitting or decompressing a source"
    READING = "keyjoin is reading a chunk"
    COMPUTING = "the model's process is computing"
    MODEL = "the model's process does not compute: it waits for a device, a file or the network"
    CALL = "the model has not answered"
    WRITING = "keyjoin is writing parts"
    JOB = "the runner has the logs of the job's workers"


class Figures(NamedTuple):
    """The figures of a command at one moment.

    Attributes:
        seconds: Seconds since the command started.
        phase: What the run does.
        output: The output folder; empty before the plan is made.
        sources: The number of source files.
        source_bytes: Their size in bytes.
        scored: The share of the sources, by bytes, that is scored; None if it is not known.
        written: The share of the sources, by bytes, whose parts are on disk; None if it is not known.
        rows: The rows whose parts are on disk.
        done: The share of what the command reads or scores again that is done; None for a run.
        parts: The parts that are on disk; with `done`, those that were read.
        of_parts: How many parts there will be; None if that is not known yet.
        dead: Bad rows so far, by reason code.
        rate: Rows scored a second, smoothed; None if it is not known.
        left: The estimated seconds until all rows are scored, or all is read; None if they are not known.
        idle: Seconds since a chunk was last read, scored or written.
        waits_for: What the run waits for, if no chunk has finished for long; None otherwise.
        run: Which run of the command it is, such as `model_b` of `compare`; empty if the command has one run.
    """

    seconds: float
    phase: Phase
    output: str = ""
    sources: int = 0
    source_bytes: int = 0
    scored: float | None = None
    written: float | None = None
    rows: int = 0
    done: float | None = None
    parts: int = 0
    of_parts: int | None = None
    dead: Mapping[str, int] = {}
    rate: float | None = None
    left: float | None = None
    idle: float = 0.0
    waits_for: Waits | None = None
    run: str = ""


class Result(NamedTuple):
    """The result of a run.

    Attributes:
        output: The output folder.
        totals: The ledger.
        rate: Rows a second without the start-up; None if it is not known.
    """

    output: str
    totals: "Totals"
    rate: float | None = None


class Rate:
    """A smoothed rate of a growing total: an average whose weights fall with age.

    The weights fall by a factor of e in 15 seconds or in 0.3 of the time since the start, whichever is longer. So the
    rate of a long run with few large chunks is calm, and the rate of a short run is up to date.
    """

    def __init__(self) -> None:
        """Starts without a rate."""
        self._start = self._last = math.nan
        self._total = self._sum = self._weight = 0.0

    def update(self, now: float, total: float) -> float | None:
        """Takes a new total.

        Args:
            now: The time in seconds. It never decreases.
            total: The total at that time.

        Returns:
            The rate a second; None before two different times are known.
        """
        if math.isnan(self._start):
            self._start, self._last, self._total = now, now, total
        elapsed = now - self._last
        if elapsed > 0:
            keep = math.exp(-elapsed / max(LEAST_SECONDS, SHARE_OF_TIME * (now - self._start)))
            self._sum = self._sum * keep + (1 - keep) * (total - self._total) / elapsed
            self._weight = self._weight * keep + (1 - keep)  # the sum of the weights; without it, early rates are low
            self._last, self._total = now, total
        return self._sum / self._weight if self._weight else None


class Progress:
    """Counts what a run has done. Several threads may count and read at the same time.

    A source counts by its size: each of its chunks is an equal share of it. So compressed sources, whose size after
    decompression is not known before, count right, too.

    Attributes:
        run: Which run of the command it is; empty if the command has one run.
        started: When the command was started, in seconds of `clock`.
        scoring_began: When the first chunk could start; None before.
        scored_rows: Rows that this attempt scored, bad rows included.
        model_seconds: Returns the processor time of the model's process, or None if that is not known. It is None for a
            run on a remote runner.
        result: The result of the run; None before it has ended.
    """

    def __init__(
        self, started: float | None = None, clock: Callable[[], float] = time.monotonic, run: str = ""
    ) -> None:
        """Starts with all counts at zero.

        Args:
            started: When the command was started; None for now.
            clock: Returns the time in seconds.
            run: Which run of the command it is; empty if the command has one run.
        """
        self.run = run
        self._clock = clock
        self.model_seconds: Callable[[], float | None] | None = None
        self.result: Result | None = None
        self.started = clock() if started is None else started
        self.scoring_began: float | None = None
        self.scored_rows = 0
        self._phase, self._output = Phase.STARTING, ""
        self._sizes: dict[str, int] = {}
        self._parts_of: dict[str, int] = {}
        self._begun = self._read = self._scored = self._written = 0  # chunks of this attempt
        self._scored_bytes = self._written_bytes = self._found_bytes = 0.0  # of sources
        self._rows = self._parts = 0
        self._whole: int | None = None  # of what a command reads
        self._done = self._of_parts = 0
        self._bad: dict[str, Mapping[str, int]] = {}  # of chunks without a part yet, by key
        self._dead: Counter[str] = Counter()  # of parts
        self._timeline = [(0.0, 0, 0)]
        self._apart = 1  # only each such point of the timeline is kept
        self._points = 0
        self._row_rate, self._byte_rate = Rate(), Rate()
        self._finished = self._looked = clock()
        self._model_looked: float | None = None
        self._changing = threading.Lock()

    def enter(self, phase: Phase) -> None:
        """Marks the begin of a phase."""
        with self._changing:
            self._phase, self._finished, self._whole = phase, self._clock(), None
            if phase is Phase.SCORING and self.scoring_began is None:
                self.scoring_began = self._finished

    def expect(self, phase: Phase, whole: int, parts: int = 0) -> None:
        """Marks the begin of a phase that reads files or scores rows again, and writes no parts.

        Args:
            phase: The phase.
            whole: How much there is to do, such as bytes or rows.
            parts: How many parts are read.
        """
        self.enter(phase)
        with self._changing:
            self._whole, self._of_parts, self._done, self._parts = whole, parts, 0, 0
            self._byte_rate = Rate()

    def add(self, amount: int, parts: int = 0) -> None:
        """Counts what is done of a phase that `expect` began.

        Args:
            amount: How much, in the unit of `expect`.
            parts: How many parts were read.
        """
        with self._changing:
            self._done, self._parts = self._done + amount, self._parts + parts

    def plan(self, output: str, sources: Iterable["Source"]) -> None:
        """Records what the run will do.

        Args:
            output: The output folder.
            sources: All input files.
        """
        with self._changing:
            self._output, self._sizes = output, {source.path: source.size for source in sources}

    def plan_replay(self, output: str, sources: Iterable["Source"], parts: Iterable["PartReceipt"]) -> None:
        """Records the plan of a replay. Only parts with dead letters count, each with its share of its source's size.

        Args:
            output: The output folder.
            sources: All input files.
            parts: The receipts of the parts with dead letters.
        """
        listed = Counter((part.chunk.source, part.chunk.parts) for part in parts)
        with self._changing:
            self._output = output
            self._parts_of = {path: count for (path, _), count in listed.items()}
            shares = {path: count / of for (path, of), count in listed.items()}
            self._sizes = {one.path: round(one.size * shares[one.path]) for one in sources if one.path in shares}

    def cut(self, chunks: Iterable["Chunk"]) -> None:
        """Records chunks that sources were split into, so that the number of parts becomes known."""
        with self._changing:
            self._parts_of.update((chunk.source, chunk.parts) for chunk in chunks)

    def parts(self) -> int | None:
        """Returns how many parts the run will write; None until chunks of every source are recorded."""
        return sum(self._parts_of.values()) if len(self._parts_of) == len(self._sizes) else None

    def found(self, part: "PartReceipt") -> None:
        """Counts a part that an earlier attempt wrote."""
        with self._changing:
            self._parts_of[part.chunk.source] = part.chunk.parts
            self._found_bytes += self._share(part.chunk)
            self._add(part)

    def begin(self) -> None:
        """Counts a chunk that starts."""
        with self._changing:
            self._begun += 1

    def read(self) -> None:
        """Counts a chunk that was read."""
        with self._changing:
            self._read += 1
            self._finished = self._clock()

    def scored(self, chunk: "Chunk", rows: int, bad: Mapping[str, int]) -> None:
        """Counts a chunk that was scored.

        Args:
            chunk: The chunk.
            rows: Its rows, bad rows included.
            bad: Its bad rows by reason code.
        """
        with self._changing:
            self._scored += 1
            self._finished = self._clock()
            self._scored_bytes += self._share(chunk)
            self.scored_rows += rows
            self._bad[chunk.key] = bad
            self._point()

    def wrote(self, part: "PartReceipt") -> None:
        """Counts a part that this attempt wrote, whose receipt is on disk."""
        with self._changing:
            self._written += 1
            self._finished = self._clock()
            self._bad.pop(part.chunk.key, None)
            self._add(part)

    def replayed(self, part: "PartReceipt", bad: Mapping[str, int]) -> None:
        """Counts a part whose dead letters a replay has rescored. If the part changed, it is on disk.

        Args:
            part: The receipt of the part before the replay.
            bad: Its dead letters that are still bad, by reason code.
        """
        with self._changing:
            self._scored, self._written = self._scored + 1, self._written + 1
            self._finished = self._clock()
            self._scored_bytes += self._share(part.chunk)
            self._written_bytes = self._scored_bytes
            self._parts += 1
            self._rows += sum(part.dead.values())
            self.scored_rows = self._rows
            self._dead.update(bad)

    def followed(self, part: "PartReceipt") -> None:
        """Counts a part that a job on a remote runner has written. How much it has scored is not known before."""
        with self._changing:
            self._finished = self._clock()
            self._parts_of[part.chunk.source] = part.chunk.parts
            self._scored_bytes += self._share(part.chunk)
            self._add(part)
            self.scored_rows += part.rows
        self._begin_scoring()

    def counted(self, rows: int, size: int, dead: Mapping[str, int]) -> None:
        """Takes the counts of a job on a remote runner.

        Args:
            rows: Rows whose parts are written.
            size: Bytes of the sources whose parts are written, after decompression.
            dead: Dead letters by reason code.
        """
        with self._changing:
            if rows != self._rows:
                self._finished = self._clock()
            self._rows = self.scored_rows = rows
            self._scored_bytes = self._written_bytes = size
            self._dead = Counter(dead)
        self._begin_scoring()

    def _begin_scoring(self) -> None:
        if self.scoring_began is None:
            self.enter(Phase.SCORING)

    def _add(self, part: "PartReceipt") -> None:
        self._written_bytes += self._share(part.chunk)
        self._rows += part.rows
        self._parts += 1
        self._dead.update(part.dead)

    def _share(self, chunk: "Chunk") -> float:
        return self._sizes.get(chunk.source, 0) / self._parts_of.get(chunk.source, chunk.parts)

    def _point(self) -> None:
        """Adds a point to the timeline. When there are too many, keeps every second one."""
        self._points += 1
        if self._points % self._apart == 0:
            self._timeline.append((self._finished - self.started, self.scored_rows, round(self._scored_bytes)))
        if len(self._timeline) == MOST_POINTS:
            self._timeline = self._timeline[::2]
            self._apart *= 2

    def timeline(self) -> tuple[tuple[float, int, int], ...]:
        """Returns points of time: seconds since the start, rows and source bytes that this attempt scored until then.

        There are at most `MOST_POINTS`, the last one for all rows.
        """
        with self._changing:
            last = (self._finished - self.started, self.scored_rows, round(self._scored_bytes))
            return (*self._timeline, last) if self._timeline[-1][1:] != last[1:] else tuple(self._timeline)

    def seconds(self) -> float:
        """Returns the seconds since the command was started."""
        return self._clock() - self.started

    def rate(self) -> float | None:
        """Returns the rows that this attempt scored a second, without the start-up; None if it scored none."""
        seconds = self.seconds() - self.startup_seconds()
        return self.scored_rows / seconds if self.scored_rows and seconds > 0 else None

    def startup_seconds(self) -> float:
        """Returns the seconds from the start of the command until the first chunk could start."""
        return (self._clock() if self.scoring_began is None else self.scoring_began) - self.started

    def figures(self) -> Figures:
        """Returns the figures of this moment. Rates are smoothed over the calls."""
        with self._changing:
            now, size = self._clock(), sum(self._sizes.values())
            idle = now - self._finished
            base = Figures(
                now - self.started,
                self._phase,
                self._output,
                len(self._sizes),
                size,
                parts=self._parts,
                idle=idle,
                waits_for=self._waits_for(now, idle),
                run=self.run,
            )
            if self._whole is not None:
                speed = self._byte_rate.update(now, self._done)
                left = (self._whole - self._done) / speed if speed else None
                return base._replace(done=_ratio(self._done, self._whole), of_parts=self._of_parts or None, left=left)
            if self.scoring_began is None:
                return base
            rate = self._row_rate.update(now, self.scored_rows)
            speed = self._byte_rate.update(now, self._scored_bytes)
            unscored = size - self._scored_bytes - self._found_bytes
            return base._replace(
                scored=_ratio(self._scored_bytes + self._found_bytes, size),
                written=_ratio(self._written_bytes, size),
                rows=self._rows,
                of_parts=self.parts(),
                dead=dict(sum(map(Counter, self._bad.values()), Counter(self._dead))),
                rate=rate if self.scored_rows else None,
                left=max(unscored, 0) / speed if speed else None,
            )

    def _waits_for(self, now: float, idle: float) -> Waits | None:
        """Returns what the run waits for. Compares the processor time of the model's process with the last call."""
        if self._phase not in (Phase.SCORING, Phase.RUNNING):
            return None
        if self.model_seconds is None:
            return Waits.JOB if idle >= REMOTE_STALL_SECONDS else None
        used, before, elapsed = self.model_seconds(), self._model_looked, now - self._looked
        self._model_looked, self._looked = used, now
        if idle < STALL_SECONDS:
            return None
        if self._read > self._scored:
            if used is None or before is None or elapsed <= 0:
                return Waits.CALL
            return Waits.COMPUTING if used - before > BUSY * elapsed else Waits.MODEL
        if self._begun > self._read:
            return Waits.READING
        return Waits.WRITING if self._scored > self._written else Waits.SPLITTING


def _ratio(part: float, whole: int) -> float:
    return min(part / whole, 1.0) if whole else 1.0
