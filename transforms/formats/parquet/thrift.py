"""Decodes and encodes structs of Thrift's compact protocol, in which Parquet writes its footers.

A struct becomes a `Struct`, whatever its definition: its fields by their ids, in the order of the file. So a field that
keyjoin does not know is kept and written again, which readers made from a definition do not do.

Source: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

import struct
from typing import Any, NamedTuple

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
DEEPEST = 64  # structs and lists inside each other: a footer of Parquet has fewer than 10
_DOUBLE = struct.Struct("<d")


class Value(NamedTuple):
    """A value with its type, one of the constants above. A bool has the type TRUE."""

    kind: int
    value: Any


class Items(NamedTuple):
    """The items of a list or a set, which all have one type."""

    kind: int
    values: list[Any]


class Struct(dict[int, Value]):
    """A struct: id of a field -> its value."""

    def of(self, field: int, default: Any = None) -> Any:
        """Returns the value of a field, or a default if the struct does not have it."""
        return self[field].value if field in self else default

    def items_of(self, field: int) -> list[Any]:
        """Returns the items of a field that is a list. It is empty if the struct does not have it."""
        found: list[Any] = self[field].value.values if field in self else []
        return found

    def put(self, field: int, value: Any) -> None:
        """Replaces the value of a field that the struct has."""
        self[field] = Value(self[field].kind, value)


def decode(data: bytes) -> Struct:
    """Decodes a struct from the start of some bytes.

    Raises:
        ValueError: They are not a struct.
    """
    try:
        return _Decoder(data).struct(0)
    except (IndexError, struct.error, OverflowError) as error:
        raise ValueError(f"no struct of Thrift's compact protocol: {error}") from error


def encode(value: Struct) -> bytes:
    """Encodes a struct."""
    out = bytearray()
    _write_struct(out, value)
    return bytes(out)


class _Decoder:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def varint(self) -> int:
        found = shift = 0
        while True:
            byte = self.byte()
            found |= (byte & 0x7F) << shift
            if byte < 0x80:
                return found
            shift += 7
            if shift > 63:
                raise ValueError("an integer has more than 64 bits")

    def integer(self) -> int:
        found = self.varint()
        return (found >> 1) ^ -(found & 1)

    def binary(self) -> bytes:
        size = self.varint()
        if self.at + size > len(self.data):
            raise ValueError(f"a value of {size} bytes goes beyond the end")
        self.at += size
        return self.data[self.at - size : self.at]

    def struct(self, depth: int) -> Struct:
        found, field = Struct(), 0
        while head := self.byte():
            kind, step = head & 0x0F, head >> 4
            field = field + step if step else self.integer()
            if kind in (TRUE, FALSE):
                found[field] = Value(TRUE, kind == TRUE)
            else:
                found[field] = Value(kind, self.value(kind, depth + 1))
        return found

    def value(self, kind: int, depth: int) -> Any:
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} structs and lists are inside each other")
        if kind in (TRUE, FALSE):  # inside of lists
            return self.byte() == TRUE
        if kind == BYTE:
            return self.byte()
        if kind in (I16, I32, I64):
            return self.integer()
        if kind == DOUBLE:
            self.at += _DOUBLE.size
            return _DOUBLE.unpack_from(self.data, self.at - _DOUBLE.size)[0]
        if kind == BINARY:
            return self.binary()
        if kind in (LIST, SET):
            return self.items(depth)
        if kind == STRUCT:
            return self.struct(depth)
        raise ValueError(f"a value has the type {kind}, which footers of Parquet do not have")

    def items(self, depth: int) -> Items:
        head = self.byte()
        kind, count = head & 0x0F, head >> 4
        count = self.varint() if count == 15 else count
        if count > len(self.data) - self.at:
            raise ValueError(f"a list of {count} items goes beyond the end")
        return Items(kind, [self.value(kind, depth + 1) for _ in range(count)])


def _write_varint(out: bytearray, value: int) -> None:
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _write_integer(out: bytearray, value: int) -> None:
    _write_varint(out, value << 1 if value >= 0 else (~value << 1) | 1)


def _write_struct(out: bytearray, value: Struct) -> None:
    last = 0
    for field, (kind, content) in sorted(value.items()):
        kind = (TRUE if content else FALSE) if kind == TRUE else kind
        step = field - last
        if 0 < step <= 15:
            out.append(step << 4 | kind)
        else:
            out.append(kind)
            _write_integer(out, field)
        if kind not in (TRUE, FALSE):
            _write_value(out, kind, content)
        last = field
    out.append(0)


def _write_value(out: bytearray, kind: int, value: Any) -> None:
    if kind in (TRUE, FALSE):
        out.append(TRUE if value else FALSE)
    elif kind == BYTE:
        out.append(value)
    elif kind in (I16, I32, I64):
        _write_integer(out, value)
    elif kind == DOUBLE:
        out += _DOUBLE.pack(value)
    elif kind == BINARY:
        _write_varint(out, len(value))
        out += value
    elif kind in (LIST, SET):
        _write_items(out, value)
    else:
        _write_struct(out, value)


def _write_items(out: bytearray, value: Items) -> None:
    count = len(value.values)
    out.append(min(count, 15) << 4 | value.kind)
    if count >= 15:
        _write_varint(out, count)
    for item in value.values:
        _write_value(out, value.kind, item)
