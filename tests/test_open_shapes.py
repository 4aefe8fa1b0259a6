"""Shapes that a model leaves open, and shapes with nothing in them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests import models
from tests.conftest import Result
from transforms import columns
from transforms.errors import RunError


def test_a_chunk_without_a_good_row_does_not_take_the_others_with_it(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    """Its predictions have no shape that one could ask the model for."""
    good = Path(lines({"x": [1, 2]}, {"x": [3, 4]}, name="a.jsonl"))
    lines({"x": "bad"}, name="b.jsonl")
    lines(name="c.jsonl")
    done = keyjoin(
        "run", f"--input={good.parent}", f"--model={model(models.echoing, tf.float32, None)}", "--max_bad_rows=1"
    )
    assert (done.code, done.complete()) == (0, True), done.err
    assert [row["y"] for row in done.rows()] == [[1, 2], [3, 4]]
    assert len(done.dead()) == 1


@pytest.mark.parametrize(("shape", "row"), [((None,), []), ((2, None), [[], []])])
def test_an_input_of_no_values_is_refused(
    keyjoin: Callable[..., Result], lines: Any, model: Any, shape: tuple[int | None, ...], row: Any
) -> None:
    path = lines(*[{"x": row}] * 3)
    done = keyjoin("check", f"--input={path}", f"--model={model(models.echoing, tf.float32, *shape)}")
    assert (done.code, "the model's input x (float32 [N, " in done.err) == (2, True), done.err
    assert ") would get no values: " in done.err


def test_a_prediction_of_no_values_is_told(keyjoin: Callable[..., Result], lines: Any, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a prediction of the shape \[2, 0\] has no values"):
        columns.from_array(np.zeros((3, 2, 0), np.float32))
    saved = models.save(tmp_path / "model", lambda x: {"y": x[:, : tf.size(x) * 0]}, models.spec("x", 2))
    done = keyjoin("run", f"--input={lines({'x': [1, 2]})}", f"--model={saved}")
    assert (done.code, done.complete()) == (1, False)
    assert "a prediction of the shape [0] has no values; export the model without it; no _SUCCESS" in done.err
