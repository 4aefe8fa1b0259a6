"""Records of any bytes, which are one field of a row, and SequenceExamples."""

import io
from collections.abc import Sequence

import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import blocks
from tests.support.blocks import joined_bytes
from tests.support.examples import (
    contents,
    delimited,
    example,
    examples,
    features_of,
    floats,
    texts,
    written,
)
from transforms import formats
from transforms.formats import schemas
from transforms.formats.base import Block
from transforms.formats.spec import FormatSpec
from transforms.formats.tfrecord import sequence, whole_record, wire
from transforms.formats.tfrecord.parse import parse
from transforms.records import BadRow, Feature, Layout, without

WHOLE = formats.load(FormatSpec("tfrecord", record_field="record"))
IMAGE = (Feature("image_bytes", "string", (), ("record",)),)
JOINED = Layout(True, (), (), "key", None, (("y", "prediction"),))
records = st.lists(st.binary(max_size=300) | st.sampled_from([b"", example(x=floats(1.0))]), max_size=6)


def scored(block: Block, bad: Sequence[BadRow] = ()) -> pa.RecordBatch:
    """Returns a prediction for each good row: its number."""
    numbers = without(len(block.positions), bad)
    return pa.RecordBatch.from_arrays([pa.array(numbers, pa.int64())], ["y"])


@given(record=st.binary(max_size=300), name=st.text(min_size=1, max_size=200))
def test_an_example_of_a_record_has_its_bytes(record: bytes, name: str) -> None:
    (made,) = whole_record.examples(pa.array([record], pa.large_binary()), name).to_pylist()
    assert made == example(**{name: texts(record)})


@given(records=records)
def test_any_bytes_feed_an_input_of_strings(records: list[bytes]) -> None:
    block = blocks.block_of(WHOLE, written(records))
    inputs, bad = block.inputs(IMAGE)
    assert (inputs["image_bytes"].to_pylist(), bad) == (records, [])
    assert block.values() == [{"record": [record]} for record in records]
    assert block.take(range(len(records))).inputs(IMAGE)[0] == inputs


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        (JOINED, ["key", "prediction", "record"]),
        (JOINED._replace(exclude=("record",)), ["key", "prediction"]),
        (JOINED._replace(key=None, key_field="record", row=False), ["prediction", "record"]),
    ],
)
@settings(max_examples=15)
@given(records=records.filter(bool))
def test_a_part_has_each_record_as_a_field(layout: Layout, names: list[str], records: list[bytes]) -> None:
    block = blocks.block_of(WHOLE, written(records))
    part = joined_bytes(WHOLE.writer.write(block, [], scored(block), layout).blocks)
    found = [features_of(record) for record in contents(part)]
    assert [row["prediction"] for row in found] == [[at] for at in range(len(records))]
    for row, record, position in zip(found, records, block.positions, strict=True):
        assert sorted(row) == names
        assert row.get("record", [record]) == [record]
        assert row.get("key", [b"s#%d" % position]) == [b"s#%d" % position]
    if layout.row:
        again = formats.load(FormatSpec("tfrecord", record_field="record").of_parts).reader
        parsed = again.load(io.BytesIO(part), blocks.chunks(WHOLE, part, 1 << 20)[0])
        assert parsed.inputs(IMAGE)[0].num_rows == (len(records) if "record" in names else 0)


def test_a_record_with_another_checksum_is_bad_and_keeps_its_bytes() -> None:
    data = bytearray(written([b"\xff\xd8 one", b"\xff\xd8 two"]))
    data[14] ^= 1
    block = blocks.block_of(WHOLE, bytes(data))
    inputs, bad = block.inputs(IMAGE)
    assert inputs["image_bytes"].to_pylist() == [b"\xff\xd8 two"]
    assert [(one.row, one.reason) for one in bad] == [(0, "corrupt")]
    made = WHOLE.writer.write(block, bad, scored(block, bad), JOINED._replace(error="error"))
    first, second = map(features_of, contents(joined_bytes(made.blocks)))
    assert first.keys() == {"error", "key"}
    assert b'"row_encoding": "base64"' in first["error"][0]
    assert second == {"record": [b"\xff\xd8 two"], "prediction": [1], "key": [b"s#%d" % block.positions[1]]}
    assert block.raw([0]).to_pylist() == [bytes(data[: block.positions[1]])]


names = st.sampled_from("abc")
features = st.one_of(
    st.lists(st.floats(width=32, allow_nan=False), max_size=3).map(lambda v: floats(*v)),
    st.lists(st.binary(max_size=3), max_size=3).map(lambda v: texts(*v)),
)
sequences = st.builds(
    lambda context, lists: tf.train.SequenceExample(
        context=tf.train.Features(feature=context),
        feature_lists=tf.train.FeatureLists(
            feature_list={name: tf.train.FeatureList(feature=found) for name, found in lists.items()}
        ),
    ),
    st.dictionaries(names, features, max_size=3),
    st.dictionaries(names, st.lists(features, max_size=3), max_size=3),
)


