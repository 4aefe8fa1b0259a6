"""Delimited text as rows: what cells feed the model, what is written, and what is refused."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.blocks import block_of, joined_bytes, raws
from transforms import formats
from transforms.errors import PlaceError, RunError, UsageError
from transforms.formats.base import Block
from transforms.formats.csv import encode, inputs
from transforms.formats.csv.dialect import Dialect
from transforms.formats.spec import FormatSpec
from transforms.mapping import numbers
from transforms.records import BadRow, Feature, Layout, without

CSV = formats.load("csv")
COMMAS = Dialect(ord(","), ord('"'))
ALL = Layout(True, (), (), "key", None, (("y", "p"),))
KINDS = ("float32", "float64", "int8", "int64", "uint64", "bool", "string")
SPELLINGS = """
    1 -1 0 -0 1.0 31.5 1e2 1.e2 1e400 007 +1 .5 5. 0x1f 1_0 300 9007199254740993 18446744073709551615
    NaN nan inf Infinity -Infinity true false True x "1" "true" "1""2" "" é NA "NA" "x" "-1"
"""
spellings = st.sampled_from([*SPELLINGS.split(), " 1", "", "a\rb", '"a\nb"', "\udcff"])
nulls = st.sampled_from([(), ("NA", "-1", "true", "1", "é"), ("x", "1.0", "NaN", "007")])


def feature(dtype: str, *, missing: str | None = None) -> Feature:
    return Feature("x", dtype, (), ("a",), missing=(missing,) if missing is not None else ())


def value(cell: bytes, dtype: str, nulls: Sequence[str] = ()) -> Any:
    """The value that a cell has by the rules of transforms.mapping.numbers; None if it has none."""
    try:
        text = (COMMAS.value(cell) or b"").decode()
    except UnicodeDecodeError:
        return None
    if (cell.decode() if dtype == "string" else text) in nulls:
        return None
    if dtype == "string":
        return None if not cell else text.encode()
    if dtype == "bool":
        return {"true": True, "1": True, "false": False, "0": False}.get(text)
    if "float" in dtype:
        made = float(text) if numbers.spells(text) or text in numbers.WORDS else None
        with np.errstate(over="ignore"):
            narrow = None if made is None else np.dtype(dtype).type(made)
        return narrow if narrow is None or np.isfinite(narrow) or text in numbers.WORDS else None
    whole = numbers.whole(text)
    return None if whole is None or not np.iinfo(dtype).min <= whole <= np.iinfo(dtype).max else int(whole)


@given(cells=st.lists(spellings, max_size=8), dtype=st.sampled_from(KINDS), nulls=nulls)
@example(cells=['"1"', "1", '"false"', '"0"'], dtype="bool", nulls=("1", "false"))
def test_each_cell_feeds_what_it_spells_whatever_its_neighbours_are(
    cells: list[str], dtype: str, nulls: tuple[str, ...]
) -> None:
    spelled = [cell.encode("utf-8", "surrogateescape") for cell in cells]
    data = b"a,b\n" + b"".join(cell + b",z\n" for cell in spelled)
    made, bad = block_of(formats.load(FormatSpec("csv", null_values=nulls)), data).inputs([feature(dtype)])
    expected = [value(cell, dtype, nulls) for cell in spelled]
    assert repr(made["x"].to_pylist()) == repr(
        [one.item() if isinstance(one, np.generic) else one for one in expected if one is not None]
    )
    assert [one.row for one in bad] == [at for at, one in enumerate(expected) if one is None]


@given(cells=st.lists(spellings, max_size=8), dtype=st.sampled_from(KINDS), nulls=nulls)
@example(cells=['"1"', "1", '"false"', '"0"'], dtype="bool", nulls=("1", "false"))
def test_both_ways_to_read_give_the_same_result(cells: list[str], dtype: str, nulls: tuple[str, ...]) -> None:
    fmt = formats.load(FormatSpec("csv", null_values=nulls))
    data = b"a,b\n" + b"".join(cell.encode("utf-8", "surrogateescape") + b",z\n" for cell in cells)
    found = block_of(fmt, data).inputs([feature(dtype)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "_read_csv", lambda *_: None)
        exact = block_of(fmt, data).inputs([feature(dtype)])
    assert repr(found[0].to_pylist()) == repr(exact[0].to_pylist())
    assert found[1] == exact[1]


@pytest.mark.parametrize(
    ("cell", "dtype", "reason", "says"),
    [
        ("abc", "float32", "wrong_type", "column a: 'abc', not a number"),
        ("007", "int64", "wrong_type", "column a: '007', not a number"),
        ("1.5", "int64", "fraction", "column a: 1.5 for an int64 input"),
        ("300", "int8", "out_of_range", "column a: 300 does not fit int8"),
        ("1e39", "float32", "out_of_range", "column a: 1e39 does not fit float32"),
        ("yes", "bool", "wrong_type", "column a: 'yes', not a bool"),
        ("", "float32", "null", "column a: empty"),
        ('""', "float32", "null", "column a: empty"),
        ("", "string", "null", "column a: empty"),
        ("1,2", "float32", "wrong_cells", "3 cells, and there are 2 columns"),
        ('"1"2', "float32", "not_csv", "bytes follow the closing quote of a cell"),
    ],
)
def test_a_bad_cell_is_named(cell: str, dtype: str, reason: str, says: str) -> None:
    (bad,) = block_of(CSV, f"a,b\n{cell},z\n".encode()).inputs([feature(dtype)])[1]
    assert bad == BadRow(0, "read", reason, says)


def test_cells_that_the_plan_names_hold_no_value_and_stay_as_they_are() -> None:
    fmt = formats.load(FormatSpec("csv", null_values=("NA", "-")))
    block = block_of(fmt, b'a,NA\nNA,-\n"NA","-"\n1,"x"\n')
    assert block.names == ("a", "NA")
    assert block.values() == [{"a": None, "NA": None}, {"a": "NA", "NA": "-"}, {"a": "1", "NA": "x"}]
    made, bad = block.inputs([feature("float32", missing="7")])
    assert (made["x"].to_pylist(), bad) == ([7, 7, 1], [])
    made, bad = block.inputs([feature("string")._replace(fields=("NA",))])
    assert made["x"].to_pylist() == [b"-", b"x"]
    assert bad == [BadRow(0, "read", "null", "column NA: '-', which --null_values names")]
    assert block.table(range(3), block.schema())[0]["a"].to_pylist() == [None, "NA", "1"]
    part = joined_bytes(fmt.writer.write(block, [], pa.record_batch({"y": pa.array([b"NA", b"-x", b"z"])}), ALL).blocks)
    assert part.splitlines() == [b"a,NA,p,key", b'NA,-,"NA",s#5', b'"NA","-",-x,s#10', b'1,"x",z,s#19']


def test_a_default_is_for_empty_cells_and_columns_that_are_not_there() -> None:
    block = block_of(CSV, b'a,b\n,z\n"",z\nx,z\n')
    made, bad = block.inputs([feature("float32", missing="7")])
    assert (made["x"].to_pylist(), [one.row for one in bad]) == ([7, 7], [2])
    made, bad = block.inputs([feature("string", missing="Bern")])
    assert made["x"].to_pylist() == [b"Bern", b"", b"x"]
    made, bad = block.inputs([feature("float32", missing="7")._replace(fields=("c",))])
    assert (made["x"].to_pylist(), bad) == ([7, 7, 7], [])
    assert block.inputs([feature("float32")._replace(fields=("c",))])[1][0].message == "column c: not in the file"


def test_a_list_cannot_come_from_a_cell() -> None:
    made, bad = block_of(CSV, b"a\n1\n2\n").inputs([Feature("x", "float32", (2,), ("a",))])
    assert (made.num_rows, [one.reason for one in bad]) == (0, ["wrong_shape", "wrong_shape"])


def write(block: Block, layout: Layout = ALL, bad: Sequence[BadRow] = (), values: Any = None) -> bytes:
    count = len(without(len(block.positions), bad))
    column = pa.array(np.arange(count) / 2, pa.float32()) if values is None else values
    return joined_bytes(CSV.writer.write(block, bad, pa.record_batch({"y": column}), layout).blocks)


def test_a_record_keeps_its_bytes_and_its_line_end() -> None:
    data = b'\xef\xbb\xbfa,"b"\r\n007,""\r\n\r\n1e5,"x\ny"\n,'
    assert write(block_of(CSV, data)) == (b'a,"b",p,key\r\n007,"",0.0,s#10\r\n1e5,"x\ny",0.5,s#20\n,,1.0,s#30\r\n')


@pytest.mark.parametrize(
    ("layout", "header", "row"),
    [
        (ALL._replace(row=False, key=None), b"p", b"0.0"),
        (ALL._replace(include=("c",), key=None), b"c,p", b'"x,y",0.0'),
        (ALL._replace(exclude=("b",)), b"a,c,p,key", b'1,"x,y",0.0,s#6'),
        (ALL._replace(include=("c", "a"), order=("c", "key", "p", "a")), b"c,key,p,a", b'"x,y",s#6,0.0,1'),
        (ALL._replace(row=False, key=None, key_field="a"), b"p,a", b"0.0,1"),
    ],
)
def test_chosen_cells_are_written_as_they_are_spelled(layout: Layout, header: bytes, row: bytes) -> None:
    assert write(block_of(CSV, b'a,b,c\n1,2,"x,y"\n'), layout) == header + b"\n" + row + b"\n"


def test_vectors_take_a_column_for_each_value_and_other_lists_are_json() -> None:
    block, layout = block_of(CSV, b"a\n1\n"), ALL._replace(key=None)
    vector = pa.array([[1.5, float("nan")]], pa.list_(pa.float32(), 2))
    assert write(block, layout, values=vector) == b"a,p_0,p_1\n1,1.5,NaN\n"
    nested = pa.array([[[1, 2], [3, 4]]], pa.list_(pa.list_(pa.int64(), 2), 2))
    assert write(block, layout, values=nested) == b'a,p\n1,"[[1, 2], [3, 4]]"\n'
    assert write(block, layout, values=pa.array([[1]], pa.list_(pa.int64(), 1))) == b"a,p\n1,1\n"
    assert write(block, layout, values=pa.array([b'say "a,b"'])) == b'a,p\n1,"say ""a,b"""\n'


