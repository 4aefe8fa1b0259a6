"""TFRecord: frames are read as TensorFlow reads them, rows do not affect each other, and records keep their bytes."""

import gzip
import io
import json
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.support.blocks import block_of
from tests.support.examples import (
    contents,
    delimited,
    entry,
    example,
    examples,
    floats,
    ints,
    read,
    split,
    texts,
    written,
)
from transforms import columns
from transforms.errors import RunError
from transforms.formats import jsonl, load
from transforms.formats.base import Cut
from transforms.formats.tfrecord import FORMAT, decode
from transforms.formats.tfrecord import split as framing
from transforms.records import Feature

# The frames of records


# Records of any length, or of few lengths: frames of the same length are found many at a time.
some_records = st.lists(st.binary(max_size=60)) | st.lists(st.sampled_from([b"", b"ab", b"cd", b"xyz"]), max_size=60)


@given(some_records, st.integers(1, 200), st.integers(12, 90), st.integers(1, 3))
def test_any_split_gives_the_records_that_tensorflow_wrote(
    records: list[bytes], chunk_bytes: int, block_bytes: int, streak: int
) -> None:
    data = written(records)
    with mock.patch.multiple(framing, BLOCK_BYTES=block_bytes, STREAK=streak):
        chunks = split(data, chunk_bytes)
        found = [contents(chunk) for chunk in chunks]
    assert b"".join(chunks) == data
    assert [record for chunk in found for record in chunk] == records
    for chunk, kept in zip(chunks[:-1], found[:-1], strict=True):
        assert chunk_bytes <= len(chunk) < chunk_bytes + 16 + len(kept[-1])


def test_record_larger_than_a_block() -> None:
    records = [bytes(framing.BLOCK_BYTES + 5), b"small", bytes(2 * framing.BLOCK_BYTES)]
    assert [len(chunk) for chunk in split(written(records), 1)] == [16 + len(record) for record in records]


def test_split_reads_blocks_not_records() -> None:
    data = written([b"record"] * 1000)
    file = mock.Mock(wraps=io.BytesIO(data))
    assert len(list(FORMAT.reader.split(file, len(data), 10_000))) == 3
    assert file.seek.call_count == file.read.call_count == 1


DAMAGED = {
    "length": (lambda d: d[:22] + b"\1" + d[23:], "header at byte 22: .*; copy the file"),
    "checksum of the length": (lambda d: d[:30] + b"\1" + d[31:], "header at byte 22: .*; copy the file"),
    "cut in the data": (lambda d: d[:40], "byte 40, inside the record that starts at byte 22; copy"),
    "cut in a header": (lambda d: d[:25], "byte 25, inside the record that starts at byte 22; copy"),
    "a byte too many": (lambda d: d + b"\n", "byte 45, inside the record that starts at byte 44; copy"),
    "gzip": (gzip.compress, "header at byte 0: .*gzip: let its name end in .gz"),
}


@pytest.mark.parametrize("at", [8, 9, 25, 40, 99])
def test_a_lost_frame_among_many_alike_fails_the_run(at: int) -> None:
    data = bytearray(written([b"record"] * 100))
    data[22 * at + 3] ^= 1
    with pytest.raises(RunError, match=f"not a TFRecord header at byte {22 * at}: "):
        assert block_of(FORMAT, bytes(data)).positions is None


def test_frames_that_are_alike_are_not_looked_at_one_by_one() -> None:
    data = written([b"record"] * 10_000)
    with mock.patch.object(framing, "data_length", wraps=framing.data_length) as length:
        assert len(block_of(FORMAT, data).positions) == 10_000
    assert length.call_count < 20


