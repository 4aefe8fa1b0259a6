"""Makes and reads tf.Examples and TFRecord files with TensorFlow, for tests."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import tensorflow as tf
from hypothesis import strategies as st

from tests.support import blocks
from tests.support.blocks import cut, raws
from transforms.formats.tfrecord import FORMAT
from transforms.records import BadRow, Feature


def floats(*values: float) -> tf.train.Feature:
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def ints(*values: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def texts(*values: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def example(**features: tf.train.Feature) -> bytes:
    made = tf.train.Example(features=tf.train.Features(feature=features))
    return made.SerializeToString(deterministic=True)


def features_of(record: bytes) -> dict[str, list[Any]]:
    found = tf.train.Example.FromString(record).features.feature
    return {name: list(getattr(f, f.WhichOneof("kind")).value) for name, f in sorted(found.items())}


def delimited(field: int, content: bytes) -> bytes:
    """Encodes a length-delimited field of a protobuf message; the content must be short."""
    return bytes([field << 3 | 2, len(content)]) + content


def entry(name: bytes, feature: tf.train.Feature) -> bytes:
    """Encodes a feature as an entry of a `Features` message."""
    return delimited(1, delimited(1, name) + delimited(2, feature.SerializeToString()))


def written(records: Sequence[bytes]) -> bytes:
    """Writes a TFRecord file with TensorFlow."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a")
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record)
        return path.read_bytes()


def read_back(blocks: Sequence[bytes], compression: str = "") -> list[bytes]:
    """Reads the records of a TFRecord file with TensorFlow."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a")
        path.write_bytes(b"".join(blocks))
        return [record.numpy() for record in tf.data.TFRecordDataset(str(path), compression)]


def split(data: bytes, chunk_bytes: int) -> list[bytes]:
    ends = cut(FORMAT, data, chunk_bytes) if data else []
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def contents(data: bytes) -> list[bytes]:
    return [raw[12:-4] for raw in raws(blocks.block_of(FORMAT, data))]


def read(records: Sequence[bytes], features: Sequence[Feature]) -> tuple[pa.RecordBatch, list[BadRow]]:
    return blocks.read(FORMAT, written(records), features)


FIT = {"a": floats(1, 2), "b": ints(3), "c": texts(b"\xff"), "d": floats(0.1), "e": ints(2**53), "f": ints(1)}
values = st.one_of(
    st.lists(st.floats(width=32), max_size=3).map(lambda v: floats(*v)),
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 2), max_size=3).map(lambda v: ints(*v)),
    st.lists(st.binary(max_size=3), max_size=2).map(lambda v: texts(*v)),
    st.just(tf.train.Feature()),
)
spelled = st.sampled_from([{}, {"a": ints(4, 5)}, {"d": ints(6)}, {"a": ints(8, 9), "e": floats(1.5)}])
changes = st.dictionaries(st.sampled_from("abcdefg"), st.none() | values, max_size=2)
examples = st.builds(
    lambda kinds, change: example(**{k: v for k, v in (FIT | kinds | change).items() if v is not None}),
    spelled,
    changes,
)
