"""Elements ahead: the next ones are worked on while the steps that follow have the last one."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class Ahead(Generic[In, Out]):
    """Calls a function for elements in threads of its own, for some of them at once.

    A bundle calls `put` for each element and `rest` at its end: every result comes out once, in order, and
    what the function raises is raised with an element after it, or at the end. So a bundle that ends without
    an error is complete.
    """

    def __init__(self, function: Callable[[In], Out], at_once: int = 1) -> None:
        """Takes the function, and for how many elements it may be called at once."""
        self._function, self._at_once = function, at_once
        self._threads = ThreadPoolExecutor(at_once, "keyjoin-ahead")
        self._running: deque[Future[Out]] = deque()

    def put(self, element: In) -> Iterator[Out]:
        """Begins with an element; gives the result of an earlier one."""
        self._running.append(self._threads.submit(self._function, element))
        if len(self._running) > self._at_once:
            yield self._next()

    def rest(self) -> Iterator[Out]:
        """The results of the last elements, if there were any."""
        self._threads.shutdown()
        while self._running:
            yield self._next()

    def _next(self) -> Out:
        try:
            return self._running.popleft().result()
        except BaseException:
            self._threads.shutdown(cancel_futures=True)  # nothing is worked on any more when the error comes out
            raise
