"""The model in its own process gives the same predictions, passes its errors on, and ends when its owner ends."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.model import model_server
from pipeline.model.model_process import MEMORY_ERROR, OTHER_ERROR, ModelProcess
from tests.conftest import ROOT
from tests.support import models
from transforms.errors import ModelError, RunError, UsageError
from transforms.saved_model.loader import Loading, load
from transforms.saved_model.model import Model

SIGNATURE = "serving_default"
MINUTE = 60_000
OWNER = """
import os, signal
from pipeline.model.model_process import ModelProcess
process = ModelProcess()
print(process._process.pid, process.address, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def process() -> Iterator[ModelProcess]:
    """A model process."""
    made = ModelProcess()
    yield made
    made.close()


def arrays(rows: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(rows).random((rows, 3), np.float32), "key": np.arange(rows, dtype=np.int32)}


def same(one: Model, other: Model, rows: int) -> bool:
    ours, theirs = one(arrays(rows)), other(arrays(rows))
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_it_answers_as_the_model_does(process: ModelProcess, model: Callable[..., str]) -> None:
    folder = model(models.keyed)
    here, there = load(folder), process.load(folder, Loading())
    assert (here.inputs, here.outputs) == (there.inputs, there.outputs)
    assert same(here, there, 1000)


def test_a_question_that_cannot_be_unpacked_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server still responds: it has read the request to its end, so the connection stays usable."""
    assert model_server._answer([b"not a question"], [])[0] == OTHER_ERROR

    def short(_: list[bytes]) -> None:
        raise MemoryError

    monkeypatch.setattr(model_server, "unpack", short)
    assert model_server._answer([], []) == (MEMORY_ERROR, "no memory for the batch")


def test_a_default_timeout_of_sockets_does_not_end_it(model: Callable[..., str]) -> None:
    """Google's client sets a default timeout, on workers before the model process starts."""
    socket.setdefaulttimeout(60)
    try:
        made = ModelProcess()
        try:
            assert made.load(model(models.keyed), Loading()).inputs
        finally:
            made.close()
    finally:
        socket.setdefaulttimeout(None)


def test_what_lies_in_the_current_folder_is_not_imported(
    model: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model(models.keyed)
    for name in ("queue", "pipeline", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not for you')")
    monkeypatch.delenv("PYTHONPATH", raising=False)  # modules on PYTHONPATH are meant to be imported
    monkeypatch.chdir(tmp_path)
    process = ModelProcess()
    assert len(process.load(folder, Loading())(arrays(3))["key"]) == 3
    process.close()


def test_many_threads_get_each_their_own_answer(process: ModelProcess, model: Callable[..., str]) -> None:
    folder = model(models.keyed)
    here, there = load(folder), process.load(folder, Loading())
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda rows: same(here, there, rows), range(1, 200)))


def test_its_errors_are_raised_here(process: ModelProcess, model: Callable[..., str]) -> None:
    with pytest.raises(UsageError, match="no model at /nowhere"):
        process.load("/nowhere", Loading())
    with pytest.raises(UsageError, match="has no signature x"):
        process.load(model(models.keyed), Loading("x"))
    there = process.load(model(models.keyed), Loading())
    with pytest.raises(RuntimeError, match="Cannot feed value of shape"):
        there({"x": np.zeros((2, 7), np.float32), "key": np.arange(2, dtype=np.int32)})
    assert len(there(arrays(3))["key"]) == 3  # the process still works after an error


def test_what_the_model_raises_is_raised_here(process: ModelProcess, model: Callable[..., str]) -> None:
    there = process.load(model(models.raising), Loading())
    with pytest.raises(ModelError, match=r"^InvalidArgumentError: "):
        there({"x": np.full((2, 3), 666, np.float32)})


def test_a_process_that_ends_is_an_error_in_one_line(model: Callable[..., str]) -> None:
    process = ModelProcess()
    there = process.load(model(models.keyed), Loading())
    there(arrays(3))
    process._process.kill()
    process._process.wait()
    for _ in range(2):
        with pytest.raises(
            RunError, match=r"the process of the model ended .* --isolate, which finds the rows that it crashes for$"
        ):
            there(arrays(3))
    process.close()
    assert not os.path.exists(process.address)


@pytest.mark.skipif(sys.platform != "linux", reason="waits for a process that is not its child, as only Linux can")
def test_it_ends_with_its_owner_however_that_ends() -> None:
    owner = subprocess.run([sys.executable, "-c", OWNER], cwd=ROOT, capture_output=True, text=True, check=False)
    assert owner.returncode == -signal.SIGKILL
    pid, address = owner.stdout.split()
    with contextlib.suppress(ProcessLookupError):  # it may have ended already
        poll = select.poll()
        poll.register(os.pidfd_open(int(pid)), select.POLLIN)
        assert poll.poll(MINUTE)
    assert not os.path.exists(os.path.dirname(address))
