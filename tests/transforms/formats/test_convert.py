"""Rows become rows of another format, for every pair of formats."""

import itertools
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.blocks import joined_bytes
from transforms import columns, formats
from transforms.formats import convert, schemas
from transforms.formats.base import Block, Format
from transforms.formats.jsonl.read import LinesBlock
from transforms.formats.spec import FormatSpec
from transforms.records import BadRow, Layout

JOINED = Layout(True, (), (), "key", None, (("y", "prediction"),), scalars=True)
TYPES = {"id": pa.int64(), "name": pa.string(), "weight": pa.float64(), "tags": pa.list_(pa.int64())}
rows = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.integers(-(2**53), 2**53),
            "name": st.none() | st.sampled_from(["é", 'a "b"', "x,y", "価\n格", "null"]),
            "weight": st.none() | st.sampled_from([0.5, -2.0, 1e9, 3.0]),
            "tags": st.lists(st.integers(-9, 9), min_size=2, max_size=3),
        }
    ),
    min_size=1,
    max_size=7,
)
every_pair = pytest.mark.parametrize(("source", "output"), itertools.permutations(formats.FORMATS, 2))


def pair(source: str, output: str, block: Block, layout: Layout) -> Format:
    """Makes the format of a run, with the schema of a block."""
    schema = schemas.to_text(schemas.select(block.schema(), layout))
    return formats.load(FormatSpec(source, output=output, schema=schema))


def block_with(name: str, values: list[dict[str, Any]], types: dict[str, pa.DataType]) -> Block:
    """Makes a block of a format from values."""
    fmt = formats.load(name)
    table = pa.table({field: pa.array([row[field] for row in values], kind) for field, kind in types.items()})
    block = fmt.writer.read_back(joined_bytes(fmt.writer.encode(table).blocks))
    block.source = "s"
    return block


def meaning(value: Any) -> Any:
    """Returns a value without what formats spell differently: numbers as text, and nothing as null, "" or []."""
    if isinstance(value, list):
        inner = [meaning(item) for item in value]
        return (inner[0] if len(inner) == 1 else inner) or None
    if isinstance(value, bytes):
        value = value.decode()
    try:
        return None if value in (None, "") else float(value)
    except ValueError:
        return value


def meanings(values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the fields of rows that have a value."""
    found = [{name: meaning(value) for name, value in row.items()} for row in values]
    return [{name: value for name, value in row.items() if value is not None} for row in found]


def predictions_of(numbers: np.ndarray) -> pa.RecordBatch:
    """Makes the predictions of rows from their numbers."""
    return pa.record_batch({"y": columns.from_array((numbers / 4).astype(np.float32)[:, None])})


@every_pair
@settings(max_examples=8)
@given(rows, st.sets(st.integers(0, 6)), st.booleans())
def test_values_survive_the_way_to_another_format_and_back(
    source: str, output: str, values: list[dict[str, Any]], unscored: set[int], left_join: bool
) -> None:
    """Each row has its own values, prediction and key; a bad row is in its place, or not in the part."""
    types = {name: kind for name, kind in TYPES.items() if name != "tags" or not _of_cells(source, output)}
    block, layout = block_with(source, values, types), JOINED._replace(error="error" if left_join else None)
    bad = [BadRow(row, "predict", "model_error", "é") for row in sorted(unscored) if row < len(values)]
    numbers = np.delete(np.arange(len(values)), [one.row for one in bad])
    fmt = pair(source, output, block, layout)
    joined = convert.write(block, bad, predictions_of(numbers), layout, fmt)
    assert joined.bad == []
    part = fmt.writer.read_back(joined_bytes(joined.blocks))
    table, misfits = part.table(range(len(part.positions)), part.schema())
    assert misfits == []
    expected = [
        {name: values[row][name] for name in types}
        | ({"prediction": row / 4} if row in numbers else {})
        | {"key": f"s#{block.positions[row]}"}
        for row in (range(len(values)) if left_join else numbers)
    ]
    found = table.to_pylist()
    if left_join:
        errors = [row.pop("error", None) for row in found]
        reasons = [json.loads(e)["reason"] if isinstance(e, str) and e else e and e["reason"] for e in errors]
        assert [reason or None for reason in reasons] == [
            None if row in numbers else "model_error" for row in range(len(values))
        ]
    assert meanings(found) == meanings(expected)


def _of_cells(*names: str) -> bool:
    """Whether rows of one of these formats are cells of text, which hold no lists."""
    return any(formats.load(name).writer.traits.text_cells for name in names)


@pytest.mark.parametrize("output", [name for name in formats.FORMATS if name != "jsonl"])
@pytest.mark.parametrize(
    "late",
    [
        b'{"a": "x", "b": 0.5}',
        b'{"a": 1.0, "b": 0.5}',
        b'{"a": 1, "b": 9007199254740993}',
        b'{"a": 1, "b": 0.5, "c": 1}',
        b'{"a": true}',
        b'{"a": [1]}',
        b'{"a": 1, "b": 1e400}',
    ],
)
def test_a_row_that_does_not_fit_is_bad_and_takes_no_other_with_it(output: str, late: bytes) -> None:
    """It is bad whatever its neighbours, and its own fields are not in the part."""
    good = [b'{"a": 1, "b": 0.5}', b'{"a": 2, "b": 3}', b"{}"]
    fmt = pair("jsonl", output, LinesBlock("s", b"\n".join(good)), JOINED)
    for lines in ([*good, late], [late, *good], [late], [good[0], late, late, good[1]]):
        block = LinesBlock("s", b"\n".join(lines))
        joined = convert.write(block, [], predictions_of(np.arange(len(lines))), JOINED, fmt)
        assert [(one.row, one.stage, one.reason) for one in joined.bad] == [
            (row, "write", "schema") for row, line in enumerate(lines) if line == late
        ]
        part = fmt.writer.read_back(joined_bytes(joined.blocks))
        assert len(part.positions) == len(lines) - lines.count(late)


@pytest.mark.parametrize("output", [name for name in formats.FORMATS if name != "jsonl"])
def test_layouts_apply_to_converted_rows(output: str) -> None:
    """Fields are selected, ordered and renamed; fields that are not written may have any type."""
    lines = [b'{"a": 1, "b": "x", "c": {}}', b'{"a": 2, "b": [1], "d": 0}']
    block, predicted = LinesBlock("s", b"\n".join(lines)), predictions_of(np.arange(2))
    layouts = {
        ("a", "prediction", "key"): JOINED._replace(exclude=("b", "c", "d")),
        ("prediction", "a"): JOINED._replace(include=("a",), key=None, order=("prediction", "a")),
        ("prediction", "key"): JOINED._replace(row=False),
        ("prediction", "a", ""): JOINED._replace(row=False, key=None, key_field="a"),
    }
    for names, layout in layouts.items():
        fmt = pair("jsonl", output, block, layout)
        joined = convert.write(block, [], predicted, layout, fmt)
        assert joined.bad == []
        part = fmt.writer.read_back(joined_bytes(joined.blocks))
        found = part.table(range(2), part.schema())[0]
        own = [name for name in names if name]
        assert found.num_rows == 2
        assert sorted(found.column_names) == sorted(own)
        if output != "tfrecord":  # it has no order
            assert found.column_names == own
