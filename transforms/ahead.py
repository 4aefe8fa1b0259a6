"""One element ahead: the next one is worked on while the steps that follow have the last one."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class OneAhead(Generic[In, Out]):
    """Calls a function for elements in a thread of its own.

    A bundle calls `put` for each element and `rest` at its end: every result comes out once, in order, and
    what the function raises is raised with the element after it, or at the end. So a bundle that ends without
    an error is complete.
    """

    def __init__(self, function: Callable[[In], Out]) -> None:
        """Takes the function."""
        self._function = function
        self._thread = ThreadPoolExecutor(1, "keyjoin-ahead")
        self._running: Future[Out] | None = None

    def put(self, element: In) -> Iterator[Out]:
        """Begins with an element; gives the result of the one before."""
        before, self._running = self._running, self._thread.submit(self._function, element)
        if before is not None:
            yield before.result()

    def rest(self) -> Iterator[Out]:
        """The result of the last element, if there was any."""
        last, self._running = self._running, None
        self._thread.shutdown()
        if last is not None:
            yield last.result()
