"""A plain glob over an output reads the joined rows, and none of keyjoin's other files in the folder."""

import glob
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest

from tests.conftest import Result
from tests.support import models

BAD = {2: {"id": 2, "x": "bad"}, 7: {"id": 7}}
ROWS = [BAD.get(n, {"id": n, "x": [n, 0, 1]}) for n in range(10)]
GLOB = "out/*.jsonl"


def with_cat() -> list[int]:
    text = subprocess.run(["sh", "-c", f"cat {GLOB}"], check=True, capture_output=True).stdout
    return [json.loads(line)["id"] for line in text.splitlines()]


def with_jq() -> list[int]:
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    done = subprocess.run(["sh", "-c", f"cat {GLOB} | jq .id"], check=True, capture_output=True)
    return [int(line) for line in done.stdout.split()]


def with_pandas() -> list[int]:
    found = pd.concat(pd.read_json(path, lines=True) for path in glob.glob(GLOB))
    return [int(number) for number in found["id"]]


def with_arrow(source: Any) -> list[int]:
    found: list[int] = ds.dataset(source, format="json").to_table()["id"].to_pylist()
    return found


READERS: dict[str, Callable[[], list[int]]] = {
    "cat": with_cat,
    "jq": with_jq,
    "pandas": with_pandas,
    "polars": lambda: pl.read_ndjson(GLOB)["id"].to_list(),
    "duckdb": lambda: [number for (number,) in duckdb.read_json(GLOB).project("id").fetchall()],
    "pyarrow": lambda: with_arrow(sorted(glob.glob(GLOB))),
    "pyarrow, the folder": lambda: with_arrow("out"),
}


@pytest.fixture(scope="module")
def outputs(model: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """State of a run -> a folder whose sub-folder `out` is the output in that state."""
    from pipeline.cli import main

    folder = tmp_path_factory.mktemp("readers")
    (folder / "data").mkdir()
    (folder / "data" / "a.jsonl").write_text("".join(f"{json.dumps(row):60}\n" for row in ROWS))
    kept: dict[str, Path] = {}

    def keep(state: str, code: int, *command: str) -> None:
        assert main(command) == code
        kept[state] = folder / state
        shutil.copytree("out", folder / state / "out")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = ("run", "--input=data", f"--model={model(models.keyed)}", "--output=out", "--chunk_bytes=150")
        keep("over the limit", 1, *run, "--max_bad_rows=1")
        assert list(Path("out").glob("*.jsonl"))
        keep("resumed", 0, *run, "--max_bad_rows=2")
        (letter, *_) = map(json.loads, Path(next(Path("out").glob("_keyjoin/dead_letters/*"))).read_text().splitlines())
        Path("repaired.jsonl").write_text(
            json.dumps({"key": letter["key"], "row": json.dumps({"id": 2, "x": [2, 0, 1]})})
        )
        keep("replayed", 0, "replay", "--run=out", "--rows=repaired.jsonl")
        keep("replaced", 0, *run, "--max_bad_rows=2", "--overwrite")
    return kept


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("state", "missing"),
    [("over the limit", {2, 7}), ("resumed", {2, 7}), ("replayed", {7}), ("replaced", {2, 7})],
)
def test_a_plain_glob_reads_rows_and_only_rows(
    outputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, reader: str, state: str, missing: set[int]
) -> None:
    monkeypatch.chdir(outputs[state])
    assert sorted(READERS[reader]()) == [n for n in range(10) if n not in missing]


def test_beside_the_parts_there_is_only_success(outputs: dict[str, Path]) -> None:
    for folder in outputs.values():
        others = {path.name for path in (folder / "out").iterdir() if "-of-" not in path.name}
        assert others - {"_SUCCESS"} == {"_keyjoin"}
        assert (folder / "out" / "_keyjoin" / "dead_letters").is_dir()


def test_an_output_of_an_older_version_is_refused_before_anything_is_written(
    keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    flags = [f"--input={lines({'x': [1, 2, 3]})}", f"--model={model(models.keyed)}", f"--output={output}"]
    for mark in ("_manifest.json", "_job.json"):
        output.mkdir()
        for name in (mark, "_SUCCESS", "in-00000-of-00001.jsonl"):
            (output / name).write_text("{}")
        before = {path.name: path.read_text() for path in output.iterdir()}
        for command in (
            ["run", *flags],
            ["run", *flags, "--overwrite"],
            ["check", *flags],
            ["replay", f"--run={output}"],
            ["verify", f"--run={output}"],
        ):
            done = keyjoin(*command)
            assert (done.code, done.err.count("\n")) == (2, 1), done.err
            assert f"{output} has {mark}, so an older version of keyjoin wrote it" in done.err
            assert {path.name: path.read_text() for path in output.iterdir()} == before
        shutil.rmtree(output)
