"""The two ways a run goes wrong, told apart by when they are found, and the ways a call of the model does."""

import difflib
from collections.abc import Sequence

from transforms.reasons import Reason


class UsageError(ValueError):
    """The command line, the inputs or the model are wrong; found before anything ran.

    The message is one line: the value, the cause and the remedy.
    """


class UnfitOutputError(UsageError):
    """An output is not one value a row.

    Attributes:
        others: The outputs that can be written without it.
        is_single: Whether it has one value, so that a call of one row can be written.
    """

    def __init__(self, message: str, others: Sequence[str], *, is_single: bool) -> None:
        super().__init__(message)
        self.others, self.is_single = others, is_single


class RunError(RuntimeError):
    """The run itself failed: a source changed, a file ended early, the ledger does not add up."""


class ModelError(RuntimeError):
    """The model raised; what it said, in one line.

    Attributes:
        reason: What a row becomes for which alone it does.
    """

    reason: Reason = Reason.MODEL_ERROR


class SharedError(ModelError):
    """A call failed by what another one, at the same time, may have caused: it proves nothing unless it was alone."""


class MemoryShortError(SharedError):
    """There was not enough memory."""

    reason = Reason.MODEL_MEMORY


class CrashError(SharedError):
    """The process of the model ended."""

    reason = Reason.MODEL_CRASH


class TimeoutExceededError(SharedError):
    """The model took longer than it may, and its process was ended."""

    reason = Reason.MODEL_TIMEOUT


class StoppedError(Exception):
    """Scoring was stopped: the run is over its error limit, whatever the other rows are."""


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint for a message: `` (did you mean x?)``, or nothing."""
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def add_note(error: BaseException, text: str) -> None:
    """Adds a sentence to an error, as `BaseException.add_note` does from Python 3.11 on (PEP 678)."""
    error.__dict__.setdefault("__notes__", []).append(text)


def notes_of(error: BaseException) -> Sequence[str]:
    """The sentences that were added to an error."""
    return getattr(error, "__notes__", ())
