"""TFRecord of any bytes and of SequenceExamples, through the command line."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from tests.conftest import Result, raw_of
from tests.support import models
from tests.support.examples import example, features_of, floats, read_back, texts, written
from tests.support.parts import read

IMAGES = [b"\xff\xd8 image %d" % number + b"." * number for number in range(30)]


def sizes(folder: Path) -> str:
    """String (scalar) -> the number of its bytes; it raises for a batch with an empty string."""

    def call(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        size = tf.strings.length(image_bytes)
        with tf.control_dependencies([tf.debugging.assert_positive(size)]):
            return {"size": tf.identity(size)}

    return models.save(folder, call, models.spec("image_bytes", dtype=tf.string))


def sequence_sums(folder: Path) -> str:
    """Serialized SequenceExamples -> the sum of the feature list `w`, times the context's feature `x`."""

    def call(sequences: tf.Tensor) -> dict[str, tf.Tensor]:
        context, lists, _ = tf.io.parse_sequence_example(
            sequences,
            {"x": tf.io.FixedLenFeature([], tf.float32)},
            {"w": tf.io.RaggedFeature(tf.float32)},
        )
        return {"total": context["x"] * tf.reduce_sum(lists["w"].to_tensor(), axis=[1, 2])}

    return models.save(folder, call, models.spec("sequences", dtype=tf.string))


def doubled(folder: Path) -> str:
    """Feature w (1) -> twice its value."""
    return models.save(folder, lambda w: {"y": 2 * w}, models.spec("w", 1))


def sequence(x: float, *steps: list[float]) -> bytes:
    made = tf.train.SequenceExample()
    made.context.feature["x"].CopyFrom(floats(x))
    for step in steps:
        made.feature_lists.feature_list["w"].feature.add().CopyFrom(floats(*step))
    serialized: bytes = made.SerializeToString(deterministic=True)
    return serialized


def found(done: Result) -> list[dict[str, Any]]:
    return [features_of(record) for part in done.parts() for record in read_back([part.read_bytes()])]


def test_records_of_any_bytes_feed_a_model(keyjoin: Callable[..., Result], model: Any, tmp_path: Path) -> None:
    (tmp_path / "in.tfrecord").write_bytes(written(IMAGES))
    flags = (f"--input={tmp_path}/in.tfrecord", f"--model={model(sizes)}", "--record_field=jpeg")
    done = keyjoin("run", *flags, "--chunk_bytes=300", "--output_fields=row,key")
    assert (done.code, done.complete(), done.err) == (0, True, "")
    assert "image_bytes (string [N]) <- jpeg" in done.out
    assert len(done.parts()) > 1
    rows = found(done)
    assert [row["jpeg"] for row in rows] == [[image] for image in IMAGES]
    assert [row["size"] for row in rows] == [[len(image)] for image in IMAGES]
    assert len({row["key"][0] for row in rows}) == len(IMAGES)
    assert done.manifest()["format"] == {"name": "tfrecord", "record_field": "jpeg"}
    verified = keyjoin("verify", f"--run={done.output}", f"--model={model(sizes)}", "--rescore=30")
    assert (verified.code, verified.err) == (0, "")
    again = keyjoin("run", *flags, "--chunk_bytes=300", "--output_fields=row,key")
    assert [part.read_bytes() for part in again.parts()] == [part.read_bytes() for part in done.parts()]


@pytest.mark.parametrize("bad_rows", ["apart", "null"])
def test_bad_records_of_any_bytes_are_replayed(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path, bad_rows: str
) -> None:
    (tmp_path / "in.tfrecord").write_bytes(written([*IMAGES[:3], b"", *IMAGES[3:6]]))
    flags = (f"--input={tmp_path}/in.tfrecord", f"--model={model(sizes)}", "--record_field=jpeg")
    done = keyjoin("run", *flags, "--max_bad_rows=1", f"--bad_rows={bad_rows}")
    assert done.code == 0, done.err
    (letter,) = done.dead()
    assert (letter["reason"], raw_of(letter)) == ("model_error", written([b""]))
    rows = found(done)
    assert [row["size"] for row in rows if "size" in row] == [[len(image)] for image in IMAGES[:6]]
    assert [row["jpeg"] for row in rows if "error" in row] == ([[b""]] if bad_rows == "null" else [])

    raw = base64.b64encode(written([IMAGES[9]])).decode()
    fixed = {"key": letter["key"], "row": raw, "row_encoding": "base64"}
    (tmp_path / "fixed.jsonl").write_text(json.dumps(fixed))
    replayed = keyjoin("replay", f"--run={done.output}", f"--rows={tmp_path}/fixed.jsonl")
    assert replayed.code == 0, replayed.err
    expected = [*IMAGES[:3], IMAGES[9], *IMAGES[3:6]]
    assert [(row["jpeg"], row["size"]) for row in found(done)] == [([image], [len(image)]) for image in expected]


def test_records_that_are_no_examples_are_refused_with_the_flag_that_feeds_them(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path
) -> None:
    (tmp_path / "in.tfrecord").write_bytes(written(IMAGES))
    done = keyjoin("check", f"--input={tmp_path}/in.tfrecord", f"--model={model(sizes)}")
    assert done.code == 2
    assert "--record_field=record" in done.err


def test_a_record_field_is_for_tfrecord(keyjoin: Callable[..., Result], model: Any, lines: Any) -> None:
    done = keyjoin("check", f"--input={lines({'x': 1})}", f"--model={model(sizes)}", "--record_field=jpeg")
    assert done.code == 2
    assert "--record_field=jpeg is for TFRecord files, and the input is jsonl" in done.err


