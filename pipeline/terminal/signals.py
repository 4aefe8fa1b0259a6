"""Handles SIGINT and SIGTERM: the first signal stops a command cleanly, the second ends the process at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from types import FrameType
from typing import NoReturn, TypeVar

Result = TypeVar("Result")

STOPPING = (signal.SIGINT, signal.SIGTERM)
# The system may deliver a signal to any thread, but Python handles it in the main thread, once that wakes. So the main
# thread waits no longer than this at a time.
WAKE_SECONDS = 0.5


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end. The command stops where it is, and leaves its files for a resume.

    Attributes:
        signal: The signal.
    """

    def __init__(self, number: int) -> None:
        """Takes the signal's number."""
        super().__init__(signal.Signals(number).name)
        self.signal = signal.Signals(number)


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Handles SIGINT and SIGTERM in the block.

    The first signal raises `Stopped` in the main thread. The second signal ends the process.

    A signal that was ignored when the process started (`nohup`, a background job) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets only the main thread set signal handlers
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    taken = [number for number in STOPPING if before[number] is not signal.SIG_IGN]
    try:
        for number in taken:
            signal.signal(number, _stop)
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


def in_the_background(function: Callable[[], Result]) -> Result:
    """Calls a function in another thread and waits for it, so that the main thread handles a signal at once.

    If Beam's local runner ran in the main thread, the signal would stop it late: the runner first waits until its
    steps finish the work that they have started.

    Args:
        function: The function to call.

    Returns:
        The result of the function. What the function raises is raised here too.
    """
    done: Future[Result] = Future()

    def call() -> None:
        try:
            done.set_result(function())
        except BaseException as error:  # noqa: BLE001  any error is raised in the thread that waits
            done.set_exception(error)

    threading.Thread(target=call, name="keyjoin-run", daemon=True).start()
    while not wait([done], WAKE_SECONDS).done:
        pass
    return done.result()


def _stop(number: int, _: FrameType | None) -> NoReturn:
    for each in STOPPING:
        signal.signal(each, _leave)
    raise Stopped(number)


def _leave(number: int, _: FrameType | None) -> NoReturn:
    os._exit(128 + number)
