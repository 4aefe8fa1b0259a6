"""Signatures that fix the number of rows: keyjoin calls them with one row, or fills each call to the fixed size."""

import json
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from keyjoin import KeyedPredict
from tests.support import models
from transforms.errors import ModelError, UsageError
from transforms.saved_model import loader
from transforms.saved_model.fixed_batch import FixedBatch, is_per_row, rows_of


def detector(folder: Path) -> str:
    """Takes one image a call: returns its largest value, a box, and two outputs without a batch dimension."""

    def call(image: tf.Tensor) -> dict[str, tf.Tensor]:
        values = tf.cast(image, tf.float32)
        return {
            "score": tf.reduce_max(values, [1, 2, 3]),
            "boxes": tf.reshape(tf.reduce_sum(values) + tf.constant([0.0, 1.0, 2.0, 3.0]), [1, 2, 2]),
            "total": tf.reduce_sum(values),
            "corner": tf.ensure_shape(values[0, 0, 0], [3]),
        }

    return models.save(folder, call, tf.TensorSpec([1, None, None, 3], tf.uint8, name="image"))


def keyed(folder: Path) -> str:
    """Takes one row a call, and a key of the same size."""
    specs = (tf.TensorSpec([1, 3], tf.float32, name="x"), tf.TensorSpec([1], tf.int32, name="key"))
    return models.save(folder, lambda x, key: {"y": tf.reduce_sum(x, 1), "key": tf.identity(key)}, *specs)


def four(folder: Path) -> str:
    """Takes four rows a call."""
    return models.save(folder, lambda x: {"y": tf.reduce_sum(x, 1)}, tf.TensorSpec([4, 3], tf.float32, name="x"))


def images(*sizes: int) -> list[dict[str, Any]]:
    return [{"image": np.full((size, 2, 3), number).tolist()} for number, size in enumerate(sizes)]


def expected(row: dict[str, Any]) -> dict[str, Any]:
    image = np.array(row["image"], np.float32)
    total = float(image.sum())
    boxes = [[total, total + 1], [total + 2, total + 3]]
    return {"score": float(image.max()), "boxes": boxes, "total": total, "corner": image[0, 0].tolist()}


class TestOneRowACall:
    @pytest.mark.parametrize("flags", [(), ("--isolate",), ("--batch_size=64",)])
    def test_each_row_gets_its_own(self, keyjoin: Any, lines: Any, model: Any, flags: tuple[str, ...]) -> None:
        rows = images(2, 3, 2, 1, 2)
        done = keyjoin("run", f"--input={lines(*rows)}", f"--model={model(detector)}", *flags)
        assert done.code == 0, done.err
        assert done.rows() == [{**row, **expected(row)} for row in rows]
        assert "1 row a call: the signature fixes its batch to 1\n" in done.out
        assert done.manifest()["model"]["batch_size"] == 1
        assert ("--batch_size=64 has no effect: the signature fixes its batch to 1" in done.err) == ("64" in str(flags))
        rescored = keyjoin("verify", f"--run={done.output}", f"--model={model(detector)}", "--rescore=5")
        assert rescored.code == 0, rescored.err

    def test_a_bad_row_takes_no_other_with_it(self, keyjoin: Any, lines: Any, model: Any) -> None:
        rows = [*images(2, 2), {"image": [[1]]}, *images(3)]
        done = keyjoin("run", f"--input={lines(*rows)}", f"--model={model(detector)}", "--max_bad_rows=1")
        assert [row["total"] for row in done.rows()] == [0.0, 12.0, 0.0]
        assert len(done.dead()) == 1

    def test_one_request(self, keyjoin: Any, model: Any, tmp_path: Path) -> None:
        request, rows = tmp_path / "request.json", images(2, 1, 2)
        request.write_text(json.dumps({"instances": rows}))
        answer = json.loads(keyjoin("predict", f"--instances={request}", f"--model={model(detector)}").out)
        assert answer == {"predictions": list(map(expected, rows))}

    def test_inspect_and_a_key(self, keyjoin: Any, lines: Any, model: Any) -> None:
        shown = keyjoin("inspect", f"--model={model(keyed)}").out
        assert "batch      1 row a call: the signature fixes its batch to 1\n" in shown
        assert json.loads(keyjoin("inspect", "--json", f"--model={model(keyed)}").out)["rows_per_call"] == 1
        done = keyjoin("run", f"--input={lines(*[{'x': [n, 0, 1]} for n in range(5)])}", f"--model={model(keyed)}")
        assert [row["y"] for row in done.rows()] == [1.0, 2.0, 3.0, 4.0, 5.0]
        assert "input key (int32)" in done.out

    def test_a_wrapped_model(self, keyjoin: Any, lines: Any, model: Any, tmp_path: Path) -> None:
        wrapped = tmp_path / "wrapped"
        assert keyjoin("wrap", f"--model={model(detector)}", f"--output={wrapped}").code == 0
        done = keyjoin("run", f"--input={lines(*images(2, 2))}", f"--model={wrapped}", "--output_fields=score,total")
        assert done.rows() == [{"score": 0.0, "total": 0.0}, {"score": 1.0, "total": 12.0}], done.err

    def test_a_pipeline_of_one_s_own(self, model: Any) -> None:
        rows = images(2, 3, 2)
        with beam.Pipeline("FnApiRunner") as root:
            scored = root | beam.Create(rows, reshuffle=False) | KeyedPredict(model(detector))
            assert_that(scored.joined, equal_to([{**row, **expected(row)} for row in rows]))


