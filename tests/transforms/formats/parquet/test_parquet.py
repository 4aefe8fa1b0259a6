"""Parquet files of five writers: columns are copied or encoded again, and both give equal tables."""

import contextlib
import datetime
import decimal
import functools
import io
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import fastparquet
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.blocks import joined_bytes, raws
from transforms import formats
from transforms.errors import RunError
from transforms.formats.parquet import footer as footers
from transforms.formats.parquet import json_rows, thrift
from transforms.formats.parquet.read import ParquetBlock, ParquetReader
from transforms.formats.parquet.thrift import Items, Struct, Value
from transforms.formats.parquet.write import OTHER_SCHEMAS
from transforms.records import BadRow, Chunk, Feature, Layout, without

FORMAT = formats.load("parquet")
ROWS = 25
LAYOUT = Layout(True, (), (), "key", None, (("y", "prediction"), ("v", "vector")))
SIMPLE = pa.table({
    "id": pa.array(range(ROWS), pa.int64()),
    "x": pa.array([None if i % 7 == 3 else i / 3 for i in range(ROWS)], pa.float64()),
    "name": pa.array([None if i % 5 == 4 else f"name {i % 3} é" for i in range(ROWS)]),
    "day": pa.array([datetime.date(2026, 11, 1 + i) for i in range(ROWS)]),
    "at": pa.array([datetime.datetime(2026, 1, 1, 0, i) for i in range(ROWS)], pa.timestamp("us")),
})  # fmt: skip
NESTED = SIMPLE.append_column(
    "l", pa.array([[i] * (i % 3) if i % 4 else None for i in range(ROWS)], pa.list_(pa.int32()))
)
NESTED = NESTED.append_column("o", pa.array([{"a": i, "b": [{"c": str(i)}]} for i in range(ROWS)]))
NESTED = NESTED.append_column("d", pa.array([decimal.Decimal(i) / 4 for i in range(ROWS)], pa.decimal128(12, 2)))
NESTED = NESTED.append_column("cat", pa.array([f"c{i % 2}" for i in range(ROWS)]).dictionary_encode())
NESTED = NESTED.append_column("m", pa.array([[("k", i)] for i in range(ROWS)], pa.map_(pa.string(), pa.int64())))


def by_arrow(table: pa.Table, path: Path, **options: Any) -> None:
    pq.write_table(table, path, row_group_size=10, **options)


def by_pandas(table: pa.Table, path: Path) -> None:
    table.to_pandas().set_index("id").to_parquet(path, row_group_size=10)


def by_polars(table: pa.Table, path: Path) -> None:
    pl.DataFrame(table).write_parquet(path, row_group_size=10)


def by_duckdb(table: pa.Table, path: Path) -> None:
    duckdb.from_arrow(table).write_parquet(str(path), row_group_size=10)


def by_fastparquet(table: pa.Table, path: Path) -> None:
    fastparquet.write(str(path), table.to_pandas(), row_group_offsets=[0, 10, 20])


WRITERS: dict[str, tuple[Callable[..., None], pa.Table, dict[str, Any]]] = {
    "pandas": (by_pandas, SIMPLE, {}),
    "polars": (by_polars, NESTED.drop_columns(["m"]), {}),
    "duckdb": (by_duckdb, NESTED.drop_columns(["cat"]), {}),
    "fastparquet": (by_fastparquet, SIMPLE.drop_columns(["day"]), {}),
    **{
        f"pyarrow {codec} {version}": (by_arrow, NESTED, {"compression": codec, "data_page_version": version})
        for codec in ("none", "snappy", "gzip", "zstd", "lz4", "brotli")
        for version in ("1.0", "2.0")
    },
    "pyarrow with indexes": (by_arrow, NESTED, {"write_page_index": True, "write_page_checksum": True}),
    "pyarrow, deprecated times": (by_arrow, NESTED, {"use_deprecated_int96_timestamps": True}),
    "pyarrow, old lists": (by_arrow, NESTED, {"use_compliant_nested_type": False}),
    "pyarrow, sorted": (by_arrow, NESTED, {"sorting_columns": [pq.SortingColumn(0)]}),
    "pyarrow, no dictionary": (by_arrow, NESTED, {"use_dictionary": False, "store_schema": False}),
}


