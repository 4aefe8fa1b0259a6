"""Runs that must fail: exit code 1, one line on standard error, and no `_SUCCESS`."""

import gzip
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import BOSTON, ROOT, Result
from tests.support import models
from transforms.write_receipts import write_list

X3 = [{"x": [1, 2, 3], "n": "a"}, {"x": [0.5, 0, -1], "n": "é"}, {"x": [4, 4, 4]}]
LINES = [b'{"x": [1, 2, 3], "n": "a"}', b'{"x": [0.50, 0, -1e0],   "n": "\\u00e9"}\r', b' {"x":[4,4,4]} ']


def linear(x: list[float]) -> float:
    return sum(value * weight[0] for value, weight in zip(x, models.WEIGHTS, strict=True))


class TestFailures:
    """What must fail a run: exit code 1, one line on standard error, no `_SUCCESS`."""

    def run_while(self, keyjoin: Any, lines: Any, model: Any, monkeypatch: Any, act: Callable[[Path], None]) -> Result:
        """Runs a job, and changes the source between reading and writing."""
        from transforms import join_predictions

        path = Path(lines(*X3))
        joined = join_predictions.join_chunk

        def act_then_join(*args: Any) -> Any:
            act(path)
            return joined(*args)

        monkeypatch.setattr(join_predictions, "join_chunk", act_then_join)
        done: Result = keyjoin("run", f"--input={path}", f"--model={model(models.keyed)}")
        assert (done.code, done.complete()) == (1, False)
        assert done.err.count("\n") == 1
        return done

    def test_a_source_that_changes(self, keyjoin: Any, lines: Any, model: Any, monkeypatch: Any) -> None:
        def act(path: Path) -> None:
            path.write_bytes(path.read_bytes().replace(b"4, 4", b"5, 4"))

        done = self.run_while(keyjoin, lines, model, monkeypatch, act)
        assert "in.jsonl changed during the run" in done.err

    def test_a_source_that_is_cut(self, keyjoin: Any, lines: Any, model: Any, monkeypatch: Any) -> None:
        done = self.run_while(keyjoin, lines, model, monkeypatch, lambda path: os.truncate(path, 20))
        assert "the file was truncated during the run" in done.err

    def test_a_source_that_grows(self, keyjoin: Any, lines: Any, model: Any, monkeypatch: Any) -> None:
        def act(path: Path) -> None:
            path.write_bytes(path.read_bytes() + b"{}\n")

        done = self.run_while(keyjoin, lines, model, monkeypatch, act)
        assert "in.jsonl changed during the run" in done.err

    def test_a_source_that_goes(self, keyjoin: Any, lines: Any, model: Any, monkeypatch: Any) -> None:
        done = self.run_while(keyjoin, lines, model, monkeypatch, lambda path: path.unlink())
        assert "in.jsonl cannot be read: [Errno 2] No such file" in done.err

    def test_what_was_not_foreseen(self, keyjoin: Any, lines: Any, model: Any, monkeypatch: Any) -> None:
        def act(_: Path) -> None:
            raise ZeroDivisionError("nobody thought of this")

        done = self.run_while(keyjoin, lines, model, monkeypatch, act)
        assert "nobody thought of this" in done.err
        assert f"see {done.output / '_keyjoin/error.txt'}" in done.err
        assert "Traceback" in (done.output / "_keyjoin/error.txt").read_text()

    def test_a_part_that_goes(self, keyjoin: Any, lines: Any, model: Any, monkeypatch: Any) -> None:
        from pipeline.job import waves

        def lose(temp: str, *more: Any) -> str:
            next(Path(temp).parents[1].glob("in-*")).write_bytes(b"")
            return write_list(temp, *more)

        monkeypatch.setattr(waves, "write_list", lose)
        done = keyjoin("run", f"--input={lines(*X3)}", f"--model={model(models.keyed)}")
        assert (done.code, done.complete()) == (1, False)
        assert "the ledger does not add up: in-00000-of-00001.jsonl has 0 bytes" in done.err

    def test_a_file_that_cannot_be_written_whole(self, keyjoin: Any, lines: Any, model: Any) -> None:
        flags = (f"--input={lines(*X3 * 500)}", f"--model={model(models.keyed)}")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))  # writes beyond this size fail, as on a full disk
        try:
            done = keyjoin("run", *flags)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (done.code, done.complete()) == (1, False)
        assert "in-00000-of-00001.jsonl: [Errno 27] File too large" in done.err
        assert done.err.count("\n") == 1
        assert sorted(p.name for p in (done.output / "_keyjoin").iterdir()) == ["job.json", "temp"]
        assert keyjoin("run", *flags, f"--output={done.output}").complete()


def test_a_failed_run_prints_one_line_and_no_traceback(tmp_path: Path) -> None:
    letters = np.random.default_rng(0).integers(97, 123, (1500, 1000), np.uint8)
    rows = [json.dumps({"features": [1] * 13, "n": bytes(row).decode()}) for row in letters]
    packed = tmp_path / "in.jsonl.gz"
    packed.write_bytes(gzip.compress("\n".join(rows).encode())[:-5])
    command = [sys.executable, "-m", "pipeline", "run", f"--input={packed}", f"--model={BOSTON}/model"]
    done = subprocess.run(
        [*command, f"--output={tmp_path}/o", "--progress=off"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"keyjoin: error: {packed}: not a whole gzip file")
