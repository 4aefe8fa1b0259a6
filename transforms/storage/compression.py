"""Opens gzip files so that no damaged one passes for a whole one."""

import gzip
from typing import IO, cast


def open_gzip(stored: IO[bytes]) -> IO[bytes]:
    """Opens a gzip file for reading: all of its members, one after the other.

    A reader that comes to the end has the last member's length and checksum compared. What follows the last member,
    other than zeros, is an error of that reader too: `gzip` warns of it and leaves it out.

    Args:
        stored: The file as stored, at its start.

    Raises:
        EOFError: The file is empty, so it has no member. `gzip -t` calls that an unexpected end of file.
    """
    if not stored.read(1):
        raise EOFError("the file has no bytes")
    stored.seek(0)
    return cast(IO[bytes], gzip.open(stored))