@functools.cache
def file_by(writer: str) -> bytes:
    write, table, options = WRITERS[writer]
    with tempfile.TemporaryDirectory() as folder:
        write(table, Path(folder, "a.parquet"), **options)
        return Path(folder, "a.parquet").read_bytes()


@pytest.fixture(params=WRITERS)
def data(request: pytest.FixtureRequest) -> bytes:
    return file_by(request.param)


def file_of(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def load(data: bytes, start: int = 0, end: int = ROWS) -> ParquetBlock:
    return ParquetReader().load(io.BytesIO(data), Chunk("s", "s", start, end, 0, 1, "p"))


def predictions(rows: int) -> pa.RecordBatch:
    values = np.arange(rows, dtype=np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(2 * rows, dtype=np.int64)), 2)
    return pa.RecordBatch.from_arrays([pa.array(values), vectors], ["y", "v"])


def write(block: ParquetBlock, bad: list[int] | None = None, layout: Layout = LAYOUT) -> bytes:
    lost = [BadRow(row, "predict", "model_error", "lost") for row in bad or []]
    good = without(len(block.positions), lost)
    joined = FORMAT.writer.write(block, lost, predictions(ROWS).take(pa.array(good)), layout)
    assert not joined.bad
    return joined_bytes(joined.blocks)


def table_of(data: bytes) -> pa.Table:
    return pq.read_table(pa.BufferReader(data))


def chunks_of(data: bytes) -> dict[tuple[int, str], tuple[bytes, Any]]:
    """Returns the encoded bytes and the statistics of each column of each row group."""
    file = io.BytesIO(data)
    footer = footers.read_footer(file, len(data), "")
    found = {}
    for number, group in enumerate(footer.groups):
        for column in footers.read_group(file, footer, group, None).columns:
            path = b".".join(column.chunk.of(footers.META).items_of(footers.PATH)).decode()
            found[number, path] = (column.data, column.chunk.of(footers.META).of(12))
    return found


def test_old_columns_keep_their_bytes_and_statistics(data: bytes) -> None:
    before, after = chunks_of(data), chunks_of(write(load(data)))
    assert {key: after[key] for key in before} == before
    assert {path for _, path in after.keys() - before.keys()} == {"prediction", "vector.list.element", "key"}


def test_a_part_is_the_table_with_more_columns(data: bytes) -> None:
    own, part = table_of(data), table_of(write(load(data)))
    assert part.select(own.column_names).equals(own)
    assert part.schema.types[: len(own.schema)] == own.schema.types
    assert part["prediction"].to_pylist() == predictions(ROWS)["y"].to_pylist()
    assert part.schema.field("vector").type == pa.list_(pa.int64(), 2)
    assert part["key"].to_pylist() == [f"s#{row}" for row in range(ROWS)]
    groups = pq.ParquetFile(pa.BufferReader(data)).metadata.num_row_groups
    assert pq.ParquetFile(pa.BufferReader(write(load(data)))).metadata.num_row_groups == groups


