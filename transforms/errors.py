"""Defines the errors of a run and of a model call.

A `UsageError` is found before the run starts, a `RunError` during the run. A `ModelError` is raised by a model call.
"""

import contextlib
import difflib
from collections.abc import Iterator, Sequence

from transforms.reasons import Reason


class UsageError(ValueError):
    """The command line, an input or the model is wrong. keyjoin finds this before the run starts.

    The message is one line: the value, the cause and the remedy.
    """


class UnfitOutputError(UsageError):
    """An output of the model does not have one value for each row.

    Attributes:
        others: The outputs that can be written if this one is excluded.
        is_single: Whether the output has exactly one value, so that a call of one row can be written.
    """

    def __init__(self, message: str, others: Sequence[str], *, is_single: bool) -> None:
        super().__init__(message)
        self.others, self.is_single = others, is_single


class RunError(RuntimeError):
    """The run itself failed: a source changed, a file ended early, or the ledger does not add up."""


class PlaceError(RunError):
    """The run failed at a place of a source.

    Attributes:
        position: The place, in the unit of the source's positions.
    """

    def __init__(self, position: int, message: str) -> None:
        super().__init__(f"byte {position}: {message}")
        self.position = position


@contextlib.contextmanager
def about(path: str) -> Iterator[None]:
    """Puts the path of a source before the message of a `RunError`, unless it begins with the path."""
    try:
        yield
    except RunError as error:
        if str(error).startswith(path):
            raise
        raise RunError(f"{path}: {error}") from error


class ModelError(RuntimeError):
    """The model raised an error; its message is one line.

    Attributes:
        reason: The reason code of the dead letter if the model raises this error for one row alone.
    """

    reason: Reason = Reason.MODEL_ERROR


class SharedError(ModelError):
    """A call failed, and another call at the same time may be the cause.

    The failure is blamed on the rows of a call only if no other call was running.
    """


class MemoryShortError(SharedError):
    """The model ran out of memory."""

    reason = Reason.MODEL_MEMORY


class CrashError(SharedError):
    """The process of the model crashed."""

    reason = Reason.MODEL_CRASH


class TimeoutExceededError(SharedError):
    """The model took longer than allowed, and keyjoin ended its process."""

    reason = Reason.MODEL_TIMEOUT


class StoppedError(Exception):
    """Scoring stopped: the run exceeds its error limit, whatever the remaining rows give."""


def nearest(name: str, known: Sequence[str]) -> str:
    """Makes a hint for a message: `` (did you mean x?)``, or an empty text if no known name is similar."""
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def add_note(error: BaseException, text: str) -> None:
    """Adds a sentence to an error, as `BaseException.add_note` does from Python 3.11 on (PEP 678)."""
    error.__dict__.setdefault("__notes__", []).append(text)


def notes_of(error: BaseException) -> Sequence[str]:
    """Returns the sentences that `add_note` added to an error."""
    return getattr(error, "__notes__", ())
