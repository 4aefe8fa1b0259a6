"""A run in a shell pipe: rows from standard input, joined rows to standard output."""

import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.terminal import pipes
from tests.conftest import BOSTON, Result
from tests.support import houses
from transforms import formats

ROWS = (BOSTON / "data/part-1.jsonl").read_bytes()
BAD = b'{"features": "none"}\n'


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def piped(
    keyjoin: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    temporary: Path,  # noqa: ARG001  no file is left elsewhere
) -> Callable[..., Result]:
    """Runs a command with these bytes as its standard input. The model is that of the Boston rows."""

    def call(command: str, content: bytes, *flags: str) -> Result:
        path = tmp_path / "piped"
        path.write_bytes(content)
        with path.open() as file:
            monkeypatch.setattr(sys, "stdin", file)
            return keyjoin(command, "--input=-", f"--model={BOSTON}/model", *flags)

    return call


def test_rows_go_through_a_pipe_as_through_files(
    keyjoin: Callable[..., Result], piped: Callable[..., Result], temporary: Path
) -> None:
    flags = ("--chunk_bytes=2000", "--output_fields=row,key")
    done = piped("run", ROWS, "--output=-", *flags)
    assert done.code == 0, done.err
    assert list(temporary.iterdir()) == []
    rows = [json.loads(line) for line in done.out.splitlines()]
    expected = keyjoin("run", f"--input={BOSTON}/data/part-1.jsonl", f"--model={BOSTON}/model", *flags).rows()
    assert [{**row, "key": row["key"].rpartition("#")[2]} for row in expected] == [
        {**row, "key": row["key"].removeprefix("-#")} for row in rows
    ]
    assert "rows read" in done.err
    assert "is removed; give a folder as --output" in done.err


def test_csv_has_one_header(piped: Callable[..., Result]) -> None:
    flags = ("--format=csv", "--output=-", "--chunk_bytes=3000", houses.FEATURES)
    done = piped("run", houses.CSV.read_bytes(), *flags)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    own = houses.CSV.read_text().splitlines()
    assert [line.rpartition(",")[0] for line in lines] == own
    assert lines[0] == f"{own[0]},prediction"


def test_bad_rows_are_printed_and_kept(piped: Callable[..., Result], temporary: Path) -> None:
    done = piped("run", gzip.compress(BAD + ROWS), "--output=-", "--max_bad_rows=1")
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == len(ROWS.splitlines())
    assert '-#0 (line 1): wrong_shape: field features: the string "none"' in done.err
    (letters,) = temporary.glob("*/_keyjoin/dead_letters/*")
    assert str(letters.parent) in done.err
    assert "is removed;" not in done.err
    assert json.loads(letters.read_text())["row"] == BAD.decode().strip()


def test_a_run_that_fails_writes_no_row(piped: Callable[..., Result]) -> None:
    failed = piped("run", ROWS + BAD, "--output=-", "--max_bad_rows=0")
    assert (failed.code, failed.out) == (1, "")
    assert "give the command again; no row was written" in failed.err
    assert "resume" not in failed.err
    assert f"-#{len(ROWS)}" in failed.err
    refused = piped("run", ROWS, "--output=-", "--features=nothere")
    assert (refused.code, refused.out) == (2, "")


def test_standard_input_alone_and_a_check(piped: Callable[..., Result], temporary: Path) -> None:
    checked = piped("check", ROWS, "--output=-")
    assert (checked.code, checked.out) == (0, ""), checked.err
    done = piped("run", ROWS)
    assert [path.name for path in done.parts()] == ["stdin-00000-of-00001.jsonl"], done.err
    two = piped("run", ROWS, "--input=other.jsonl")
    assert (two.code, "name - alone" in two.err) == (2, True)
    assert list(temporary.iterdir()) == []


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m pipeline run --input - --output - --model {BOSTON}/model | head -1"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        ["/bin/bash", "-o", "pipefail", "-c", command],
        input=ROWS * 50,
        capture_output=True,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stdout.count(b"\n")) == (0, 1), done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["avro", "tfrecord"])
def test_parts_are_one_file_as_if_there_had_been_one_chunk(
    name: str, tmp_path: Path, keyjoin: Callable[..., Result]
) -> None:
    flags = (f"--input={houses.write(tmp_path, name)}", f"--model={BOSTON}/model", houses.FEATURES)
    whole, parts = keyjoin("run", *flags), keyjoin("run", *flags, "--chunk_bytes=3000")
    assert len(parts.parts()) > 1, parts.err
    joined = b"".join(bytes(memoryview(block)) for block in pipes.joined(str(parts.output)))
    read = formats.load(name).writer.read_back
    one, other = read(joined).values(), read(whole.parts()[0].read_bytes()).values()
    predictions = [[row.pop("prediction") for row in rows] for rows in (one, other)]
    assert one == other
    assert np.allclose(np.ravel(predictions[0]), np.ravel(predictions[1]), rtol=1e-5)
