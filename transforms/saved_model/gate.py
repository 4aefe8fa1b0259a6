"""Provides the lock of a model: calls run concurrently, or one call runs while no other does."""

import contextlib
import threading
from collections.abc import Iterator


class Gate:
    """Lets calls of a model run concurrently, or one call while no other runs. Thread-safe.

    A call that must run alone waits until all running calls have ended. New calls wait for it.
    """

    def __init__(self) -> None:
        """Starts without a running call."""
        self._changed = threading.Condition()
        self._inside = 0
        self._alone = 0  # calls that run alone, or wait to do so

    @contextlib.contextmanager
    def enter(self, *, alone: bool) -> Iterator[None]:
        """Waits until the call may run; the call counts as running until the context ends.

        Args:
            alone: Whether no other call may run at the same time.
        """
        with self._changed:
            self._alone += alone
            try:
                self._changed.wait_for(lambda: not (self._inside if alone else self._alone))
            except BaseException:
                self._alone -= alone
                raise
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._alone -= alone
                self._changed.notify_all()
