"""Hive-style folders: parts keep them, and `--partition_fields` feeds the model from them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.conftest import Result
from tests.support import models
from transforms import formats

FOLDERS = {
    "year=2026/sort=1": [1.0, 2.0],
    "year=2027/sort=__HIVE_DEFAULT_PARTITION__": [3.0, "bad"],
    "year=2027/sort=%33": [],
}


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    for folder, values in FOLDERS.items():
        (tmp_path / "lake" / folder).mkdir(parents=True)
        text = "".join(f"{json.dumps({'a': value})}\n" for value in values)
        (tmp_path / "lake" / folder / "a.jsonl").write_text(text)
    return tmp_path / "lake"


def test_folders_feed_the_model_and_stay_the_folders_of_the_parts(
    keyjoin: Callable[..., Result], lake: Path, model: Any, lines: Callable[..., str]
) -> None:
    flags = (f"--model={model(models.plain)}", "--features=a,year,sort", "--max_bad_rows=1.0")
    done = keyjoin("run", f"--input={lake}", *flags, "--partition_fields", "--missing", "sort=5")
    assert done.code == 0, done.err
    assert "x (float32 [N, 3]) <- a, year (folder), sort (folder)" in done.out
    assert "folders      give the fields year, sort, for the model" in done.out
    parts = [str(path.relative_to(done.output)) for path in done.parts()]
    assert parts == sorted(f"{folder}/a-00000-of-00001.jsonl" for folder in FOLDERS)
    inside = [{"a": 1, "year": 2026, "sort": 1}, {"a": 2, "year": 2026, "sort": 1}, {"a": 3, "year": 2027, "sort": 5}]
    same = keyjoin("run", f"--input={lines(*inside)}", *flags)
    assert [row["prediction"] for row in done.rows()] == [row["prediction"] for row in same.rows()]
    assert [row.keys() for row in done.rows()] == [{"a", "prediction"}] * 3
    assert done.manifest()["totals"]["filled"] == {"sort": 1}
    (letter,) = done.dead()
    verified = keyjoin("verify", f"--run={done.output}", flags[0], "--rescore=3")
    assert verified.code == 0, verified.out
    fixed = lake.parent / "fixed.jsonl"
    fixed.write_text(json.dumps({"key": letter["key"], "row": {"a": 3}}))
    assert keyjoin("replay", f"--run={done.output}", f"--rows={fixed}", "--missing", "sort=5").code == 0
    assert done.rows()[2]["prediction"] == done.rows()[3]["prediction"]


def test_without_a_default_rows_in_the_folder_of_nulls_are_dead_letters(
    keyjoin: Callable[..., Result], lake: Path, model: Any
) -> None:
    flags = (f"--model={model(models.plain)}", "--features=a,year,sort", "--max_bad_rows=1.0", "--partition_fields")
    done = keyjoin("run", f"--input={lake}", *flags)
    first, *_ = done.dead()
    assert (first["reason"], first["message"]) == ("missing", "field sort (folder): not in the row")
    assert len(done.rows()) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "the rows have no field year"),
        (["--partition_fields", "--include_fields=year"], "the rows have no field year"),
        (["--partition_fields", "--input={lake}/../more.jsonl"], "more.jsonl has no folder named FIELD=VALUE"),
    ],
)
def test_what_folders_cannot_give_is_refused(
    keyjoin: Callable[..., Result], lake: Path, model: Any, flags: list[str], message: str
) -> None:
    (lake.parent / "more.jsonl").write_text('{"a": 1}\n')
    given = [flag.format(lake=lake) for flag in flags]
    refused = keyjoin("check", f"--input={lake}", f"--model={model(models.plain)}", "--features=a,year,sort", *given)
    assert refused.code == 2
    assert message in refused.err


def test_files_added_to_new_folders_are_scored_incrementally(
    keyjoin: Callable[..., Result], lake: Path, model: Any
) -> None:
    flags = (f"--input={lake}", f"--model={model(models.plain)}", "--features=a,year,sort", "--max_bad_rows=1.0")
    done = keyjoin("run", *flags, "--partition_fields")
    (lake / "year=2028/sort=2").mkdir(parents=True)
    (lake / "year=2028/sort=2/b.jsonl").write_text('{"a": 1}\n')
    more = keyjoin("run", *flags, "--partition_fields", "--incremental", f"--output={done.output}")
    assert more.code == 0, more.err
    assert len(done.rows()) == 3
    other = keyjoin("run", *flags, f"--output={done.output}")
    assert other.code == 2
    assert "--partition_fields was true, is now false" in other.err


@pytest.mark.parametrize("name", formats.FORMATS)
def test_folders_feed_the_model_in_every_format(
    keyjoin: Callable[..., Result], tmp_path: Path, model: Any, name: str
) -> None:
    writer, flags = formats.load(name).writer, (f"--model={model(models.plain)}", "--features=a,m,b")

    def write(folder: str, **columns: list[float]) -> str:
        path = tmp_path / folder / f"x.{name}"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"".join(bytes(memoryview(some)) for some in writer.encode(pa.table(columns)).blocks))
        return str(path)

    write("lake/m=3", a=[1.5, 2.5], b=[0.5, 1.5])
    write("lake/m=4", a=[1.5], b=[0.5])
    done = keyjoin("run", f"--input={tmp_path / 'lake'}", *flags, "--partition_fields")
    same = keyjoin("run", f"--input={write('flat', a=[1.5, 2.5, 1.5], b=[0.5, 1.5, 0.5], m=[3.0, 3.0, 4.0])}", *flags)
    assert (done.code, same.code) == (0, 0), done.err + same.err
    assert predictions(done, writer) == predictions(same, writer)
    verified = keyjoin("verify", f"--run={done.output}", flags[0], "--rescore=3")
    assert verified.code == 0, verified.out
    twice = keyjoin("check", f"--input={write('both/m=3', a=[1.5], b=[2.5], m=[3.0])}", *flags, "--partition_fields")
    assert twice.code == 2
    assert "the rows have a field m, and so do the folders" in twice.err


def predictions(run: Result, writer: Any) -> list[Any]:
    return [row["prediction"] for part in run.parts() for row in writer.read_back(part.read_bytes()).values()]
