"""`--bad_rows=null`: the parts have every input row once, in its place. A row without a prediction has its error."""

import base64
import gzip
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.json
import pytest
import tensorflow as tf
from hypothesis import example as also
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Result, raw_of
from tests.support import models
from tests.support.blocks import block_of, joined_bytes
from tests.support.blocks import raws as raws_of
from tests.support.examples import FIT, example, examples, features_of, floats, ints, read_back, texts, written
from tests.transforms.formats.jsonl.test_jsonl import BAD, GOOD, X
from tests.transforms.formats.jsonl.test_jsonl import texts as any_text
from transforms.formats import jsonl, slices, tfrecord
from transforms.formats.base import Format
from transforms.formats.jsonl import split
from transforms.records import BadRow, Feature, Layout

Y = Layout(True, (), (), None, None, (("y", "y"),))
NULL = Y._replace(error="error")
MEMBERS = ["stage", "reason", "message", "row", "row_encoding"]


def join(
    fmt: Format, data: bytes, layout: Layout, features: Sequence[Feature], unscored: Sequence[int] = ()
) -> tuple[bytes, list[tuple[BadRow, bytes]], list[bytes]]:
    """Reads and writes a chunk without a model; returns the part, the bad rows with their bytes, and all rows."""
    block = block_of(fmt, data)
    _, bad = block.inputs(features)
    bad = sorted(
        {b.row: b for b in [*(BadRow(row, "predict", "model_error", "é\n") for row in unscored), *bad]}.values()
    )
    good = np.delete(np.arange(len(block.positions)), np.array([b.row for b in bad], np.int64))
    predictions = pa.RecordBatch.from_arrays([pa.array(good / 4, pa.float32())], ["y"])
    joined = fmt.writer.write(block, bad, predictions, layout)
    part, raws = joined_bytes(joined.blocks), raws_of(block)
    return part, [(b, raws[b.row]) for b in sorted([*bad, *joined.bad])], raws


# JSON Lines


@given(any_text, st.integers(1, 5), st.sets(st.integers(0, 30)))
@also(b"\n".join(line for line, _ in BAD), 3, {0, 5})
@also(b"\n".join([GOOD, *(line for line, _ in BAD), GOOD, b"{ }\r", GOOD[:-1]]), 2, set())
def test_every_line_is_written_once_in_its_place(data: bytes, slice_rows: int, unscored: set[int]) -> None:
    count = len(split.rows(data, first=True).starts)
    chosen = unscored & set(range(count))
    with mock.patch.object(slices, "SLICE_ROWS", slice_rows):
        apart, _, _ = join(jsonl.FORMAT, data, Y, X, sorted(chosen))
        part, bad, raws = join(jsonl.FORMAT, data, NULL, X, sorted(chosen))
    lines = part.split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == len(raws)
    without = {b.row: (b, raw) for b, raw in bad}
    good = [line for row, line in enumerate(lines) if row not in without]
    assert b"".join(line.replace(b', "error": null', b"", 1) + b"\n" for line in good) == apart
    for row, line in enumerate(lines):
        parsed = json.loads(line)
        if row not in without:
            assert (parsed["error"], parsed["y"]) == (None, row / 4)
            continue
        found, raw = without[row]
        assert list(parsed)[-2:] == ["y", "error"]
        assert parsed["y"] is None
        assert list(parsed["error"]) == MEMBERS
        assert [parsed["error"][name] for name in MEMBERS[:3]] == [found.stage, found.reason, found.message]
        # The row's own bytes are in the line, either as a row or as a text in the error.
        if parsed["error"]["row"] is None:
            brace = raw.rindex(b"}")
            assert line.startswith(raw[:brace])
            assert line.endswith(raw[brace:])
            assert {**json.loads(raw), "y": None, "error": parsed["error"]} == parsed
        else:
            assert raw_of(parsed["error"]) == raw
            assert list(parsed) == ["y", "error"]
    if lines:
        table = pyarrow.json.read_json(
            io.BytesIO(part), parse_options=pyarrow.json.ParseOptions(pa.schema([]), unexpected_field_behavior="ignore")
        )
        assert table.num_rows == len(lines)


