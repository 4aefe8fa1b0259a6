"""Gate: calls go side by side, or one has the model to itself."""

import contextlib
import threading
from collections.abc import Iterator


class Gate:
    """Lets calls in, side by side or one alone, which is waited for. Thread-safe."""

    def __init__(self) -> None:
        """Begins with nobody inside."""
        self._changed = threading.Condition()
        self._inside = 0
        self._alone = 0  # those that are alone or wait for it

    @contextlib.contextmanager
    def enter(self, *, alone: bool) -> Iterator[None]:
        """Waits, is inside as long as the context, and leaves.

        Args:
            alone: Whether nobody else may be inside meanwhile.
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
