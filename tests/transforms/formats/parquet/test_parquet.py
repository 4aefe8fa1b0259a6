"""Parquet files of five writers: columns are copied or encoded again, and both give equal tables."""

import datetime
import decimal
import io
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
from hypothesis import given
from hypothesis import strategies as st

from tests.support.blocks import joined_bytes
from transforms import formats
from transforms.errors import RunError
from transforms.formats.parquet import footer as footers
from transforms.formats.parquet import thrift
from transforms.formats.parquet.read import ParquetBlock, ParquetReader
from transforms.formats.parquet.thrift import Items, Struct, Value
from transforms.records import BadRow, Chunk, Layout, without

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
    "pyarrow, sorted": (by_arrow, NESTED, {"sorting_columns": [pq.SortingColumn(0)]}),
    "pyarrow, no dictionary": (by_arrow, NESTED, {"use_dictionary": False, "store_schema": False}),
}


@pytest.fixture(params=WRITERS)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> bytes:
    write, table, options = WRITERS[request.param]
    write(table, tmp_path / "a.parquet", **options)
    return (tmp_path / "a.parquet").read_bytes()


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


def test_both_ways_give_equal_tables(data: bytes) -> None:
    """A part with a row less is encoded again; its rows are those of the copied part."""
    copied = table_of(write(load(data)))
    for bad in ([0], [3, 12], [*range(10)], [24]):
        kept = [row for row in range(ROWS) if row not in bad]
        encoded = table_of(write(load(data), bad))
        assert encoded.equals(copied.take(kept).cast(encoded.schema))
        assert encoded.schema.names == copied.schema.names


def test_a_range_of_rows_is_that_of_the_whole(data: bytes) -> None:
    whole = load(data)
    for start, end in ((0, 4), (3, 17), (24, 25), (10, 20), (0, 0)):
        part = load(data, start, end)
        assert part.decode(part.names).equals(whole.decode(whole.names).slice(start, end - start))
        assert part.positions.tolist() == list(range(start, end))
        assert table_of(write(part))["key"].to_pylist() == [f"s#{row}" for row in range(start, end)]


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


TYPES = [
    pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.string(), pa.large_string(),
    pa.binary(), pa.binary(3), pa.date32(), pa.timestamp("ns"), pa.timestamp("us", "Europe/Zurich"),
    pa.timestamp("ms", "UTC"), pa.time64("ns"), pa.time32("ms"), pa.duration("us"), pa.decimal128(9, 3),
    pa.decimal256(50, 10), pa.list_(pa.float32()), pa.list_(pa.int64(), 2), pa.map_(pa.string(), pa.int32()),
    pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))]), pa.dictionary(pa.int32(), pa.string()), pa.null(),
]  # fmt: skip


def values_of(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Values that Arrow makes a column of a type from."""
    whole = st.integers(0, 100)
    if pa.types.is_null(kind):
        return st.none()
    if pa.types.is_boolean(kind):
        return st.booleans()
    if pa.types.is_floating(kind):
        return st.floats(width=kind.bit_width, allow_subnormal=False).filter(lambda value: value == value)
    if pa.types.is_decimal(kind):
        return st.decimals(-1000, 1000, places=kind.scale)
    if pa.types.is_fixed_size_binary(kind):
        return st.binary(min_size=3, max_size=3)
    if pa.types.is_binary(kind):
        return st.binary(max_size=4)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        return st.text(max_size=4)
    if pa.types.is_struct(kind):
        return st.fixed_dictionaries({field.name: st.none() | values_of(field.type) for field in kind})
    if pa.types.is_map(kind):
        return st.dictionaries(st.text(max_size=2), st.none() | whole, max_size=2).map(
            lambda found: list(found.items())
        )
    if pa.types.is_list(kind):
        return st.lists(st.none() | values_of(kind.value_type), max_size=3)
    if pa.types.is_fixed_size_list(kind):
        return st.lists(whole, min_size=2, max_size=2)
    return whole


@pytest.mark.parametrize("kind", TYPES, ids=str)
@given(data=st.data())
def test_a_dead_letter_has_the_whole_row(kind: pa.DataType, data: st.DataObject) -> None:
    missing = st.nothing() if pa.types.is_fixed_size_list(kind) else st.none()  # pyarrow does not read these
    rows = data.draw(st.lists(missing | values_of(kind), min_size=1, max_size=3))
    column = (
        pa.array(rows, kind) if not pa.types.is_float16(kind) else pa.array(rows, pa.float32()).cast(kind, safe=False)
    )
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": column}), sink)
    block = load(sink.getvalue(), 0, len(rows))
    again = ParquetReader().parse(block.raw(range(len(rows))).to_pylist(), range(len(rows)), "s", block.header)
    assert again.decode(["a"])["a"].type == block.decode(["a"])["a"].type
    assert again.decode(["a"])["a"].to_pylist() == block.decode(["a"])["a"].to_pylist()


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
    for at in [*range(0, len(data) - footer - 8, 5), *range(len(data) - footer - 8, len(data), 3)]:
        damaged = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        try:
            block = load(damaged)
            found = block.decode(block.names)
        except RunError as error:
            refused += "again" in str(error) or "encrypted" in str(error)
            continue
        if at < len(data) - footer - 8:
            assert found.equals(table_of(data)), at
    assert refused > 100


@pytest.mark.parametrize("keep", [0, 4, 11, 12, 100, -1, -4, -9])
def test_a_cut_file_is_refused(tmp_path: Path, keep: int) -> None:
    by_arrow(SIMPLE, tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()[:keep]
    for read in (lambda: load(data), lambda: ParquetReader().read_header(io.BytesIO(data), len(data))):
        with pytest.raises(RunError, match="not a whole Parquet file"):
            read()
