"""SIGINT and SIGTERM: the first stops a command cleanly, the second at once."""

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
# The system may deliver a signal to any thread, and Python handles it once the main one wakes.
WAKE_SECONDS = 0.5


class Stopped(KeyboardInterrupt):
    """Somebody asked the process to end; what is being done is left as it is.

    Attributes:
        signal: How they asked.
    """

    def __init__(self, number: int) -> None:
        """Takes the signal's number."""
        super().__init__(signal.Signals(number).name)
        self.signal = signal.Signals(number)


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Has the first of these signals raise `Stopped` in the main thread, and the second end the process.

    A signal that the process was started to ignore (`nohup`, a job in the background) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what signals do
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
    """Calls a function in a thread of its own, and waits for it: a signal is heard at once.

    In the thread that Beam's local runner runs in it would be heard, too, but that runner first lets its steps come
    to the end of all that they have in hand.
    """
    done: Future[Result] = Future()

    def call() -> None:
        try:
            done.set_result(function())
        except BaseException as error:  # noqa: BLE001  whatever it is, it is raised where it is waited for
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