def test_other_programs_read_a_copied_part(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    path.write_bytes(write(load(data)))
    expected = (ROWS, sum(range(ROWS)))
    assert duckdb.read_parquet(str(path)).aggregate("count(*), sum(prediction)").fetchall() == [expected]
    read = pl.read_parquet(path)
    assert (read.height, read["prediction"].sum()) == expected
    assert pd.read_parquet(path)["prediction"].tolist() == list(range(ROWS))
    assert fastparquet.ParquetFile(str(path)).to_pandas(columns=["prediction"])["prediction"].tolist() == list(
        range(ROWS)
    )


LAYOUTS = st.sampled_from(
    [
        LAYOUT,
        LAYOUT._replace(error="error", scalars=True),
        LAYOUT._replace(exclude=("name",)),
        LAYOUT._replace(include=("x", "id"), order=("key", "x", "vector", "id")),
        LAYOUT._replace(row=False, key=None, key_field="id"),
    ]
)


@settings(max_examples=40)
@given(writer=st.sampled_from(list(WRITERS)), dead=st.sets(st.integers(0, ROWS - 1)), layout=LAYOUTS)
def test_copied_columns_are_equal_to_encoded_ones(writer: str, dead: set[int], layout: Layout) -> None:
    data = file_by(writer)
    block = load(data)
    assume(layout.key_field in (None, *block.names))
    decoded = ParquetBlock(block.source, block.positions, block.header, block.footer, decoded=block.rows)
    copied, encoded = (table_of(write(one, sorted(dead), layout)) for one in (block, decoded))
    assert copied.equals(encoded)
    assert copied.schema.equals(encoded.schema, check_metadata=True)
    own = table_of(data)
    kept = own if layout.error else own.take(pa.array([row for row in range(ROWS) if row not in dead], pa.int64()))
    for name in set(own.column_names) & set(copied.column_names):
        assert copied[name].equals(kept[name])
        assert copied.schema.field(name).equals(own.schema.field(name), check_metadata=True)


def test_only_row_groups_without_some_rows_are_encoded_again() -> None:
    data = file_by("pyarrow gzip 2.0")
    before, after = chunks_of(data), chunks_of(write(load(data), [12]))
    same = {number for number, _ in before if all(after[key] == before[key] for key in before if key[0] == number)}
    assert same == {0, 2}


def test_a_range_of_rows_is_that_of_the_whole(data: bytes) -> None:
    whole = load(data)
    for start, end in ((0, 4), (3, 17), (24, 25), (10, 20), (0, 0)):
        part = load(data, start, end)
        assert part.decode(part.names).equals(whole.decode(whole.names).slice(start, end - start))
        assert part.positions.tolist() == list(range(start, end))
        assert table_of(write(part))["key"].to_pylist() == [f"s#{row}" for row in range(start, end)]


def test_a_range_of_rows_does_not_hold_the_rows_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transforms.formats.parquet.read.SLICE_ROWS", 100)
    data = file_of(pa.table({"a": pa.array(range(1000), pa.float64())}))
    first, last = (load(data, start, start + 100).rows.get_total_buffer_size() for start in (0, 900))
    assert last < 2 * first


def test_schemas_of_other_programs_are_left_out_since_they_hide_the_predictions() -> None:
    hidden = dict.fromkeys(OTHER_SCHEMAS, b"{}")
    data = file_of(pa.table({"a": range(ROWS)}).replace_schema_metadata({**hidden, "owner": "me"}))
    for part in (write(load(data)), write(load(data), [3]), write(load(data, 0, 1))):
        metadata = pq.read_metadata(io.BytesIO(part)).metadata
        assert (metadata[b"owner"], metadata.keys() & hidden.keys()) == (b"me", set())


def test_metadata_of_file_and_fields_is_kept(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("a", pa.int64(), metadata={"PARQUET:field_id": "7", "unit": "m"})], {"owner": "me"})
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": range(ROWS)}, schema=schema), path)
    for bad in ([], [3]):
        part = table_of(write(load(path.read_bytes()), bad))
        assert part.schema.metadata[b"owner"] == b"me"
        assert part.schema.field("a").metadata[b"PARQUET:field_id"] == b"7"


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        (LAYOUT._replace(include=("x",)), ["x", "prediction", "vector", "key"]),
        (LAYOUT._replace(exclude=("x", "l", "o", "d", "m", "cat", "at", "day")), ["id", "name", "prediction", "vector", "key"]),
        (LAYOUT._replace(row=False, key=None, key_field="id"), ["prediction", "vector", "id"]),
        (LAYOUT._replace(include=("x",), order=("vector", "x", "prediction")), ["vector", "x", "prediction"]),
    ],
)  # fmt: skip
def test_columns_are_chosen_and_ordered(tmp_path: Path, layout: Layout, names: list[str]) -> None:
    by_arrow(NESTED, tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    for bad in ([], [3]):
        part = table_of(write(load(data), bad, layout))
        assert part.column_names == names
        for name in set(names) & set(NESTED.column_names):
            kept = [row for row in range(ROWS) if row not in bad]
            assert part[name].to_pylist() == NESTED[name].take(kept).to_pylist()


def test_bad_rows_stay_with_an_error(data: bytes) -> None:
    part = table_of(write(load(data), [2, 11], LAYOUT._replace(error="error")))
    own = table_of(data)
    assert part.select(own.column_names).equals(own)
    assert [row for row, value in enumerate(part["prediction"].to_pylist()) if value is None] == [2, 11]
    assert part["error"][2].as_py()["reason"] == "model_error"
    assert part["error"][3].as_py() is None


# Every type that pyarrow reads from a Parquet file, and values of it.
finite = st.floats(allow_nan=False, allow_infinity=False)
leaves: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int8(), st.integers(-128, 127)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.bool_(), st.booleans()),
    (pa.float64(), st.floats(allow_nan=False)),
    (pa.float32(), st.floats(width=32, allow_nan=False)),
    (pa.string(), st.text(max_size=3)),
    (pa.large_string(), st.text(max_size=3)),
    (pa.binary(), st.binary(max_size=3)),
    (pa.binary(2), st.binary(min_size=2, max_size=2)),
    (pa.decimal128(5, 2), st.decimals(-999, 999, places=2)),
    (pa.decimal256(50, 0), st.integers(-(10**49), 10**49).map(decimal.Decimal)),
    (pa.date32(), st.integers(-(2**31), 2**31 - 1)),
    (pa.time32("ms"), st.integers(0, 86_399_999)),
    (pa.time64("us"), st.integers(0, 86_399_999_999)),
    (pa.timestamp("us"), st.integers(-(2**63), 2**63 - 1)),
    (pa.timestamp("ns", "Europe/Berlin"), st.integers(-(2**63), 2**63 - 1)),
    (pa.duration("ms"), st.integers(-(2**63), 2**63 - 1)),
]
dictionary = (pa.dictionary(pa.int32(), pa.string()), st.text(max_size=3))


