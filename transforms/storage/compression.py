"""gzip: which files are, and how they are read and written.

A name that ends in `.gz`, in any case, says that a file is gzip, whatever stands before.
"""

import gzip
from collections.abc import Iterable, Iterator
from typing import IO, Any, cast

from transforms.threads import in_threads

GZIP = ".gz"
MAGIC = b"\x1f\x8b\x08"  # RFC 1952, 2.3: ID1, ID2 and the one compression method


def is_gzip(name: str) -> bool:
    """Whether a name says that the file is gzip.

    >>> is_gzip("data_tfrecord-00000-of-00001.gz"), is_gzip("A.JSONL.GZ"), is_gzip("a.jsonl")
    (True, True, False)
    """
    return name.lower().endswith(GZIP)


def plain_name(name: str) -> str:
    """A name without the suffix of gzip.

    >>> plain_name("A.JSONL.GZ"), plain_name("a.jsonl")
    ('A.JSONL', 'a.jsonl')
    """
    return name[: -len(GZIP)] if is_gzip(name) else name


def begins_as_gzip(first: bytes) -> bool:
    """Whether the first bytes of a file are those of gzip, as far as there are any."""
    return first.startswith(MAGIC) or MAGIC.startswith(first)


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


def compressed(blocks: Iterable[Any]) -> Iterator[bytes]:
    """A gzip file of a member a block; without times in it, so that the same rows give the same bytes."""
    return in_threads(lambda block: gzip.compress(block, mtime=0), list(blocks) or [b""])


def decompressed(name: str, stored: bytes) -> bytes:
    """The bytes of a file that was read whole, by its name."""
    return gzip.decompress(stored) if is_gzip(name) else stored
