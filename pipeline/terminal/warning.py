"""Prints warnings to standard error. A warning changes neither the result nor the exit code."""

import contextlib
import logging
from collections.abc import Iterator

from pipeline.terminal.messages import flush_output, show_error
from transforms.errors import RunError


def warn(text: str) -> None:
    """Prints a warning, in one line."""
    show_error(f"keyjoin: warning: {text}")


class _Printer(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        warn(record.getMessage())


@contextlib.contextmanager
def logged_warnings() -> Iterator[None]:
    """Prints what `transforms` logs as a warning like any other warning of the command.

    `transforms` logs because it also runs on remote workers, which have no terminal.
    """
    logger, printer = logging.getLogger("transforms"), _Printer(logging.WARNING)
    logger.addHandler(printer)
    logger.propagate = False  # else a handler of Beam or TensorFlow prints it again, in another form
    try:
        yield
    finally:
        logger.propagate = True
        logger.removeHandler(printer)


@contextlib.contextmanager
def errors_as_warnings(what: str) -> Iterator[None]:
    """Turns an error in the block into a warning, for steps after the result is final.

    The exit code then still reports the result, not the error. Ctrl-C in the block becomes a warning too.

    Args:
        what: The start of the warning: what the error means for the user.
    """
    try:
        yield
    except (OSError, RunError, KeyboardInterrupt) as error:
        with contextlib.suppress(OSError):
            flush_output()  # otherwise the flush at exit would fail for the same reason
        warn(f"{what}: {str(error) or type(error).__name__}")