@pytest.mark.parametrize(("damage", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_lost_frame_fails_the_run(damage: Callable[[bytes], bytes], message: str) -> None:
    data = damage(written([b"record"] * 2))
    for ask in (lambda: split(data, 10), lambda: block_of(FORMAT, data).positions):
        with pytest.raises(RunError, match=message) as error:
            ask()
        assert "\n" not in str(error.value)


def test_a_file_that_became_shorter_fails_the_run() -> None:
    data = written([b"record"] * 2)
    with pytest.raises(RunError, match="inside the record that starts at byte 22"):
        list(FORMAT.reader.split(io.BytesIO(data[:22]), len(data), 10))


def test_a_file_that_grew_is_read_to_where_it_ended() -> None:
    data = written([b"record"] * 2)
    assert list(FORMAT.reader.split(io.BytesIO(data), 22, 10)) == [Cut(22, 22)]


# Reading

FEATURES = (
    Feature("number", "float32", (2,), ("a",)),
    Feature("count", "int8", (), ("b",)),
    Feature("text", "string", (1,), ("c",)),
    Feature("stack", "float64", (2,), ("d", "e")),
    Feature("flag", "bool", (), ("f",)),
    Feature("whole", "string", (), ()),
)


@given(st.lists(examples | st.binary(max_size=8), max_size=12), st.integers(1, 6))
def test_what_becomes_of_a_row_depends_on_that_row_alone(records: list[bytes], block_rows: int) -> None:
    with mock.patch.object(decode, "DECODE_ROWS", block_rows):
        inputs, bad = read(records, FEATURES)
    alone = [read([record], FEATURES) for record in records]
    assert bad == [b._replace(row=at) for at, (_, found) in enumerate(alone) for b in found]
    assert inputs.to_pylist() == [row for one, _ in alone for row in one.to_pylist()]
    assert len(inputs) + len(bad) == len(records)


@given(st.lists(examples, max_size=8))
def test_rows_that_fit_are_good_and_have_their_values(records: list[bytes]) -> None:
    inputs, bad = read(records, FEATURES)
    fitting = [row for row in map(decoded_simply, records) if row]
    assert inputs.to_pylist() == fitting
    assert len(bad) == len(records) - len(fitting)


def decoded_simply(record: bytes) -> dict[str, Any] | None:
    """Computes the inputs of a row by the simplest rules; None if the row does not fit."""
    found = tf.train.Example.FromString(record).features.feature
    kinds = {name: found[name].WhichOneof("kind") for name in "abcdef" if name in found}
    a, b, c, d, e, f = (list(getattr(found[n], kinds[n]).value) if kinds.get(n) else [] for n in "abcdef")
    if not (
        [len(v) for v in (a, b, c, d, e, f)] == [2, 1, 1, 1, 1, 1]
        and all(kinds[name] in ("float_list", "int64_list") for name in "ade")
        and all(kinds[name] == "int64_list" for name in "bf")
        and kinds["c"] == "bytes_list"
        and np.isfinite(np.array(a + d + e, np.float64)).all()
        and -128 <= b[0] < 128
        and f[0] in (0, 1)
    ):
        return None
    number = [float(np.float32(v)) for v in a]
    stack = [float(v) for v in d + e]
    return {"number": number, "count": b[0], "text": c, "stack": stack, "flag": f[0] == 1, "whole": record}


X = Feature("x", "float32", (), ("a",))
F16, I32, U64 = X._replace(dtype="float16"), X._replace(dtype="int32"), X._replace(dtype="uint64")
BOOL, TEXT, RAW = X._replace(dtype="bool"), X._replace(dtype="string"), X._replace(dtype="string", fields=())
MATRIX, STACK = X._replace(shape=(2, 3)), X._replace(shape=(2,), fields=("b", "a"))
BAD = {
    "not an Example": (X, b"\xff\xff\xff", "not_example", "its 3 bytes do not parse"),
    "not an Example, for its bytes": (RAW, b"\n\5abc", "not_example", "its 5 bytes do not parse"),
    "name that is not UTF-8": (X, delimited(1, entry(b"\xff", floats(1))), "not_example", "do not parse"),
    "missing": (X, example(b=floats(1)), "missing", "field a: not in the row"),
    "empty": (X, b"", "missing", "field a: not in the row"),
    "no kind": (X, example(a=tf.train.Feature()), "null", "field a: a feature of no kind"),
    "no values": (X, example(a=floats()), "wrong_shape", "field a: 0 values where 1 is expected"),
    "no values, wrong kind": (X, example(a=texts()), "wrong_type", "field a: bytes_list where float_list or"),
    "too many": (X, example(a=floats(1, 2)), "wrong_shape", "field a: 2 values where 1 is expected"),
    "too few": (MATRIX, example(a=ints(1, 2, 3)), "wrong_shape", "field a: 3 values where 6 are expected"),
    "text for a float": (X, example(a=texts(b"1")), "wrong_type", "field a: bytes_list where float_list or"),
    "NaN": (X, example(a=floats(np.nan)), "out_of_range", "field a: nan does not fit float32"),
    "infinity": (
        MATRIX,
        example(a=floats(1, 2, 3, 4, 5, -np.inf)),
        "out_of_range",
        "field a: -inf does not fit",
    ),
    "float beyond a half": (F16, example(a=floats(7e4)), "out_of_range", "70000.0 does not fit float16"),
    "integer beyond a half": (F16, example(a=ints(70000)), "out_of_range", "70000 does not fit float16"),
    "float for an integer": (
        I32,
        example(a=floats(1)),
        "wrong_type",
        "float_list where int64_list is expected",
    ),
    "beyond int32": (I32, example(a=ints(2**31)), "out_of_range", "field a: 2147483648 does not fit int32"),
    "negative for uint64": (U64, example(a=ints(-1)), "out_of_range", "field a: -1 does not fit uint64"),
    "2 for a bool": (BOOL, example(a=ints(2)), "out_of_range", "field a: 2 does not fit bool"),
    "float for a bool": (BOOL, example(a=floats(1)), "wrong_type", "float_list where int64_list is expected"),
    "integer for a string": (TEXT, example(a=ints(1)), "wrong_type", "int64_list where bytes_list is"),
    "list in a stack": (
        STACK,
        example(a=floats(1, 2), b=ints(3)),
        "wrong_shape",
        "field a: 2 values where 1",
    ),
    "missing in a stack": (STACK, example(b=floats(3)), "missing", "field a: not in the row"),
}


@pytest.mark.parametrize(("feature", "record", "reason", "message"), BAD.values(), ids=BAD)
def test_a_bad_row_is_reported_and_its_neighbours_stay(
    feature: Feature, record: bytes, reason: str, message: str
) -> None:
    size = 6 if feature == MATRIX else 1
    one = texts(b"t") if feature.dtype == "string" else ints(*[1] * size)
    inputs, bad = read([example(a=one, b=one), record, example(a=one, b=one, c=floats(9))], [feature])
    assert len(inputs) == 2
    assert [(b.row, b.stage, b.reason) for b in bad] == [(1, "read", reason)]
    assert message in bad[0].message
    assert "\n" not in bad[0].message


def test_data_that_does_not_match_its_checksum_is_a_bad_row() -> None:
    data = bytearray(written([example(a=floats(v)) for v in (1, 2, np.nan, 4, 5)]))
    length = len(data) // 5
    data[length + 20] ^= 1
    data[4 * length - 1] ^= 1
    inputs, bad = block_of(FORMAT, bytes(data)).inputs([X])
    assert inputs.to_pylist() == [{"x": 1.0}, {"x": 5.0}]
    assert [(b.row, b.reason) for b in bad] == [(1, "corrupt"), (2, "out_of_range"), (3, "corrupt")]


@pytest.mark.parametrize("dtype", columns.READ_AS)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 2)])
def test_columns_are_those_that_json_lines_give(dtype: str, shape: tuple[int, ...]) -> None:
    size = int(np.prod(shape))
    features = (Feature("x", dtype, shape, ("a",)), Feature("s", dtype, (2,), ("b", "c")))
    value = "t" if dtype == "string" else dtype == "bool" or 1
    line = {"a": np.full(shape, value, object).tolist(), "b": value, "c": value}
    feature = texts if dtype == "string" else floats if "float" in dtype else ints
    as_bytes = b"t" if dtype == "string" else 1
    record = example(a=feature(*[as_bytes] * size), b=feature(as_bytes), c=feature(as_bytes))
    data = b"\n".join([json.dumps(line).encode()] * 2)
    other, _ = block_of(jsonl.FORMAT, data).inputs(features)
    assert len(other) == 2
    assert read([record, record], features)[0].equals(other)
    assert read([], features)[0].equals(other[:0])


