"""Rules for Avro files: kept bytes, typed values, dead letters as JSON, damage."""

import datetime
import decimal
import io
import json
import random
import struct
from collections.abc import Sequence
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.blocks import block_of, joined_bytes, raws, whole
from transforms import formats
from transforms.errors import RunError, UsageError
from transforms.formats import schemas
from transforms.formats.avro import codecs, encode, json_rows
from transforms.formats.avro.container import MAGIC, new_header, write_block, write_header, write_long
from transforms.formats.avro.read import AvroBlock
from transforms.formats.avro.schema import parse
from transforms.formats.base import Block
from transforms.formats.typed_inputs import rows_of
from transforms.reasons import Reason
from transforms.records import BadRow, Feature, Layout

AVRO = formats.load("avro")
POINT = {"type": "record", "name": "point", "fields": [{"name": "next", "type": ["null", "a.b.point"]}]}
KINDS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    ("null", st.none()),
    ("boolean", st.booleans()),
    ("int", st.integers(-(1 << 31), (1 << 31) - 1)),
    ("long", st.integers(-(1 << 63), (1 << 63) - 1)),
    ("float", st.floats(width=32)),
    ("double", st.floats()),
    ("bytes", st.binary(max_size=4)),
    ("string", st.text(max_size=4)),
    ({"type": "fixed", "name": "pair", "size": 2}, st.binary(min_size=2, max_size=2)),
    ({"type": "enum", "name": "letter", "symbols": ["A", "B"]}, st.sampled_from("AB")),
    ({"type": "array", "items": ["null", "int"]}, st.lists(st.none() | st.integers(0, 9), max_size=3)),
    ({"type": "map", "values": "string"}, st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=2)),
    (["null", "double"], st.none() | st.floats()),
    (["int", "string", "null"], st.none() | st.integers(0, 9) | st.text(max_size=3)),
    (POINT, st.sampled_from([{"next": None}, {"next": {"next": None}}])),
    ({"type": "long", "logicalType": "timestamp-micros"}, st.integers(-(1 << 63), (1 << 63) - 1)),
    ({"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}, st.binary(min_size=1, max_size=2)),
]


def plain(kind: Any) -> Any:
    """Returns a type without its logical type, so that fastavro writes the underlying values."""
    return kind["type"] if isinstance(kind, dict) and "logicalType" in kind else kind


def container(schema: dict[str, Any], rows: Sequence[Any], codec: str = "null", **options: Any) -> bytes:
    file = io.BytesIO()
    fastavro.writer(file, schema, rows, codec, **options)
    return file.getvalue()


@st.composite
def tables(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """Draws a schema, and a file of records of this schema."""
    chosen = draw(st.lists(st.sampled_from(range(len(KINDS))), min_size=1, max_size=5, unique=True))
    fields = [{"name": f"f{number}", "type": KINDS[number][0]} for number in chosen]
    row = st.fixed_dictionaries({f"f{number}": KINDS[number][1] for number in chosen})
    schema = {"type": "record", "name": "row", "namespace": "a.b", "fields": fields}
    bare = {**schema, "fields": [{**field, "type": plain(field["type"])} for field in fields]}
    data = container(bare, draw(st.lists(row, max_size=5)), sync_interval=20)
    header, _, body = data.partition(json.dumps(bare).encode())
    assert body == b"" or header
    return schema, _with_schema(data, schema)


def _with_schema(data: bytes, schema: dict[str, Any]) -> bytes:
    """Writes the blocks of a file again, under another schema of the same encoding."""
    from transforms.formats.avro import container as parts

    file = io.BytesIO(data)
    header = parts.read_header(file)
    new = header._replace(meta={**header.meta, parts.SCHEMA: json.dumps(schema).encode()})
    return parts.write_header(new) + data[header.size :]


def part_of(block: Block, layout: Layout, bad: Sequence[BadRow] = ()) -> bytes:
    good = np.delete(np.arange(len(block.positions)), [one.row for one in bad])
    predictions = pa.RecordBatch.from_arrays([pa.array(good / 2, pa.float32())], ["y"])
    joined = AVRO.writer.write(block, bad, predictions, layout)
    assert not joined.bad
    return joined_bytes(joined.blocks)


def read(data: bytes) -> list[Any]:
    return list(fastavro.reader(io.BytesIO(data)))


JOINED = Layout(True, (), (), "key", None, (("y", "prediction"),))


@given(table=tables())
def test_a_record_keeps_its_bytes_and_gets_its_prediction(table: tuple[dict[str, Any], bytes]) -> None:
    _, data = table
    block = block_of(AVRO, data)
    assert isinstance(block, AvroBlock)
    part = AVRO.writer.read_back(part_of(block, JOINED))
    assert isinstance(part, AvroBlock)
    own = [block.data[start:end] for start, end in zip(block.rows.starts, block.rows.ends, strict=True)]
    joined = [part.data[start:end] for start, end in zip(part.rows.starts, part.rows.ends, strict=True)]
    added = [
        np.float32(at / 2).tobytes() + encode.longs(np.array([3]))[0].as_py() + f"s#{at}".encode() for at in range(9)
    ]
    assert joined == [before + after for before, after in zip(own, added, strict=False)]
    assert part.file.sync == block.file.sync


@given(table=tables())
def test_a_dead_letter_gives_its_record_back(table: tuple[dict[str, Any], bytes]) -> None:
    _, data = table
    block = block_of(AVRO, data)
    assert isinstance(block, AvroBlock)
    parsed = AVRO.reader.parse(raws(block), block.positions.tolist(), "s", block.header)
    assert isinstance(parsed, AvroBlock)
    assert parsed.data == block.data
    assert all(raw.startswith((b"{", json_rows.MARKER)) for raw in raws(block))


@given(table=tables(), data=st.data())
def test_chosen_fields_are_written_in_their_order(table: tuple[dict[str, Any], bytes], data: st.DataObject) -> None:
    schema, file = table
    names = [field["name"] for field in schema["fields"]]
    order = tuple(data.draw(st.permutations([*data.draw(st.sets(st.sampled_from(names))), "prediction"])))
    block = block_of(AVRO, file)
    include = tuple(name for name in order if name != "prediction")
    layout = Layout(bool(include), include, (), None, None, (("y", "prediction"),), order=order)
    part = AVRO.writer.read_back(part_of(block, layout))
    assert list(parse(part.header).fields) == list(order)
    for before, after in zip(block.values(), part.values(), strict=True):
        same = {name: value for name, value in before.items() if name in include}
        assert repr({name: after[name] for name in same}) == repr(same)


@given(table=tables())
def test_a_table_is_encoded_and_read_back(table: tuple[dict[str, Any], bytes]) -> None:
    schema, data = table
    block = block_of(AVRO, data)
    rows = range(len(block.positions))
    if POINT in [field["type"] for field in schema["fields"]]:
        assert any(map(schemas.mixed, block.schema()))
        return
    made, bad = block.table(rows, block.schema())
    assert [one.stage for one in bad] == ["write"] * len(bad)
    part = AVRO.writer.read_back(joined_bytes(AVRO.writer.encode(made).blocks))
    again, none = part.table(range(len(part.positions)), part.schema())
    assert (repr(rows_of(again)), none) == (repr(rows_of(made)), [])
    assert len(part.positions) + len(bad) == len(rows)


@pytest.mark.parametrize("codec", codecs.CODECS)
def test_each_codec_is_read_and_written(codec: str) -> None:
    schema = {"type": "record", "name": "r", "fields": [{"name": "a", "type": "long"}]}
    first = AVRO.writer.read_back(container(schema, [{"a": number} for number in range(999)]))
    assert isinstance(first, AvroBlock)
    plain = part_of(first, JOINED)
    first.file.meta["avro.codec"] = codec.encode()
    part = part_of(first, JOINED)
    assert (part == plain) if codec == "null" else len(part) < len(plain)
    back = AVRO.writer.read_back(part)
    assert back.table(range(999), back.schema())[0]["prediction"].to_pylist() == [number / 2 for number in range(999)]


def test_types_are_those_that_the_schema_names() -> None:
    fields = {
        "day": {"type": "int", "logicalType": "date"},
        "time": {"type": "long", "logicalType": "time-micros"},
        "at": {"type": "long", "logicalType": "timestamp-millis"},
        "local": {"type": "long", "logicalType": "local-timestamp-micros"},
        "price": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
        "wide": {"type": "fixed", "name": "wide", "size": 20, "logicalType": "decimal", "precision": 40, "scale": 0},
        "odd": {"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 3},
        "either": ["int", "long"],
        "union": ["null", "int", "string"],
        "map": {"type": "map", "values": "float"},
        "loop": POINT,
    }
    record = {"type": "record", "name": "a.b.r", "fields": [{"name": name, "type": k} for name, k in fields.items()]}
    assert parse(json.dumps(record)).types == {
        "day": pa.date32(),
        "time": pa.time64("us"),
        "at": pa.timestamp("ms", "UTC"),
        "local": pa.timestamp("us"),
        "price": pa.decimal128(9, 2),
        "wide": pa.decimal256(40, 0),
        "odd": pa.binary(),
        "either": pa.int64(),
        "union": pa.struct([("member0", pa.int32()), ("member1", pa.string())]),
        "map": pa.map_(pa.string(), pa.float32()),
    }


def test_logical_values_are_read_and_feed_a_model() -> None:
    day, price = datetime.date(2026, 11, 28), decimal.Decimal("12.50")
    kinds = {
        "day": {"type": "int", "logicalType": "date"},
        "price": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
        "union": ["null", "int", "string"],
    }
    schema = {"type": "record", "name": "r", "fields": [{"name": name, "type": kind} for name, kind in kinds.items()]}
    block = block_of(AVRO, container(schema, [{"day": day, "price": price, "union": "x"}]))
    assert block.values() == [{"day": "2026-11-28", "price": "12.50", "union": {"member0": None, "member1": "x"}}]
    features = (
        Feature("a", "float32", (), ("price",)),
        Feature("b", "string", (), ("union",), inside=(("member1",),)),
    )
    assert block.inputs(features)[0].to_pylist() == [{"a": 12.5, "b": b"x"}]


def test_text_that_is_not_utf8_is_a_bad_row_only_where_it_feeds_the_model() -> None:
    schema = {"type": "record", "name": "r", "fields": [{"name": "s", "type": "bytes"}, {"name": "n", "type": "long"}]}
    data = container(schema, [{"s": b"a", "n": 1}, {"s": b"\xff", "n": 2}])
    block = block_of(AVRO, _with_schema(data, json.loads(json.dumps(schema).replace('"bytes"', '"string"'))))
    inputs, bad = block.inputs((Feature("x", "string", (), ("s",), missing=("none",)),))
    assert (inputs["x"].to_pylist(), [one.reason for one in bad]) == ([b"a"], [Reason.NOT_UTF8.value])
    assert block.inputs((Feature("x", "int64", (), ("n",)),))[0]["x"].to_pylist() == [1, 2]
    assert raws(block)[1].startswith(json_rows.MARKER)


def test_a_left_join_writes_bad_rows_with_null_predictions() -> None:
    schema = {"type": "record", "name": "a.b.r", "fields": [{"name": "error_type", "type": POINT}]}
    block = block_of(AVRO, container(schema, [{"error_type": {"next": None}}] * 3))
    lost = BadRow(1, "predict", "model_error", "lost")
    rows = read(part_of(block, JOINED._replace(error="error"), [lost]))
    assert [row["prediction"] for row in rows] == [0.0, None, 1.0]
    assert [row["error"] and row["error"]["message"] for row in rows] == [None, "lost", None]


def test_vectors_are_arrays_of_plain_numbers_and_large_integers_are_bad() -> None:
    schema = {"type": "record", "name": "r", "fields": [{"name": "a", "type": "long"}]}
    block = block_of(AVRO, container(schema, [{"a": 1}, {"a": 2}]))
    vectors = pa.array([[1.5, 2.5], [3.5, 4.5]], pa.list_(pa.float32(), 2))
    predictions = pa.RecordBatch.from_arrays([vectors, pa.array([1, 1 << 63], pa.uint64())], ["v", "n"])
    layout = Layout(True, (), (), None, None, (("v", "v"), ("n", "n")))
    joined = AVRO.writer.write(block, [], predictions, layout)
    part = joined_bytes(joined.blocks)
    assert read(part) == [{"a": 1, "v": [1.5, 2.5], "n": 1}]
    types = {field["name"]: field["type"] for field in json.loads(AVRO.writer.read_back(part).header)["fields"]}
    assert types == {"a": "long", "v": {"type": "array", "items": "float"}, "n": "long"}
    assert [(one.row, one.stage, one.reason) for one in joined.bad] == [(1, "write", Reason.OUT_OF_RANGE.value)]


def test_a_name_that_avro_lacks_or_that_the_rows_have_is_refused() -> None:
    schema = {"type": "record", "name": "r", "fields": [{"name": "a", "type": "long"}]}
    block = block_of(AVRO, container(schema, [{"a": 1}]))
    for name, says in (("dense/y", "no field names like 'dense/y'"), ("a", "already have a field a")):
        with pytest.raises(UsageError, match=says):
            part_of(block, JOINED._replace(predictions=(("y", name),)))


def test_damage_is_an_error_with_the_place_of_the_block_or_changes_no_length() -> None:
    schema = {"type": "record", "name": "r", "fields": [{"name": "a", "type": "string"}]}
    rows = [{"a": f"{number:04}"} for number in range(60)]
    chance = random.Random(3)
    for codec in ("deflate", "zstandard", "null"):
        data = container(schema, rows, codec, sync_interval=80)
        chunk = whole(AVRO, data)
        for size in range(0, len(data) - 1, 7):
            if not data[:size].endswith(data[-16:]):
                with pytest.raises(RunError):
                    list(AVRO.reader.split(io.BytesIO(data[:size]), size, 1 << 20))
        for _ in range(100):
            at = chance.randrange(len(MAGIC), len(data))
            changed = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
            try:
                block = AVRO.reader.load(io.BytesIO(changed), chunk._replace(data=f"{codec}{at}"))
                assert block.inputs((Feature("x", "string", (), ("a",)),))[0].num_rows <= len(block.positions)
            except RunError:
                continue


def test_a_block_whose_records_do_not_fill_it_is_damaged() -> None:
    schema = {"type": "record", "name": "r", "fields": [{"name": "a", "type": "string"}]}
    data = container(schema, [{"a": "xyz"}])
    changed = data.replace(b"\x02\x08\x06xyz", b"\x02\x08\x04xyz")
    assert changed != data
    block = block_of(AVRO, changed)
    with pytest.raises(RunError, match=r"the block at byte \d+ is damaged: its 1 records end at byte 3 of 4"):
        block.inputs((Feature("x", "string", (), ("a",)),))


def test_a_repaired_row_may_leave_out_the_name_of_the_only_type() -> None:
    fields = [{"name": "a", "type": ["null", "double"]}, {"name": "b", "type": "int"}]
    header = json.dumps({"type": "record", "name": "r", "fields": fields})
    short, full = (json_rows.from_raw(raw, header) for raw in (b'{"a": 1, "b": 2}', b'{"a": {"double": 1}, "b": 2}'))
    assert short == full
    for raw in (
        b'{"a": 1}',
        b'{"a": 1, "b": 2.5}',
        b'{"a": "x", "b": 2}',
        b'{"a": 1, "b": 2, "c": 3}',
        b"[]",
        b'{"b": 1e9}',
    ):
        with pytest.raises(RunError, match="not exactly one row of avro"):
            json_rows.from_raw(raw, header)


@pytest.mark.parametrize(
    "kind", [pa.uint64(), pa.list_(pa.uint64()), pa.map_(pa.string(), pa.uint64()), pa.struct([("a", pa.uint64())])]
)
def test_a_row_with_an_integer_that_no_long_holds_is_not_encoded(kind: pa.DataType) -> None:
    def row(number: int) -> Any:
        made: Any = number
        if pa.types.is_struct(kind):
            made = {"a": number}
        elif not pa.types.is_integer(kind):
            made = [("k", number)] if pa.types.is_map(kind) else [1, number]
        return made

    joined = AVRO.writer.encode(pa.table({"x": pa.array([row(1), None, row(1 << 63), row((1 << 63) - 1)], kind)}))
    assert len(read(joined_bytes(joined.blocks))) == 3
    assert [(one.row, one.reason) for one in joined.bad] == [(2, Reason.OUT_OF_RANGE.value)]


def test_a_file_may_lack_fields_that_are_written() -> None:
    schema = {"type": "record", "name": "r", "fields": [{"name": "a", "type": "long"}]}
    block = block_of(AVRO, container(schema, [{"a": 1}]))
    order = ("b", "prediction", "a")
    layout = Layout(True, ("a", "b"), (), None, None, (("y", "prediction"),), order=order)
    assert read(part_of(block, layout)) == [{"prediction": 0.0, "a": 1}]
    keyed = Layout(False, (), (), None, "b", (("y", "prediction"),))
    predictions = pa.RecordBatch.from_arrays([pa.array([0.5])], ["y"])
    joined = AVRO.writer.write(block, [], predictions, keyed)
    assert (read(joined_bytes(joined.blocks)), [one.reason for one in joined.bad]) == ([], [Reason.MISSING.value])


DOUBLE = struct.pack("<d", 0.5)
NODE = {"type": "record", "name": "node", "fields": [{"name": "next", "type": ["null", "node"]}]}
EMPTY = {"type": "record", "name": "nothing", "fields": [{"name": "n", "type": "null"}]}
LONGEST = write_long(1 << 40)
HOSTILE = [
    (NODE, DOUBLE + write_long(1) * 100_000 + b"\0", 1, "RecursionError"),
    (NODE, DOUBLE + write_long(1) * 100_000, 1, "RecursionError"),
    ({"type": "record", "name": "node", "fields": [{"name": "n", "type": "node"}]}, DOUBLE, 1, "RecursionError"),
    ({"type": "array", "items": "null"}, DOUBLE + LONGEST + b"\0", 1, "take no bytes"),
    ({"type": "array", "items": EMPTY}, DOUBLE + LONGEST + b"\0", 1, "take no bytes"),
    ({"type": "map", "values": {"type": "array", "items": "null"}}, DOUBLE + b"\2\0" + LONGEST, 1, "take no bytes"),
    ({"type": "array", "items": {"type": "fixed", "name": "f", "size": 0}}, DOUBLE + LONGEST, 1, "take no bytes"),
    ("string", DOUBLE + LONGEST, 1, "cannot be decoded"),
    ("string", DOUBLE + write_long(-5), 1, "cannot be decoded"),
    ({"type": "fixed", "name": "f", "size": 1 << 40}, DOUBLE, 1, "no Avro schema"),
    (["null", "int"], DOUBLE + write_long(7), 1, "cannot be decoded"),
    ("double", DOUBLE * 2, 1 << 40, "1099511627776 records in 16 bytes"),
    ("null", DOUBLE, 2, "cannot be decoded"),
]


def file_with(kind: Any, data: bytes, rows: int) -> bytes:
    """Makes a file with one block of records that have a double and a field of this type."""
    fields = [{"name": "x", "type": "double"}, {"name": "n", "type": kind}]
    header = new_header(json.dumps({"type": "record", "name": "row", "fields": fields}))
    return write_header(header) + write_block(header, rows, data)


def first_rows(data: bytes) -> Block:
    return AVRO.reader.sample(io.BytesIO(data), len(data))


@pytest.mark.parametrize(("kind", "data", "rows", "says"), HOSTILE)
def test_no_file_ends_the_process_or_is_read_without_end(kind: Any, data: bytes, rows: int, says: str) -> None:
    with pytest.raises(RunError, match=says):
        first_rows(file_with(kind, data, rows)).inputs([Feature("x", "float64", (), ("x",))])
    with pytest.raises(RunError, match=says):
        first_rows(file_with(kind, data, rows)).values()


def test_two_fields_of_one_name_are_refused() -> None:
    fields = [{"name": "x", "type": "double"}] * 2
    header = new_header(json.dumps({"type": "record", "name": "row", "fields": fields}))
    with pytest.raises(RunError, match="two of its fields have one name"):
        AVRO.reader.read_header(io.BytesIO(write_header(header)), 0)


def test_a_schema_nested_beyond_any_reader_is_refused() -> None:
    header = new_header('{"type":' * 100_000 + '"int"' + "}" * 100_000)
    with pytest.raises(RunError, match="header is damaged"):
        AVRO.reader.read_header(io.BytesIO(write_header(header)), 0)


@pytest.mark.parametrize("wanted", [None, ("x", "n", "prediction")])
@pytest.mark.parametrize("kind", [["null", "row"], {"type": "array", "items": "row"}, {"type": "map", "values": "row"}])
def test_rows_inside_of_rows_get_no_predictions(kind: Any, wanted: tuple[str, ...] | None) -> None:
    inside = file_with({"type": "record", "name": "in", "fields": [{"name": "m", "type": kind}]}, DOUBLE + b"\0", 1)
    layout = Layout(True, ("x", "n") if wanted else (), (), None, None, (("y", "prediction"),))
    for data in (file_with(kind, DOUBLE + b"\0", 1), inside):
        with pytest.raises(UsageError, match="--exclude_fields=n"):
            part_of(first_rows(data), layout)
        left = Layout(True, (), ("n",), None, None, (("y", "prediction"),))
        assert read(part_of(first_rows(data), left)) == [{"x": 0.5, "prediction": 0.0}]


def test_a_value_that_arrow_cannot_hold_is_bad_where_it_feeds_the_model_and_kept_elsewhere() -> None:
    ints = b"".join(DOUBLE + write_long(number) for number in (1, 1 << 40, -1))
    texts = b"".join(DOUBLE + b"\2" + text for text in (b"a", b"\xff", b"c"))
    for kind, data, dtype, reason in (
        ("int", ints, "int64", Reason.OUT_OF_RANGE),
        ("string", texts, "string", Reason.NOT_UTF8),
    ):
        block = first_rows(file_with(kind, data, 3))
        inputs, bad = block.inputs([Feature("n", dtype, (), ("n",))])
        assert (inputs.num_rows, [(one.row, one.reason) for one in bad]) == (2, [(1, reason.value)])
        inputs, bad = block.inputs([Feature("x", "float64", (), ("x",))])
        assert (inputs.num_rows, bad) == (3, [])
        assert [row["n"] is None for row in block.values()] == [False, True, False]  # `verify` finds each row