@given(values=st.lists(st.none() | st.text('a",\n\r;é', max_size=5), min_size=1, max_size=5))
def test_text_is_read_back_as_it_was(values: list[str | None]) -> None:
    made = joined_bytes(CSV.writer.encode(pa.table({"a": pa.array(values, pa.string()), "b": values})).blocks)
    block = CSV.writer.read_back(made)
    assert [row["a"] for row in block.values()] == values
    assert block.table(range(len(values)), block.schema())[0].to_pylist() == [{"a": v, "b": v} for v in values]
    rows = list(csv.reader(io.StringIO(made.decode(), newline="")))
    assert rows == [["a", "b"], *([value or ""] * 2 for value in values)]


def test_floats_are_spelled_so_that_they_read_back() -> None:
    made = encode.encode(pa.array([1.0, 0.1, float("nan"), float("-inf"), None, 1e-7]), COMMAS)
    assert made.to_pylist() == [b"1.0", b"0.1", b"NaN", b"-inf", b"", b"1e-7"]


def test_a_left_join_keeps_bad_rows_in_their_place() -> None:
    block = block_of(CSV, b"a,b\n1,z\nx,z\n1,2,3\n\xff,z\n2,z\n")
    bad = block.inputs([feature("float32")])[1]
    made = write(block, ALL._replace(error="error"), bad).decode()
    rows = list(csv.DictReader(io.StringIO(made)))
    assert [(row["a"], row["b"], row["p"]) for row in rows] == [
        ("1", "z", "0.0"),
        ("x", "z", ""),
        ("", "", ""),
        ("", "", ""),
        ("2", "z", "0.5"),
    ]
    errors = [json.loads(row["error"]) if row["error"] else None for row in rows]
    assert [error and error["row"] for error in errors] == [None, None, "1,2,3", "/yx6", None]


