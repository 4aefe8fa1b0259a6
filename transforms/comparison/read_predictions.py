"""Reads the predictions of a part back, as columns.

Formats store predictions in different ways, and they are read in the way that inputs of a model are read: from JSON,
cells, records or typed columns. Each prediction becomes a column of flat lists, one list for each row.
"""

import functools
import json
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from transforms import columns
from transforms.dtypes import STRING
from transforms.errors import RunError
from transforms.formats.base import Block, Writer
from transforms.formats.jsonl.read import LinesBlock
from transforms.records import PREDICTION, BadRow, Feature, Layout, Positions
from transforms.scoring.rescore import leaves

Columns = Mapping[str, pa.LargeListArray]
SCALAR = ((), (1,))


class Outputs(NamedTuple):
    """Where the predictions are in the parts of a run.

    Attributes:
        writer: The writer of the parts.
        fields: For each prediction, the fields of an output row that hold it, as if they fed an input of a model.
        texts: Like `fields`, for predictions that are JSON text in a cell.
    """

    writer: Writer
    fields: tuple[Feature, ...]
    texts: tuple[Feature, ...] = ()

    @property
    def all(self) -> tuple[Feature, ...]:
        """All predictions."""
        return (*self.fields, *self.texts)

    @property
    def has_nan(self) -> bool:
        """Whether NaN, infinity and -infinity are three values. JSON writes all of them as null."""
        traits = self.writer.traits
        return traits.flat_lists or traits.typed or traits.text_cells

    @property
    def names(self) -> list[str]:
        """The names of the predictions."""
        return [feature.name for feature in self.all]


def find_outputs(
    writer: Writer, layout: Layout, shapes: Mapping[str, tuple[int | None, ...] | None], dtypes: Mapping[str, str]
) -> Outputs:
    """Finds the fields that hold the predictions of a run.

    Args:
        writer: The writer of the parts.
        layout: The fields of an output row.
        shapes: The shape of each output of the model, without the batch dimension.
        dtypes: TensorFlow's name of the dtype of each output.

    Raises:
        RunError: The rank of an output is unknown.
    """
    fields, texts = [], []
    for output, name in layout.predictions:
        shape, dtype = shapes[output], dtypes[output]
        if shape is None:
            raise RunError(f"the model does not say how many dimensions the prediction {name} has; it is not compared")
        if dtype in ("float16", "bfloat16") or (dtype == "float64" and writer.traits.float_dtype == "float32"):
            dtype = "float32"  # as it was written
        if dtype == "bool" and writer.traits.flat_lists:
            dtype = "int64"  # as it was written
        inside = ((name,),) if layout.is_nested else ()
        field = Feature(name, dtype, shape, (PREDICTION if inside else name,), inside=inside)
        if not writer.traits.text_cells or (shape in SCALAR and not inside):
            fields.append(_with_nan(field))
        elif len(shape) == 1 and shape[0] is not None and not inside:
            fields.append(field._replace(fields=tuple(f"{name}_{at}" for at in range(shape[0]))))
        else:
            texts.append(field)
    return Outputs(writer, tuple(fields), tuple(texts))


def _with_nan(field: Feature) -> Feature:
    """Reads a null of a scalar as NaN: JSON writes it so, and rows without a prediction are not read."""
    return field._replace(missing=("nan",)) if field.dtype.startswith("float") and field.shape in SCALAR else field


def read_predictions(part: bytes, numbers: Positions, rows: int, outputs: Outputs) -> Columns:
    """Reads the predictions of a part.

    Args:
        part: The decompressed bytes of the part.
        numbers: The numbers of the rows of its chunk that have predictions, ascending.
        rows: How many rows the chunk has. A part of a left join has all of them.
        outputs: Where the predictions are.

    Returns:
        For each prediction a list for each of these rows, of its values in row-major order.

    Raises:
        RunError: The part has another number of rows, or a row does not hold a prediction.
    """
    block = outputs.writer.read_back(part)
    written = len(block.positions)
    if written not in (len(numbers), rows):
        raise RunError(f"a part has {written} rows, and its receipt says {len(numbers)}; verify the output")
    if written > len(numbers):
        block = block.take(numbers.tolist())
    found = _read(block, outputs.fields)
    if outputs.texts:
        found |= _read(_as_lines(block, outputs.texts), outputs.texts)
    return found


def _as_lines(block: Block, texts: Sequence[Feature]) -> Block:
    """Makes JSON lines of the cells that hold JSON text."""
    cells = {field for feature in texts for field in feature.fields}
    found = _read(block, [Feature(name, STRING, (), (name,)) for name in cells])
    pieces: columns.Fragments = []
    for name in cells:
        pieces += [_text(f", {json.dumps(name)}: "), found[name].flatten()]
    pieces[0] = _text(pieces[0].as_py().decode().replace(", ", "{", 1))
    return LinesBlock("", columns.contents(columns.join([*pieces, _text("}\n")])).to_pybytes())


def _text(text: str) -> pa.Scalar:
    return pa.scalar(text.encode(), pa.large_binary())


def _read(block: Block, features: Sequence[Feature]) -> dict[str, pa.LargeListArray]:
    if not features:
        return {}
    batch, bad = block.inputs(features)
    numbers = [row.row for row in bad]
    order = np.argsort(np.concatenate([np.delete(np.arange(len(block.positions)), numbers), numbers]))
    others = [_by_path(block, row, features) for row in bad]
    found = {}
    for feature in features:
        column = batch[feature.name]
        bounds, flat = columns.value_bounds(column), columns.flat_values(column)
        lists = pa.LargeListArray.from_arrays(pa.array(bounds, pa.int64()), flat)
        if others:
            rest = pa.array([row[feature.name] for row in others], lists.type)
            lists = pa.concat_arrays([lists, rest]).take(pa.array(order))
        found[feature.name] = lists
    return found


def _by_path(block: Block, bad: BadRow, features: Sequence[Feature]) -> dict[str, list[Any]]:
    """Returns the values of a row that is no input of a model: with a null in a list, inf in a cell, a PredictionLog.

    Raises:
        RunError: The row lacks a value, or has one of another type.
    """
    rows: list[Any] = list(block.take([bad.row]).values())
    found = {}
    for feature in features:
        try:
            values = [functools.reduce(operator.getitem, path, rows[0]) for path in feature.paths]
            found[feature.name] = [_leaf(value, feature.dtype) for value in leaves(values)]
        except (LookupError, TypeError, ValueError) as error:
            raise RunError(
                f"row {bad.row} of a part has no prediction {feature.name}: {bad.message}; verify the output"
            ) from error
    return found


def _leaf(value: Any, dtype: str) -> Any:
    """Returns a value of a dtype. JSON writes NaN as null, and a cell is text, which `leaves` returns as bytes.

    >>> _leaf(None, "float32"), _leaf(b"-inf", "float32"), _leaf(True, "int64"), _leaf(b"true", "bool")
    (nan, -inf, 1, True)
    """
    if dtype == STRING:
        return value
    if dtype == "bool":
        return value if isinstance(value, bool) else {b"true": True, b"false": False}[value]
    if "float" in dtype:
        return math.nan if value is None else float(value)
    return int(value)
