"""A model that refuses every row is told of before the run, which would try each of them alone, for long."""

from collections.abc import Callable
from typing import Any

import pytest

from tests import models
from tests.conftest import Result

REFUSED = [{"x": [666, number, 0]} for number in range(4)]
SCORED = [{"x": [1, number, 0]} for number in range(4)]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (REFUSED, True),
        ([*REFUSED[:3], *SCORED], True),
        (REFUSED[:2], False),
        ([*REFUSED[:2], *SCORED], False),
        ([*SCORED, *REFUSED], False),
    ],
)
def test_a_model_that_refuses_all_of_the_first_rows_is_told_of(
    rows: list[Any], told: bool, keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    flags = (f"--input={lines(*rows)}", f"--model={model(models.raising)}", "--max_bad_rows=4")
    result = keyjoin("run", *flags)
    said = "keyjoin: warning: the model refuses each of the first 3 rows, model_error: InvalidArgumentError"
    assert (said in result.err) == told
    assert result.code == 0


def test_a_model_that_ends_its_process_is_not_asked_row_by_row(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    flags = (f"--input={lines(*REFUSED)}", f"--model={model(models.aborting)}", "--isolate", "--max_bad_rows=4")
    result = keyjoin("run", *flags)
    assert "refuses" not in result.err
    assert [letter["reason"] for letter in result.dead()] == ["model_crash"] * 4
