"""TFRecord of tf.Example through the command line: plain, gzip, and models that parse Examples themselves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import Result, raw_of
from tests.support import models


def example(**features: Any) -> bytes:
    def feature(values: list[Any]) -> tf.train.Feature:
        if isinstance(values[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        if isinstance(values[0], int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    made = tf.train.Features(feature={name: feature(values) for name, values in features.items()})
    return tf.train.Example(features=made).SerializeToString(deterministic=True)


def write(path: Path, records: list[bytes]) -> str:
    with tf.io.TFRecordWriter(str(path), "GZIP" if path.suffix == ".gz" else "") as writer:
        for record in records:
            writer.write(record)
    return str(path)


def read(done: Result) -> list[tuple[bytes, tf.train.Example]]:
    found = []
    for part in done.parts():
        packed = "GZIP" if part.suffix == ".gz" else ""
        for record in tf.data.TFRecordDataset(str(part), packed).as_numpy_iterator():
            found.append((record, tf.train.Example.FromString(record)))
    return found


def parsing(folder: Path) -> str:
    """A model that takes serialized Examples, and raises for a batch in which one has no x."""

    def call(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        x = tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([3], tf.float32)})["x"]
        return {"prediction": tf.reduce_sum(x, axis=1), "first": tf.strings.as_string(x[:, 0], precision=1)}

    return models.save(folder, call, models.spec("examples", dtype=tf.string))


RECORDS = [example(x=[float(i), 2.0, 3.0], id=[b"r%d" % i]) for i in range(40)]


@pytest.mark.parametrize("name", ["in.tfrecord", "in.tfrecord.gz"])
@pytest.mark.parametrize("chunk_bytes", [1, 500, 1 << 20])
def test_examples_in_and_out(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path, name: str, chunk_bytes: int
) -> None:
    path = write(tmp_path / name, RECORDS)
    done = keyjoin("run", f"--input={path}", f"--model={model(models.keyed)}", f"--chunk_bytes={chunk_bytes}")
    assert (done.code, done.complete(), done.err) == (0, True, "")
    assert all(part.name.endswith(name.removeprefix("in")) for part in done.parts())
    for i, (before, (after, joined)) in enumerate(zip(RECORDS, read(done), strict=True)):
        assert after.startswith(before)
        assert joined.features.feature["prediction"].float_list.value == [np.float32(0.5 * i - 2.5 + 9)]
        assert joined.features.feature["id"].bytes_list.value == [b"r%d" % i]


def test_bad_records_are_dead_letters(keyjoin: Callable[..., Result], model: Any, tmp_path: Path) -> None:
    records = [
        RECORDS[0], b"\xff no example", example(y=[1.0]), RECORDS[1], example(x=[1.0]), example(x=[b"text"] * 3),
        example(x=[1.0, 2.0, 3.0], prediction=[1.0]), RECORDS[2],
    ]  # fmt: skip
    path = Path(write(tmp_path / "in.tfrecord", records))
    data = bytearray(path.read_bytes())
    data[-6] ^= 1  # in the data of the last record
    path.write_bytes(data)
    done = keyjoin("run", f"--input={path}", f"--model={model(models.keyed)}", "--max_bad_rows=6")
    assert done.code == 0, done.err
    assert [record.features.feature["id"].bytes_list.value[0] for _, record in read(done)] == [b"r0", b"r1"]
    reasons = ["not_example", "missing", "wrong_shape", "wrong_type", "collision", "corrupt"]
    assert [letter["reason"] for letter in done.dead()] == reasons
    for letter in done.dead():
        raw = raw_of(letter)
        assert data[letter["position"] :].startswith(raw)


def test_a_model_that_parses_examples_gets_their_bytes(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path
) -> None:
    path = write(tmp_path / "in.tfrecord", [*RECORDS, example(y=[1.0]), *RECORDS])
    done = keyjoin("run", f"--input={path}", f"--model={model(parsing)}", "--max_bad_rows=1")
    assert done.code == 0, done.err
    assert "examples (string [N]) <- the whole row" in done.out
    assert [r.features.feature["prediction"].float_list.value[0] for _, r in read(done)] == [
        i + 5.0 for i in range(40)
    ] * 2
    assert read(done)[3][1].features.feature["first"].bytes_list.value == [b"3.0"]
    assert [(d["reason"], d["stage"]) for d in done.dead()] == [("model_error", "predict")]


def test_a_lost_frame_fails_the_run_and_names_the_file(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path
) -> None:
    path = Path(write(tmp_path / "in.tfrecord", RECORDS))
    data = path.read_bytes()
    # The last one also damages one of the first rows, so a warning is printed before the run.
    for damaged, lines in ((data[:-3], 1), (data + b"\0" * 12, 1), (data[:100] + data[101:], 2)):
        path.write_bytes(damaged)
        done = keyjoin("run", f"--input={path}", f"--model={model(models.keyed)}")
        assert (done.code, done.complete(), done.err.count("\n")) == (1, False, lines), done.err
        error = done.err.splitlines()[-1]
        assert error.startswith("keyjoin: error: ")
        assert str(path) in error
