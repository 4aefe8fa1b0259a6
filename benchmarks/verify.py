"""Verifies the output of a program, so that a wrong output never gets a time in the table.

It reads everything row by row, to keep this process small: a child process starts with its parent's peak memory as
its own, so memory used here would count as the next program's.
"""

import base64
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks import files, rows
from benchmarks.data import apart
from benchmarks.workloads import CSV, JSONL, TFRECORD, Workload

TOLERANCE = 1e-4
COMPARED_ROWS = 1 << 16
BLOCK_BYTES = 1 << 20
Predictions = npt.NDArray[np.float32]


class ProgramError(RuntimeError):
    """A program failed, or its output is wrong."""


class Row(msgspec.Struct):
    """The fields of an output row that are verified."""

    name: str
    prediction: list[float] | float


class DeadLetter(msgspec.Struct):
    """The fields of a dead letter that are verified."""

    row: str
    row_encoding: str


def read(parts: Sequence[Path], work: Workload, count: int) -> Predictions:
    """Reads parts, which must hold each good row once.

    Returns:
        The prediction of each row, by the row's number; NaN for bad rows. float32 (rows,).

    Raises:
        ProgramError: A good row is missing, is there twice, or is not readable, or there is an unknown row.
    """
    try:
        # The libraries of other formats are imported in a process of its own.
        return _read(parts, work, count) if work.suffix == JSONL else apart(_read, parts, work, count)
    except ValueError as error:
        raise ProgramError(str(error)) from error


def _read(parts: Sequence[Path], work: Workload, count: int) -> Predictions:
    parse = PARSERS.get(work.suffix, msgspec.json.Decoder(Row).decode)
    found = np.full(count, np.nan, np.float32)
    written = 0
    for record in files.records(parts, work.suffix):
        try:
            row = parse(record)
            number = rows.number(row.name)
            (prediction,) = row.prediction if isinstance(row.prediction, list) else (row.prediction,)
        except ValueError as error:
            raise ValueError(f"output row {written}: {error}") from error
        if not 0 <= number < count or work.is_bad(number):
            raise ValueError(f"{row.name} is the name of no {'good ' * bool(work.bad_every)}input row")
        if not np.isnan(found[number]):
            raise ValueError(f"{row.name} was written twice")
        found[number] = prediction
        written += 1
    good = sum(not work.is_bad(number) for number in range(count)) if work.bad_every else count
    if written != good:
        raise ValueError(f"{written:,} rows were written, {good:,} were read")
    return found


def _parse_example(record: bytes) -> Row:
    import tensorflow as tf

    found = tf.train.Example.FromString(record).features.feature
    (name,) = found["name"].bytes_list.value
    return Row(name.decode(), list(found["prediction"].float_list.value))


def _parse_cells(record: bytes) -> Row:
    *_, name, prediction = record.decode().rstrip("\n").split(",")
    return Row(name.strip('"'), float(prediction))


PARSERS: Mapping[str, Callable[[bytes], Row]] = {TFRECORD: _parse_example, CSV: _parse_cells}


def digest(parts: Iterable[Path]) -> str:
    """Returns the sha256 of the concatenated parts."""
    made = hashlib.sha256()
    for part in parts:
        with part.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                made.update(block)
    return made.hexdigest()


def check_rows(source: Path, parts: Sequence[Path], work: Workload) -> None:
    """Checks that parts hold the good rows of their source in order, each with fields added at its end.

    Raises:
        ProgramError: They do not.
    """
    if work.suffix == JSONL:
        _check_rows(source, parts, work)
    else:
        apart(_check_rows, source, parts, work)


def _check_rows(source: Path, parts: Sequence[Path], work: Workload) -> None:
    written = files.records(parts, work.suffix)
    for number, record in enumerate(files.records([source], work.suffix)):
        head = files.beginning(record, work.suffix)
        if not work.is_bad(number) and not next(written, b"").startswith(head):
            raise ProgramError(f"an output row is not input row {number} with fields added")


def check_dead_letters(source: Path, dead_letters: Sequence[Path], work: Workload) -> None:
    """Checks that dead letters hold exactly the bad rows of a source, in order.

    Raises:
        ProgramError: They do not.
    """
    decoder = msgspec.json.Decoder(DeadLetter)
    written = map(_raw, map(decoder.decode, files.records(dead_letters, JSONL)))
    sources = [source] if work.bad_every else []
    bad = (record for number, record in enumerate(files.records(sources, work.suffix)) if work.is_bad(number))
    for count, (dead_letter, record) in enumerate(itertools.zip_longest(written, bad)):
        if dead_letter is None or record is None or dead_letter != record.removesuffix(b"\n"):
            raise ProgramError(f"dead letter {count} is not the source's bad row {count}")


def _raw(dead_letter: DeadLetter) -> bytes:
    return dead_letter.row.encode() if dead_letter.row_encoding == "utf-8" else base64.b64decode(dead_letter.row)


def check_same(ours: Predictions, theirs: Predictions) -> None:
    """Checks that two programs predict the same for each row that is good for both.

    Raises:
        ProgramError: They do not.
    """
    for first in range(0, len(ours), COMPARED_ROWS):
        block = slice(first, first + COMPARED_ROWS)
        same = np.isclose(ours[block], theirs[block], rtol=TOLERANCE, atol=TOLERANCE)
        differ = np.flatnonzero(~same & ~np.isnan(ours[block]) & ~np.isnan(theirs[block]))
        if len(differ):
            number = first + differ[0]
            raise ProgramError(
                f"{rows.NAME.format(number)} got {ours[number]}, another program gave it {theirs[number]}"
            )


def manifest(output: Path) -> dict[str, Any]:
    """Returns keyjoin's manifest; empty if there is none."""
    path = output / "_keyjoin/manifest.json"
    return json.loads(path.read_text()) if path.exists() else {}


def estimated(manifest: Mapping[str, Any]) -> dict[str, float]:
    """Returns what keyjoin estimated before a run, divided by what the run took: `time`, `memory` and `output`.

    Args:
        manifest: The manifest of the run.
    """
    found = manifest["estimate"]
    return {
        "time": found["seconds"] / manifest["seconds"],
        "memory": found["memory"] / manifest["measured"]["peak_memory"],
        "output": found["output_bytes"] / manifest["totals"]["written_bytes"],
    }
