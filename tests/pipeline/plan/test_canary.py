"""`--canary N` scores the first N rows before a run, and stops the run if they fail or give one prediction."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from tests.conftest import Result
from tests.support import models
from tests.transforms.formats.test_every_format import CASES, Row
from transforms import formats

FLAGS = {"csv": ["--features=x,y", "--rename=y=z"], "tsv": ["--features=x,y", "--rename=y=z"]}
GOOD = [{"x": [float(row), 1.0, 2.0]} for row in range(400)]
REFUSED: dict[str, Any] = {"x": [666.0, 0.0, 0.0]}


def always_one(folder: Path) -> str:
    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.ones([tf.shape(x)[0]]), "x0": x[:, 0]}

    return models.save(folder, call, models.spec("x", 3))


def test_a_canary_that_passes_goes_on_with_the_same_output(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    given = [f"--input={lines(*GOOD, REFUSED)}", f"--model={model(models.raising)}", "--max_bad_rows=1"]
    done = keyjoin("run", *given, "--canary=100")
    assert (done.code, done.err) == (0, "")
    assert "canary       100 rows scored, 0 of them bad; the run continues" in done.out
    assert done.lines() == keyjoin("run", *given).lines()
    assert len(done.rows()) == 400


def test_a_canary_with_bad_rows_stops_the_run_before_it_writes(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    path = lines(*GOOD[:50], *[REFUSED] * 4, *GOOD)
    given = [f"--input={path}", f"--model={model(models.raising)}", "--max_bad_rows=0.03"]
    refused = keyjoin("run", *given, "--canary=100")
    assert (refused.code, refused.output.exists()) == (1, False)
    assert "--canary: 4 of the first 100 rows are bad, and --max_bad_rows=0.03 allows fewer: " in refused.err
    assert "(line 51) model_error: " in refused.err
    assert refused.err.splitlines()[-1].count("model_error: ") == 3
    assert keyjoin("run", *given).code == 0  # of all 454 rows, four are few


def test_a_canary_stops_at_the_first_rows_that_exceed_a_limit(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    given = [f"--input={lines(*GOOD[:10], *[b'x'] * 5000)}", f"--model={model(models.plain)}", "--max_bad_rows=9"]
    refused = keyjoin("run", *given, "--canary=5000")
    assert refused.code == 1
    assert "990 of the first 1,000 rows are bad" in refused.err


def test_a_canary_with_one_prediction_for_all_rows_stops_the_run(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    given = [f"--input={lines(*GOOD)}", f"--model={model(always_one)}"]
    refused = keyjoin("run", *given, "--canary=200")
    assert (refused.code, refused.output.exists()) == (1, False)
    assert "output y is 1.0 for all of the first 200 rows" in refused.err
    for passing in (["--canary=99"], []):
        assert keyjoin("run", *given, *passing).code == 0


def test_predictions_that_are_not_finite_count_as_bad_even_if_they_are_kept(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    rows: Sequence[Any] = [{"x": float(row % 10)} for row in range(200)]
    given = [f"--input={lines(*rows)}", f"--model={model(models.dividing)}", "--non_finite=keep"]
    refused = keyjoin("run", *given, "--canary=100")
    assert refused.code == 1
    assert "10 of the first 100 rows are bad" in refused.err
    assert "non_finite: prediction" in refused.err
    assert keyjoin("run", *given, "--canary=100", "--max_bad_rows=0.2").code == 0


def test_a_resumed_run_has_no_canary(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    given = [f"--input={lines(*GOOD)}", f"--model={model(models.plain)}", "--canary=50", "--chunk_bytes=999"]
    done = keyjoin("run", *given)
    (done.output / "_SUCCESS").unlink()
    done.parts()[0].unlink()
    again = keyjoin("run", *given, f"--output={done.output}")
    assert (again.code, again.complete()) == (0, True)
    assert ("canary" in done.out, "canary" in again.out) == (True, False)


def test_a_model_with_a_state_starts_the_run_as_it_was_saved(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    given = [f"--input={lines(*GOOD[:20])}", f"--model={model(counting)}", "--batch_dependence=allow"]
    assert keyjoin("run", *given, "--canary=10").lines() == keyjoin("run", *given).lines()


def counting(folder: Path) -> str:
    """Returns how often it was called since it was loaded."""
    module = tf.Module()
    module.calls = tf.Variable(0.0)

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        count = module.calls.assign_add(1.0)
        return {"y": x[:, 0] * 0.0 + count}

    module.call = tf.function(call, input_signature=[models.spec("x", 3)])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.call})
    return str(folder)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_each_format_has_a_canary(name: str, keyjoin: Callable[..., Result], model: Any, tmp_path: Path) -> None:
    path = tmp_path / f"a.{name}"
    path.write_bytes(CASES[name].file([Row(None if 150 <= row < 153 else row, "a") for row in range(300)]))
    given = [f"--input={path}", f"--model={model(models.echoing, tf.float32, 2)}", *FLAGS.get(name, [])]
    assert keyjoin("run", *given, "--canary=150", "--max_bad_rows=3").code == 0
    refused = keyjoin("run", *given, "--canary=153", "--max_bad_rows=2")
    assert (refused.code, "3 of the first 153 rows are bad" in refused.err) == (1, True), refused.err
