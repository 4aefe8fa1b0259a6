"""What is told on standard error beside a result, and changes nothing of it."""

import contextlib
from collections.abc import Iterator

from pipeline.terminal.messages import flush_output, show_error
from transforms.errors import RunError


def warn(text: str) -> None:
    """Prints a warning, in one line."""
    show_error(f"keyjoin: warning: {text}")


@contextlib.contextmanager
def only_told(what: str) -> Iterator[None]:
    """What fails here is a warning: the result stands already, and no exit code may say otherwise.

    Args:
        what: What it means for the reader.
    """
    try:
        yield
    except (OSError, RunError, KeyboardInterrupt) as error:
        with contextlib.suppress(OSError):
            flush_output()  # or the end of the process would fail of the same
        warn(f"{what}: {str(error) or type(error).__name__}")