def test_names_that_are_taken_are_refused() -> None:
    with pytest.raises(UsageError, match="two columns would be called p; rename the predictions"):
        write(block_of(CSV, b"a,p\n1,2\n"))
    with pytest.raises(RunError, match="names the column 'a' twice"):
        CSV.reader.read_header(io.BytesIO(b"a,b,a\n"), 6)
    with pytest.raises(RunError, match="the header has NUL bytes"):
        CSV.reader.read_header(io.BytesIO(b"\0" * 9), 9)
    with pytest.raises(RunError, match="the header is not UTF-8"):
        CSV.reader.read_header(io.BytesIO(b"a,\xff\n"), 5)


def test_columns_that_the_plan_names_make_the_first_record_a_row() -> None:
    spec = FormatSpec("csv", has_header=False, header="a;b", delimiter=";", quote="'")
    fmt, of_parts = formats.load(spec), formats.load(spec.of_parts)
    block = block_of(fmt, b"1;'x;y'\n2;z\n")
    assert block.values() == [{"a": "1", "b": "x;y"}, {"a": "2", "b": "z"}]
    part = joined_bytes(fmt.writer.write(block, [], pa.record_batch({"y": [1, 2]}), ALL).blocks)
    assert part == b"a;b;p;key\n1;'x;y';1;s#0\n2;z;2;s#8\n"
    for read in (fmt.writer.read_back(part), of_parts.reader.sample(io.BytesIO(part), 99)):
        assert read.values()[0] == {"a": "1", "b": "x;y", "p": "1", "key": "s#0"}


