"""Gives processes that tests start the default signal handling, and ends them when their test times out."""

import contextlib
import os
import signal
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

# `nohup`, and a shell that starts a job in the background, ignore some of these.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)


def pytest_configure() -> None:
    """Makes new processes start with the default handling of each signal; this process goes on ignoring the signals.

    A new process inherits ignored signals, but never a handler. So an ignored signal gets a handler that does nothing.
    """
    for number in STOPPING:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Removes the time limit of tests in a soak."""
    if config.getoption("--soak", default=False):
        for item in items:
            item.add_marker(pytest.mark.timeout(0))


def _children() -> set[int]:
    """Returns the child processes of this process; none if the system has no /proc."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found.update(map(int, path.read_text().split()))
    return found


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer() -> Generator[None, Any, Any]:
    """Kills the children of a test that times out before the test fails; otherwise its clean-up would wait for them."""
    made = yield
    before, fail = _children(), signal.getsignal(signal.SIGALRM)

    def end(number: int, frame: FrameType | None) -> None:
        for child in _children() - before:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        if callable(fail):
            fail(number, frame)

    signal.signal(signal.SIGALRM, end)
    return made
