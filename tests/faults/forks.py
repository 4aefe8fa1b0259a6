"""Attempts in forked processes: started from one that has imported everything, at most as many at once as there are cores."""

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

HANGS = 300  # seconds after which an attempt counts as hanging; they take less than one
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pytest", "tests.faults.attempt"])
# An exit code can be read once, and `start` reads those of all children that have ended: a thread that reads the same
# one at that moment gets 255.
EXIT_CODES = threading.Lock()

In = TypeVar("In")
Out = TypeVar("Out")


class Outcome(NamedTuple):
    """What came of an attempt.

    Attributes:
        code: Exit code, negative if it was killed.
        said: Standard output and error.
        disk: Operations on the disk, name and path; empty if it was killed.
        store: Those on the object store.
        hook: What its hook counted.
    """

    code: int
    said: str
    disk: list[tuple[str, str]]
    store: list[tuple[str, str]]
    hook: dict[str, int]


def attempt(task: Attempt, kill_after: float | None = None) -> Outcome:
    """Runs an attempt to its end, or kills it after so many seconds."""
    Path(task.result).unlink(missing_ok=True)
    Path(f"{task.result}.log").write_bytes(b"")  # it may be killed before it writes one
    process = CONTEXT.Process(target=run, args=(task,))
    with EXIT_CODES:
        process.start()
    if not wait([process.sentinel], HANGS if kill_after is None else kill_after):
        assert process.pid is not None
        with contextlib.suppress(ProcessLookupError):  # it has ended just now
            os.kill(process.pid, signal.SIGKILL)
        assert kill_after is not None, f"hangs: {task}"
    with EXIT_CODES:
        process.join()
    said = Path(f"{task.result}.log").read_text(errors="replace")
    text = Path(task.result).read_text() if os.path.exists(task.result) else ""
    assert process.exitcode is not None
    killed = process.exitcode == -signal.SIGKILL  # while it wrote its result, perhaps
    found = json.loads(text) if text and not killed else {}
    assert "Traceback" not in said, said
    return Outcome(process.exitcode, said, found.get("disk", []), found.get("store", []), found.get("hook", {}))


def side_by_side(function: Callable[[In], Out], items: Iterable[In]) -> list[Out]:
    """Calls a function that waits for attempts, for several items at once."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, items))
