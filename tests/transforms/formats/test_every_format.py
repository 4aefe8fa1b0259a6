"""Rules that hold for each format: rows stay whole, in order and separate, for any chunks."""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.blocks import block_of, chunks, joined_bytes, raws, whole
from tests.support.examples import example, floats, texts
from transforms import formats
from transforms.errors import RunError
from transforms.formats.base import Block, Format
from transforms.formats.tfrecord.split import framed
from transforms.records import BadRow, Feature, Layout, without

X = (Feature("x", "float32", (2,), ("x",)),)
JOINED = Layout(True, (), (), "key", None, (("y", "prediction"),))
LAYOUTS = st.sampled_from([JOINED, JOINED._replace(error="error"), JOINED._replace(row=False)])


class Row(NamedTuple):
    """A row to write.

    Attributes:
        number: The value of its field `x`; None for a bad row.
        text: The value of its field `s`.
    """

    number: int | None
    text: str


class Case(NamedTuple):
    """Functions that make files of a format.

    Attributes:
        file: From rows to the bytes of a file.
        content: From the bytes of a row to the bytes that start its output row.
        same: From a part to what is equal for parts with the same rows: its bytes, or its table where the row groups
            may differ.
        features: The fields that feed the model's input.
    """

    file: Callable[[Sequence[Row]], bytes]
    content: Callable[[bytes], bytes]
    same: Callable[[bytes], Any] = bytes
    features: tuple[Feature, ...] = X


def lines(rows: Sequence[Row]) -> bytes:
    bad = b'{"x": "none", "s": "'
    made = [
        bad + row.text.encode() + b'"}'
        if row.number is None
        else json.dumps({"x": [row.number, 0.5], "s": row.text}).encode()
        for row in rows
    ]
    return b"\n".join(made)


def records(rows: Sequence[Row]) -> bytes:
    made = [
        b"\xff" + row.text.encode()
        if row.number is None
        else example(x=floats(row.number, 0.5), s=texts(row.text.encode()))
        for row in rows
    ]
    return framed([pa.array(made, pa.large_binary())]).to_pybytes() if made else b""


def avro(rows: Sequence[Row]) -> bytes:
    fields = [{"name": "x", "type": ["null", {"type": "array", "items": "double"}]}, {"name": "s", "type": "string"}]
    schema = {"type": "record", "name": "r", "fields": fields}
    made = [{"x": None if row.number is None else [row.number, 0.5], "s": row.text} for row in rows]
    file = io.BytesIO()
    marker = hashlib.sha256(repr(rows).encode()).digest()[:16]
    fastavro.writer(file, schema, made, "deflate", sync_interval=20, sync_marker=marker)  # few rows a block
    return file.getvalue()


def parquet(rows: Sequence[Row]) -> bytes:
    made = [None if row.number is None else [row.number, 0.5] for row in rows]
    table = pa.table(
        {"x": pa.array(made, pa.list_(pa.float64())), "s": pa.array([row.text for row in rows], pa.string())}
    )
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=3)
    return file.getvalue()


def delimited(delimiter: str) -> Case:
    def file(rows: Sequence[Row]) -> bytes:
        made = [("x", "y", "s")]
        made += [("none" if row.number is None else str(row.number), "0.5", f'"{row.text}\n"') for row in rows]
        return "\r\n".join(map(delimiter.join, made)).encode()

    return Case(file, lambda raw: raw, features=(X[0]._replace(fields=("x", "y")),))


CASES = {
    "jsonl": Case(lines, lambda raw: raw[:-1]),
    "csv": delimited(","),
    "tsv": delimited("\t"),
    "tfrecord": Case(records, lambda raw: raw[12:-4]),
    "avro": Case(avro, lambda raw: raw[:-1]),
    "parquet": Case(parquet, lambda raw: raw[:-1], lambda part: pq.read_table(pa.BufferReader(part))),
}
every_format = pytest.mark.parametrize("name", formats.FORMATS)
words = st.text("abcé", max_size=4)
good_rows = st.lists(st.builds(Row, st.integers(-9, 9), words), max_size=8)
any_rows = st.lists(st.builds(Row, st.none() | st.integers(-9, 9), words), max_size=8)


def found(name: str, block: Block) -> tuple[list[bytes], list[int], list[dict[str, object]], list[BadRow]]:
    """Returns everything that a block reports about its rows."""
    inputs, bad = block.inputs(CASES[name].features)
    return raws(block), block.positions.tolist(), inputs.to_pylist(), bad


def write(fmt: Format, block: Block, bad: Sequence[int], layout: Layout) -> bytes:
    """Writes a part in which the prediction of each row is its position in the source, divided by 4."""
    lost = [BadRow(row, "predict", "model_error", "lost") for row in sorted(bad)]
    good = block.positions[without(len(block.positions), lost)]
    predictions = pa.RecordBatch.from_arrays([pa.array(good / 4, pa.float32())], ["y"])
    joined = fmt.writer.write(block, lost, predictions, layout)
    assert not joined.bad
    return joined_bytes(joined.blocks)


