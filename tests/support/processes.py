"""Processes that tests start: signals reach them as in a terminal, and they end when the time of their test is up."""

import contextlib
import os
import signal
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

# A job in the background, and `nohup`, ignore some of them.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)


def pytest_configure() -> None:
    """Has new processes begin with the default of each signal, while this one goes on to ignore what it ignores.

    A program inherits that a signal is ignored, and never a handler.
    """
    for number in STOPPING:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A soak takes as long as it takes."""
    if config.getoption("--soak", default=False):
        for item in items:
            item.add_marker(pytest.mark.timeout(0))


def _children() -> set[int]:
    """Processes that this one started; none where the system has no /proc."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found.update(map(int, path.read_text().split()))
    return found


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer() -> Generator[None, Any, Any]:
    """Ends what a test has started before the test fails: else its own clean-up would wait for it."""
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
