"""Files that only one of several writers can write."""

import contextlib
import os
import uuid

from transforms.errors import RunError
from transforms.storage import files, objects


def write_once(path: str, text: bytes) -> bytes:
    """Writes a file unless there is one of its name.

    Of several writers at a time one succeeds: on this machine's file systems and in Google Cloud Storage. Other object
    stores do not offer that; there the later one may believe that it was the first.

    Returns:
        What the file holds now: the text, or that of the first writer.

    Raises:
        RunError: It cannot be written or read.
    """
    try:
        if files.is_local(path):
            _link(path, text)
        elif path.startswith(objects.GOOGLE):
            objects.create(path, text)
        elif files.read_small(path) is None:
            files.write_whole(path, [text])
    except OSError as error:
        raise RunError(f"cannot write {path}: {error}; {files.remedy(error)}, and run again") from error
    found = files.read_small(path)
    if found is None:
        raise RunError(f"{path} was written and is gone: another run works there; wait for it, and run again")
    return found


def _link(path: str, text: bytes) -> None:
    """The name comes with the content, and is not taken from a file that has it."""
    made = f"{path}.{uuid.uuid4().hex}"
    files.write_whole(made, [text])
    try:
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
    finally:
        os.unlink(made)