class TestFourRowsACall:
    @pytest.mark.parametrize("count", [1, 4, 9])
    def test_each_row_gets_its_own(self, keyjoin: Any, lines: Any, model: Any, count: int) -> None:
        rows = [{"x": [n, n * n, 1]} for n in range(count)]
        done = keyjoin("run", f"--input={lines(*rows)}", f"--model={model(four)}")
        assert done.code == 0, done.err
        assert [row["y"] for row in done.rows()] == [sum(row["x"]) for row in rows]
        assert "4 rows a call: the signature fixes its batch" in done.out

    def test_copies_of_a_row_would_have_its_key(self, keyjoin: Any, tmp_path: Path) -> None:
        specs = (tf.TensorSpec([4, 3], tf.float32, name="x"), tf.TensorSpec([4], tf.int32, name="key"))
        folder = models.save(tmp_path / "model", lambda x, key: {"y": x[:, 0], "key": tf.identity(key)}, *specs)
        refused = keyjoin("inspect", f"--model={folder}")
        assert refused.code == 2
        assert "export the model with a free batch dimension, or without the key" in refused.err


class Called:
    """Returns sums of rows, and records the sizes of its calls."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, x: npt.NDArray[Any], outputs: Any = None) -> list[npt.NDArray[Any]]:
        self.sizes.append(len(x))
        made = {"sum": x.sum(1), "row": x}
        return [made[name] for name in outputs or made]


@given(st.integers(1, 5), st.integers(1, 17), st.sampled_from([None, ("row",), ("sum", "row")]))
def test_calls_have_the_fixed_size_and_rows_their_own_values(
    size: int, count: int, outputs: tuple[str, ...] | None
) -> None:
    call, x = Called(), np.arange(count * 2.0).reshape(count, 2)
    found = FixedBatch(call, size, ["sum", "row"], ())(x, outputs=outputs)
    expected = {"sum": x.sum(1), "row": x}
    for name, array in zip(outputs or expected, found, strict=True):
        assert np.array_equal(array, expected[name])
    assert call.sizes == [size] * -(-count // size)


@pytest.mark.parametrize("answer", [np.zeros(3), np.float32(1), np.zeros((5, 2))])
def test_other_numbers_of_predictions_are_no_predictions(answer: Any) -> None:
    call = FixedBatch(lambda *_, outputs: [np.asarray(answer)], 4, ["y"], ())  # noqa: ARG005
    with pytest.raises(ModelError, match=r"output y has . values for 4 rows"):
        call(np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("inputs", "rows"),
    [
        ({"x": [None, 3]}, None), ({"x": [1, 3]}, 1), ({"x": [1, 3], "y": [None]}, 1), ({"x": None}, None),
        ({"x": [8, 3], "key": [None]}, 8), ({"x": [8, 3], "y": [8]}, 8), ({"x": [None], "w": [8]}, None),
        ({"x": [1, 2], "anchors": [100, 4], "keep": []}, 1), ({"keep": []}, None), ({"key": [1]}, None),
    ],
)  # fmt: skip
def test_rows_of_a_call(inputs: dict[str, Any], rows: int | None) -> None:
    assert rows_of(inputs) == rows
    assert all(is_per_row(sizes, rows) == (sizes is None or (sizes and sizes[0] in (None, rows))) or sizes == []
               for sizes in inputs.values())  # fmt: skip


@pytest.mark.parametrize("inputs", [{"x": [13]}, {"x": [13], "y": [13]}, {"x": [8, 3], "y": [4, 3]}])
def test_what_may_be_no_batch_is_refused(inputs: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="has no free batch dimension"):
        rows_of(inputs)


def test_a_model_of_one_row_looks_like_any_other(model: Any) -> None:
    loaded = loader.load(model(detector))
    assert loaded.rows == 1
    assert loaded.outputs["boxes"].shape == (2, 2)
    found = loaded({"image": np.array([row["image"] for row in images(2, 2, 2)], np.uint8)})
    assert {name: array.shape for name, array in found.items()} == {
        "boxes": (3, 2, 2), "corner": (3, 3), "score": (3,), "total": (3,)
    }  # fmt: skip
