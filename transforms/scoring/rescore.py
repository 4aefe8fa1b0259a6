"""Scores rows again, each alone, to check that the prediction in a part was made from its own row and no other.

All functions are pure except for the model call.
"""

import base64
import enum
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms import columns, dead_letters
from transforms.errors import RunError
from transforms.formats import convert
from transforms.formats.base import Block, Format
from transforms.mapping import partitions
from transforms.records import Feature, Layout
from transforms.saved_model.model import Contract, Model
from transforms.scoring.groups import by_shape
from transforms.scoring.score import score

SHOWN = 100  # characters of a value in a message


class Agreement(enum.Enum):
    """The result of comparing a prediction in a part with the prediction of its row alone."""

    EQUAL = "equal"
    CLOSE = "equal but for the last digits"
    OTHER = "differing"


class Scoring(NamedTuple):
    """How a run scored and wrote its rows.

    Attributes:
        format: The reader of the rows and the writer of the parts.
        features: The features that feed the model's inputs.
        contract: The inputs and outputs of the model's signature.
        batch_size: Most rows of one model call.
        keep_non_finite: Whether NaN and infinity count as valid predictions.
        layout: The fields of an output row.
    """

    format: Format
    features: tuple[Feature, ...]
    contract: Contract
    batch_size: int
    keep_non_finite: bool
    layout: Layout


class Rescored(NamedTuple):
    """A row that was scored again.

    Attributes:
        key: The row's key.
        agreement: How the value in the part compares with the new value.
        expected: The value that the part should have, if it has another one.
        found: The value that the part has, if it should have another one.
        line: The line of its chunk at which the row begins, from 0, if the values differ and rows are lines.
        difference: The largest absolute difference between finite floats of both.
    """

    key: str
    agreement: Agreement
    expected: str = ""
    found: str = ""
    line: int | None = None
    difference: float = 0.0


def rescore(
    block: Block, part: Block, dead: Sequence[int], wanted: Sequence[int], how: Scoring, called: Model
) -> Iterator[Rescored]:
    """Scores some rows of a chunk again, each in a batch that holds only copies of the row.

    Args:
        block: The rows of the chunk.
        part: The rows of its part.
        dead: Positions of its dead letters.
        wanted: The numbers, from 0, of the joined rows to score.
        how: How the run scored the rows.
        called: The model.

    Raises:
        RunError: The chunk has fewer joined rows than `wanted` needs.
    """
    numbers = np.flatnonzero(~np.isin(block.positions, np.array(dead, np.int64)))
    if max(wanted) >= len(numbers):
        raise RunError(
            f"the part cannot be of these rows of {block.source}: {len(numbers)} of them are no dead letters"
        )
    # A part has only the joined rows, but in a left join it has all rows.
    written = len(part.positions)
    places = numbers if written == len(block.positions) else np.arange(len(numbers))
    for number, place in zip(numbers[list(wanted)].tolist(), places[list(wanted)].tolist(), strict=True):
        alone, key = block.take([number]), dead_letters.key(block, number)
        found = part.take([place]).values() if place < written else []
        if not found:
            made = Rescored(key, Agreement.OTHER, "its row in the part", "there is none")
        elif other := _other_row(_own_values(alone, how), found[0], key, how.layout):
            made = Rescored(key, Agreement.OTHER, *other)
        else:
            made = _rescore_row(key, alone, found[0], how, called)
        if made.agreement is Agreement.OTHER:
            lines = block.line_numbers([number])
            made = made._replace(line=lines[0] if lines else None)
        yield made


def _own_values(alone: Block, how: Scoring) -> list[dict[str, Any]]:
    """Returns the fields of a row as its part has them. If the part has another format, it converts the row again."""
    if how.format.is_spliced:
        return alone.values()
    own, bad = convert.own_fields(alone, np.arange(1), convert.schema_of(how.format), how.layout)
    if bad or not own:
        return []
    made = how.format.writer.encode(pa.table(own)).blocks
    return how.format.writer.read_back(b"".join(map(bytes, made))).values()


def _other_row(
    own: Sequence[dict[str, Any]], found: dict[str, Any], key: str, layout: Layout
) -> tuple[str, str] | None:
    """Finds a field in a part's row that differs from the source row. Returns the expected and the found value."""
    for name, value in own[0].items() if own else ():
        # Compares the texts of the values, because a NaN in an Example is not equal to itself.
        if name in found and name not in layout.added and repr(found[name]) != repr(value):
            return _named(name, value), _named(name, found[name])
    if layout.key and leaves(found.get(layout.key)) != [key.encode()]:
        return _named(layout.key, key), _named(layout.key, found.get(layout.key))
    return None