def test_a_model_parses_sequence_examples(keyjoin: Callable[..., Result], model: Any, tmp_path: Path) -> None:
    records = [sequence(float(number), [1.0], [2.0, float(number)]) for number in range(20)]
    (tmp_path / "in.tfrecord").write_bytes(written(records))
    done = keyjoin("run", f"--input={tmp_path}/in.tfrecord", f"--model={model(sequence_sums)}")
    assert (done.code, done.err) == (0, "")
    parts = [record for part in done.parts() for record in read_back([part.read_bytes()])]
    for number, (before, after) in enumerate(zip(records, parts, strict=True)):
        assert after.startswith(before)
        joined = tf.train.SequenceExample.FromString(after)
        assert joined.context.feature["total"].float_list.value == [number * (3.0 + number)]
        assert len(joined.feature_lists.feature_list["w"].feature) == 2


def test_the_context_of_sequence_examples_feeds_inputs_and_feature_lists_are_refused(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path
) -> None:
    records = [sequence(float(number), [1.0], [2.0]) for number in range(20)]
    (tmp_path / "in.tfrecord").write_bytes(written(records))
    flags = (f"--input={tmp_path}/in.tfrecord", f"--model={model(doubled)}")
    done = keyjoin("run", *flags, "--input_map=w=x", "--include_fields=w")
    assert (done.code, done.err) == (0, "")
    parts = [record for part in done.parts() for record in read_back([part.read_bytes()])]
    joined = [tf.train.SequenceExample.FromString(record) for record in parts]
    assert [one.context.feature["y"].float_list.value for one in joined] == [[2.0 * number] for number in range(20)]
    assert all(
        "x" not in one.context.feature and len(one.feature_lists.feature_list["w"].feature) == 2 for one in joined
    )
    refused = keyjoin("check", *flags)
    assert refused.code == 2
    assert "field w is a feature list of tf.train.SequenceExamples" in refused.err


def test_records_of_any_bytes_tell_that_their_file_is_tfrecord(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path
) -> None:
    (tmp_path / "part-0001").write_bytes(written(IMAGES))
    done = keyjoin("run", f"--input={tmp_path}/part-0001", f"--model={model(sizes)}", "--record_field=jpeg")
    assert done.code == 0, done.err
    assert [row["size"] for row in found(done)] == [[len(image)] for image in IMAGES]


def test_a_record_may_be_an_example_that_is_fed_as_bytes(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path
) -> None:
    records = [example(x=texts(image)) for image in IMAGES]
    (tmp_path / "in.tfrecord").write_bytes(written(records))
    done = keyjoin("run", f"--input={tmp_path}/in.tfrecord", f"--model={model(sizes)}", "--record_field=r")
    assert done.code == 0, done.err
    assert [(row["r"], row["size"]) for row in found(done)] == [([record], [len(record)]) for record in records]


@pytest.mark.parametrize("bad_rows", ["apart", "null"])
@pytest.mark.parametrize("output", ["jsonl", "csv", "parquet", "avro"])
def test_records_of_any_bytes_become_a_field_of_another_format(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path, output: str, bad_rows: str
) -> None:
    records = [b"plain", 'é, "ü"\n'.encode(), b"", *([IMAGES[0]] if output != "csv" else [])]
    path = tmp_path / "a.tfrecord"
    path.write_bytes(written(records))
    flags = (f"--input={path}", f"--model={model(sizes)}", "--record_field=image_bytes", "--max_bad_rows=5")
    done = keyjoin("run", *flags, f"--output_format={output}", f"--bad_rows={bad_rows}")
    assert done.code == 0, done.err
    rows = [row for part in done.parts() for row in read(part)]
    kept = [record for record in records if record or bad_rows == "null"]
    assert [_bytes(row["image_bytes"]) for row in rows] == kept
    assert [int(row["size"] or 0) for row in rows] == [len(record) for record in kept]
    assert [letter["reason"] for letter in done.dead()] == ["model_error"]
    verified = keyjoin("verify", f"--run={done.output}", "--read_data=100%", "--rescore=9", flags[1])
    assert verified.code == 0, verified.err


def _bytes(value: Any) -> bytes:
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    return value if isinstance(value, bytes) else value.encode()


def test_bytes_that_csv_cannot_hold_are_dead_letters(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path
) -> None:
    path = tmp_path / "a.tfrecord"
    path.write_bytes(written([b"a", b"b", IMAGES[0]]))
    flags = (f"--input={path}", f"--model={model(sizes)}", "--record_field=image_bytes", "--output_format=csv")
    done = keyjoin("run", *flags, "--max_bad_rows=1")
    assert done.code == 0, done.err
    assert [part.read_text() for part in done.parts()] == ["image_bytes,size\na,1\nb,1\n"]
    message = "field image_bytes: its bytes are not UTF-8, so delimited text cannot hold them"
    assert [(letter["reason"], letter["message"]) for letter in done.dead()] == [("schema", message)]
    left = keyjoin("run", *flags, "--max_bad_rows=1", "--bad_rows=null")
    assert [row["size"] for part in left.parts() for row in read(part)] == ["1", "1", ""]
    path.write_bytes(written(IMAGES))
    refused = keyjoin("run", *flags)
    assert (refused.code, "30 of the first 30 rows cannot be written as csv" in refused.err) == (2, True)