@settings(max_examples=30)
@given(made=st.lists(sequences, min_size=1, max_size=4))
def test_a_prediction_joins_the_context_of_a_sequence_example(made: list[tf.train.SequenceExample]) -> None:
    rows = [one.SerializeToString(deterministic=True) for one in made]
    fmt = formats.load("tfrecord")
    block = blocks.block_of(fmt, written(rows))
    parts = contents(joined_bytes(fmt.writer.write(block, [], scored(block), JOINED).blocks))
    for at, (before, row, after) in enumerate(zip(made, rows, parts, strict=True)):
        assert after.startswith(row)
        found = tf.train.SequenceExample.FromString(after)
        assert list(found.context.feature.pop("prediction").int64_list.value) == [at]
        assert list(found.context.feature.pop("key").bytes_list.value) == [b"s#%d" % block.positions[at]]
        assert found == before


@settings(max_examples=30)
@given(made=sequences, chosen=st.sets(names), include=st.booleans())
def test_feature_lists_are_picked_like_other_fields(
    made: tf.train.SequenceExample, chosen: set[str], include: bool
) -> None:
    chosen = chosen or {"a"}
    fmt = formats.load("tfrecord")
    block = blocks.block_of(fmt, written([made.SerializeToString()]))
    layout = JOINED._replace(key=None, **{"include" if include else "exclude": tuple(chosen)})
    (after,) = contents(joined_bytes(fmt.writer.write(block, [], scored(block), layout).blocks))
    found = tf.train.SequenceExample.FromString(after)
    del found.context.feature["prediction"]
    for fields in (made.context.feature, made.feature_lists.feature_list):
        for name in set(fields) - chosen if include else set(fields) & chosen:
            del fields[name]
    assert dict(found.context.feature) == dict(made.context.feature)
    assert dict(found.feature_lists.feature_list) == dict(made.feature_lists.feature_list)


@given(made=sequences)
def test_values_of_a_sequence_example(made: tf.train.SequenceExample) -> None:
    block = blocks.block_of(formats.load("tfrecord"), written([made.SerializeToString()]))
    (row,) = block.values()
    assert row.keys() == {*made.context.feature, *made.feature_lists.feature_list}
    for name in set(made.feature_lists.feature_list) - set(made.context.feature):
        assert len(row[name]) == len(made.feature_lists.feature_list[name].feature)
        assert all(isinstance(values, list) for values in row[name])


def test_damaged_feature_lists_are_a_bad_row_where_fields_are_picked() -> None:
    damaged = example(a=floats(1.0)) + delimited(2, b"\xff")
    fmt = formats.load("tfrecord")
    block = blocks.block_of(fmt, written([damaged]))
    assert block.values() == [{"a": [1.0]}]
    (bad,) = fmt.writer.write(block, [], scored(block), JOINED._replace(exclude=("b",))).bad
    assert (bad.reason, bad.stage) == ("not_example", "write")
    assert "feature_lists" in bad.message


@settings(max_examples=200)
@given(made=sequences, at=st.floats(0, 1, exclude_max=True), octets=st.binary(max_size=3), data=st.binary(max_size=9))
def test_feature_lists_of_any_bytes_are_found_or_refused(
    made: tf.train.SequenceExample, at: float, octets: bytes, data: bytes
) -> None:
    record = bytearray(made.SerializeToString())
    place = int(at * (len(record) + 1))
    record[place : place + len(octets)] = octets
    for tried in (bytes(record), data, bytes(record) + data):
        if parse(tried) is not None:  # else the row is bad before its feature lists are looked at
            try:
                lists = sequence.lists_of(tried)
            except ValueError:
                lists = {}
            assert sequence.values_of(tried).keys() == lists.keys()


@given(found=examples, count=st.integers(1, 3))
def test_fields_of_a_message_are_found_behind_fields_of_any_kind(found: bytes, count: int) -> None:
    others = b"\x18\x96\x01" + b"\x21" + bytes(8) + b"\x2d" + bytes(4) + b"\x33\x12\x01x\x34"  # 3, 4, 5, group 6
    message = others * count + found + delimited(2, b"list")
    assert list(wire.fields(message)) == [*wire.fields(found), (2, b"list")]
    assert sequence.values_of(others + found) == {}


def test_conversion_to_another_format_has_the_record_and_refuses_feature_lists() -> None:
    image = blocks.block_of(WHOLE, written([b"\xff\xd8", b""]))
    assert image.schema() == pa.schema([("record", pa.binary())])
    table, bad = image.table([0, 1], image.schema())
    assert (table.to_pylist(), bad) == ([{"record": b"\xff\xd8"}, {"record": b""}], [])
    made = tf.train.SequenceExample(context=tf.train.Features(feature={"x": floats(1.0)}))
    made.feature_lists.feature_list["w"].feature.add().CopyFrom(floats(2.0))
    rows = [example(x=floats(3.0)), made.SerializeToString(), example(x=floats(4.0)) + delimited(2, b"\xff")]
    block = blocks.block_of(formats.load("tfrecord"), written(rows))
    table, bad = block.table([0, 1, 2], block.schema())
    assert table.to_pylist() == [{"x": 3.0}]
    assert [(one.row, one.reason) for one in bad] == [(1, "schema"), (2, "not_example")]
    assert "field w: a feature list" in bad[0].message
    table, bad = block.table([0, 1], schemas.select(block.schema(), JOINED._replace(exclude=("w",))))
    assert (table.to_pylist(), bad) == ([{"x": 3.0}, {"x": 1.0}], [])