def _rescore_row(key: str, alone: Block, found: dict[str, Any], how: Scoring, called: Model) -> Rescored:
    inputs, bad = partitions.inputs(alone, how.features)
    if not bad:
        arrays = next(by_shape(inputs, how.features)).whole
        scored = score(called, how.contract, arrays, 1, how.batch_size, keep_non_finite=how.keep_non_finite)
        bad = scored.bad
    if bad:
        return Rescored(key, Agreement.OTHER, f"a dead letter ({bad[0].reason}: {bad[0].message})", "it is joined")
    agreements, differences = [Agreement.EQUAL], [0.0]
    predicted = how.layout.predictions_in(found)
    for output, name in how.layout.predictions:
        array = scored.outputs[output][:1]
        value = _of_cells(predicted, name, array) if how.format.writer.traits.text_cells else predicted.get(name)
        agreement, difference = agree(array, value, float_dtype=how.format.writer.traits.float_dtype)
        if agreement is Agreement.OTHER:
            expected = _named(name, array[0].tolist() if array.dtype != object else array[0])
            return Rescored(key, agreement, expected, _named(name, value), difference=difference)
        agreements.append(agreement)
        differences.append(difference)
    worst = Agreement.CLOSE if Agreement.CLOSE in agreements else Agreement.EQUAL
    return Rescored(key, worst, difference=max(differences))


def _of_cells(row: Mapping[str, Any], name: str, scored: npt.NDArray[Any]) -> Any:
    """Returns the values of an output from cells of text: one cell, a cell for each value of a vector, or JSON text.

    Args:
        row: The cells of the output row, by the names of their columns.
        name: The name of the output.
        scored: The output of the row, (1, …).

    >>> _of_cells({"p_0": "1.5", "p_1": "inf"}, "p", np.float32([[1.5, 2]]))
    [1.5, inf]
    >>> _of_cells({"p": "[1]"}, "p", np.int32([[1]]))
    [1]
    """
    if name not in row:
        return [_of_cell(row.get(f"{name}_{at}"), scored) for at in range(scored.size)]
    text = row[name]
    if text is None or [text.encode()] == scored.reshape(-1).tolist() or not text.startswith("["):
        return _of_cell(text, scored)
    return json.loads(text)


def _of_cell(text: str | None, scored: npt.NDArray[Any]) -> Any:
    """Returns the value that a cell spells; the text itself if it does not spell one."""
    if text is None or scored.dtype == object:
        return text
    try:
        if scored.dtype.kind == "b":
            return {"true": True, "false": False}.get(text, text)
        return int(text) if scored.dtype.kind in "iu" else float(text)
    except ValueError:
        return text


def agree(scored: npt.NDArray[Any], found: Any, *, float_dtype: str = "float64") -> tuple[Agreement, float]:
    """Compares a row's prediction with the value in its part.

    Results of matrix kernels depend in the last digit on the row's position in the batch (benchmarks/NOTES.md). So
    floats may differ by the square root of their dtype's resolution (eps), relative to the row's largest value. This is
    3.5e-4 for float32. Integers, bools and strings have to be equal.

    Args:
        scored: An output of one row, (1, …).
        found: The value that was read from the part, or nested lists of values.
        float_dtype: The widest float dtype that the part can hold.

    Returns:
        The agreement, and the largest absolute difference of finite floats; 0 if other values differ.

    >>> agree(np.float32([[0.1, 2]]), [0.1, 2.0]), agree(np.float32([1]), 1.5)
    ((<Agreement.EQUAL: 'equal'>, 0.0), (<Agreement.OTHER: 'differing'>, 0.5))
    """
    held = leaves(found)
    if len(held) != scored.size:
        return Agreement.OTHER, 0.0
    flat = scored.reshape(-1)
    if scored.dtype.kind not in "f" and scored.dtype.name != "bfloat16":
        return (Agreement.EQUAL if flat.tolist() == held else Agreement.OTHER), 0.0
    if not all(leaf is None or type(leaf) in (int, float) for leaf in held):
        return Agreement.OTHER, 0.0
    values = np.array([np.nan if leaf is None else leaf for leaf in held], np.float64)
    return _agree_floats(flat, values, float_dtype)


def _agree_floats(
    scored: npt.NDArray[Any], found: npt.NDArray[np.float64], float_dtype: str
) -> tuple[Agreement, float]:
    resolution = float(ml_dtypes.finfo(scored.dtype).eps)  # type: ignore[no-untyped-call]
    # 16-bit floats are written as 32-bit floats.
    narrow = scored.dtype.itemsize <= np.dtype(np.float32).itemsize
    dtype = np.float32 if narrow else np.dtype(float_dtype)
    with np.errstate(over="ignore"):
        one, other = scored.astype(dtype), found.astype(dtype)
    finite = np.isfinite(one)
    if not (finite == np.isfinite(other)).all():
        return Agreement.OTHER, 0.0
    one, other = one[finite], other[finite]
    if (one == other).all():
        return Agreement.EQUAL, 0.0
    largest, difference = np.abs(np.concatenate([one, other])).max(), float(np.abs(one - other).max())
    return (Agreement.CLOSE if difference <= resolution**0.5 * largest else Agreement.OTHER), difference


def leaves(value: Any) -> list[Any]:
    """Returns the values in nested lists; strings become the bytes that the model gave."""
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    if isinstance(value, dict) and value.keys() == {columns.B64}:
        return [base64.b64decode(value[columns.B64])]
    return [value.encode() if isinstance(value, str) else value]


def _named(name: str, value: Any) -> str:
    text = f"{name} {value}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
