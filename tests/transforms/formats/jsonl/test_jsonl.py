"""JSON Lines: every line is in exactly one of parts and dead letters, for any bytes and any chunks."""

import io
import json
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.blocks import block_of, chunks, cut, raws, read
from transforms import columns
from transforms.formats.jsonl import FORMAT, split
from transforms.formats.jsonl import read as reading
from transforms.formats.jsonl.split import BOM
from transforms.reasons import Reason
from transforms.records import Feature, Layout

X = (Feature("x", "float32", (2,), ("x",)),)
GOOD = b'{"x": [1, 2.5]}'
WHOLE = Layout(True, (), (), None, None, (("y", "y"),))

words = st.sampled_from(
    [
        b"{", b"}", b"[", b"]", b",", b":", b'"', b'"x"', b"\\u0078", b"1", b"-2.5", b"1e400", b"NaN", b"null", b"true",
        b" ", b"\t", b"\r", b"\n", b"\n\n", b"\xff", b"\xc3\xa9", b"\x00", BOM, b'{"x": [1, 2]}', b'{"x": [3, 4], "n": "a"}',
        b'{"x": [1, 2]}{"x": [1, 2]}', b'{"x": [1, 2], "y": 0}', b'{"x": [1, 2], "\\u0079": 0}', b'{"x": [1, 2], "z": NaN}',
        b'{"x": [1]}', b'{"x": [1, null]}', b'{"x": [1e39, 1]}', b'{"x": [1, 2], "x": [1, 2]}', b'{"z": "NaN", "x": [1, 2]}',
    ]
)  # fmt: skip
texts = st.lists(words, max_size=30).map(b"".join) | st.binary(max_size=60)


def score(
    data: bytes, chunk_bytes: int
) -> tuple[list[tuple[int, bytes]], list[tuple[int, str, bytes]], int, list[bytes]]:
    """Reads and writes without a model; returns good and bad rows by position, blank lines, and output lines."""
    good, bad, blank, out = [], [], 0, []
    for chunk in chunks(FORMAT, data, chunk_bytes):
        block = FORMAT.reader.load(io.BytesIO(data), chunk)
        inputs, unread = block.inputs(X)
        fine = np.ones(len(block.positions), np.bool_)
        fine[[b.row for b in unread]] = False
        assert inputs.num_rows == fine.sum()
        sums = [sum(v) for v in inputs["x"].to_pylist()]
        joined = FORMAT.writer.write(
            block,
            unread,
            pa.RecordBatch.from_arrays([pa.array(sums, pa.float32())], ["y"]),
            WHOLE,
        )
        fine[[b.row for b in joined.bad]] = False
        text, where = raws(block), block.positions.tolist()
        good += [(where[row], text[row]) for row in np.flatnonzero(fine)]
        bad += [(where[b.row], b.reason, text[b.row]) for b in sorted([*unread, *joined.bad])]
        out += b"".join(bytes(memoryview(block)) for block in joined.blocks).splitlines(keepends=True)
        blank += block.blank
    return good, bad, blank, out


def split_lines(data: bytes) -> list[bytes]:
    """Returns the rows of a file by the simplest rule."""
    found = data.removeprefix(BOM).split(b"\n")
    return [line for line in found if line.strip(b" \t\r")]


@given(data=texts, chunk_bytes=st.integers(1, 64))
@example(data=BOM + GOOD, chunk_bytes=1)
@example(data=b"\n" * 5, chunk_bytes=2)
def test_every_line_is_in_exactly_one_output_for_any_bytes_and_any_chunk(data: bytes, chunk_bytes: int) -> None:
    good, bad, _, _ = score(data, chunk_bytes)
    everything = sorted([*good, *((position, text) for position, _, text in bad)])
    assert [text for _, text in everything] == split_lines(data)
    assert all(data[position : position + len(text)] == text for position, text in everything)


@given(data=texts, chunk_bytes=st.integers(1, 64))
def test_what_becomes_of_a_row_does_not_depend_on_the_chunks(data: bytes, chunk_bytes: int) -> None:
    one = score(data, len(data) + 1)
    many = score(data, chunk_bytes)
    assert (one[0], one[1], one[3]) == (many[0], many[1], many[3])


@given(data=texts)
def test_what_becomes_of_a_row_does_not_depend_on_its_neighbours(data: bytes) -> None:
    good, bad, _, _ = score(data, len(data) + 1)
    for _, text in good:
        assert not score(text, 1 << 20)[1]
    for _, reason, text in bad:
        if text.startswith(BOM):
            continue  # at the start of a file, the byte order mark would not belong to the row
        assert [r for _, r, _ in score(text, 1 << 20)[1]] == [reason]


