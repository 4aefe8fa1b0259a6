"""Prints warnings to standard error. A warning changes neither the result nor the exit code."""

import contextlib
from collections.abc import Iterator

from pipeline.terminal.messages import flush_output, show_error
from transforms.errors import RunError


def warn(text: str) -> None:
    """Prints a warning, in one line."""
    show_error(f"keyjoin: warning: {text}")


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
