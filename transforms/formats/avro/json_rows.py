"""Writes a record as JSON for dead letters, and reads it back.

The JSON is that of https://avro.apache.org/docs/1.12.0/specification/#json-encoding: bytes are a string of the
characters U+0000 to U+00FF, and a value of a union that is not null is an object with the name of its type. The words
NaN, Infinity and -Infinity are strings. A record that JSON does not give back, byte for byte, is written in the
single-object encoding, https://avro.apache.org/docs/1.12.0/specification/#single-object-encoding.
"""

import functools
import io
import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

from transforms.errors import RunError
from transforms.formats.avro.container import write_long
from transforms.formats.avro.decode import DAMAGED
from transforms.formats.avro.schema import KEY, MEMBER, PRIMITIVES, VALUE, members, parse, widest
from transforms.mapping import numbers

MARKER = b"\xc3\x01"
SINGLE = 10  # the bytes of the marker and the fingerprint
_BITS = {"int": 31, "long": 63}
_FLOATS = {"float": struct.Struct("<f"), "double": struct.Struct("<d")}


def to_raw(record: bytes, header: str) -> bytes:
    """Returns the bytes of a record for its dead letter. `from_raw` takes them back.

    Args:
        record: The record as it is in the file. It decodes without errors.
        header: Its schema.
    """
    schema = parse(header)
    try:
        value = fastavro.schemaless_reader(io.BytesIO(record), schema.decode, None)
        text = json.dumps(_to_json(schema.plain, value, schema.names), ensure_ascii=False).encode()
        if from_raw(text, header) == record:
            return text
    except (ValueError, RecursionError, RunError):  # such as text that is not UTF-8
        pass
    return MARKER + _fingerprint(header) + record


def from_raw(raw: bytes, header: str) -> bytes:
    """Returns the record in a dead letter.

    Args:
        raw: The row of a dead letter: JSON, or a record in the single-object encoding.
        header: The schema of the record.

    Raises:
        RunError: It is not one record of this schema.
    """
    schema = parse(header)
    try:
        if not raw.startswith(MARKER):
            return _to_bytes(schema.plain, json.loads(raw), schema.names)
        if raw[len(MARKER) : SINGLE] != _fingerprint(header):
            raise ValueError("its fingerprint is that of another schema")
        stream = io.BytesIO(raw[SINGLE:])
        fastavro.schemaless_reader(stream, schema.decode, None)
        if stream.tell() != len(raw) - SINGLE:
            raise ValueError("bytes follow the record")
    except DAMAGED as error:
        raise RunError(f"not exactly one row of avro: {error}") from error
    return raw[SINGLE:]


@functools.lru_cache(64)
def _fingerprint(header: str) -> bytes:
    """Returns the CRC-64-AVRO of a schema, https://avro.apache.org/docs/1.12.0/specification/#schema-fingerprints."""
    return bytes.fromhex(fingerprint(to_parsing_canonical_form(json.loads(header)), "CRC-64-AVRO"))


def _name(kind: Any) -> str:
    """Returns the name of a type in a union."""
    if isinstance(kind, str):
        return kind
    found: str = kind["name"] if "name" in kind else kind["type"]
    return found


def _to_json(kind: Any, value: Any, names: Mapping[str, Any]) -> Any:
    """Converts a decoded value to JSON.

    Raises:
        ValueError: JSON cannot hold it.
    """
    if isinstance(kind, str) and kind not in PRIMITIVES:
        kind = names[kind]
    if isinstance(kind, list):
        return _union_to_json(members(kind), value, names)
    name = kind if isinstance(kind, str) else kind["type"]
    if name == "array":
        return [_to_json(kind["items"], item, names) for item in value]
    if name == "map":
        entries = {item[KEY].decode(): _to_json(kind["values"], item[VALUE], names) for item in value}
        if len(entries) != len(value):
            raise ValueError("a map with a name twice")
        return entries
    if name in ("record", "error"):
        return {f["name"]: _to_json(f["type"], value[f["name"]], names) for f in kind["fields"]}
    if name in ("bytes", "fixed"):
        return value.decode("latin-1")
    if name == "string":
        return value.decode()
    if name in _FLOATS and not math.isfinite(value):
        return numbers.word(value)
    return value


