"""Measures the costs of a row, a chunk and a part on this machine, as differences of whole runs."""

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import data, programs, verify
from benchmarks.measure import measure
from benchmarks.verify import ProgramError
from benchmarks.workloads import WORKLOADS

WORK = "houses"
SHORT, LONG = 200_000, 2_000_000  # rows
CHUNK, SMALL_CHUNK, LARGE_CHUNK = 64 << 20, 14_600, 256 << 20  # the small one holds 100 rows
END_PARTS = (10_000, 100_000, 1_000_000)
PACKAGES = ("apache-beam", "numpy", "pyarrow", "tensorflow")


class Costs(NamedTuple):
    """The measured costs.

    Attributes:
        row_bytes: Input bytes of a row.
        written_row_bytes: Output bytes of a row.
        start_seconds: Processor time of a process before its first row.
        row_seconds: Processor time of a row.
        chunk_seconds: Processor time of a chunk, without that of its rows.
        row_shuffled: Bytes of a row that cross the join.
        chunk_shuffled: Bytes of a chunk that cross the join, without those of its rows.
        process_bytes: Peak memory of a process, without that of the chunk.
        chunk_byte_bytes: Peak memory for each byte of a chunk.
        part_line_bytes: Bytes of a part in `_keyjoin/parts.jsonl`.
        shard_part_bytes: Bytes of the receipts' largest shard, divided by the number of all parts.
        end_part_seconds: Time that a part adds to the end of the run, in the process that started the run.
        end_bytes: Peak memory of the end of the run that does not grow with the number of parts.
        listed_bytes: Memory of a listed file.
        listed_seconds: Time of a listed file, without waiting for the object store.
    """

    row_bytes: float
    written_row_bytes: float
    start_seconds: float
    row_seconds: float
    chunk_seconds: float
    row_shuffled: float
    chunk_shuffled: float
    process_bytes: float
    chunk_byte_bytes: float
    part_line_bytes: float
    shard_part_bytes: float
    end_part_seconds: float
    end_bytes: float
    listed_bytes: float
    listed_seconds: float


class Run(NamedTuple):
    """A run of keyjoin: the medians of its processor time and peak memory, and the counts in its manifest."""

    rows: int
    chunk_bytes: int
    cpu_seconds: float
    peak_bytes: float
    chunks: int
    read_bytes: int
    written_bytes: int
    shuffled_bytes: int


def measured(repeat: int) -> dict[str, Any]:
    """Runs all measurements; takes minutes.

    Raises:
        ProgramError: A run fails.
    """
    runs = [
        _run(rows, size, repeat)
        for rows, size in ((SHORT, CHUNK), (LONG, CHUNK), (SHORT, SMALL_CHUNK), (LONG, LARGE_CHUNK))
    ]
    ends = [{"receipts": _end("receipts", count), "listing": _end("listing", count)} for count in END_PARTS]
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "repeat": repeat,
        "runs": [run._asdict() for run in runs],
        "ends": ends,
    }


def costs(document: dict[str, Any]) -> Costs:
    """Computes the costs from the measurements."""
    short, long, small, large = (Run(**run) for run in document["runs"])
    few, *_, many = document["ends"]
    chunk_seconds = (small.cpu_seconds - short.cpu_seconds) / (small.chunks - short.chunks)
    row_seconds = (long.cpu_seconds - short.cpu_seconds - chunk_seconds * (long.chunks - short.chunks)) / (
        long.rows - short.rows
    )
    chunk_shuffled = (small.shuffled_bytes - short.shuffled_bytes) / (small.chunks - short.chunks)
    chunk_byte_bytes = max(0.0, (large.peak_bytes - long.peak_bytes) / (large.chunk_bytes - long.chunk_bytes))
    parts, more = many["receipts"]["parts"], many["receipts"]["parts"] - few["receipts"]["parts"]
    return Costs(
        row_bytes=long.read_bytes / long.rows,
        written_row_bytes=long.written_bytes / long.rows,
        start_seconds=short.cpu_seconds - row_seconds * short.rows,
        row_seconds=row_seconds,
        chunk_seconds=chunk_seconds,
        row_shuffled=(long.shuffled_bytes - chunk_shuffled * long.chunks) / long.rows,
        chunk_shuffled=chunk_shuffled,
        process_bytes=long.peak_bytes - chunk_byte_bytes * long.chunk_bytes,
        chunk_byte_bytes=chunk_byte_bytes,
        part_line_bytes=many["receipts"]["parts_list_bytes"] / parts,
        shard_part_bytes=many["receipts"]["shard_bytes"] / parts,
        end_part_seconds=(many["receipts"]["seconds"] - few["receipts"]["seconds"]) / more,
        end_bytes=many["receipts"]["peak_bytes_more"],
        listed_bytes=many["listing"]["peak_bytes_more"] / parts,
        listed_seconds=(many["listing"]["seconds"] - few["listing"]["seconds"]) / more,
    )


def _run(rows: int, chunk_bytes: int, repeat: int) -> Run:
    usages, totals = zip(*_runs(rows, chunk_bytes, repeat), strict=True)
    found = totals[-1]
    return Run(
        rows,
        chunk_bytes,
        round(statistics.median(usage.cpu_seconds for usage in usages), 2),
        statistics.median(usage.peak_bytes for usage in usages),
        found["parts"],
        found["read_bytes"],
        found["written_bytes"],
        found["shuffled_bytes"],
    )


def _runs(rows: int, chunk_bytes: int, repeat: int) -> Iterator[tuple[Any, dict[str, int]]]:
    work = WORKLOADS[WORK]
    source = data.cached(work, rows, 1)
    flags = ("--chunk_bytes", str(chunk_bytes))
    for turn in range(repeat):
        with tempfile.TemporaryDirectory(prefix="keyjoin-scale-") as folder:
            output, log = Path(folder, "output"), Path(folder, "log")
            command = programs.find("keyjoin").command(source, output, data.model(work), rows, flags)
            usage = measure(command, log)
            if usage.code:
                raise ProgramError(log.read_text(errors="replace"))
            print(f"{rows:,} rows, chunks of {chunk_bytes:,}, run {turn + 1}: {usage}", file=sys.stderr)
            yield usage, verify.manifest(output)["totals"]


def _end(what: str, count: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.end_phase", what, str(count)]
    said = subprocess.run(command, cwd=programs.ROOT, check=True, capture_output=True).stdout  # noqa: S603
    print(f"{what} of {count:,} parts: {said.decode().strip()}", file=sys.stderr)
    return {name: value for name, value in json.loads(said).items() if name != "totals"}