def nested(inner: tuple[pa.DataType, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    kind, values = inner[0], st.none() | inner[1]
    return st.sampled_from(
        [
            (pa.list_(kind), st.lists(values, max_size=2)),
            (pa.large_list(kind), st.lists(values, max_size=2)),
            (pa.struct([("p", kind), ("q", pa.int64())]), st.fixed_dictionaries({"p": values, "q": st.just(1)})),
            (pa.map_(pa.string(), kind), st.lists(st.tuples(st.text(max_size=2), values), max_size=2)),
        ]
    )


kinds = st.sampled_from([*leaves, dictionary]) | st.recursive(
    st.sampled_from(leaves), lambda inner: inner.flatmap(nested), max_leaves=2
)


@given(kind=kinds, data=st.data())
def test_a_row_in_a_dead_letter_keeps_its_values(
    kind: tuple[pa.DataType, st.SearchStrategy[Any]], data: st.DataObject
) -> None:
    values = data.draw(st.lists(st.none() | kind[1], min_size=1, max_size=3))
    table = table_of(file_of(pa.table({"x": pa.array(values, kind[0])})))
    raw = json_rows.to_raws(table)
    again = json_rows.from_raws(raw, table.schema)
    assert again.equals(table)
    assert json_rows.to_raws(again) == raw


def test_a_list_of_a_fixed_size_in_a_dead_letter_keeps_its_values() -> None:
    table = pa.table({"x": pa.array([[1, None], None, [3, 4]], pa.list_(pa.int64(), 2))})  # pyarrow cannot read these
    assert json_rows.from_raws(json_rows.to_raws(table), table.schema).equals(table)


def test_words_stand_for_what_json_lacks() -> None:
    table = pa.table({"x": [math.nan, math.inf, -math.inf]})
    raw = json_rows.to_raws(table)
    assert raw == [b'{"x": "NaN"}', b'{"x": "Infinity"}', b'{"x": "-Infinity"}']
    assert str(json_rows.from_raws(raw, table.schema)["x"].to_pylist()) == "[nan, inf, -inf]"


def test_a_string_that_is_not_utf8_is_kept() -> None:
    table = pa.table({"x": pa.array([b"\xff", b"a"]).view(pa.string())})
    raw = json_rows.to_raws(table)
    assert raw == [b'{"x": {"b64": "/w=="}}', b'{"x": "a"}']
    assert json_rows.from_raws(raw, table.schema)["x"].cast(pa.binary()).to_pylist() == [b"\xff", b"a"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1.5", pa.int64()),
        ("true", pa.int64()),
        ("true", pa.float64()),
        ('"1"', pa.int64()),
        ("1", pa.bool_()),
        ("1", pa.string()),
        ("300", pa.int8()),
        ("1.5", pa.decimal128(5, 2)),
        ('"1.555"', pa.decimal128(5, 2)),
        ('"x"', pa.binary()),
        ('"x"', pa.timestamp("s")),
        ("[1]", pa.list_(pa.int64(), 2)),
        ('{"a": 1, "b": 1}', pa.struct([("a", pa.int64())])),
        ("[[1]]", pa.map_(pa.string(), pa.int64())),
    ],
)
def test_a_value_of_another_type_is_refused(text: str, kind: pa.DataType) -> None:
    with pytest.raises(RunError, match="not exactly one row of parquet"):
        json_rows.from_raws([f'{{"x": {text}}}'.encode()], pa.schema([("x", kind)]))


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{", b'{"other": 1}', b'{"id": "x"}', b'{"id": 1.5}', b'{"id": true}', b'{"x": "much"}', b'{"l": 1}',
     b'{"d": "one"}', b'{"day": "soon"}', b'{"o": [1]}', b'{"m": {"k": 1}}', b'{"id": 99999999999999999999}'],
)  # fmt: skip
def test_what_is_not_a_row_is_refused(raw: bytes, tmp_path: Path) -> None:
    by_arrow(NESTED, tmp_path / "a.parquet")
    header = load((tmp_path / "a.parquet").read_bytes()).header
    with pytest.raises(RunError):
        ParquetReader().parse([raw], [0], "s", header)


