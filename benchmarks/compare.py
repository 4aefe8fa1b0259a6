"""The benchmark: runs the programs side by side, verifies what they write, and prints one table.

    benchmarks/run --rows 200000,2000000 --repeat 3 --only keyjoin,baseline --json out/benchmark.json
    benchmarks/run --goals heavy,wide --json out/goals.json

Compare times and ratios only within one call: another machine, or the same one an hour later, gives other times.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import chart, goals, programs
from benchmarks.cases import Case, Result, run
from benchmarks.goals import GOALS
from benchmarks.programs import DEFAULT, PROGRAMS
from benchmarks.verify import ProgramError

BASE = "keyjoin"
WORK = "houses"
SCHEMA_VERSION = 1
GOAL_REPEAT = 3
PACKAGES = ("apache-beam", "numpy", "pyarrow", "tensorflow")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark.

    Returns:
        0; or 1 if a program fails, its output is wrong, or a goal is missed.
    """
    options = _parser().parse_args(argv)
    try:
        return _goals(options) if options.goals else _programs(options)
    except ProgramError as error:
        print(f"benchmarks/run: error: {error}", file=sys.stderr)
        return 1


def _programs(options: argparse.Namespace) -> int:
    results = []
    for rows in options.rows:
        cases = [Case(name, WORK, rows) for name in options.only]
        results += run(cases, options.seed, options.repeat or 1)
    document = describe(results, options.seed)
    _show(document, table(document), options.json)
    if options.chart:
        options.chart.parent.mkdir(parents=True, exist_ok=True)
        options.chart.write_text(chart.draw(document))
    return 0


def _goals(options: argparse.Namespace) -> int:
    lines, results = goals.reach(options.goals, options.shrink, options.seed, options.repeat or GOAL_REPEAT)
    document = {**describe(results, options.seed), "goals": lines}
    _show(document, goals.table(lines), options.json)
    return int(any(line["reached"] in (goals.MISSED, goals.FAILED) for line in lines))


def _show(document: Mapping[str, Any], text: str, file: Path | None) -> None:
    print(text)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document, indent=1) + "\n")


def describe(results: Sequence[Result], seed: int) -> dict[str, Any]:
    """Converts the results to a JSON document."""
    base = {(result.case.work, result.case.rows): result for result in results if result.case.program == BASE}
    return {
        "schema_version": SCHEMA_VERSION,
        "seed": seed,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "results": [_describe(result, base.get((result.case.work, result.case.rows))) for result in results],
    }


def _describe(result: Result, base: Result | None) -> dict[str, Any]:
    case = result.case
    return {
        "rows": case.rows,
        "work": case.work,
        "program": case.program,
        "summary": programs.find(case.program).summary,
        "seconds": result.seconds,
        "cpu_seconds": result.median("cpu_seconds"),
        "peak_bytes": int(result.peak_bytes),
        "rows_per_second": case.rows / result.seconds,
        "seconds_ratio": base and result.seconds / base.seconds,
        "peak_ratio": base and result.peak_bytes / base.peak_bytes,
        "runs": [usage._asdict() for usage in result.usages],
    }


def table(document: Mapping[str, Any]) -> str:
    """Formats the document as a text table: medians, and ratios to keyjoin within the same call."""
    head = ("rows", "program", "seconds", "cpu s", "rows/s", "peak MB", f"time/{BASE}", f"memory/{BASE}")
    cells = [head, *(_cells(result) for result in document["results"])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    runs = len(document["results"][0]["runs"])
    note = f"medians of {runs}" if runs > 1 else "one run each"
    return "\n".join([*lines, "", f"{note}; whole processes on {document['cores']} cores; all outputs checked"])


def _cells(result: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{result['rows']:,}",
        result["program"],
        f"{result['seconds']:.1f}",
        f"{result['cpu_seconds']:.1f}",
        f"{result['rows_per_second']:,.0f}",
        f"{result['peak_bytes'] / 1e6:,.0f}",
        *("" if result[name] is None else f"{result[name]:.2f}" for name in ("seconds_ratio", "peak_ratio")),
    )


def _parser() -> argparse.ArgumentParser:
    lines = [f"  {name:<9} {program.summary}" for name, program in PROGRAMS.items()]
    tested = [f"  {name:<9} {(goal.__doc__ or '').splitlines()[0]}" for name, goal in GOALS.items()]
    parser = argparse.ArgumentParser(
        "benchmarks/run",
        description="Times keyjoin and its peers side by side, and checks what they write.",
        epilog="\n".join(["programs:", *lines, "", "goals:", *tested]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--rows", type=_counts, default=[200_000], metavar="N,N", help="sizes of the input (default: 200000)")
    add("--repeat", type=count, metavar="N", help=f"runs of each program (default: 1; for goals {GOAL_REPEAT})")
    add(
        "--only",
        type=_names(PROGRAMS),
        default=list(DEFAULT),
        metavar="A,B",
        help=f"programs, or all (default: {','.join(DEFAULT)})",
    )
    add("--seed", type=int, default=1, help="what the rows are made from (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write the results there, too")
    add("--chart", type=Path, metavar="FILE", help="draw the seconds there, as SVG; not for goals")
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--goals", type=_names(GOALS), metavar="A,B", help="see whether keyjoin reaches these")
    wanted.add_argument("--all", action="store_const", const=list(GOALS), dest="goals", help="all goals")
    add("--shrink", type=count, default=1, metavar="N", help="goals with a share of their rows, which tell nothing")
    return parser


def count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(text)


def _counts(text: str) -> list[int]:
    return [count(part) for part in text.split(",")]


def _names(known: Mapping[str, Any]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = list(known) if text == "all" else text.split(",")
        for name in names:
            if name not in known or names.count(name) > 1:
                raise argparse.ArgumentTypeError(f"{name} is given twice or is none of {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    sys.exit(main())
