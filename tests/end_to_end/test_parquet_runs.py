"""Runs on Parquet files, through the command line: dead letters, replay, verification, left joins and Prism."""

import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import Result
from tests.support import models

COUNT, BAD = 30, (4, 17)
TABLE = pa.table(
    {
        "a": pa.array([None if row in BAD else row / 2 for row in range(COUNT)]),
        "b": pa.array(range(COUNT), pa.int16()),
        "c": pa.array([float(row) for row in range(COUNT)], pa.float32()),
        "at": pa.array(range(COUNT), pa.timestamp("us", "UTC")),
        "tag": pa.array(["é", "b", None] * 10).dictionary_encode(),
    }
)
GOOD = [row for row in range(COUNT) if row not in BAD]
FLAGS = ("--features=a,b,c", "--max_bad_rows=2", "--chunk_bytes=500")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    pq.write_table(TABLE, tmp_path / "rows.parquet", row_group_size=6)
    return tmp_path / "rows.parquet"


def table_of(done: Result) -> pa.Table:
    return pa.concat_tables(pq.read_table(part) for part in done.parts())


def test_bad_rows_are_repaired_by_a_replay(keyjoin: Callable[..., Result], model: Any, source: Path) -> None:
    where = (f"--input={source}", f"--model={model(models.keyed)}", *FLAGS)
    done = keyjoin("run", *where, "--output_fields=row,prediction,key")
    assert (done.code, done.complete(), done.err) == (0, True, "")
    assert len(done.parts()) > 1
    assert [(letter["position"], letter["reason"]) for letter in done.dead()] == [(row, "null") for row in BAD]
    joined = table_of(done)
    assert joined.select(TABLE.column_names).equals(TABLE.take(GOOD))
    assert joined["key"].to_pylist() == [f"{source}#{row}" for row in GOOD]

    repaired = source.parent / "repaired.jsonl"
    rows = [{"key": letter["key"], "row": {**json.loads(letter["row"]), "a": 1.5}} for letter in done.dead()]
    repaired.write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = keyjoin("replay", f"--run={done.output}", f"--rows={repaired}", f"--model={model(models.keyed)}")
    assert again.code == 0, again.err
    assert not done.dead()
    whole = table_of(done)
    a = [1.5 if row in BAD else value for row, value in enumerate(TABLE["a"].to_pylist())]
    assert whole.select(TABLE.column_names).equals(TABLE.set_column(0, "a", pa.array(a)))
    assert whole.take(GOOD).equals(joined.cast(whole.schema))
    verified = keyjoin("verify", f"--run={done.output}", "--read_data=100%")
    assert verified.code == 0, verified.err


def test_rows_are_scored_again_by_verify(keyjoin: Callable[..., Result], model: Any, source: Path) -> None:
    where = (f"--input={source}", f"--model={model(models.keyed)}")
    done = keyjoin("run", *where, *FLAGS)
    rescored = keyjoin("verify", f"--run={done.output}", "--rescore=20", f"--model={model(models.keyed)}")
    assert rescored.code == 0, rescored.err + rescored.out


def test_a_left_join_keeps_all_rows(keyjoin: Callable[..., Result], model: Any, source: Path) -> None:
    where = (f"--input={source}", f"--model={model(models.keyed)}")
    done = keyjoin("run", *where, *FLAGS, "--bad_rows=null")
    assert done.code == 0, done.err
    table = table_of(done)
    assert table.select(TABLE.column_names).equals(TABLE)
    assert [row for row, value in enumerate(table["prediction"].to_pylist()) if value is None] == list(BAD)
    assert table["error"][BAD[0]].as_py()["reason"] == "null"


def test_a_missing_value_takes_its_default(keyjoin: Callable[..., Result], model: Any, source: Path) -> None:
    done = keyjoin("run", f"--input={source}", f"--model={model(models.keyed)}", *FLAGS, "--missing=a=0")
    assert (done.code, done.dead()) == (0, [])
    assert table_of(done).select(TABLE.column_names).equals(TABLE)


def test_a_file_inside_gzip_is_read(keyjoin: Callable[..., Result], model: Any, source: Path) -> None:
    path = source.with_suffix(".parquet.gz")
    path.write_bytes(gzip.compress(source.read_bytes()))
    done = keyjoin("run", f"--input={path}", f"--model={model(models.keyed)}", *FLAGS)
    assert done.code == 0, done.err
    tables = [pq.read_table(io.BytesIO(gzip.decompress(part.read_bytes()))) for part in done.parts()]
    assert pa.concat_tables(tables).select(TABLE.column_names).equals(TABLE.take(GOOD))


@pytest.mark.skipif("KEYJOIN_PRISM" not in os.environ, reason="tests/run.sh builds Prism and says so where it cannot")
def test_prism_writes_the_same_parts(keyjoin: Callable[..., Result], model: Any, source: Path) -> None:
    prism = ("--runner=PrismRunner", f"--prism_location={os.environ['KEYJOIN_PRISM']}", "--environment_type=LOOPBACK")
    where = (f"--input={source}", f"--model={model(models.keyed)}", *FLAGS)
    local, remote = keyjoin("run", *where), keyjoin("run", *where, *prism)
    assert (remote.code, remote.complete()) == (0, True), remote.err
    assert [part.read_bytes() for part in remote.parts()] == [part.read_bytes() for part in local.parts()]