def test_each_format_has_the_same_files_and_a_case_here() -> None:
    assert CASES.keys() == formats.FORMATS.keys()
    root = Path(formats.__file__).parents[2]
    for name, module in formats.FORMATS.items():
        folder = root / module.replace(".", "/")
        assert {"__init__.py", "split.py", "read.py", "write.py"} <= {path.name for path in folder.iterdir()}
        assert formats.load(name).reader.name == name


@every_format
@given(rows=any_rows, chunk_bytes=st.integers(1, 99), chunk_rows=st.none() | st.integers(1, 4))
def test_cuts_cover_the_source(name: str, rows: list[Row], chunk_bytes: int, chunk_rows: int | None) -> None:
    reader, data = formats.load(name).reader, CASES[name].file(rows)
    cuts = list(reader.split(io.BytesIO(data), len(data), chunk_bytes, chunk_rows))
    ends = [0, *(cut.end for cut in cuts)]
    assert all(np.diff(ends) > 0)
    assert all(cut.bytes > 0 for cut in cuts)
    if reader.unit == "byte":
        assert sum(cut.bytes for cut in cuts) == ends[-1] == len(data)
    else:
        assert ends[-1] == len(rows)
    assert chunk_rows is None or reader.unit == "byte" or max(np.diff(ends), default=0) <= chunk_rows


@every_format
@given(rows=any_rows, chunk_bytes=st.integers(1, 99))
def test_chunks_together_are_the_source(name: str, rows: list[Row], chunk_bytes: int) -> None:
    fmt, data = formats.load(name), CASES[name].file(rows)
    everything: tuple[list, ...] = ([], [], [], [])
    for chunk in chunks(fmt, data, chunk_bytes):
        block, before = fmt.reader.load(io.BytesIO(data), chunk), len(everything[0])
        for kept, more in zip(everything, found(name, block), strict=True):
            kept += [one._replace(row=one.row + before) if isinstance(one, BadRow) else one for one in more]
        assert block.checksum == fmt.reader.load(io.BytesIO(data), chunk, ["x"]).checksum
    assert everything == found(name, block_of(fmt, data))
    assert len(everything[0]) == len(rows)
    assert [row["x"] for row in everything[2]] == [[row.number, 0.5] for row in rows if row.number is not None]
    assert [one.row for one in everything[3]] == [at for at, row in enumerate(rows) if row.number is None]


@every_format
@given(rows=any_rows)
def test_the_fields_that_are_used_are_enough(name: str, rows: list[Row]) -> None:
    fmt, data = formats.load(name), CASES[name].file(rows)
    features, chunk = CASES[name].features, whole(fmt, data)
    some, every = (fmt.reader.load(io.BytesIO(data), chunk, fields) for fields in (features[0].fields, None))
    assert (some.inputs(features), some.positions.tolist()) == (every.inputs(features), every.positions.tolist())


@every_format
@given(rows=any_rows, data=st.data())
def test_some_rows_are_what_they_were_among_all(name: str, rows: list[Row], data: st.DataObject) -> None:
    block = block_of(formats.load(name), CASES[name].file(rows))
    some = sorted(data.draw(st.sets(st.sampled_from(range(len(rows))))) if rows else [])
    taken = found(name, block.take(some))
    texts_, positions, _, bad = found(name, block)
    assert taken[0] == [texts_[row] for row in some]
    assert taken[1] == [positions[row] for row in some]
    assert [some[one.row] for one in taken[3]] == [one.row for one in bad if one.row in some]
    assert [row["x"][0] for row in taken[2]] == [rows[row].number for row in some if rows[row].number is not None]


@every_format
@given(rows=any_rows)
def test_rows_that_come_by_themselves_are_what_they_were(name: str, rows: list[Row]) -> None:
    fmt = formats.load(name)
    block = block_of(fmt, CASES[name].file(rows), 100)
    parsed = fmt.reader.parse(raws(block), block.positions.tolist(), "s", block.header)
    assert found(name, parsed) == found(name, block)
    assert parsed.values() == block.values()
    assert parsed.source == block.source


@every_format
def test_bytes_that_are_not_one_row_are_refused(name: str) -> None:
    fmt, file = formats.load(name), CASES[name].file
    header = block_of(fmt, file([Row(1, "a")])).header
    for raw in (b"", file([Row(1, "a"), Row(2, "b")]), file([Row(1, "a")]) + b"\n\n"):
        with pytest.raises(RunError):
            fmt.reader.parse([raw], [0], header=header)