def _union_to_json(inner: Sequence[Any], value: Any, names: Mapping[str, Any]) -> Any:
    if value is None:
        return None
    if len(inner) == 1:
        return {_name(inner[0]): _to_json(inner[0], value, names)}
    if widest(inner):
        return {_name(inner[0]): value}
    ((member, found),) = value.items()
    kind = inner[int(member.removeprefix(MEMBER))]
    return {_name(kind): _to_json(kind, found, names)}


def _to_bytes(kind: Any, value: Any, names: Mapping[str, Any]) -> bytes:
    """Encodes a JSON value.

    Raises:
        ValueError: The value is not one of the type.
    """
    if isinstance(kind, str) and kind not in PRIMITIVES:
        kind = names[kind]
    if isinstance(kind, list):
        return _union_to_bytes(kind, value, names)
    name = kind if isinstance(kind, str) else kind["type"]
    if name in ("array", "map"):
        return _list_to_bytes(kind, value, names)
    if name in ("record", "error"):
        fields = {field["name"]: field["type"] for field in kind["fields"]}
        if not isinstance(value, dict) or value.keys() != fields.keys():
            raise ValueError(f"{_shown(value)} is no object with the fields {list(fields)}")
        return b"".join(_to_bytes(one, value[field], names) for field, one in fields.items())
    if name == "enum":
        return write_long(kind["symbols"].index(value))
    return _leaf_to_bytes(name, value, kind)


def _union_to_bytes(kinds: Sequence[Any], value: Any, names: Mapping[str, Any]) -> bytes:
    inner, known = members(kinds), [_name(kind) for kind in kinds]
    if value is not None and not isinstance(value, dict) and len(inner) == 1:
        value = {_name(inner[0]): value}  # a repaired row may leave out the name of the only type
    if value is None:
        return write_long(known.index("null"))
    if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= set(known):
        raise ValueError(f"{_shown(value)} is no object with one of the names {known}")
    ((name, found),) = value.items()
    number = known.index(name)
    return write_long(number) + _to_bytes(kinds[number], found, names)


def _list_to_bytes(kind: Any, value: Any, names: Mapping[str, Any]) -> bytes:
    if kind["type"] == "array":
        if not isinstance(value, list):
            raise ValueError(f"{_shown(value)} is no list")
        items = [_to_bytes(kind["items"], item, names) for item in value]
    else:
        if not isinstance(value, dict):
            raise ValueError(f"{_shown(value)} is no object")
        items = [
            _leaf_to_bytes("string", k, None) + _to_bytes(kind["values"], item, names) for k, item in value.items()
        ]
    return (write_long(len(items)) if items else b"") + b"".join(items) + write_long(0)


def _leaf_to_bytes(name: str, value: Any, kind: Any) -> bytes:
    if name == "null" and value is None:
        return b""
    if name == "boolean" and isinstance(value, bool):
        return b"\x01" if value else b"\x00"
    if name in _BITS and isinstance(value, int) and not isinstance(value, bool):
        if not -(1 << _BITS[name]) <= value < 1 << _BITS[name]:
            raise ValueError(f"{value} does not fit {name}")
        return write_long(value)
    if name in _FLOATS and ((isinstance(value, int | float) and not isinstance(value, bool)) or value in numbers.WORDS):
        return _FLOATS[name].pack(float(value))
    if name in ("string", "bytes", "fixed") and isinstance(value, str):
        data = value.encode("utf-8" if name == "string" else "latin-1")
        if name == "fixed" and len(data) == kind["size"]:
            return data
        if name != "fixed":
            return write_long(len(data)) + data
    raise ValueError(f"{_shown(value)} is no {name}")


def _shown(value: Any) -> str:
    return json.dumps(value)[:60]
