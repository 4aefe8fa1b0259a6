"""Computes the time of runs of 10^8, 10^10 and 10^12 rows on Dataflow, from costs measured on this machine.

python -m benchmarks.scale --measure docs/scale.json     measures again; takes ten minutes
python -m benchmarks.scale                               prints the tables computed from docs/scale.json
python -m benchmarks.scale --write                       writes them into docs/scale.md and benchmarks/NOTES.md
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.programs import ROOT
from benchmarks.scale_costs import Costs, costs, measured
from benchmarks.scale_model import HOUR, Assumed, Estimate, estimate

COSTS = ROOT / "docs" / "scale.json"
PAGE, NOTES = ROOT / "docs" / "scale.md", ROOT / "benchmarks" / "NOTES.md"
ROWS = (10**8, 10**10, 10**12)
CHUNKS = (16 << 20, 64 << 20, 256 << 20)
BEGIN, END = "<!-- begin: python -m benchmarks.scale -->", "<!-- end -->"

Column = tuple[str, Callable[[Estimate], str]]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, with `--measure`, and prints or writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--costs", type=Path, default=COSTS, help="what was measured (default: %(default)s)")
    parser.add_argument("--measure", type=Path, metavar="JSON", help="measure, and write it there")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each kind; medians count (default: 3)")
    parser.add_argument("--write", action="store_true", help="write the tables into the pages")
    options = parser.parse_args(argv)
    if options.measure:
        options.measure.write_text(json.dumps(measured(options.repeat), indent=1) + "\n")
    for page, text in tables(json.loads((options.measure or options.costs).read_text())).items():
        if options.write:
            page.write_text(put_in(page.read_text(), text))
        else:
            print(text, end="\n\n")


def put_in(page: str, text: str) -> str:
    """Returns a page with this text between its markers.

    Raises:
        ValueError: The page has no markers.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def tables(document: dict[str, Any]) -> dict[Path, str]:
    """Computes the tables from the measurements, as Markdown, by the page that shows them."""
    found, assumed = costs(document), Assumed()
    estimates = [estimate(rows, size, found, assumed) for rows in ROWS for size in CHUNKS]
    given = f"Measured {document['date']} on {document['machine']}, medians of {document['repeat']}:"
    growth = ["What grows with the run:", table(estimates, GROWTH)]
    return {PAGE: table(estimates, RUN), NOTES: "\n\n".join([given, _costs_table(found), *growth])}


def table(estimates: Sequence[Estimate], columns: Sequence[Column]) -> str:
    """Formats a table with one line for each estimate."""
    shown = [*KEYS, *columns]
    lines = [[name for name, _ in shown], ["---"] * len(shown)]
    lines += [[show(made) for _, show in shown] for made in estimates]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _costs_table(found: Costs) -> str:
    rows = (
        ("a row of input, of output", f"{found.row_bytes:.0f} bytes, {found.written_row_bytes:.0f} bytes"),
        ("start-up", f"{found.start_seconds:.1f} s of processor time"),
        ("a row", f"{found.row_seconds * 1e6:.1f} µs of processor time"),
        ("a chunk, beside its rows", f"{found.chunk_seconds * 1e3:.1f} ms of processor time"),
        ("through the join, a row", f"{found.row_shuffled:.2f} bytes"),
        ("through the join, a chunk, beside its rows", f"{found.chunk_shuffled:.0f} bytes"),
        ("memory, without the chunk", _bytes(found.process_bytes)),
        ("memory, for each byte of a chunk", f"{found.chunk_byte_bytes:.1f} bytes"),
        ("a part's line in `_keyjoin/parts.jsonl`", f"{found.part_line_bytes:.0f} bytes"),
        ("the end of a run, a part", f"{found.end_part_seconds * 1e6:.0f} µs"),
        ("memory of the end of a run, without the listing", _bytes(found.end_bytes)),
        ("a listed file", f"{found.listed_seconds * 1e6:.0f} µs, {found.listed_bytes:.0f} bytes of memory"),
    )
    return "\n".join(["| cost | measured |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def _bytes(number: float) -> str:
    """Formats a size in the largest unit in which the number is at least one.

    >>> _bytes(1_234_567), _bytes(12)
    ('1.2 MB', '12 B')
    """
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}" if number >= 100 * size else f"{number / size:.2g} {unit}"
    return f"{number:.0f} B"


def _seconds(number: float) -> str:
    """Formats a time in hours, minutes or seconds.

    >>> _seconds(7_200), _seconds(90), _seconds(0.5)
    ('2.0 h', '1.5 min', '0.5 s')
    """
    if number >= HOUR:
        return f"{number / HOUR:,.1f} h"
    return f"{number / 60:.1f} min" if number >= 60 else f"{number:.1f} s"


def _hours(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}"


KEYS: tuple[Column, ...] = (
    ("rows", lambda e: re.sub(r"^1(0+)$", lambda zeros: f"10^{len(zeros[1])}", str(e.rows))),
    ("chunk", lambda e: f"{e.chunk_bytes >> 20} MiB"),
)
RUN: tuple[Column, ...] = (
    ("input", lambda e: _bytes(e.input_bytes)),
    ("parts", lambda e: f"{e.chunks:,}"),
    ("processor hours", lambda e: _hours(e.cpu_hours)),
    ("workers", lambda e: f"{e.workers:,}"),
    ("time", lambda e: _seconds(e.seconds)),
    ("vCPU-hours", lambda e: _hours(e.vcpu_hours)),
    ("through the join", lambda e: _bytes(e.shuffled_bytes)),
    ("largest value there", lambda e: _bytes(e.value_bytes)),
    ("memory of a worker", lambda e: _bytes(e.worker_bytes)),
)
GROWTH: tuple[Column, ...] = (
    ("pages listed", lambda e: f"{e.pages:,}"),
    ("listing", lambda e: _seconds(e.listing_seconds)),
    ("end, beside listing", lambda e: _seconds(e.driver_seconds)),
    ("memory of the end, more", lambda e: _bytes(e.driver_bytes)),
    ("`_keyjoin/parts.jsonl`", lambda e: _bytes(e.parts_list_bytes)),
    ("shard of receipts", lambda e: _bytes(e.shard_bytes)),
    ("splitting a 1 GiB source", lambda e: _seconds(e.split_seconds)),
    ("splitting all by one worker", lambda e: _seconds(e.splits_alone_seconds)),
)


if __name__ == "__main__":
    main()
