"""Copies standard input to a file, because a run reads its sources several times, and by position.

The path of this source is `-`, so the keys of its rows are `-#0`, `-#1024`, …
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO

PATH, NAME = "-", "stdin"  # the path of the source, and the name of its parts
_copies: list[str] = []  # the path of the copy, while there is one


@contextlib.contextmanager
def copied(stream: IO[bytes]) -> Iterator[None]:
    """Copies a stream to a temporary file, which is the source `-` until the context ends.

    Args:
        stream: Standard input.

    Raises:
        OSError: The stream cannot be read, or the copy cannot be written.
    """
    folder = tempfile.mkdtemp(prefix="keyjoin-stdin-")
    try:
        path = os.path.join(folder, NAME)
        with open(path, "wb") as file:
            shutil.copyfileobj(stream, file)
        _copies.append(path)
        yield
    finally:
        _copies.clear()
        shutil.rmtree(folder, ignore_errors=True)


def is_copied() -> bool:
    """Returns whether standard input is a source of this process."""
    return bool(_copies)


def is_source(path: str) -> bool:
    """Returns whether a path is that of standard input."""
    return is_copied() and path == PATH


def place(path: str) -> str:
    """Returns the path of the file that holds the bytes of a local source."""
    return _copies[0] if is_source(path) else path
