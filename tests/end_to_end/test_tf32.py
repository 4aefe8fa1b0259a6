"""TF32, to which TensorFlow rounds float32 products on GPUs, is off unless the command turns it on."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import op_def_library

from keyjoin import KeyedPredict
from tests.conftest import Result
from tests.support.models import save, spec
from transforms.saved_model.loader import Loading, load


def asking(folder: Path) -> str:
    """A model that returns 1 for each row if TF32 is on, else 0."""

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        is_on = op_def_library.apply_op("IsTensorFloat32Enabled")
        return {"y": tf.zeros_like(x[:, 0]) + tf.cast(is_on, tf.float32)}

    return save(folder, call, spec("x", 3))


ROWS = {"x": np.zeros((2, 3), np.float32)}


def test_each_load_sets_it(model: Callable[..., str]) -> None:
    folder = model(asking)
    for tf32 in (False, True, False):
        assert load(folder, Loading(tf32=tf32))(ROWS)["y"].tolist() == [float(tf32)] * 2


def test_a_pipeline_of_ones_own_sets_it(model: Callable[..., str]) -> None:
    for tf32 in (True, False):
        handler = KeyedPredict(model(asking), tf32=tf32).handler
        assert handler.load_model()(ROWS)["y"].tolist() == [float(tf32)] * 2


@pytest.mark.parametrize("flags", [(), ("--tf32",)])
def test_every_command_calls_the_model_with_or_without_tf32(
    keyjoin: Callable[..., Result], model: Callable[..., str], tmp_path: Path, flags: tuple[str, ...]
) -> None:
    (tmp_path / "in.jsonl").write_text('{"x": [1, 2, 3]}\n')
    (tmp_path / "request.json").write_text('{"instances": [{"x": [1, 2, 3]}]}')
    expected, folder = float(bool(flags)), f"--model={model(asking)}"
    predicted = keyjoin("predict", folder, *flags, f"--instances={tmp_path}/request.json")
    assert json.loads(predicted.out)["predictions"] == [{"y": expected}]
    ran = keyjoin("run", folder, *flags, f"--input={tmp_path}/in.jsonl")
    assert [row["y"] for row in ran.rows()] == [expected]
    assert ran.manifest()["options"]["tf32"] is bool(flags)
    assert keyjoin("verify", f"--run={ran.output}", folder, "--rescore=1").code == 0  # uses the manifest's setting
    other = ("--tf32",) if not flags else ()
    again = keyjoin("run", folder, *other, f"--input={tmp_path}/in.jsonl", f"--output={ran.output}", "--incremental")
    assert (again.code, "tf32" in again.err) == (2, True), again.err