STAYS = [
    b'{"x": [1], "n": 1.50}', b' {"x":null }\t\r', b"{}", b'{ "n": "\\u00e9" }', b'{"x": [1, 2], "x": [1, 2]}',
    b'{"z": {"y": 1, "error": 2}}',
]  # fmt: skip
HELD = [
    b'{"x": [1, 2], "y": 3}', b'{"x": [1], "\\u0079": 3}', b'{"x": [1], "error": "e"}', b'{"x": [1], "z": 1e400}',
    b'{"x": [1], "z": NaN}', b'{"x": [1], "z": "\\ud800"}', b'{"x": [1]', b'{"x": [1]}{}', b"[{}]", b'{"x": "\xff"}', b"nope",
    b'{"x": ' + b"[" * 2000 + b"]" * 2000 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("line", [*STAYS, *HELD], ids=range(len(STAYS) + len(HELD)))
def test_a_line_stays_where_fields_can_be_added_and_is_in_the_error_otherwise(line: bytes) -> None:
    part, ((_, raw),), _ = join(jsonl.FORMAT, GOOD + b"\n" + line, NULL, X)
    error = json.loads(part.split(b"\n")[1])["error"]
    assert raw == line
    assert (error["row"] is None) == (line in STAYS)
    if line in HELD:
        assert raw_of(error) == line


def test_an_empty_row_becomes_an_object_without_a_leading_comma() -> None:
    part, _, _ = join(jsonl.FORMAT, b"{ }", NULL, X)
    assert part.startswith(b'{ "y": null, "error": {"stage": "read", "reason": "missing", "message": "field x: not in')


ROWS = b'{"x": [1, 2], "n": 1}\n{"x": 1, "n": 2}\nnope\n{"x": 1, "n": 3, "n": 4}\n{"x": 1, "n": 5, "y": 6}\n'
LAYOUTS = {
    "include": (NULL._replace(include=("n",)), [{"n": 1}, {"n": 2}, {}, {}, {"n": 5}]),
    "exclude": (NULL._replace(exclude=("x",)), [{"n": 1}, {"n": 2}, {}, {}, {}]),
    "no row": (NULL._replace(row=False), [{}] * 5),
    "key": (NULL._replace(row=False, key="k"), [{"k": f"s#{at}"} for at in (0, 22, 39, 44, 69)]),
    "own key": (NULL._replace(row=False, key_field="n"), [{"n": 1}, {"n": 2}, {"n": None}, {"n": None}, {"n": 5}]),
}


@pytest.mark.parametrize(("layout", "fields"), LAYOUTS.values(), ids=LAYOUTS)
def test_other_layouts_leave_out_of_bad_rows_what_they_leave_out_of_good_ones(
    layout: Layout, fields: list[dict[str, Any]]
) -> None:
    part, bad, _ = join(jsonl.FORMAT, ROWS, layout, X)
    found = [json.loads(line) for line in part.splitlines()]
    order = [
        *(["n"] if layout.row else []),
        "y",
        "error",
        *([layout.key or "n"] if not layout.row and (layout.key or layout.key_field) else []),
    ]
    for number, (row, expected) in enumerate(zip(found, fields, strict=True)):
        assert [name for name in order if name in row] == list(row)
        error, prediction = row.pop("error"), row.pop("y")
        assert row == expected
        assert (prediction is None) == (error is not None) == (number in [b.row for b, _ in bad])
        assert error is None or (error["row"], error["row_encoding"]) == (None, None)


# TFRecord

PLAIN = (Feature("a", "float32", (2,), ("a",)),)
garbage = st.binary(max_size=6) | st.just(example(**FIT, y=ints(1)))


@given(
    st.lists(examples | garbage, max_size=8), st.integers(1, 4), st.sets(st.integers(0, 7)), st.sets(st.integers(0, 7))
)
def test_every_record_is_written_once_in_its_place(
    records: list[bytes], slice_rows: int, unscored: set[int], damaged: set[int]
) -> None:
    data = bytearray(written(records))
    block = block_of(tfrecord.FORMAT, bytes(data))
    ends = np.cumsum([len(raw) for raw in raws_of(block)])
    for row in damaged & set(range(len(records))):
        data[ends[row] - 1] ^= 1
    chosen = sorted(unscored & set(range(len(records))))
    with mock.patch.object(slices, "SLICE_ROWS", slice_rows):
        apart, _, _ = join(tfrecord.FORMAT, bytes(data), Y, PLAIN, chosen)
        part, bad, raws = join(tfrecord.FORMAT, bytes(data), NULL, PLAIN, chosen)
    found, without = read_back([part]), {b.row: (b, raw) for b, raw in bad}
    assert len(found) == len(records)
    assert [record for row, record in enumerate(found) if row not in without] == read_back([apart])
    for row, (why, raw) in without.items():
        features = tf.train.Example.FromString(found[row]).features.feature
        (text,) = features["error"].bytes_list.value
        error = json.loads(text)
        assert list(error) == MEMBERS
        assert [error[name] for name in MEMBERS[:3]] == [why.stage, why.reason, why.message]
        if error["row"] is None:
            assert found[row].startswith(records[row])
            assert "y" not in features
        else:
            assert raw_of(error) == raw == raws[row]
            assert list(features) == ["error"]
        if why.reason in ("corrupt", "collision"):
            assert error["row"] is not None


EXAMPLES = {
    "include": (NULL._replace(include=("b",)), [["b"], ["b"], [], ["b"]]),
    "no row": (NULL._replace(row=False), [[], [], [], []]),
    "key": (NULL._replace(key="k"), [["a", "b", "k"], ["b", "k"], ["k"], ["k"]]),
    "own key": (NULL._replace(row=False, key_field="b"), [["b"], ["b"], [], ["b"]]),
}


@pytest.mark.parametrize(("layout", "names"), EXAMPLES.values(), ids=EXAMPLES)
def test_other_layouts_of_examples(layout: Layout, names: list[list[str]]) -> None:
    records = [
        example(a=floats(1, 2), b=ints(1)),
        example(b=ints(2)),
        b"\xff",
        example(a=floats(1, 2), b=ints(3), y=ints(1)),
    ]
    part, _, _ = join(tfrecord.FORMAT, written(records), layout, PLAIN, unscored=[3])
    found = [features_of(record) for record in read_back([part])]
    assert [sorted(set(row) - {"y", "error"}) for row in found] == names
    assert [("y" in row, "error" in row) for row in found] == [(True, False), *[(False, True)] * 3]


def test_a_record_that_has_an_error_of_its_own_is_held_by_the_one_that_is_added() -> None:
    record = example(a=floats(1, 2), error=texts(b"mine"))
    part, ((bad, raw),), _ = join(tfrecord.FORMAT, written([record]), NULL, PLAIN)
    (found,) = read_back([part])
    (text,) = features_of(found)["error"]
    assert (bad.reason, list(features_of(found))) == ("collision", ["error"])
    assert raw_of(json.loads(text)) == raw == written([record])


def test_a_parser_with_defaults_reads_a_left_joined_part() -> None:
    part, _, _ = join(tfrecord.FORMAT, written([example(a=floats(1, 2)), example(), b"\xff"]), NULL, PLAIN)
    spec = {"y": tf.io.FixedLenFeature([], tf.float32, np.nan), "error": tf.io.FixedLenFeature([], tf.string, "")}
    parsed = tf.io.parse_example(read_back([part]), spec)
    assert parsed["y"].numpy().tolist()[0] == 0.0
    assert np.isnan(parsed["y"].numpy()).tolist() == [False, True, True]
    assert [text == b"" for text in parsed["error"].numpy()] == [True, False, False]


# On real files

X3 = {"x": [1, 2, 3]}


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz"])
def test_a_left_join_on_real_files(keyjoin: Callable[..., Result], lines: Any, model: Any, name: str) -> None:
    rows = [b'{"x": [%d, 0, 0]}' % (i if i % 5 else 666) for i in range(40)]
    rows[3], rows[4], rows[39] = b"nope", b'{"x": [1, 0, 0], "prediction": 1}', b'{"x": [1]}'
    path = Path(lines(*rows, end=b""))
    if name.endswith("gz"):
        path.with_name(name).write_bytes(gzip.compress(path.read_bytes()))
    flags = (
        f"--input={path.with_name(name)}",
        f"--model={model(models.raising)}",
        "--chunk_bytes=90",
        "--max_bad_rows=11",
    )
    apart, null = keyjoin("run", *flags), keyjoin("run", *flags, "--bad_rows=null", "--error_field=why")
    assert (apart.code, null.code, null.complete()) == (0, 0, True), null.err
    assert "in the parts too, with null predictions and the error in why" in null.out
    opened: Callable[[bytes], bytes] = gzip.decompress if name.endswith("gz") else bytes
    found = [json.loads(line) for part in null.parts() for line in opened(part.read_bytes()).splitlines()]
    assert len(found) == len(rows)
    reasons = {0: "model_error", 3: "not_json", 4: "collision", 39: "wrong_shape"} | dict.fromkeys(
        range(5, 40, 5), "model_error"
    )
    assert {at: row["why"]["reason"] for at, row in enumerate(found) if row["why"]} == reasons
    assert [row.get("x") for row in found] == [
        None if at in (3, 4) else json.loads(raw)["x"] for at, raw in enumerate(rows)
    ]
    # The dead letters and the ledger's counts do not depend on --bad_rows.
    assert null.dead() == apart.dead()
    totals = [done.manifest()["totals"] for done in (apart, null)]
    assert [(t["rows"], t["joined"], t["dead"]) for t in totals] == [(40, 29, totals[0]["dead"])] * 2
    assert [opened(part.read_bytes()).count(b"\n") for part in null.parts()] == [
        json.loads(line)["rows"] for line in (null.output / "_keyjoin/parts.jsonl").read_text().splitlines()
    ]
    assert null.manifest()["options"]["bad_rows"] == "null"


def test_a_left_join_of_examples_on_real_files(keyjoin: Callable[..., Result], model: Any, tmp_path: Path) -> None:
    path = tmp_path / "in.tfrecord"
    path.write_bytes(written([example(x=floats(1, 2, 3)), b"\xff", example(n=ints(1))]))
    done = keyjoin("run", f"--input={path}", f"--model={model(models.keyed)}", "--max_bad_rows=2", "--bad_rows=null")
    assert done.code == 0, done.err
    found = [features_of(record) for record in read_back([part.read_bytes() for part in done.parts()])]
    assert [list(row) for row in found] == [["prediction", "x"], ["error"], ["error", "n"]]
    errors = [json.loads(row["error"][0]) for row in found[1:]]
    assert [e["reason"] for e in errors] == ["not_example", "missing"]
    assert base64.b64decode(errors[0]["row"]) == raw_of(done.dead()[0])
