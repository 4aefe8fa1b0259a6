"""`_keyjoin/statistics.json` says of the joined rows what pandas says, in each format, and however the run came to its end."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from pipeline.run_folder.statistics import read_statistics
from tests.conftest import BOSTON, Result
from tests.support import houses, models
from tests.support.parts import read, scalar
from transforms import statistics
from transforms.statistics import Column

HOUSES = pd.read_csv(BOSTON / "houses.csv")


def words(folder: Path) -> str:
    """Numbers (2), a word and a flag -> the sum of the numbers, and the word."""

    def call(x: tf.Tensor, word: tf.Tensor, flag: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"total": tf.reduce_sum(x, axis=1), "same": tf.where(flag, word, word)}

    flag = models.spec("flag", dtype=tf.bool)
    return models.save(folder, call, models.spec("x", 2), models.spec("word", dtype=tf.string), flag)


def counted(done: Result) -> dict[str, Column]:
    found = read_statistics(str(done.output))
    assert found is not None
    assert len({column.name for column in found}) == len(found)
    return {column.name: column for column in found}


def text(done: Result) -> bytes:
    return (done.output / "_keyjoin/statistics.json").read_bytes()


def equal(column: Column, values: Any) -> None:
    """Compares a column with pandas."""
    series = pd.Series(values).astype(np.float32)
    assert (column.rows, statistics.minimum(column), statistics.maximum(column)) == (
        series.count(), series.min(), series.max()
    )  # fmt: skip
    halves = (series.to_numpy().view(np.uint32) >> 16).tolist()
    assert dict(column.bins) == pd.Series(halves).value_counts().to_dict()
    shares = [0, 0.01, 0.25, 0.5, 0.75, 0.99, 1]
    assert np.allclose(statistics.quantiles(column, shares), series.quantile(shares), rtol=2**-7)


@pytest.mark.parametrize("fmt", houses.WRITERS)
def test_the_statistics_of_the_houses_are_those_of_pandas(
    keyjoin: Callable[..., Result], tmp_path: Path, fmt: str
) -> None:
    path = houses.write(tmp_path, fmt)
    done = keyjoin("run", f"--input={path}", f"--model={BOSTON}/model", houses.FEATURES, "--chunk_bytes=2000")
    assert (done.code, done.err) == (0, "")
    found, rows = counted(done), read(path)
    names = houses.FEATURES.partition("=")[2].split(",")
    assert list(found) == [*names, "prediction"]
    for name in names:
        equal(found[name], [scalar(row[name]) for row in rows])
    equal(found["prediction"], [scalar(row["prediction"]) for part in done.parts() for row in read(part)])


def test_a_vector_has_a_column_for_each_element(keyjoin: Callable[..., Result]) -> None:
    done = keyjoin("run", f"--input={BOSTON}/data", f"--model={BOSTON}/model")
    found, rows = counted(done), done.rows()
    assert list(found) == [*(f"features[{n}]" for n in range(13)), "prediction"]
    for at in range(13):
        equal(found[f"features[{at}]"], [row["features"][at] for row in rows])


ROWS = [{"a": n / 2, "b": -n, "word": f"w{n % 3}", "flag": n % 4 == 0, "id": n} for n in range(40)]
FEEDS = (
    "--features=a,b",
    "--input_map=word=word,flag=flag",
    "--chunk_bytes=500",
    "--max_bad_rows=1.0",
    "--missing=a=7",
)


def test_texts_bools_and_missing_values(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    lacking = [{**row, "a": None} if row["id"] % 5 == 0 else row for row in ROWS]
    bad = [{**ROWS[0], "b": "bad", "word": "never"}] * 12
    done = keyjoin("run", f"--input={lines(*bad, *lacking)}", f"--model={model(words)}", *FEEDS)
    assert (done.code, len(done.dead())) == (0, 12), done.err
    found = counted(done)
    assert list(found) == ["flag", "word", "a", "b", "same", "total"]
    equal(found["a"], [7 if row["a"] is None else row["a"] for row in lacking])
    equal(found["b"], [row["b"] for row in ROWS])
    equal(found["flag"], [row["flag"] for row in ROWS])
    assert {name: column.missing for name, column in found.items() if column.missing} == {"a": 8}
    for name in ("word", "same"):
        assert found[name].texts == (("w0", 14), ("w1", 13), ("w2", 13))
        assert (found[name].rows, found[name].other) == (40, 0)


def test_they_are_the_same_after_a_resume_and_an_incremental_run(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    folder = Path(lines(*ROWS, name="a.jsonl")).parent
    flags = (f"--input={folder}", f"--model={model(words)}", *FEEDS)
    done = keyjoin("run", *flags)
    first = text(done)
    done.parts()[1].unlink()
    assert keyjoin("run", *flags, f"--output={done.output}").code == 0
    assert text(done) == first
    lines(*ROWS[:7], name="b.jsonl")
    assert keyjoin("run", *flags, f"--output={done.output}", "--incremental").code == 0
    assert text(done) == text(keyjoin("run", *flags)) != first
    assert counted(done)["a"].rows == 47


@pytest.mark.parametrize("bad", [{"b": "bad"}, {"total": 1}], ids=["read", "write"])
def test_a_replay_counts_each_row_once(
    keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path, bad: dict[str, Any]
) -> None:
    """A row that failed when it was written had gone into the model."""
    rows = [{**row, **bad} if row["id"] in (3, 4, 39) else row for row in ROWS]
    flags = (f"--model={model(words)}", *FEEDS)
    good = keyjoin("run", f"--input={lines(*ROWS, name='good.jsonl')}", *flags)
    done = keyjoin("run", f"--input={lines(*rows)}", *flags)
    assert len(done.dead()) == 3
    assert text(done) != text(good)
    repaired = tmp_path / "repaired.jsonl"
    for letters in (done.dead()[:1], done.dead()[1:]):
        again = [{"key": letter["key"], "row": ROWS[json.loads(letter["row"])["id"]]} for letter in letters]
        repaired.write_text("\n".join(map(json.dumps, again)))
        replayed = keyjoin("replay", f"--run={done.output}", f"--rows={repaired}")
        assert replayed.code == 0, replayed.err
    assert done.dead() == []
    assert text(done) == text(good)
    assert keyjoin("verify", f"--run={done.output}").code == 0


def test_a_model_that_fails_for_a_row_has_not_scored_it(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    rows = [{"x": [666, 0, 0]} if n % 10 == 3 else {"x": [n, 0, 1]} for n in range(30)]
    done = keyjoin("run", f"--input={lines(*rows)}", f"--model={model(models.raising)}", "--max_bad_rows=1.0")
    found = counted(done)
    assert (len(done.dead()), {column.rows for column in found.values()}) == (3, {27})
    equal(found["x[0]"], [row["x"][0] for row in rows if row["x"][0] != 666])


@pytest.mark.skipif("KEYJOIN_PRISM" not in os.environ, reason="tests/run.sh builds Prism and says so where it cannot")
def test_a_run_on_prism_counts_the_same(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    flags = (f"--input={lines(*ROWS)}", f"--model={model(words)}", *FEEDS)
    here = keyjoin("run", *flags)
    prism = ("--runner=PrismRunner", f"--prism_location={os.environ['KEYJOIN_PRISM']}", "--environment_type=LOOPBACK")
    there = keyjoin("run", *flags, *prism)
    assert there.code == 0, there.err
    assert text(there) == text(here)