@given(data=texts)
def test_a_joined_line_is_the_line_with_the_prediction_before_its_last_brace(data: bytes) -> None:
    good, _, _, out = score(data, len(data) + 1)
    assert len(good) == len(out)
    for (_, before), after in zip(good, out, strict=True):
        row = json.loads(before)
        brace = before.rindex(b"}")
        y = float(np.float32(row["x"][0]) + np.float32(row["x"][1]))
        assert after.startswith(before[:brace] + b', "y": ')
        assert after.endswith(before[brace:] + b"\n")
        assert json.loads(after) == {**row, "y": pytest.approx(y)}


@given(data=texts, long_line=st.sampled_from([0, 1 << 40]))
def test_newlines_are_where_they_are_whichever_way_they_are_searched(data: bytes, long_line: int) -> None:
    with mock.patch.object(split, "LONG_LINE", long_line):
        found = raws(block_of(FORMAT, data))
    assert found == split_lines(data)


@given(gaps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=12), data=st.data())
def test_pieces_are_gathered_whether_they_touch_or_not(gaps: list[tuple[int, int]], data: st.DataObject) -> None:
    borders = np.cumsum([0, *(size for gap in gaps for size in gap)])
    text = bytes(range(int(borders[-1])))
    starts, ends = borders[1::2], borders[2::2]
    pieces = columns.gather(text, starts, ends)
    expected = [text[start:end] for start, end in zip(starts, ends, strict=True)]
    assert pieces.to_pylist() == expected
    assert columns.contents(pieces).to_pybytes() == b"".join(expected)
    which = data.draw(st.sets(st.sampled_from(range(len(gaps)))).map(sorted)) if gaps else []
    assert columns.pick(pieces, np.array(which, np.int64)).to_pylist() == [expected[at] for at in which]


@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=8), chunk_bytes=st.integers(1, 50))
def test_chunks_cover_the_file_and_end_at_lines(sizes: list[int], chunk_bytes: int) -> None:
    data = b"\n".join(b"a" * size for size in sizes)
    found = [(chunk.start, chunk.end) for chunk in chunks(FORMAT, data, chunk_bytes)]
    assert b"".join(data[start:end] for start, end in found) == data
    assert all(data[end - 1 : end] == b"\n" for _, end in found[:-1])


def test_a_boundary_exactly_on_a_newline_cuts_there() -> None:
    assert cut(FORMAT, b"aaa\nbbb\n", 4) == [4, 8]
    assert cut(FORMAT, b"aaa\nbbb\n", 3) == [4, 8]


def test_a_line_longer_than_the_readers_block_is_read() -> None:
    long = json.dumps({"x": [1, 2], "text": "a" * (9 << 20)}).encode()
    good, bad, _, out = score(b"\n".join([GOOD, long, GOOD]), 1 << 26)
    assert (len(good), bad, len(out)) == (3, [], 3)


BAD = [
    (b"nope", Reason.NOT_JSON),
    (b'{"x": [1, 2]', Reason.NOT_JSON),
    (b'{"x": [1, 2]}{"x": [1, 2]}', Reason.NOT_JSON),
    (b'{"x": [1, 2]} {"x": [1, 2]}', Reason.NOT_JSON),
    (b'{"x": [1, 2]} trailing', Reason.NOT_JSON),
    (b'{"x": [NaN, 2]}', Reason.NOT_JSON),
    (b'{"x": [1, 2], "z": NaN}', Reason.NOT_JSON),
    (b'{"x": [1, 2], "z": -Infinity}', Reason.NOT_JSON),
    (b'{"x": [1, 2], "z": Inf}', Reason.NOT_JSON),
    (b'{"x": [1, 2], "z": 1e400}', Reason.OUT_OF_RANGE),
    (b'{"x": [1, 2], "z": "\\ud800"}', Reason.NOT_JSON),
    (b'{"x": [1, 2],}', Reason.NOT_JSON),
    (b'\x00{"x": [1, 2]}', Reason.NOT_JSON),
    (b'{"x": [1, 2]}\x0b', Reason.NOT_JSON),
    (b"[1, 2]", Reason.NOT_OBJECT),
    (b"3", Reason.NOT_OBJECT),
    (b"{}", Reason.MISSING),
    (b'{"y2": [1, 2]}', Reason.MISSING),
    (b'{"x": null}', Reason.NULL),
    (b'{"x": [1, null]}', Reason.NULL),
    (b'{"x": []}', Reason.WRONG_SHAPE),
    (b'{"x": [1]}', Reason.WRONG_SHAPE),
    (b'{"x": [1, 2, 3]}', Reason.WRONG_SHAPE),
    (b'{"x": 1}', Reason.WRONG_SHAPE),
    (b'{"x": [[1], [2]]}', Reason.WRONG_SHAPE),
    (b'{"x": [1, "two"]}', Reason.WRONG_TYPE),
    (b'{"x": [1, true]}', Reason.WRONG_TYPE),
    (b'{"x": {"a": 1}}', Reason.WRONG_SHAPE),
    (b'{"x": [1e39, 1]}', Reason.OUT_OF_RANGE),
    (b'{"x": [1, 2], "x": [1, 2]}', Reason.DUPLICATE_NAME),
    (b'{"x": [1, 2], "\\u0078": [1, 2]}', Reason.DUPLICATE_NAME),
    (b'{"x": [1, 2], "n": "\xff"}', Reason.NOT_UTF8),
    (b'{"x": [1, 2], "y": 3}', Reason.COLLISION),
    (b'{"x": [1, 2], "\\u0079": 3}', Reason.COLLISION),
]  # fmt: skip


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_a_bad_row_is_separated_and_its_neighbours_are_joined(line: bytes, reason: Reason) -> None:
    good, bad, _, out = score(b"\n".join([GOOD, line, GOOD]), 1 << 20)
    assert [(r, text) for _, r, text in bad] == [(reason.value, line)]
    assert [text for _, text in good] == [GOOD, GOOD]
    assert len(out) == 2


