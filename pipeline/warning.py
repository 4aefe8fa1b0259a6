"""What is told on standard error beside a result, and changes nothing of it."""

import contextlib
import os
import sys
from collections.abc import Iterator

from transforms.errors import RunError


def warn(text: str) -> None:
    """Prints a warning, in one line."""
    with contextlib.suppress(OSError):  # where nobody listens any more
        print(f"keyjoin: warning: {' '.join(text.split())}", file=sys.stderr, flush=True)


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


def flush_output() -> None:
    """Has standard output take what was printed; what it does not take is given up, so that nobody tries again.

    Raises:
        OSError: It does not take it.
    """
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):  # it is no file of the system
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
