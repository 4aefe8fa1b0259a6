"""Detects gzip files by name, and reads and writes them.

A file counts as gzip if its name ends in `.gz`, in upper or lower case, whatever comes before.
"""

import gzip
from collections.abc import Iterable, Iterator
from typing import IO, Any, cast

from transforms.threads import in_threads

GZIP = ".gz"
MAGIC = b"\x1f\x8b\x08"  # RFC 1952, 2.3: ID1, ID2 and the only compression method


def is_gzip(name: str) -> bool:
    """Tells whether a name says that the file is gzip.

    >>> is_gzip("data_tfrecord-00000-of-00001.gz"), is_gzip("A.JSONL.GZ"), is_gzip("a.jsonl")
    (True, True, False)
    """
    return name.lower().endswith(GZIP)


def plain_name(name: str) -> str:
    """Removes the suffix of gzip from a name.

    >>> plain_name("A.JSONL.GZ"), plain_name("a.jsonl")
    ('A.JSONL', 'a.jsonl')
    """
    return name[: -len(GZIP)] if is_gzip(name) else name


def begins_as_gzip(first: bytes) -> bool:
    """Tells whether a file begins as gzip. A file shorter than `MAGIC` does if its bytes begin `MAGIC`."""
    return first.startswith(MAGIC) or MAGIC.startswith(first)


def open_gzip(stored: IO[bytes]) -> IO[bytes]:
    """Opens a gzip file for reading. The reader gives all members, one after the other.

    When the reader reaches the end, it checks the length and the checksum of the last member. It also raises an error
    if anything but zeros follows the last member. The `gzip` program warns of such bytes and ignores them.

    Args:
        stored: The file as stored, at its start.

    Raises:
        EOFError: The file is empty, so it has no member. `gzip -t` reports an unexpected end of file for it.
    """
    if not stored.read(1):
        raise EOFError("the file has no bytes")
    stored.seek(0)
    return cast(IO[bytes], gzip.open(stored))


def compressed(blocks: Iterable[Any]) -> Iterator[bytes]:
    """Compresses each block to one gzip member. Members hold no time, so that the same rows give the same bytes."""
    return in_threads(lambda block: gzip.compress(block, mtime=0), list(blocks) or [b""])


def decompressed(name: str, stored: bytes) -> bytes:
    """Decompresses the whole content of a file if its name says that it is gzip."""
    return gzip.decompress(stored) if is_gzip(name) else stored