@every_format
@given(rows=good_rows, layout=LAYOUTS, chunk_bytes=st.integers(1, 99))
def test_a_part_has_each_row_with_its_own_prediction(
    name: str, rows: list[Row], layout: Layout, chunk_bytes: int
) -> None:
    fmt, data = formats.load(name), CASES[name].file(rows)
    parts, first = [], 0
    for chunk in chunks(fmt, data, chunk_bytes):
        loaded = fmt.reader.load(io.BytesIO(data), chunk)
        numbers = first + np.arange(len(loaded.positions))
        parts.append((write(fmt, loaded, [], layout), numbers))
        first += len(numbers)
    written = joined_bytes(fmt.writer.merge(parts))
    block = block_of(fmt, data)
    part = fmt.writer.read_back(written)
    positions, values = block.positions.tolist(), part.values()
    flat, text = fmt.reader.traits.flat_lists, fmt.reader.traits.text_cells
    assert [row["prediction"] for row in values] == [
        [at / 4] if flat else str(at / 4) if text else at / 4 for at in positions
    ]
    assert [row["key"] for row in values] == [[f"s#{at}".encode()] if flat else f"s#{at}" for at in positions]
    for before, after in zip(raws(block), raws(part), strict=True) if layout.row else ():
        content = CASES[name].content
        assert content(after).startswith(content(before))
    assert CASES[name].same(written) == CASES[name].same(write(fmt, block, [], layout))


@every_format
@given(rows=good_rows, layout=LAYOUTS, data=st.data())
def test_a_replayed_part_is_that_of_a_run_in_which_the_rows_were_good(
    name: str, rows: list[Row], layout: Layout, data: st.DataObject
) -> None:
    fmt = formats.load(name)
    block = block_of(fmt, CASES[name].file(rows), 100)
    dead = sorted(data.draw(st.sets(st.sampled_from(range(len(rows))))) if rows else [])
    again = fmt.reader.parse(block.raw(dead).to_pylist(), block.positions[dead].tolist(), "s", block.header)
    numbers = np.arange(len(rows))
    old = (write(fmt, block, dead, layout), numbers if layout.error else np.delete(numbers, dead))
    new = (write(fmt, again, [], layout), np.array(dead, np.int64))
    merged = joined_bytes(fmt.writer.merge([old, new]))
    assert CASES[name].same(merged) == CASES[name].same(write(fmt, block, [], layout))


@pytest.mark.parametrize("name", [name for name in formats.FORMATS if formats.load(name).reader.traits.has_header])
def test_a_file_without_a_field_that_others_have_is_written_without_it(name: str) -> None:
    """The key is what a row must have; other fields are those of the file."""
    fmt = formats.load(name)
    block = block_of(fmt, CASES[name].file([Row(1, "a"), Row(2, "b")]))
    predictions = pa.record_batch({"y": pa.array([0.25, 0.5], pa.float32())})
    keyed = fmt.writer.write(block, [], predictions, JOINED._replace(row=False, key=None, key_field="id"))
    assert [(one.row, one.stage, one.reason) for one in keyed.bad] == [(0, "write", "missing"), (1, "write", "missing")]
    assert not len(fmt.writer.read_back(joined_bytes(keyed.blocks)).positions)
    ordered = JOINED._replace(include=("s", "id"), order=("id", "key", "s", "prediction"))
    joined = fmt.writer.write(block, [], predictions, ordered)
    found = fmt.writer.read_back(joined_bytes(joined.blocks)).values()
    assert not joined.bad
    assert [(row["key"], row["s"], row.get("id") or None) for row in found] == [
        (f"s#{at}", row["s"], None) for at, row in zip(block.positions.tolist(), block.values(), strict=True)
    ]


@every_format
def test_a_part_with_other_rows_is_not_merged(name: str) -> None:
    fmt = formats.load(name)
    block = block_of(fmt, CASES[name].file([Row(1, "a"), Row(2, "b")]))
    with pytest.raises(RunError, match="2 rows are written where 1 were expected"):
        fmt.writer.merge([(write(fmt, block, [], JOINED), np.array([0]))])


@every_format
@given(rows=any_rows, size=st.integers(1, 400))
def test_a_sample_has_the_first_rows_whole(name: str, rows: list[Row], size: int) -> None:
    fmt, data = formats.load(name), CASES[name].file(rows)
    sample = fmt.reader.sample(io.BytesIO(data), size)
    texts_, positions, _, _ = found(name, sample)
    everything = found(name, block_of(fmt, data))
    assert texts_ == everything[0][: len(texts_)]
    assert positions == everything[1][: len(texts_)]
    assert size <= len(data) or texts_ == everything[0]


@every_format
@given(rows=any_rows)
def test_rows_have_the_numbers_of_their_lines_if_they_are_lines(name: str, rows: list[Row]) -> None:
    fmt, data = formats.load(name), CASES[name].file(rows)
    block, end = block_of(fmt, data), fmt.reader.traits.line_end
    expected = [data[:at].count(end) for at in block.positions.tolist()] if end else None
    assert block.line_numbers(range(len(rows))) == expected


@every_format
@given(rows=good_rows)
def test_a_good_row_is_no_shorter_than_the_least(name: str, rows: list[Row]) -> None:
    fmt, data = formats.load(name), CASES[name].file(rows)
    assert len(data) + len(fmt.reader.traits.line_end) >= len(rows) * fmt.reader.least_bytes(CASES[name].features)
