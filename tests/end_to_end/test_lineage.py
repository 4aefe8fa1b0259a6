"""`--lineage` adds to each output row its key, the id of its run and the sha256 of its model, in every format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BOSTON, Result
from tests.support import houses, models
from tests.support.parts import read

ADDED = ["key", "keyjoin_run", "keyjoin_model"]


def lineage(part: Path) -> list[tuple[str, ...]]:
    """Returns the added fields of each row; bytes and lists of one value are texts."""
    return [tuple(_text(row[name]) for name in ADDED) for row in read(part)]


def _text(value: Any) -> str:
    (only,) = value if isinstance(value, list) else [value]
    return only.decode() if isinstance(only, bytes) else str(only)


FORMATS = ("jsonl", "csv", "parquet", "avro", "tfrecord")
CASES: list[tuple[str, tuple[str, ...]]] = [(fmt, ("--bad_rows=null",)) for fmt in FORMATS]
CASES += [("jsonl", ()), ("csv", ("--output_fields=prediction",)), ("parquet", ("--output_format=jsonl",))]


@pytest.mark.parametrize(("fmt", "more"), CASES)
def test_each_row_names_its_key_its_run_and_its_model(
    keyjoin: Callable[..., Result], tmp_path: Path, fmt: str, more: tuple[str, ...]
) -> None:
    path = houses.write(tmp_path, fmt)
    flags = (f"--input={path}", f"--model={BOSTON}/model", houses.FEATURES, "--lineage", "--chunk_bytes=2000", *more)
    done = keyjoin("run", *flags)
    assert done.code == 0, done.err
    record = done.manifest()
    (run,) = record["lineage"]
    found = [row for part in done.parts() for row in lineage(part)]
    assert len({key for key, _, _ in found}) == len(found) == record["totals"]["joined"]
    assert all(key.startswith(f"{path}#") for key, _, _ in found)
    assert {row[1:] for row in found} == {(run, record["model"]["sha256"])}
    again = keyjoin("run", *flags)
    assert [part.read_bytes() for part in again.parts()] == [part.read_bytes() for part in done.parts()]
    rescored = keyjoin("verify", f"--run={done.output}", "--read_data=100%", "--rescore=5", f"--model={BOSTON}/model")
    assert (rescored.code, "scored again: 5 equal" in rescored.out) == (0, True), rescored.out


def test_bad_rows_have_it_and_rows_of_other_runs_have_another(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    folder = Path(lines({"x": [1, 2, 3]}, b"bad", {"x": None})).parent
    flags = (f"--input={folder}", f"--model={model(models.keyed)}", "--lineage", "--bad_rows=null", "--max_bad_rows=9")
    first = keyjoin("run", *flags)
    assert [list(row)[-3:] for row in first.rows()] == [ADDED] * 3
    lines({"x": [4, 5, 6]}, name="new.jsonl")
    added = keyjoin("run", *flags, f"--output={first.output}", "--incremental")
    assert added.code == 0, added.err
    ids = [row["keyjoin_run"] for row in added.rows()]
    assert len(set(ids[:3])) == 1
    assert len(set(ids)) == 2
    assert added.manifest()["lineage"] == list(dict.fromkeys(ids))


def test_a_row_that_has_such_a_field_is_refused(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    path = lines({"x": [1, 2, 3], "keyjoin_run": 1})
    done = keyjoin("run", f"--input={path}", f"--model={model(models.keyed)}", "--lineage")
    assert (done.code, "the rows already have a field keyjoin_run" in done.err) == (2, True), done.err


@pytest.mark.parametrize("fmt", ["jsonl", "csv", "parquet"])
def test_the_last_lines_show_predictions_beside_their_rows(
    keyjoin: Callable[..., Result], tmp_path: Path, fmt: str
) -> None:
    flags = (f"--input={houses.write(tmp_path, fmt)}", f"--model={BOSTON}/model", houses.FEATURES, "--lineage")
    done = keyjoin("run", *flags)
    first = str(read(done.parts()[0])[0]["prediction"])[1:8]
    (at,) = [at for at, line in enumerate(done.out.splitlines()) if line.startswith("each row also has")]
    assert done.out.splitlines()[at].endswith("key, keyjoin_run, keyjoin_model")
    assert first in done.out.splitlines()[at - 3]
    assert not any(done.manifest()["model"]["sha256"] in line for line in done.out.splitlines()[at - 3 : at])
