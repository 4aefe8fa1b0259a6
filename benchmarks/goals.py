"""The goals: what keyjoin has to reach, and what is run to see whether it does.

All are ratios of medians within one call. Where a time is said to be beyond start-up, that of a run with
so few rows that they do not count is taken off.
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
# How many times keyjoin's own time the others take at least; None is only shown.
PEERS = {"textbook": 40, "spark": 3, "script": 3, "ray": 4, "tfx_bsl": None}
SLOW = {"textbook", "tfx_bsl"}  # ten minutes a run: one is enough
# Rows as given here, or fewer where the benchmark itself is tried out.
Size = Callable[[int], int]


class Must(NamedTuple):
    """A bound.

    Attributes:
        bound: What may just be.
        at_least: Whether more is better.
    """

    bound: float
    at_least: bool = False

    def __str__(self) -> str:
        """As the table shows it."""
        return f"at {'least' if self.at_least else 'most'} {self.bound:g}"

    def reached_by(self, measured: float) -> bool:
        """Whether that is within the bound; nothing reaches one that could not be measured."""
        return measured >= self.bound if self.at_least else measured <= self.bound


class Line(NamedTuple):
    """A line of the table.

    Attributes:
        what: What was measured.
        measured: NaN if there were too few rows to tell.
        must: None if it is only shown.
    """

    what: str
    measured: float
    must: Must | None


class Goal(NamedTuple):
    """What is run, and what is made of it."""

    cases: tuple[Case, ...]
    judge: Callable[[Mapping[Case, Result]], Iterable[Line]]


def houses(size: Size) -> Goal:
    """Thirteen numbers a row. Not a part of `peers`: this takes a minute, and these take an hour."""
    return _near_baseline("houses", size(2_000_000), 1.25)


def peers(size: Size) -> Goal:
    """Other ways to do the same work. Those that are not in the table of programs are left out."""
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
    """Ten times as many rows take ten times as long, and no more memory."""
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
    """What a run takes that has hardly any rows."""
    del size  # there are only so few
    imports = Case("imports", START_UP.work, START_UP.rows)

    def judge(took: Mapping[Case, Result]) -> Iterable[Line]:
        yield Line("time / that of the imports", took[START_UP].seconds / took[imports].seconds, Must(1.3))

    return Goal((START_UP, imports, START_UP._replace(program="baseline", once=True)), judge)


def heavy(size: Size) -> Goal:
    """A model that takes most of the time; by a long and a short run each, so that start-up is taken off.

    Both are large enough for the batch size to be measured, which belongs to it.
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
    """Two thousand numbers a row."""
    return _near_baseline("wide", size(20_000))


def text(size: Size) -> Goal:
    """Much in a row that nobody needs."""
    return _near_baseline("text", size(20_000))


def strings(size: Size) -> Goal:
    """Texts that feed the model."""
    return _near_baseline("strings", size(1_000_000))


def bad(size: Size) -> Goal:
    """One row of twenty is bad, in turn in each of five ways; beside the same rows when all are good."""
    rows = size(2_000_000)
    spoiled, clean = Case("keyjoin", "bad", rows), Case("keyjoin", "mixed", rows)

    def judge(took: Mapping[Case, Result]) -> Iterable[Line]:
        ratio = took[spoiled].seconds / took[clean].seconds
        yield Line(f"time of {rows:,} rows, 5 % bad / all good", ratio, Must(1.5))

    return Goal((clean, spoiled, Case("baseline", "mixed", rows, once=True)), judge)


def shuffle(size: Size) -> Goal:
    """What crosses CoGroupByKey."""
    ours = Case("keyjoin", "houses", size(200_000))

    def judge(took: Mapping[Case, Result]) -> Iterable[Line]:
        yield Line("bytes that cross the join, a row", took[ours].totals["shuffled_bytes"] / ours.rows, Must(10))

    return Goal((ours, ours._replace(program="baseline", once=True)), judge)


def chunks(size: Size) -> Goal:
    """A chunk for each row. The fewer are as many as make start-up small beside them, the many run once."""
    some, many = Case("keyjoin", "chunks", size(10_000)), Case("keyjoin", "chunks", size(100_000), once=True)
    checks = [Case("baseline", "houses", case.rows, once=True) for case in (some, many)]

    def judge(took: Mapping[Case, Result]) -> Iterable[Line]:
        long, short = (_beyond(took, case, START_UP) / took[case].totals["parts"] for case in (many, some))
        yield Line(f"time a chunk beyond start-up, {many.rows:,} / {some.rows:,}", long / short, Must(1.3))

    return Goal((START_UP, some, many, *checks), judge)


GOALS: Mapping[str, Callable[[Size], Goal]] = {
    goal.__name__: goal for goal in (peers, houses, scale, demo, heavy, wide, text, strings, bad, shuffle, chunks)
}


def _near_baseline(work: str, rows: int, bound: float = 1.3) -> Goal:
    ours, baseline = Case("keyjoin", work, rows), Case("baseline", work, rows)
    return Goal(
        (ours, baseline),
        lambda took: [Line("time / baseline", took[ours].seconds / took[baseline].seconds, Must(bound))],
    )


def _beyond(took: Mapping[Case, Result], case: Case, start_up: Case) -> float:
    """Seconds that a case takes longer than another one; NaN if it does not."""
    seconds = took[case].seconds - took[start_up].seconds
    return seconds if seconds > 0 else math.nan


def reach(names: Sequence[str], shrink: int, seed: int, repeat: int) -> tuple[list[dict[str, Any]], list[Result]]:
    """Runs goals one after another; one that cannot be measured does not keep the others from it.

    Args:
        names: Of `GOALS`.
        shrink: All numbers of rows are divided by that.
        seed: What the rows are made from.
        repeat: Runs of each case.

    Returns:
        The lines of the table as documents, and all results.
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
    """The lines of all goals as text."""
    head = ("goal", "what", "measured", "must be", "reached")
    cells = [head, *(_cells(line) for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _cells(line: Mapping[str, Any]) -> tuple[str, ...]:
    measured = "" if line["measured"] is None else f"{line['measured']:.3f}"
    return (line["goal"], line["what"], measured, line["must_be"], line["reached"])