def test_every_footer_is_encoded_as_it_was(data: bytes) -> None:
    encoded = footers.read_footer(io.BytesIO(data), len(data), "a").encoded
    assert thrift.encode(thrift.decode(encoded)) == encoded


structs = st.recursive(
    st.one_of(
        st.booleans().map(lambda value: Value(thrift.TRUE, value)),
        st.integers(-(1 << 63), (1 << 63) - 1).map(lambda value: Value(thrift.I64, value)),
        st.floats(allow_nan=False).map(lambda value: Value(thrift.DOUBLE, value)),
        st.binary(max_size=20).map(lambda value: Value(thrift.BINARY, value)),
    ),
    lambda inner: st.one_of(
        st.dictionaries(st.integers(1, 200), inner, max_size=4).map(
            lambda fields: Value(thrift.STRUCT, Struct(fields))
        ),
        st.lists(st.integers(-9, 9), max_size=40).map(lambda found: Value(thrift.LIST, Items(thrift.I32, found))),
        st.lists(st.booleans(), max_size=3).map(lambda found: Value(thrift.LIST, Items(thrift.TRUE, found))),
    ),
)


@given(st.dictionaries(st.integers(1, 32767), structs, max_size=5))
def test_structs_come_back(fields: dict[int, Value]) -> None:
    assert thrift.decode(thrift.encode(Struct(fields))) == fields


@given(st.binary(max_size=60))
def test_any_bytes_are_a_struct_or_refused(data: bytes) -> None:
    try:
        thrift.decode(data)
    except ValueError as error:
        assert str(error)  # noqa: PT017  most bytes are refused, and some are a struct


def test_a_damaged_file_is_an_error_or_still_the_same_rows(tmp_path: Path) -> None:
    """A byte is changed, at every place: no row gets another value in silence."""
    by_arrow(SIMPLE, tmp_path / "a.parquet", write_page_checksum=True)
    data = (tmp_path / "a.parquet").read_bytes()
    footer = int.from_bytes(data[-8:-4], "little")
    refused = 0
    for at in [*range(0, len(data) - footer - 8, 11), *range(len(data) - footer - 8, len(data), 11)]:
        damaged = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        try:
            block = load(damaged)
            found = block.decode(block.names)
        except RunError as error:
            refused += "again" in str(error) or "encrypted" in str(error)
            continue
        if at < len(data) - footer - 8:
            assert found.equals(table_of(data)), at
    assert refused > 50