def test_matrix_is_row_major() -> None:
    assert read([example(a=ints(*range(6)))], [MATRIX])[0].to_pylist() == [{"x": [[0, 1, 2], [3, 4, 5]]}]


def test_integers_for_floats_are_rounded_once() -> None:
    number = 2**60 + 2**36 + 1  # float64 drops its last bit, and the rest is half-way between two float32 values
    ways = [[example(a=ints(number))], [example(a=ints(number)), example(a=floats(1))]]
    found = {read(records, [X])[0].to_pylist()[0]["x"] for records in ways}
    assert found == {float(np.float32(np.int64(number)))}


def test_of_a_name_given_twice_the_last_counts_as_in_tensorflow() -> None:
    twice = delimited(1, entry(b"a", floats(1)) + entry(b"a", floats(2)))
    apart = example(a=floats(3)) + example(b=ints(1)) + example(a=floats(4))
    other = delimited(1, entry(b"a", floats(5)) + entry(b"a", ints(6)))
    inputs, _ = read([twice, apart, other], [X])
    assert inputs["x"].to_pylist() == [2, 4, 6]
    parsed = tf.io.parse_example([twice, apart], {"a": tf.io.FixedLenFeature([], tf.float32)})
    assert parsed["a"].numpy().tolist() == [2, 4]


