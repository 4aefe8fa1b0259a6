"""Writes a file so that only one of several concurrent writers succeeds."""

import contextlib
import os
import uuid

from transforms.errors import RunError
from transforms.storage import files, objects


def write_once(path: str, text: bytes) -> bytes:
    """Writes a file unless a file of its name exists.

    On local file systems and in Google Cloud Storage, only one of several concurrent writers succeeds. Other object
    stores do not offer this: two writers may both succeed there, and the first may not see that it was overwritten.

    Returns:
        The content of the file: the given text, or the text of the first writer.

    Raises:
        RunError: The file cannot be written or read.
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
    """Writes a file under a temporary name and links it to its own name.

    The name therefore appears together with the content, and a link never replaces an existing file.
    """
    made = f"{path}.{uuid.uuid4().hex}"
    files.write_whole(made, [text])
    try:
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
    finally:
        os.unlink(made)
