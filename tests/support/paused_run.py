"""Stops a run at a chosen call: it prints "held", and then waits until the test kills it.

    python -m tests.support.paused_run FUNCTION NUMBER keyjoin's arguments…

stops it before the NUMBERth call of FUNCTION, such as transforms.write_part.write_receipt.
"""

import importlib
import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.cli import entry
from pipeline.model import model_process
from pipeline.terminal import progress
from tests.conftest import ROOT


def hold(name: str, number: int) -> None:
    module, _, function = name.rpartition(".")
    where = importlib.import_module(module)
    original, calls = getattr(where, function), itertools.count(1)

    def held(*arguments: Any, **named: Any) -> Any:
        if next(calls) == number:
            print(f"held {model_process.process()._process.pid}", flush=True)
            threading.Event().wait()
        return original(*arguments, **named)

    setattr(where, function, held)


@contextmanager
def held(name: str, number: int, *command: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Runs a command in another process until it is held; yields the process, and the process id of its model."""
    started = [sys.executable, "-m", "tests.support.paused_run", name, str(number), *command]
    with subprocess.Popen(started, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = next((line for line in process.stdout if line.startswith("held ")), None)
            assert found is not None, process.communicate()[1]
            yield process, int(found.split()[1])
        finally:
            process.kill()


def command_of(function: str, number: str, *argv: str) -> None:
    hold(function, int(number))
    progress.TICK_SECONDS = 1e6  # no lines of progress, whose number depends on how busy the machine is
    sys.argv = [str(Path("keyjoin")), *argv]
    entry()


if __name__ == "__main__":
    command_of(*sys.argv[1:])
