"""Spark on this machine: keyjoin scores the folders that it writes, and it reads the parts that keyjoin writes."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Result
from tests.support import models
from tests.support.parts import read, scalar

TEXTS = ["plain", 'say "hi"', "a,b", "two\nlines", "back\\slash", "é", None]
ROWS = [{"id": n, "s": text, "x0": n + 0.5, "x1": 2.0, "x2": -float(n)} for n, text in enumerate(TEXTS)]
SCHEMA = "id long, s string, x0 double, x1 double, x2 double"
PREDICTIONS = {row["id"]: row["x0"] / 2 - 1.25 * row["x1"] + 3 * row["x2"] for row in ROWS}
FLAGS = ("--features=x0,x1,x2", "--bad_rows=null")
DOUBLED = {"header": True, "escape": '"'}  # by default, Spark writes a backslash before a quote


@pytest.fixture(scope="module")
def spark(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A session, without a network port for its pages."""
    if not pytestconfig.getoption("--soak"):
        pytest.skip("Spark takes long to start: --soak")
    if shutil.which("java") is None:
        pytest.skip("java is not installed")
    sql = pytest.importorskip("pyspark.sql")
    folder = tmp_path_factory.mktemp("spark")
    settings = {
        "spark.ui.enabled": "false",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.local.dir": str(folder),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.sql.shuffle.partitions": "1",
    }
    builder = sql.SparkSession.builder.master("local[1]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    yield session
    session.stop()


@pytest.mark.parametrize("fmt", ["csv", "parquet", "json"])
def test_folders_of_spark_are_scored_and_spark_reads_the_parts(
    spark: Any, keyjoin: Callable[..., Result], model: Any, tmp_path: Path, fmt: str
) -> None:
    options = DOUBLED if fmt == "csv" else {}
    source = tmp_path / "in"
    spark.createDataFrame([tuple(row.values()) for row in ROWS], SCHEMA).repartition(2).write.format(fmt).options(
        **options
    ).save(str(source))
    assert {path.name.partition("part-")[0] for path in source.iterdir()} == {"", ".", "_SUCCESS", "._SUCCESS.crc"}
    done = keyjoin("run", f"--input={source}", f"--model={model(models.plain)}", *FLAGS)
    assert (done.code, done.complete(), done.dead()) == (0, True, []), done.err
    rows = {} if fmt == "json" else {int(row["id"]): row for part in done.parts() for row in read(part)}
    assert all(np.isclose(scalar(row["prediction"]), PREDICTIONS[at]) for at, row in rows.items())

    parts = [str(part) for part in done.parts()]
    multiline = {"multiLine": True} if fmt == "csv" else {}
    found = spark.read.format(fmt).options(**options, **multiline).load(parts).collect()
    assert {int(row["id"]): row["s"] for row in found} == {row["id"]: row["s"] for row in ROWS}
    values = {int(row["id"]): row["prediction"] for row in found}
    assert {at: scalar(value) for at, value in values.items()} == pytest.approx(PREDICTIONS)