@pytest.mark.parametrize("keep", [0, 4, 11, 12, 100, -1, -4, -9])
def test_a_cut_file_is_refused(tmp_path: Path, keep: int) -> None:
    by_arrow(SIMPLE, tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()[:keep]
    for read in (lambda: load(data), lambda: ParquetReader().read_header(io.BytesIO(data), len(data))):
        with pytest.raises(RunError, match="not a whole Parquet file"):
            read()


def test_damaged_pages_are_an_error_with_the_rows() -> None:
    data = bytearray(file_of(pa.table({"x": np.arange(1000.0)}), row_group_size=500, compression="gzip"))
    column = pq.read_metadata(io.BytesIO(data)).row_group(1).column(0)
    data[column.data_page_offset + 200 : column.data_page_offset + 260] = bytes(60)
    for start, end in ((0, 1000), (600, 700)):
        with pytest.raises(RunError, match=f"s: rows {start} to {end} cannot be decoded"):
            load(bytes(data), start, end).inputs((Feature("x", "float32", (), ("x",)),))


def test_bad_rows_have_a_reason() -> None:
    features = (Feature("x", "float32", (), ("x",)), Feature("i", "int32", (), ("n",), inside=(("i",),)))
    rows = [{"x": 1.5, "n": {"i": 2}}, {"x": None, "n": {"i": 2}}, {"x": 1e300, "n": {"i": 2}}, {"x": 1, "n": None}]
    inputs, bad = load(file_of(pa.Table.from_pylist(rows)), 0, 4).inputs(features)
    assert inputs.to_pylist() == [{"x": 1.5, "i": 2}]
    assert [(one.row, one.reason) for one in bad] == [(1, "null"), (2, "out_of_range"), (3, "null")]
    inputs, bad = load(file_of(SIMPLE.select(["at"]).rename_columns(["x"]))).inputs(features[:1])
    assert not inputs.num_rows
    assert "timestamp[us] does not feed a float32 input" in bad[0].message


def test_uuids_are_the_bytes_that_are_stored() -> None:
    values = [bytes(range(16)), bytes(16)]
    block = load(file_of(pa.table({"x": pa.array(values, pa.uuid())})), 0, 2)
    inputs, bad = block.inputs((Feature("x", "string", (), ("x",)),))
    assert (inputs["x"].to_pylist(), bad) == (values, [])
    again = ParquetReader().parse(block.raw([0, 1]).to_pylist(), [0, 1], "s", block.header)
    assert again.rows["x"].equals(block.rows["x"])


def test_chunks_are_whole_row_groups_unless_these_are_large() -> None:
    table = pa.table({"a": np.arange(1000.0)})
    data = file_of(table, row_group_size=100, use_dictionary=False, compression="none")
    size = pq.read_metadata(io.BytesIO(data)).row_group(0).total_byte_size

    def ends(chunk_bytes: int, chunk_rows: int | None = None) -> list[int]:
        cuts = ParquetReader().split(io.BytesIO(data), len(data), chunk_bytes, chunk_rows)
        return [cut.end for cut in cuts]

    assert ends(3 * size) == [300, 600, 900, 1000]
    assert ends(-(-size // 2)) == [*range(100, 1001, 100)]
    assert ends(-(-size // 4))[:4] == [25, 50, 75, 100]
    assert ends(10 * size, 250) == [200, 400, 600, 800, 1000]
    assert ends(10 * size, 50) == [*range(50, 1001, 50)]


def test_a_sample_has_about_the_size_asked_for() -> None:
    data = file_of(pa.table({"a": np.random.default_rng(0).random(100_000)}), use_dictionary=False)
    sample = ParquetReader().sample(io.BytesIO(data), 80_000)
    assert 8_000 < len(sample.positions) < 12_000
    assert sample.nbytes < 100_000


@given(at=st.integers(0, 1 << 12), byte=st.integers(0, 255))
def test_a_damaged_footer_is_one_kind_of_error(at: int, byte: int) -> None:
    data = bytearray(file_by("pyarrow, no dictionary"))
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    data[start + at % (len(data) - start)] = byte
    for read in (lambda: ParquetReader().read_header(io.BytesIO(data), len(data)), lambda: load(bytes(data), 3, 4)):
        with contextlib.suppress(RunError):
            assert read()


VIEWS = [
    pa.array(["1", None, "x"], pa.string_view()),
    pa.array([b"1", None, b"\xff"], pa.binary_view()),
    pa.array([["1"], None, ["x", None]], pa.list_(pa.string_view())),
    pa.array([["1"], None, []], pa.list_(pa.binary_view(), -1)),
    pa.array([{"s": "1"}, None, {"s": None}], pa.struct([("s", pa.string_view())])),
    pa.array([[("k", "1")], None, []], pa.map_(pa.string_view(), pa.string_view())),
    pa.array([[1], None, [2, 3]], pa.list_view(pa.int64())),
    pa.array([[[1]], None, [[2, 3], []]], pa.list_view(pa.list_view(pa.int64()))),
]


@pytest.mark.parametrize("column", VIEWS, ids=lambda column: str(column.type))
@pytest.mark.parametrize("dead", [[], [1]])
def test_columns_of_views_are_columns_like_others(column: pa.Array, dead: list[int]) -> None:
    values = column.to_pylist()
    group = 3 if pa.types.is_struct(column.type) else 2  # pyarrow cannot cut structs of views
    data = file_of(pa.table({"v": column, "x": [1.0, 2.0, 3.0]}), row_group_size=group)
    block = load(data, 0, 3)
    for some in (block, ParquetReader().sample(io.BytesIO(data), 1 << 20)):
        assert some.take([2, 0]).rows["v"].to_pylist() == [values[2], values[0]]
        assert some.header == block.header
        assert "view" not in str(some.schema())
        assert ParquetReader().parse(raws(some), [0, 1, 2], "s", some.header).rows["v"].to_pylist() == values
    kept = [row for row in range(3) if row not in dead]
    part = write(block, dead, Layout(True, (), (), None, None, (("y", "y"),)))
    assert pq.read_table(pa.BufferReader(part))["v"].to_pylist() == [values[row] for row in kept]
    merged = formats.load("parquet").writer.merge([(part, np.array(kept))])
    assert pq.read_table(pa.BufferReader(joined_bytes(merged)))["v"].to_pylist() == [values[row] for row in kept]


def test_two_columns_of_one_name_are_refused_and_not_called_damage() -> None:
    data = file_of(pa.table([[1.0], [2.0]], names=["x", "x"]))
    with pytest.raises(RunError, match=r"^the file: two of its columns are called 'x'; write the file again"):
        ParquetReader().read_header(io.BytesIO(data), len(data))


def test_a_column_may_have_an_empty_name() -> None:
    data = file_of(pa.table({"": [1, 2], "x": [1.0, 2.0]}))
    part = write(load(data, 0, 2), layout=Layout(True, (), (), None, None, (("y", "y"),)))
    assert table_of(part)[""].to_pylist() == [1, 2]


PLAIN = pa.table({"x": [1.0, 2.0, 3.0]})
FILES = [
    file_of(PLAIN),
    file_of(PLAIN, row_group_size=1, write_page_index=True),
    file_of(PLAIN, use_dictionary=False, compression="none"),
    file_of(PLAIN.slice(0, 0)),
]


@pytest.mark.parametrize("last", [*map(file_by, WRITERS), *FILES])
@pytest.mark.parametrize("first", FILES)
def test_files_one_after_the_other_are_refused_since_a_footer_has_the_rows_of_the_last(
    first: bytes, last: bytes
) -> None:
    for before in (first, first + last):
        with pytest.raises(RunError, match=f"its footer has the rows from byte {len(before)} only; give each"):
            ParquetReader().read_header(io.BytesIO(before + last), 0)
    assert ParquetReader().read_header(io.BytesIO(last), 0)