def test_a_record_over_several_lines_with_another_number_of_cells_stops_the_run() -> None:
    block = block_of(CSV, b'a,b\n1,"2\n3,4\n5,6",7\n')
    with pytest.raises(
        PlaceError, match=r"byte 4: .* goes over several lines and has 3 cells, but there are 2 columns"
    ):
        block.inputs([feature("float32")])
    with pytest.raises(PlaceError, match=r"byte 4: "):
        block.take([0]).inputs([feature("float32")])


@pytest.mark.parametrize("header", [b"b,a", b'"b",a', b'"b","a"'])
def test_a_header_in_the_middle_with_other_places_of_the_columns_stops_the_run(header: bytes) -> None:
    block = block_of(CSV, b"a,b\n1,2\n" + header + b"\n3,4\n")
    with pytest.raises(PlaceError, match=r"byte 8: the record 'b,a' is the header .* in another order"):
        block.inputs([feature("float32")])


def test_the_same_header_in_the_middle_is_a_dead_letter() -> None:
    _, bad = block_of(CSV, b"a,b\n1,2\na,b\n3,4\n").inputs([feature("float32")])
    assert [row for row, *_ in bad] == [1]


def test_without_a_quote_a_prediction_that_needs_one_is_a_dead_letter() -> None:
    fmt = formats.load(FormatSpec("csv", quote="none"))
    block, values = block_of(fmt, b"a\n1\n2\n3\n4\n"), pa.array([b"x", b"y,z", b"\xff", b""])
    joined = fmt.writer.write(block, [], pa.record_batch({"y": values}), ALL._replace(key=None))
    assert joined_bytes(joined.blocks) == b"a,p\n1,x\n4,\n"
    assert [(one.row, one.reason) for one in joined.bad] == [(1, "schema"), (2, "not_utf8")]
    assert joined.bad[0].message == "prediction p: 'y,z' would need quotes, and there are none"


@pytest.mark.parametrize(
    ("delimiter", "layout", "message"),
    [
        (";", ALL._replace(error="error", key=None), "--bad_rows=null writes errors as JSON text"),
        ("s", ALL, "the keys of s would need quotes"),
        ("\t", ALL._replace(error="error"), None),
    ],
)
def test_without_a_quote_errors_and_keys_that_need_one_are_refused(
    delimiter: str, layout: Layout, message: str | None
) -> None:
    fmt = formats.load(FormatSpec("csv", quote="none", delimiter=delimiter))
    block = block_of(fmt, f"a{delimiter}b\n1{delimiter}2\n".encode())
    bad = [BadRow(0, "read", "wrong_type", 'it is "\t\n"')] if layout.error else []
    predictions = pa.record_batch({"y": pa.array([1.0][len(bad) :], pa.float32())})
    if message is None:
        part = joined_bytes(fmt.writer.write(block, bad, predictions, layout).blocks)
        assert [line.count(b"\t") for line in part.splitlines()] == [4, 4]
    else:
        with pytest.raises(UsageError, match=message):
            fmt.writer.write(block, bad, predictions, layout)


def test_rows_that_come_by_themselves_may_end_with_a_carriage_return() -> None:
    block = block_of(CSV, b"a,b\n1,2\r\r\n3,4\r\n")
    assert raws(block) == [b"1,2\r", b"3,4"]
    assert raws(CSV.reader.parse(raws(block), block.positions.tolist(), "s", block.header)) == raws(block)