def test_a_byte_order_mark_within_a_file_is_named() -> None:
    data = GOOD + b"\n" + BOM + GOOD
    (bad,) = read(FORMAT, data, X)[1]
    assert (bad.reason, bad.message) == (Reason.NOT_JSON.value, "a byte order mark is not JSON")


FINE = [
    b'{"x": [1, 2]}\r',
    b'  {"x": [1, 2]}\t ',
    b'{"\\u0078": [1, 2]}',
    b'{"x": [1, 2], "z": "NaN and Inf and \\"y\\""}',
    b'{"x": [1, 2], "z": {"y": 1, "x": 2}}',
    b'{"x": [1, 2], "n": 1, "n": 2}',
    b'{"x": [9007199254740993, -0]}',
    b'{"x": [1e-400, 2E+1]}',
    '{"x": [1, 2], "n": "é\u2028😀"}'.encode(),
    b'{"x": [1, 2], "n": ' + b"1" * 5000 + b"}",
    b'{"x": [1, 2], "n": {"' + b"[" * 5000 + b'": 1}}',
]


@pytest.mark.parametrize("depth", [100, 249, 250, 400, 600, 950, 1000, 100_000])
@pytest.mark.parametrize(("opens", "inner", "closes"), [(b"[", b"", b"]"), (b'{"n": ', b"1", b"}")])
@pytest.mark.parametrize("name", [b"n", b"x"])
def test_a_row_nested_at_any_depth_is_read_or_a_dead_letter(
    name: bytes, depth: int, opens: bytes, inner: bytes, closes: bytes
) -> None:
    nested = opens * depth + inner + closes * depth
    line = b'{"x": [1, 2], "n": 0, "n": ' + nested + b"}" if name == b"n" else b'{"x": ' + nested + b"}"
    good, bad, _, _ = score(b"\n".join([GOOD, line, GOOD]), 1 << 20)
    assert [text for _, text in good] == [GOOD, line, GOOD][:: 1 if name == b"n" else 2]
    assert [text for _, _, text in bad] == ([] if name == b"n" else [line])
    block = block_of(FORMAT, line)
    rows = block.values()
    assert (list(rows[0]), repr(rows)) == (["x", "n"] if name == b"n" else ["x"], repr(block.values()))
    table, unfit = block.table([0], block.schema())
    assert table.num_rows + len(unfit) == 1


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"x":' * 100_000, b"[" * 900 + b"]" * 899, b'"' + b"[" * 999])
def test_a_row_that_never_closes_is_a_dead_letter(text: bytes) -> None:
    line = b'{"x": [1, 2], "n": ' + text + b"}"
    good, bad, _, _ = score(b"\n".join([GOOD, line, GOOD]), 1 << 20)
    assert ([text for _, text in good], [(reason, text) for _, reason, text in bad]) == (
        [GOOD, GOOD],
        [(Reason.NOT_JSON.value, line)],
    )
    assert block_of(FORMAT, line).values() == []


def test_the_place_in_a_bad_row_is_that_in_the_row() -> None:
    found = read(FORMAT, b"\n".join([GOOD, b'{"x": [1, 2]', b'{"x": [1, 2], "z": "\\ud800"}']), X)[1]
    assert [bad.message for bad in found] == [
        "Expecting ',' delimiter: character 13 of the row",
        "The surrogate pair in string is invalid.",
    ]


def test_half_of_a_surrogate_pair_in_a_name_leaves_the_row_out_of_the_schema() -> None:
    data = b'{"x": 1}\n{"\\udc00": 1}\n'
    assert block_of(FORMAT, data).schema() == pa.schema([("x", pa.int64())])


@pytest.mark.parametrize("line", FINE)
def test_an_odd_but_good_row_is_joined_as_it_is(line: bytes) -> None:
    good, bad, _, _ = score(line, 1 << 20)
    assert len(block_of(FORMAT, line).values()) == 1  # else `verify` would miss the row
    assert [text for _, text in good] == [line]
    assert not bad


def read_values(dtype: str, shape: tuple[int, ...], *rows: str) -> tuple[list, list[str]]:
    feature = Feature("x", dtype, shape, ("x",), strict=True)
    data = "".join(f'{{"x": {row}}}\n' for row in rows).encode()
    inputs, bad = read(FORMAT, data, [feature])
    return columns.to_array(inputs["x"], feature).tolist(), [b.reason for b in bad]


@pytest.mark.parametrize(
    ("dtype", "shape", "rows", "values", "reasons"),
    [
        ("int32", (), ["1", "-2", "1.0", "1e2", "1.5", "2147483648", "true", '"1"'], [1, -2],
         ["fraction", "fraction", "fraction", "out_of_range", "wrong_type", "wrong_type"]),
        ("int64", (), ["9223372036854775807", "9223372036854775808"], [9223372036854775807], ["out_of_range"]),
        ("uint64", (), ["18446744073709551615", "-1", "-0"], [18446744073709551615], ["out_of_range"] * 2),
        ("int32", (), ["1", "9" * 5000, "-" + "9" * 5000, "2"], [1, 2], ["out_of_range"] * 2),
        ("float32", (), ["1", "9" * 5000, "2"], [1.0, 2.0], ["out_of_range"]),
        ("uint8", (2,), ["[0, 255]", "[0, 256]", "[-1, 0]"], [[0, 255]], ["out_of_range", "out_of_range"]),
        ("float64", (), ["9007199254740993", "0.1", "1e308"], [9007199254740992.0, 0.1, 1e308], []),
        ("float16", (), ["1", "65505", "70000"], [1.0, 65504.0], ["out_of_range"]),
        ("bool", (), ["true", "false", "1", "0", '"true"'], [True, False], ["wrong_type"] * 3),
        ("string", (), ['"a"', '""', "3", '{"b64": "/w=="}', '{"b64": "?"}', '{"b": 1}', '"\\u00e9"'],
         [b"a", b"", b"\xff", "é".encode()], ["wrong_type"] * 3),
        ("string", (2,), ['["a", "b"]', '[{"b64": "AAE="}, {"b64": ""}]', '["a", {"b64": ""}]'],
         [[b"a", b"b"], [b"\0\1", b""]], ["wrong_type"]),
        ("float32", (1,), ["1", "[2]", "[3, 4]", "[[5]]", "6"], [[1.0], [2.0], [6.0]], ["wrong_shape"] * 2),
        ("float32", (2, 1, 2), ["[[[1, 2]], [[3, 4]]]", "[[[1, 2]], [[3]]]", "[[[1, 2]]]", "[[[1, 2]], [[3, null]]]"],
         [[[[1, 2]], [[3, 4]]]], ["wrong_shape", "wrong_shape", "null"]),
    ],
)  # fmt: skip
def test_values_are_read_in_the_dtype_and_shape_of_the_model(
    dtype: str, shape: tuple[int, ...], rows: list[str], values: list, reasons: list[str]
) -> None:
    assert read_values(dtype, shape, *rows) == (values, reasons)


@given(data=st.data())
def test_any_mixture_of_spellings_and_bad_rows_keeps_its_order(data: st.DataObject) -> None:
    kinds = st.sampled_from(["{}", "[{}]", '"{}"', "[[{}]]", "null", "{}.5", "[{}, 1]"])
    rows = [kind.format(i) for i, kind in enumerate(data.draw(st.lists(kinds, max_size=40)))]
    good = [float(row.strip("[]")) for row in rows if row.strip("[]0123456789.") == "" and "[[" not in row]
    with mock.patch.object(reading, "CUT_ROWS", data.draw(st.integers(1, 50))):
        values, reasons = read_values("float32", (1,), *rows)
    assert values == [[value] for value in good]
    assert len(reasons) == len(rows) - len(good)


def test_scalar_fields_are_stacked_into_one_input() -> None:
    feature = Feature("m", "float32", (2,), ("b", "a"))
    data = b'{"a": 1, "b": 2}\n{"a": 1}\n{"a": [1], "b": 2}\n{"a": 3, "b": 4.5}\n'
    inputs, bad = read(FORMAT, data, [feature])
    assert columns.to_array(inputs["m"], feature).tolist() == [[2.0, 1.0], [4.5, 3.0]]
    assert [(b.row, b.reason) for b in bad] == [(1, "missing"), (2, "wrong_shape")]
