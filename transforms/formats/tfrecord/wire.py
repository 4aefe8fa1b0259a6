"""Encodes fields of protobuf messages around many pieces of bytes at once, and finds the fields of one message.

Source of the encoding: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator

import pyarrow as pa

from transforms import columns

WIRE_BITS = 3  # a tag has the wire type in its lowest bits, and the number of the field above
VARINT, FIXED64, DELIMITED, GROUP, GROUP_END, FIXED32 = range(6)  # wire types
SKIPPED = {FIXED64: 8, FIXED32: 4, GROUP: 0, GROUP_END: 0}  # bytes that follow the tag
LOW, MORE, VARINT_BITS = 0x7F, 0x80, 7  # of a varint; the bit MORE means that another byte follows
Pieces = list[pa.LargeBinaryArray]  # each array holds one piece for each record


def varint(number: int) -> bytes:
    r"""Encodes an integer that is not negative.

    >>> varint(1), varint(300)
    (b'\x01', b'\xac\x02')
    """
    octets = bytearray()
    while number > LOW:
        octets.append(number & LOW | MORE)
        number >>= VARINT_BITS
    return bytes([*octets, number])


def delimited(number: int, content: bytes) -> bytes:
    """Encodes a field of bytes, text or a message."""
    return varint(number << WIRE_BITS | DELIMITED) + varint(len(content)) + content


def field(number: int, pieces: Pieces) -> Pieces:
    """Encodes the pieces of each record, joined, as one field of bytes, text or a message.

    Args:
        number: The number of the field.
        pieces: At least one array.

    Returns:
        The pieces, and before them those with the field's tags and lengths.
    """
    sizes = sum(columns.sizes(piece) for piece in pieces)
    coded = pa.array(sizes).dictionary_encode()
    tag = varint(number << WIRE_BITS | DELIMITED)
    heads = pa.array([tag + varint(size) for size in coded.dictionary.to_pylist()], pa.large_binary())
    return [heads.take(coded.indices), *pieces]


def repeated(content: bytes, count: int) -> pa.LargeBinaryArray:
    """Makes a piece of the same content for each of `count` records."""
    return pa.repeat(pa.scalar(content, pa.large_binary()), count)


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Finds the delimited fields of a message: those of bytes, text or a message.

    Yields:
        The number of each field, and its content.

    Raises:
        ValueError: The bytes are no message.
    """
    at = depth = 0  # fields inside of groups belong to the group
    while at < len(message):
        tag, at = _read_varint(message, at)
        kind = tag & (1 << WIRE_BITS) - 1
        if kind == DELIMITED:
            size, at = _read_varint(message, at)
            if at + size > len(message):
                raise ValueError(f"a field ends beyond the {len(message)} bytes of its message")
            if not depth:
                yield tag >> WIRE_BITS, message[at : at + size]
            at += size
        elif kind == VARINT:
            _, at = _read_varint(message, at)
        elif kind in SKIPPED:
            depth += (kind == GROUP) - (kind == GROUP_END)
            at += SKIPPED[kind]
        else:
            raise ValueError(f"a field has the unknown wire type {kind}")
    if at > len(message):
        raise ValueError(f"a number ends beyond the {len(message)} bytes of its message")


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """Reads the varint at a position. Returns its value and the position after it."""
    number = bits = 0
    while at < len(message):
        number |= (message[at] & LOW) << bits
        bits += VARINT_BITS
        at += 1
        if message[at - 1] < MORE:
            return number, at
    raise ValueError(f"a number ends beyond the {len(message)} bytes of its message")
