"""The benchmark: runs the programs side by side, checks what they write, and prints one table.

    benchmarks/run --rows 200000,2000000 --repeat 3 --only keyjoin,limit --json out/benchmark.json

Ratios are within one call; what another machine or another hour gives is not comparable.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import chart, data, environments, verify
from benchmarks.measure import Usage, measure
from benchmarks.programs import DEFAULT, PROGRAMS
from benchmarks.verify import ProgramError

BASE = "keyjoin"
SCHEMA_VERSION = 1
PACKAGES = ("apache-beam", "numpy", "pyarrow", "tensorflow")
SHOWN_LINES = 20


class Result(NamedTuple):
    """What a program took for so many rows, over all repetitions."""

    rows: int
    program: str
    usages: list[Usage]

    def median(self, what: str) -> float:
        """The median of a field of `Usage`."""
        return float(statistics.median(getattr(usage, what) for usage in self.usages))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark.

    Returns:
        0; or 1 if a program fails or its output is wrong.
    """
    options = _parser().parse_args(argv)
    results = []
    try:
        for name in options.only:
            if environment := PROGRAMS[name].environment:
                environments.set_up(environment)
        for rows in options.rows:
            results += compare(rows, options.seed, options.only, options.repeat)
    except ProgramError as error:
        print(f"benchmarks/run: error: {error}", file=sys.stderr)
        return 1
    document = describe(results, options.seed)
    print(table(document))
    for path, text in ((options.json, json.dumps(document, indent=1) + "\n"), (options.chart, chart.draw(document))):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return 0


def compare(rows: int, seed: int, names: Sequence[str], repeat: int) -> list[Result]:
    """Runs programs in turns, so that what else the machine does meets all of them.

    Raises:
        ProgramError: A program fails, or its output is wrong.
    """
    source = data.cached(rows, seed)
    results = [Result(rows, name, []) for name in names]
    seen: dict[bool, verify.Output] = {}
    for turn in range(repeat):
        for result in results:
            usage = _run(result.program, source, rows, seen)
            took = f"{result.program} took {usage.seconds:.1f} s"
            print(f"{rows:,} rows, run {turn + 1} of {repeat}: {took}", file=sys.stderr)
            result.usages.append(usage)
    return results


def _run(name: str, source: Path, rows: int, seen: dict[bool, verify.Output]) -> Usage:
    """Runs a program once and compares its output to what was seen of others, by whether they are exact."""
    program = PROGRAMS[name]
    with tempfile.TemporaryDirectory(prefix="keyjoin-benchmark-") as folder:
        output, log = Path(folder, "output"), Path(folder, "log")
        usage = measure(program.command(source, output), log)
        if usage.code:
            said = log.read_text(errors="replace").splitlines()[-SHOWN_LINES:]
            raise ProgramError("\n".join([f"{name} ended with exit code {usage.code}", *said]))
        parts = sorted(output.glob(program.parts))
        try:
            found = verify.read(parts, rows)
            if program.exact and True not in seen:
                verify.check_lines(source, parts)
            for exact, reference in seen.items():
                verify.check_same(found, reference, exact=exact and program.exact)
        except ProgramError as error:
            raise ProgramError(f"the output of {name} is wrong: {error}") from error
    seen.setdefault(program.exact, found)
    return usage


def describe(results: Sequence[Result], seed: int) -> dict[str, Any]:
    """The results as a document."""
    base = {result.rows: result for result in results if result.program == BASE}
    return {
        "schema_version": SCHEMA_VERSION,
        "seed": seed,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "results": [_describe(result, base.get(result.rows)) for result in results],
    }


def _describe(result: Result, base: Result | None) -> dict[str, Any]:
    seconds, peak = result.median("seconds"), result.median("peak_bytes")
    return {
        "rows": result.rows,
        "program": result.program,
        "summary": PROGRAMS[result.program].summary,
        "seconds": seconds,
        "cpu_seconds": result.median("cpu_seconds"),
        "peak_bytes": int(peak),
        "rows_per_second": result.rows / seconds,
        "seconds_ratio": base and seconds / base.median("seconds"),
        "peak_ratio": base and peak / base.median("peak_bytes"),
        "runs": [usage._asdict() for usage in result.usages],
    }


def table(document: Mapping[str, Any]) -> str:
    """The document as text: medians, and ratios to keyjoin within the same call."""
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
    parser = argparse.ArgumentParser(
        "benchmarks/run",
        description="Times keyjoin and its peers side by side, and checks what they write.",
        epilog="\n".join(["programs:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--rows", type=_counts, default=[200_000], metavar="N,N", help="sizes of the input (default: 200000)")
    add("--repeat", type=_count, default=1, metavar="N", help="runs of each program (default: %(default)s)")
    add(
        "--only",
        type=_names,
        default=list(DEFAULT),
        metavar="A,B",
        help=f"programs, or all (default: {','.join(DEFAULT)})",
    )
    add("--seed", type=int, default=1, help="what the rows are made from (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write the results there, too")
    add("--chart", type=Path, metavar="FILE", help="draw the seconds there, as SVG")
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(text)


def _counts(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]


def _names(text: str) -> list[str]:
    names = list(PROGRAMS) if text == "all" else text.split(",")
    for name in names:
        if name not in PROGRAMS or names.count(name) > 1:
            raise argparse.ArgumentTypeError(f"{name} is given twice or is none of {', '.join(PROGRAMS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
