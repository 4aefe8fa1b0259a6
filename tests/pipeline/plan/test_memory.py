"""--max_memory: keyjoin refuses a limit that cannot be kept, and has the system enforce one that can."""

import gzip
import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from pipeline.model.model_process import ModelProcess
from pipeline.plan import memory
from pipeline.plan.chunk_size import ChunkSize
from tests.conftest import BOSTON, ROOT, Result
from tests.support import models
from transforms.errors import MemoryShortError
from transforms.saved_model.loader import Loading

FLAGS = (f"--input={BOSTON / 'data'}", f"--model={BOSTON / 'model'}")
MEGABYTE = 1 << 20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA bounds all private memory on Linux only")


def megabytes_a_row(folder: Path) -> str:
    """A model that fills 1 MB for each row of a batch."""

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        filled = tf.tile(x[:, :1], [1, MEGABYTE // 4])
        return {"prediction": tf.reduce_max(filled, axis=1)}

    return models.save(folder, call, models.spec("x", 3))


def test_what_cannot_be_kept_is_refused(keyjoin: Callable[..., Result]) -> None:
    done = keyjoin("run", *FLAGS, "--max_memory=1000000")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "--max_memory=1000000 (1 MB) is less than the" in done.err
    assert all(flag in done.err for flag in ("--chunk_bytes=67108864", "--wave_bytes=268435456", "--batch_size="))
    assert not done.output.exists()


def needs(done: Result) -> int:
    total: int = json.loads(done.out)["memory"]["total"]
    return total


def test_what_is_packed_needs_what_it_unpacks_to(
    keyjoin: Callable[..., Result], tmp_path: Path, monkeypatch: Any
) -> None:
    text = b'{"features": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]}\n' * 20_000
    packed, plain = tmp_path / "in.jsonl.gz", tmp_path / "in.jsonl"
    packed.write_bytes(gzip.compress(text))
    plain.write_bytes(text)
    flags = (f"--model={BOSTON / 'model'}", "--chunk_bytes=400000", "--wave_bytes=400000", "--json")
    assert packed.stat().st_size < 100_000
    monkeypatch.setattr(memory, "private_bytes", lambda _: 0)
    assert needs(keyjoin("check", f"--input={packed}", *flags)) == needs(keyjoin("check", f"--input={plain}", *flags))


def test_check_prints_what_the_limit_is_compared_with(keyjoin: Callable[..., Result]) -> None:
    need = needs(keyjoin("check", *FLAGS, "--json"))
    text = keyjoin("check", *FLAGS).out
    assert re.search(r"memory +at least about [0-9.]+ [MG]B for --max_memory, [0-9.]+ [MG]B of them", text)
    refused = keyjoin("check", *FLAGS, f"--max_memory={need // 2}")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    found = re.search(r"is less than the ([0-9]+)MB that .* give --max_memory=\1MB, or lower", refused.err)
    assert found is not None
    assert abs(int(found[1]) * 1_000_000 - need) < need / 10
    assert keyjoin("check", *FLAGS, f"--max_memory={need * 2}").code == 0


def test_a_remote_run_refuses_it(keyjoin: Callable[..., Result]) -> None:
    done = keyjoin("check", *FLAGS, "--max_memory=1000000000", "--runner=PrismRunner")
    assert (done.code, "bounds a local run" in done.err) == (2, True)


def test_bounds_are_removed_after_the_run(keyjoin: Callable[..., Result]) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    assert keyjoin("run", *FLAGS, f"--max_memory={20_000 * MEGABYTE}").complete()
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_the_model_is_bounded_even_if_it_is_started_again(model: Callable[..., str]) -> None:
    process = ModelProcess()
    called = process.load(model(megabytes_a_row), Loading())
    process.limit(memory.private_bytes(process.pid) + 400 * MEGABYTE)
    with pytest.raises(MemoryShortError, match="OOM when allocating"):
        called({"x": np.ones((500, 3), np.float32)})
    assert len(called({"x": np.ones((50, 3), np.float32)})["prediction"]) == 50
    process.restart()
    called = process.load(model(megabytes_a_row), Loading())
    with pytest.raises(MemoryShortError, match="OOM when allocating"):
        called({"x": np.ones((500, 3), np.float32)})
    process.limit(None)
    assert len(called({"x": np.ones((500, 3), np.float32)})["prediction"]) == 500
    process.close()


def test_memory_that_runs_out_is_one_line(keyjoin: Callable[..., Result], monkeypatch: Any) -> None:
    from transforms import join_predictions

    def short(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(join_predictions, "join_chunk", short)
    done = keyjoin("run", *FLAGS)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "the run ran out of memory; lower --chunk_bytes" in done.err


RUN = """
import sys
from pipeline.compat import startup
startup.begin()
from pipeline.commands import run
from pipeline.plan import memory
estimated = memory.estimate
def estimate(*arguments):
    need = estimated(*arguments)
    print("NEED", need.own, need.model, file=sys.stderr)
    return need
def execute(*arguments):
    executed(*arguments)
    # Freed memory is kept, so what there is at the end is the most that there was.
    from pipeline.model.model_process import process
    print("TOOK", memory.private_bytes("self"), memory.private_bytes(process().pid), file=sys.stderr)
memory.estimate, executed, run._execute = estimate, run._execute, execute
from pipeline.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("chunk_bytes", [2_000_000, 20_000_000])
def test_no_more_is_taken_than_was_estimated(chunk_bytes: int, tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(2_000, 13)).round(6).tolist()
    rows = "".join(json.dumps({"features": row, "name": f"house {n}"}) + "\n" for n, row in enumerate(features))
    path = tmp_path / "in.jsonl"
    path.write_text(rows * (chunk_bytes * 2 // len(rows)))
    flags = (f"--input={path}", f"--model={BOSTON / 'model'}", f"--output={tmp_path / 'out'}")
    command = [sys.executable, "-c", RUN, "run", *flags, f"--chunk_bytes={chunk_bytes}", "--max_memory=2000000000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    need, took = (
        [int(size) for size in re.search(rf"{word} (\d+) (\d+)", done.stderr).groups()]  # type: ignore[union-attr]
        for word in ("NEED", "TOOK")
    )
    for said, taken in zip(need, took, strict=True):
        assert said / 3 < taken <= said


def test_the_need_grows_with_what_it_is_made_of(monkeypatch: Any) -> None:
    monkeypatch.setattr(memory, "private_bytes", lambda _: 0)

    def need(
        row: memory.Row = memory.Row(100.0, 50.0, 10.0),  # noqa: B008  a tuple
        chunk: ChunkSize = ChunkSize(64 << 20, None),  # noqa: B008
        size: int = 1 << 30,
        wave_bytes: int = 256 << 20,
    ) -> int:
        found = memory.estimate(chunk, row, size, size, wave_bytes)
        assert found is not None
        return found.total

    usual = need()
    assert need(chunk=ChunkSize(1_000_000, None)) < usual
    assert need(chunk=ChunkSize(64 << 20, 1000)) < usual
    assert need(wave_bytes=100_000_000) < usual
    assert need(memory.Row(100.0, 500.0, 10.0)) > usual
    assert need(memory.Row(100.0, 50.0, 500.0)) > usual
    assert need(size=1_000_000) < usual  # no chunk or wave is larger than the input


def test_the_memory_in_use_follows_the_likely_size_and_the_limit_the_largest(monkeypatch: Any) -> None:
    monkeypatch.setattr(memory, "private_bytes", lambda _: 0)
    monkeypatch.setattr(memory, "resident_bytes", lambda _: 0)

    def need(size: int, likely: float) -> memory.Need:
        row, chunk = memory.Row(100.0, 50.0, 10.0), ChunkSize(64 << 20, None)
        found = memory.estimate(chunk, row, size, likely, 256 << 20)
        assert found is not None
        return found

    packed = need(1 << 30, 1e6)
    assert packed.resident == need(1_000_000, 1e6).resident < need(1 << 30, 1 << 30).resident
    assert packed.total == need(1 << 30, 1 << 30).total
    assert need(1_000_000, 1e9) == need(1_000_000, 1e6)  # no more than the largest size


# Reads lines of which one is long, in several processes, each with a slightly higher memory limit.
LONG_LINES = """
import os, resource, signal, sys
from pipeline.compat import startup
startup.begin()
from pipeline.plan.memory import private_bytes
from transforms.errors import RunError
from tests.support.blocks import block_of
from transforms.formats import jsonl
from transforms.records import Feature
size, step, count = map(int, sys.argv[1:])
data = b'{"x": 1}\\n' * 1000 + b'{"x": 2, "s": "' + b"y" * size + b'"}'
block = block_of(jsonl.FORMAT, data)
len(block.positions)
block_of(jsonl.FORMAT, data[:9]).inputs([Feature("x", "float32", (), ("x",))])
codes = []
for number in range(count):
    child = os.fork()
    if not child:
        limit = private_bytes("self") + number * step
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        try:
            block.inputs([Feature("x", "float32", (), ("x",))])
        except (RunError, MemoryError):
            os._exit(1)
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(*codes)
"""


@pytest.mark.parametrize("size", [100, 3_000_000, 20_000_000])
def test_a_long_line_that_there_is_no_memory_for_ends_no_process(size: int) -> None:
    step = (size * 6 + (40 << 20)) // 60
    done = subprocess.run(
        [sys.executable, "-c", LONG_LINES, str(size), str(step), "60"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    codes = [int(code) for code in done.stdout.split()]
    assert set(codes) == {0, 1}  # a process killed by a signal would have a negative code
    assert codes == sorted(codes, reverse=True)


def test_a_long_row_that_there_is_no_memory_for_is_one_line(
    keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: Any
) -> None:
    def refuse(_: int) -> None:
        raise MemoryError

    flags = (f"--input={lines({'x': [1, 2, 3]})}", f"--model={model(models.keyed)}")
    monkeypatch.setattr("transforms.formats.jsonl.parse_lines._require_memory", refuse)
    monkeypatch.setattr("pipeline.plan.sample.Sample.arrays", lambda *_: None)
    done = keyjoin("run", *flags)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "of memory left to read lines of up to" in done.err
    assert "raise --max_memory" in done.err


def test_arrow_that_runs_out_of_memory_is_one_line(keyjoin: Callable[..., Result], monkeypatch: Any) -> None:
    from transforms import join_predictions

    def short(*_: Any) -> Any:
        raise pa.ArrowMemoryError("malloc of size 120000064 failed")

    monkeypatch.setattr(join_predictions, "join_chunk", short)
    done = keyjoin("run", *FLAGS)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "the run ran out of memory; lower --chunk_bytes" in done.err
