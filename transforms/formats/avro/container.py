"""Reads and writes the container of an Avro file: its header, and blocks of records.

https://avro.apache.org/docs/1.12.0/specification/#object-container-files describes the container:

    header: "Obj" 1 | metadata, a map of bytes, with the schema and the codec | sync marker: 16 bytes
    block:  number of records: long | size in bytes: long | the records, compressed by the codec | the sync marker
"""

import hashlib
import json
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from transforms.errors import RunError
from transforms.formats.avro import codecs

MAGIC = b"Obj\x01"
SCHEMA, CODEC = "avro.schema", "avro.codec"
SYNC = 16  # the size of a sync marker in bytes
HEADER_BYTES, WINDOW = 1 << 16, 1 << 22
LONGEST = 10  # bytes of a long
EMPTY_ROWS = 1 << 20  # most records without bytes in a block; a damaged count may be beyond any memory
REMEDY = "copy the file again from where it was written"


class Header(NamedTuple):
    """The header of an Avro file.

    Attributes:
        meta: The metadata: the schema, the codec, and what the program that wrote the file added.
        sync: The sync marker.
        size: Its size in bytes.
    """

    meta: dict[str, bytes]
    sync: bytes
    size: int

    @property
    def codec(self) -> str:
        """The name of the codec."""
        return self.meta.get(CODEC, b"null").decode()

    @property
    def schema(self) -> str:
        """The schema of the records, as JSON without white space."""
        return json.dumps(json.loads(self.meta[SCHEMA]), separators=(",", ":"), ensure_ascii=False)


def new_header(schema: str, codec: str = "null") -> Header:
    """Makes the header of a new file. Files with the same schema have the same sync marker, so that runs are equal."""
    meta = {SCHEMA: schema.encode(), CODEC: codec.encode()}
    return Header(meta, hashlib.sha256(schema.encode()).digest()[:SYNC], 0)


class Place(NamedTuple):
    """The place of a block in its file.

    Attributes:
        start: The position of its first byte in the file.
        rows: How many records it has.
        data: The position of its records.
        end: The position after its records.
    """

    start: int
    rows: int
    data: int
    end: int


class Ended(Exception):  # noqa: N818  never an error of the user
    """The bytes end inside a value."""


def read_long(data: bytes, at: int) -> tuple[int, int]:
    r"""Reads a long: its bits in groups of 7, the lowest first, and the sign in the lowest bit.

    Returns:
        The value, and the position after it.

    Raises:
        Ended: The bytes end inside the value.
        RunError: The value is longer than 64 bits.

    >>> read_long(b"\x80\x01", 0), read_long(b"\x03", 0)
    ((64, 2), (-2, 1))
    """
    value = shift = 0
    for count in range(LONGEST):
        if at + count >= len(data):
            raise Ended
        byte = data[at + count]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at + count + 1
        shift += 7
    raise RunError("a number of more than 64 bits")


def write_long(value: int) -> bytes:
    r"""Writes a long, see `read_long`.

    >>> write_long(64), write_long(-2)
    (b'\x80\x01', b'\x03')
    """
    left, made = (value << 1) ^ (value >> 63), bytearray()
    while left > 0x7F:
        made.append(left & 0x7F | 0x80)
        left >>= 7
    made.append(left)
    return bytes(made)


def _sized(data: bytes) -> bytes:
    return write_long(len(data)) + data


