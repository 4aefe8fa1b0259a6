"""Checks of what a program wrote: a wrong output has no time.

All is read line by line: a process starts with its parent's peak of memory as its own, so that what
this one takes would be counted as the next program's.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks import data

TOLERANCE = 1e-4
COMPARED_ROWS = 1 << 16


class ProgramError(RuntimeError):
    """A program failed, or did not write what it should have."""


class Row(msgspec.Struct):
    """What is looked at of an output row."""

    name: str
    prediction: list[float]


class Output(NamedTuple):
    """What a program wrote.

    Attributes:
        predictions: The prediction of each row, by the row's number. float32, (rows,).
        sha256: Of its parts, one after another.
    """

    predictions: npt.NDArray[np.float32]
    sha256: str


def read(parts: Sequence[Path], rows: int) -> Output:
    """Reads parts, which must hold each of the rows once.

    Raises:
        ProgramError: They do not.
    """
    decoder = msgspec.json.Decoder(Row)
    found = np.full(rows, np.nan, np.float32)
    digest, count = hashlib.sha256(), 0
    for line in _lines(parts):
        digest.update(line)
        try:
            row = decoder.decode(line)
            number = data.number(row.name)
            (prediction,) = row.prediction
        except ValueError as error:
            raise ProgramError(f"output row {count}: {error}") from error
        if not 0 <= number < rows:
            raise ProgramError(f"{row.name} is the name of no input row")
        if not np.isnan(found[number]):
            raise ProgramError(f"{row.name} was written twice")
        found[number] = prediction
        count += 1
    if count != rows:
        raise ProgramError(f"{count:,} rows were written, {rows:,} were read")
    return Output(found, digest.hexdigest())


def check_lines(source: Path, parts: Sequence[Path]) -> None:
    """Checks that parts hold the lines of their source in order, each with something added at its end.

    Raises:
        ProgramError: They do not.
    """
    written = _lines(parts)
    for number, line in enumerate(_lines([source])):
        if not next(written, b"").startswith(line.removesuffix(b"}\n") + b", "):
            raise ProgramError(f"output row {number} is not input row {number} with fields added")


def check_same(output: Output, reference: Output, *, exact: bool) -> None:
    """Checks that two programs predict the same for each row.

    Args:
        output: Of one program.
        reference: Of the other.
        exact: Whether their parts must be the same bytes.

    Raises:
        ProgramError: They do not.
    """
    for first in range(0, len(output.predictions), COMPARED_ROWS):
        rows = slice(first, first + COMPARED_ROWS)
        ours, theirs = output.predictions[rows], reference.predictions[rows]
        differ = np.flatnonzero(~np.isclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE))
        if len(differ):
            at, name = differ[0], data.NAME.format(first + differ[0])
            raise ProgramError(f"{name} got {ours[at]}, another program gave it {theirs[at]}")
    if exact and output.sha256 != reference.sha256:
        raise ProgramError("its bytes are not those of another program")


def _lines(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            yield from file