def test_a_field_may_feed_two_inputs() -> None:
    records = [example(a=ints(3)), example(a=ints(300))]
    inputs, bad = read(records, [I32, I32._replace(name="y", dtype="uint8")])
    assert inputs.to_pylist() == [{"x": 3, "y": 3}]
    assert bad[0].message == "field a: 300 does not fit uint8"


@given(st.data())
def test_any_bytes_are_rows_or_fail_the_run(data: st.DataObject) -> None:
    records = data.draw(st.lists(examples | st.binary(max_size=40), max_size=4))
    file = bytearray(framing.framed([pa.array(records, pa.large_binary())]))
    for _ in range(data.draw(st.integers(0, 3)) if file else 0):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.just(len(file)) | st.integers(0, len(file)))
    damaged = data.draw(st.just(bytes(file[:cut])) | st.binary(max_size=60))
    try:
        assert all(isinstance(row, dict) for row in sample(damaged))
        chunks = split(damaged, 30)
        whole = block_of(FORMAT, damaged)
        count = len(whole.positions)
    except RunError:
        return
    blocks = [block_of(FORMAT, chunk) for chunk in chunks]
    assert sum(len(block.positions) for block in blocks) == count
    inputs, bad = whole.inputs(FEATURES)
    parts = [block.inputs(FEATURES) for block in blocks]
    assert sum(len(one) for one, _ in parts) == len(inputs)
    assert [b[1:] for _, found in parts for b in found] == [b[1:] for b in bad]


# Sampling


TWO = [example(a=floats(1), id=texts(b"r1")), example(a=ints(2), id=texts(b"r2"), z=ints(7))]


def sample(data: bytes) -> list[dict[str, Any]]:
    return FORMAT.reader.sample(io.BytesIO(data), len(data)).values()


def test_sample_is_the_records_that_are_whole() -> None:
    first = example(a=floats(0.5, 1), b=texts(b"\xff"), c=tf.train.Feature())
    data = written([first, b"\xff", TWO[1], TWO[0]])
    assert sample(data[:-20]) == [
        {"a": [0.5, 1.0], "b": [b"\xff"], "c": None},
        {"a": [2], "id": [b"r2"], "z": [7]},
    ]
    assert sample(b"") == []


def test_the_format_is_found_by_its_name() -> None:
    found = load("tfrecord")
    assert (type(found.reader), type(found.writer)) == (type(FORMAT.reader), type(FORMAT.writer))
    assert (found.reader.name, found.writer.name) == ("tfrecord", "tfrecord")
