"""The goals: the performance that keyjoin must reach, and the cases that measure it.

All goals are ratios of medians within one call. A time "beyond start-up" is the time of a run, minus the time of a run
with very few rows.
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.cases import Case, Result, run
from benchmarks.programs import PROGRAMS
from benchmarks.verify import ProgramError

YES, MISSED, FAILED = "yes", "MISSED", "FAILED"
MIN_ROWS = 200

START_UP = Case("keyjoin", "demo", 102)
# How many times keyjoin's own time each peer must take at least; None is shown without a bound.
PEERS = {"textbook": 40, "spark": 3, "script": 3, "ray": 4, "tfx_bsl": None}
SLOW = {"textbook", "tfx_bsl"}  # these take ten minutes a run, so they run once
# Returns the given number of rows, or fewer when the benchmark itself is tested.
Size = Callable[[int], int]


class Must(NamedTuple):
    """A bound on a measured value.

    Attributes:
        bound: The last value that still reaches the goal.
        at_least: True if the value must be at least the bound, False if at most.
    """

    bound: float
    at_least: bool = False

    def __str__(self) -> str:
        """Formats the bound for the table."""
        return f"at {'least' if self.at_least else 'most'} {self.bound:g}"

    def reached_by(self, measured: float) -> bool:
        """Returns whether a value is within the bound; NaN, a value that could not be measured, never is."""
        return measured >= self.bound if self.at_least else measured <= self.bound


class Within(NamedTuple):
    """The bounds of a measured value that can miss on both sides.

    Attributes:
        least: The lowest value that reaches the goal.
        most: The highest one.
    """

    least: float
    most: float

    def __str__(self) -> str:
        """Formats the bounds for the table."""
        return f"{self.least:g} to {self.most:g}"

    def reached_by(self, measured: float) -> bool:
        """Returns whether a value is within the bounds; NaN never is."""
        return self.least <= measured <= self.most


class Line(NamedTuple):
    """A line of the table.

    Attributes:
        what: What was measured.
        measured: The value; NaN if there were too few rows to measure it.
        must: The bound; None if the value is only shown.
    """

    what: str
    measured: float
    must: Must | Within | None


class Goal(NamedTuple):
    """The cases to run, and the function that judges their results."""

    cases: tuple[Case, ...]
    judge: Callable[[Mapping[Case, Result]], Iterable[Line]]


def houses(size: Size) -> Goal:
    """Measures 13 numbers a row against the baseline. Separate from `peers`: this takes a minute, `peers` an hour."""
    return _near_baseline("houses", size(2_000_000), 1.25)


def peers(size: Size) -> Goal:
    """Compares other ways to do the same work. Skips those that are not in the table of programs."""
    rows = size(2_000_000)
    ours, baseline = Case("keyjoin", "houses", rows), Case("baseline", "houses", rows, once=True)
    others = {name: Case(name, "houses", rows, once=name in SLOW) for name in PEERS if name in PROGRAMS}

    def judge(took: Mapping[Case, Result]) -> Iterable[Line]:
        for name, case in others.items():
            bound = PEERS[name]
            must = None if bound is None else Must(bound, at_least=True)
            yield Line(f"time of {name} / keyjoin's", took[case].seconds / took[ours].seconds, must)

    return Goal((ours, baseline, *others.values()), judge)


def scale(size: Size) -> Goal:
    """Checks that ten times as many rows take ten times as long, and no more memory."""
    some, many = (Case("keyjoin", "houses", size(rows)) for rows in (2_000_000, 20_000_000))
    check = Case("baseline", "houses", many.rows, once=True)

    def judge(took: Mapping[Case, Result]) -> Iterable[Line]:
        more = _beyond(took, many, START_UP) / _beyond(took, some, START_UP)
        yield Line(f"time beyond start-up, {many.rows:,} / {some.rows:,} rows", more, Must(11))
        yield Line(f"peak of {many.rows:,} rows, GB", took[many].peak_bytes / 1e9, Must(1.5))
        peaks = took[many].peak_bytes / took[some].peak_bytes
        yield Line(f"peak, {many.rows:,} / {some.rows:,} rows", peaks, Must(1.15))

    return Goal((START_UP, some, many, check), judge)


def demo(size: Size) -> Goal:
    """Measures a run with hardly any rows: start-up only."""
    del size  # the demo has a fixed number of rows
    imports = Case("imports", START_UP.work, START_UP.rows)

    def judge(took: Mapping[Case, Result]) -> Iterable[Line]:
        yield Line("time / that of the imports", took[START_UP].seconds / took[imports].seconds, Must(1.3))

    return Goal((START_UP, imports, START_UP._replace(program="baseline", once=True)), judge)


def heavy(size: Size) -> Goal:
    """Measures a model that takes most of the time. The difference of a long and a short run removes the start-up time.

    Both runs are large enough for keyjoin to measure the batch size, which is part of its start-up.
    """
    works = ("heavy", "heavy_tfrecord")
    sizes = size(192_000), size(32_000)
    bare = [Case("bare", "heavy", rows) for rows in sizes]
    ours = {work: [Case("keyjoin", work, rows) for rows in sizes] for work in works}

    def judge(took: Mapping[Case, Result]) -> Iterable[Line]:
        for work, cases in ours.items():
            speed = _beyond(took, *bare) / _beyond(took, *cases)
            yield Line(f"rows/s of {work} / of the bare model", speed, Must(0.95, at_least=True))

    return Goal((*bare, *(case for cases in ours.values() for case in cases)), judge)


def wide(size: Size) -> Goal:
    """Measures rows of 2,000 numbers against the baseline."""
    return _near_baseline("wide", size(20_000))


def text(size: Size) -> Goal:
    """Measures rows with long texts that the model does not read against the baseline."""
    return _near_baseline("text", size(20_000))


def strings(size: Size) -> Goal:
    """Measures texts that feed the model against the baseline."""
    return _near_baseline("strings", size(1_000_000))


def bad(size: Size) -> Goal:
    """Measures rows of which one in twenty is bad, in five ways in turn, against the same rows when all are good."""
    rows = size(2_000_000)
    spoiled, clean = Case("keyjoin", "bad", rows), Case("keyjoin", "mixed", rows)

    def judge(took: Mapping[Case, Result]) -> Iterable[Line]:
        ratio = took[spoiled].seconds / took[clean].seconds
        yield Line(f"time of {rows:,} rows, 5 % bad / all good", ratio, Must(1.5))

    return Goal((clean, spoiled, Case("baseline", "mixed", rows, once=True)), judge)


def shuffle(size: Size) -> Goal:
    """Measures the bytes that cross CoGroupByKey."""
    ours = Case("keyjoin", "houses", size(200_000))

    def judge(took: Mapping[Case, Result]) -> Iterable[Line]:
        yield Line("bytes that cross the join, a row", took[ours].totals["shuffled_bytes"] / ours.rows, Must(10))

    return Goal((ours, ours._replace(program="baseline", once=True)), judge)


def chunks(size: Size) -> Goal:
    """Measures one chunk for each row. The smaller case is long enough to dwarf start-up; the larger one runs once."""
    some, many = Case("keyjoin", "chunks", size(10_000)), Case("keyjoin", "chunks", size(100_000), once=True)
    checks = [Case("baseline", "houses", case.rows, once=True) for case in (some, many)]

    def judge(took: Mapping[Case, Result]) -> Iterable[Line]:
        long, short = (_beyond(took, case, START_UP) / took[case].totals["parts"] for case in (many, some))
        yield Line(f"time a chunk beyond start-up, {many.rows:,} / {some.rows:,}", long / short, Must(1.3))

    return Goal((START_UP, some, many, *checks), judge)


def parquet(size: Size) -> Goal:
    """Measures Parquet against JSON Lines, a plain loop over pyarrow, and DuckDB or Polars with a script."""
    return _format("houses_parquet", size(2_000_000), 0.6, {"loop": 1.3, "duckdb": 1, "polars": 1})


def csv(size: Size) -> Goal:
    """Measures CSV against JSON Lines and a plain loop over pyarrow."""
    return _format("houses_csv", size(2_000_000), 0.75, {"loop": 1.3})


def gzip(size: Size) -> Goal:
    """Measures JSON Lines that are gzip, in and out, against plain ones."""
    return _format("houses_gzip", size(2_000_000), 1.5, {})


def avro(size: Size) -> Goal:
    """Measures Avro against a plain loop over fastavro."""
    return _format("houses_avro", size(2_000_000), None, {"loop": 1.5})


def estimate(size: Size) -> Goal:
    """Measures the error of what keyjoin estimates before a run: its time, memory and output."""
    sizes = {
        "houses": 500_000,
        "houses_gzip": 500_000,
        "houses_csv": 500_000,
        "houses_parquet": 500_000,
        "houses_avro": 200_000,
        "strings": 200_000,
        "heavy": 32_000,
        "heavy_tfrecord": 32_000,
        "wide": 10_000,
    }
    cases = [Case("keyjoin", work, size(rows)) for work, rows in sizes.items()]

    def judge(took: Mapping[Case, Result]) -> Iterable[Line]:
        for case in cases:
            for what in ("time", "memory", "output"):
                yield Line(f"{what} of {case.work}, estimate / actual", took[case].estimated(what), Within(0.7, 1.3))

    return Goal(tuple(cases), judge)


GOALS: Mapping[str, Callable[[Size], Goal]] = {
    goal.__name__: goal
    for goal in (
        peers,
        houses,
        scale,
        demo,
        heavy,
        wide,
        text,
        strings,
        bad,
        shuffle,
        chunks,
        parquet,
        csv,
        gzip,
        avro,
        estimate,
    )
}


def _near_baseline(work: str, rows: int, bound: float = 1.3) -> Goal:
    ours, baseline = Case("keyjoin", work, rows), Case("baseline", work, rows)
    return Goal(
        (ours, baseline),
        lambda took: [Line("time / baseline", took[ours].seconds / took[baseline].seconds, Must(bound))],
    )


def _format(work: str, rows: int, bound: float | None, others: Mapping[str, float]) -> Goal:
    """Measures a format.

    Args:
        work: The workload of `houses` in this format.
        rows: The number of rows.
        bound: The bound of keyjoin's time / its time on the same rows as JSON Lines; None if it is only shown.
        others: Programs that read the format -> the bound of keyjoin's time / their time.
    """
    ours, lines = Case("keyjoin", work, rows), Case("keyjoin", "houses", rows)
    programs = {name: Case(name, work, rows) for name in others}

    def judge(took: Mapping[Case, Result]) -> Iterable[Line]:
        must = None if bound is None else Must(bound)
        yield Line("time / JSON Lines", took[ours].seconds / took[lines].seconds, must)
        for name, case in programs.items():
            yield Line(f"time / {name}", took[ours].seconds / took[case].seconds, Must(others[name]))

    return Goal((ours, lines, *programs.values()), judge)


def _beyond(took: Mapping[Case, Result], case: Case, start_up: Case) -> float:
    """Returns the seconds that a case takes longer than another one; NaN if it does not take longer."""
    seconds = took[case].seconds - took[start_up].seconds
    return seconds if seconds > 0 else math.nan


def reach(names: Sequence[str], shrink: int, seed: int, repeat: int) -> tuple[list[dict[str, Any]], list[Result]]:
    """Runs goals one after another. If a goal cannot be measured, the others still run.

    Args:
        names: Names in `GOALS`.
        shrink: Divides all numbers of rows.
        seed: The seed of the rows.
        repeat: The number of runs of each case.

    Returns:
        The lines of the table as JSON documents, and all results.
    """
    lines: list[dict[str, Any]] = []
    results: list[Result] = []
    for name in names:
        goal = GOALS[name](lambda rows: max(MIN_ROWS, rows // shrink))
        try:
            done = run(goal.cases, seed, repeat)
        except ProgramError as error:
            print(f"benchmarks/run: error: {error}", file=sys.stderr)
            lines.append(_document(name, str(error).partition("\n")[0], math.nan, "", FAILED))
            continue
        results += done
        lines += [_judged(name, line) for line in goal.judge({result.case: result for result in done})]
    return lines, results


def _judged(goal: str, line: Line) -> dict[str, Any]:
    verdict = "" if line.must is None else YES if line.must.reached_by(line.measured) else MISSED
    return _document(goal, line.what, line.measured, str(line.must or ""), verdict)


def _document(goal: str, what: str, measured: float, must: str, reached: str) -> dict[str, Any]:
    value = None if math.isnan(measured) else measured  # JSON has no NaN
    return {"goal": goal, "what": what, "measured": value, "must_be": must, "reached": reached}


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Formats the lines of all goals as a text table."""
    head = ("goal", "what", "measured", "must be", "reached")
    cells = [head, *(_cells(line) for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _cells(line: Mapping[str, Any]) -> tuple[str, ...]:
    measured = "" if line["measured"] is None else f"{line['measured']:.3f}"
    return (line["goal"], line["what"], measured, line["must_be"], line["reached"])
