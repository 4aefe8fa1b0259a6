"""Runs attempts in processes forked from one that has imported everything; at most one for each core at a time."""

import contextlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple, TypeVar

from tests.faults.attempt import Attempt, run

HANGS = 300  # seconds until an attempt counts as hanging; a normal attempt takes less than one
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pytest", "tests.faults.attempt"])
# The system gives an exit code only once, and `start` reads the codes of all children that have ended. A thread that
# reads the same code at that moment gets 255.
EXIT_CODES = threading.Lock()

In = TypeVar("In")
Out = TypeVar("Out")


class Outcome(NamedTuple):
    """The result of an attempt.

    Attributes:
        code: Exit code; negative if the process was killed.
        said: Standard output and error.
        disk: Operations on the disk, as (name, path); empty if the process was killed.
        store: Operations on the object store, likewise.
        hook: The counts of the hook, by name.
    """

    code: int
    said: str
    disk: list[tuple[str, str]]
    store: list[tuple[str, str]]
    hook: dict[str, int]


def attempt(task: Attempt, kill_after: float | None = None) -> Outcome:
    """Runs an attempt to its end, or kills it after `kill_after` seconds."""
    Path(task.result).unlink(missing_ok=True)
    Path(f"{task.result}.log").write_bytes(b"")  # the process may be killed before it creates the file
    process = CONTEXT.Process(target=run, args=(task,))
    with EXIT_CODES:
        process.start()
    if not wait([process.sentinel], HANGS if kill_after is None else kill_after):
        assert process.pid is not None
        with contextlib.suppress(ProcessLookupError):  # it may have ended just now
            os.kill(process.pid, signal.SIGKILL)
        assert kill_after is not None, f"hangs: {task}"
    with EXIT_CODES:
        process.join()
    said = Path(f"{task.result}.log").read_text(errors="replace")
    text = Path(task.result).read_text() if os.path.exists(task.result) else ""
    assert process.exitcode is not None
    killed = process.exitcode == -signal.SIGKILL  # it may have been killed while it wrote its result
    found = json.loads(text) if text and not killed else {}
    assert "Traceback" not in said, said
    return Outcome(process.exitcode, said, found.get("disk", []), found.get("store", []), found.get("hook", {}))


def side_by_side(function: Callable[[In], Out], items: Iterable[In]) -> list[Out]:
    """Calls a function for several items in parallel; the function waits for attempts."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, items))