def _read_sized(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = read_long(data, at)
    if size < 0:
        raise RunError(f"a text of {size} bytes")
    if at + size > len(data):
        raise Ended
    return data[at : at + size], at + size


def read_header(file: IO[bytes]) -> Header:
    """Reads the header of a file.

    Raises:
        RunError: The file does not begin with the header of an Avro file, or its codec is unknown.
    """
    size = HEADER_BYTES
    while True:
        file.seek(0)
        data = file.read(size)
        if not data.startswith(MAGIC):
            raise RunError(f"the file is no Avro file: it begins with {data[:4]!r}, not {MAGIC!r}; {REMEDY}")
        try:
            return _checked(_parse_header(data))
        except Ended as error:
            if len(data) < size:
                raise RunError(f"the file ends at byte {len(data)}, inside its header; {REMEDY}") from error
            size *= 4
        except (ValueError, KeyError, RecursionError) as error:
            raise RunError(f"the file's header is damaged: {error}; {REMEDY}") from error


def _checked(header: Header) -> Header:
    if not isinstance(json.loads(header.schema), dict | list | str):
        raise ValueError(f"{header.schema} is no schema")
    codecs.check(header.codec)
    return header


def _parse_header(data: bytes) -> Header:
    meta: dict[str, bytes] = {}
    count, at = read_long(data, len(MAGIC))
    while count:
        if count < 0:  # the size of this run of entries in bytes follows
            _, at = read_long(data, at)
        for _ in range(abs(count)):
            name, at = _read_sized(data, at)
            meta[name.decode()], at = _read_sized(data, at)
        count, at = read_long(data, at)
    if at + SYNC > len(data):
        raise Ended
    return Header(meta, data[at : at + SYNC], at + SYNC)


def write_header(header: Header) -> bytes:
    """Makes the bytes of a header."""
    entries = b"".join(_sized(name.encode()) + _sized(value) for name, value in header.meta.items())
    return MAGIC + write_long(len(header.meta)) + entries + write_long(0) + header.sync


def places(file: IO[bytes], header: Header) -> Iterator[Place]:
    """Finds the blocks of a file. It reads their headers and their sync markers only.

    Raises:
        RunError: A block's header or sync marker is damaged, or the file ends inside a block.
    """
    at, first, window = header.size, 0, b""
    while True:
        if at + 2 * LONGEST > first + len(window):
            file.seek(at)
            first, window = at, file.read(WINDOW)
            if not window:
                return
        try:
            rows, data = read_long(window, at - first)
            size, data = read_long(window, data)
        except (Ended, RunError) as error:
            raise _damaged(at, "the file ends inside its header, or a number in it has more than 64 bits") from error
        end = first + data + size
        if rows < 0 or size < 0:
            raise _damaged(at, f"it has {rows} records in {size} bytes")
        if end + SYNC > first + len(window):
            file.seek(end)
            first, window = end, file.read(WINDOW)
        if window[end - first : end - first + SYNC] != header.sync:
            raise _damaged(at, "the file ends inside it, or another sync marker than that of the file follows it")
        yield Place(at, rows, end - size, end)
        at = end + SYNC


def read_block(file: IO[bytes], header: Header, place: Place) -> bytes:
    """Reads the records of a block, decompressed.

    Raises:
        RunError: The file ends inside the block, or the block is damaged.
    """
    file.seek(place.data)
    stored = file.read(place.end + SYNC - place.data)
    if stored[-SYNC:] != header.sync or len(stored) != place.end + SYNC - place.data:
        raise _damaged(place.start, "the file ends inside it, or changed")
    try:
        records = codecs.decompress(header.codec, stored[:-SYNC])
    except codecs.ERRORS as error:
        raise _damaged(place.start, f"its {header.codec} data cannot be decompressed: {error}") from error
    if place.rows > max(len(records), EMPTY_ROWS):  # a record takes a byte or more, unless all of its fields are null
        raise _damaged(place.start, f"it has {place.rows} records in {len(records)} bytes")
    return records


def _damaged(start: int, why: str) -> RunError:
    return RunError(f"the block at byte {start} is damaged: {why}; {REMEDY}")


def write_block(header: Header, rows: int, data: Any) -> bytes:
    """Makes the bytes of a block from the bytes of its records."""
    stored = codecs.compress(header.codec, data)
    return b"".join([write_long(rows), write_long(len(stored)), stored, header.sync])
