"""Avro through whole runs: dead letters, replay, rescoring, a left join, names and damage."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pytest

from tests.conftest import BOSTON, Result

ROWS = [json.loads(line) for line in (BOSTON / "data/part-1.jsonl").open()]
SCHEMA = {
    "type": "record",
    "name": "house",
    "fields": [
        {"name": "features", "type": ["null", {"type": "array", "items": "double"}]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    ],
}
FLAGS = (f"--model={BOSTON}/model", "--chunk_bytes=2000", "--max_bad_rows=2")
NULLS = (3, 40)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The rows, of which two have no features."""
    rows = [{**row, "at": 10**15 + number} for number, row in enumerate(ROWS)]
    for number in NULLS:
        rows[number]["features"] = None
    path = tmp_path / "houses.avro"
    with path.open("wb") as file:
        fastavro.writer(file, SCHEMA, rows, "deflate", sync_interval=1000)
    return path


def read(result: Result) -> list[Any]:
    found: list[Any] = []
    for part in result.parts():
        with part.open("rb") as file:
            found += fastavro.reader(file)
    return found


def test_repaired_rows_get_their_predictions_in_their_places(
    source: Path, keyjoin: Callable[..., Result], tmp_path: Path
) -> None:
    done = keyjoin("run", f"--input={source}", *FLAGS)
    assert done.code == 0, done.err
    assert [letter["key"] for letter in done.dead()] == [f"{source}#{number}" for number in NULLS]
    assert len(done.parts()) > 1
    before = read(done)
    rows = [
        {"key": f"{source}#{number}", "row": {"features": ROWS[number]["features"], "at": 10**15 + number}}
        for number in NULLS
    ]
    repaired = tmp_path / "repaired.jsonl"
    repaired.write_text("".join(json.dumps({**row, "row": _named(row["row"])}) + "\n" for row in rows))
    replayed = keyjoin("replay", f"--run={done.output}", f"--model={BOSTON}/model", f"--rows={repaired}")
    assert replayed.code == 0, replayed.err
    after = read(done)
    assert [row["features"] for row in after] == [row["features"] for row in ROWS]
    assert [row for number, row in enumerate(after) if number not in NULLS] == before
    verified = keyjoin("verify", f"--run={done.output}", "--read_data=100%", "--rescore=99", f"--model={BOSTON}/model")
    assert (verified.code, done.dead()) == (0, []), verified.err


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """Writes the value of a union with the name of its type, as Avro's JSON encoding does."""
    return {**row, "features": {"array": row["features"]}}


def test_bad_rows_have_null_predictions_in_a_left_join(source: Path, keyjoin: Callable[..., Result]) -> None:
    done = keyjoin("run", f"--input={source}", *FLAGS, "--bad_rows=null", "--exclude_fields=features")
    assert done.code == 0, done.err
    rows = read(done)
    assert [number for number, row in enumerate(rows) if row["prediction"] is None] == list(NULLS)
    assert [row["error"]["reason"] for row in rows if row["error"]] == ["null", "null"]
    assert "features" not in rows[0]
    assert rows[0]["at"].timestamp() == 10**9


def test_a_name_that_avro_lacks_and_a_damaged_file_are_refused(source: Path, keyjoin: Callable[..., Result]) -> None:
    refused = keyjoin("run", f"--input={source}", *FLAGS, "--prediction_prefix=a.")
    assert (refused.code, "no field names like 'a.prediction'" in refused.err) == (2, True), refused.err
    data = source.read_bytes()
    source.write_bytes(data[:-200])
    damaged = keyjoin("run", f"--input={source}", *FLAGS)
    assert damaged.code != 0
    assert "the block at byte" in damaged.err
    assert "Traceback" not in damaged.err
