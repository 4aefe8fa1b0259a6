"""Processes the next elements of a bundle in threads, while the later steps handle the previous result."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class Ahead(Generic[In, Out]):
    """Calls a function for several elements at once, in its own threads.

    A bundle calls `put` for each element and `rest` at its end. Every result comes out once, in order. If the function
    raises an error, a later `put` or `rest` raises it. So a bundle that ends without an error is complete.
    """

    def __init__(self, function: Callable[[In], Out], at_once: int = 1) -> None:
        """Takes the function, and the number of elements that it may process at once."""
        self._function, self._at_once = function, at_once
        self._threads = ThreadPoolExecutor(at_once, "keyjoin-ahead")
        self._running: deque[Future[Out]] = deque()

    def put(self, element: In) -> Iterator[Out]:
        """Starts an element. Yields the result of an earlier element once enough are running."""
        self._running.append(self._threads.submit(self._function, element))
        if len(self._running) > self._at_once:
            yield self._next()

    def rest(self) -> Iterator[Out]:
        """Yields the remaining results, and stops the threads."""
        self._threads.shutdown()
        while self._running:
            yield self._next()

    def _next(self) -> Out:
        try:
            return self._running.popleft().result()
        except BaseException:
            self._threads.shutdown(cancel_futures=True)  # waits, so that no thread works when the caller gets the error
            raise
