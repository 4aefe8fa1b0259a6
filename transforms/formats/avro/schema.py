"""Reads the schema of an Avro file: the Arrow types of its fields, and a schema by which records are decoded.

https://avro.apache.org/docs/1.12.0/specification/ describes schemas. Here a schema is JSON as Python has it: a name, a
list for a union, or a dictionary.
"""

import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import fastavro
import pyarrow as pa
from fastavro import _read_py
from fastavro.schema import SchemaParseException, UnknownType

from transforms.errors import RunError, UsageError

PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
KEY, VALUE = "key", "value"  # of an entry of a map
MEMBER = "member"  # a union of several types is an object with `member0`, `member1`, …, as in Spark
_TYPES = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "string": pa.string(),
}
# (logical type, type) -> Arrow type
_LOGICAL = {
    ("date", "int"): pa.date32(),
    ("time-millis", "int"): pa.time32("ms"),
    ("time-micros", "long"): pa.time64("us"),
    ("timestamp-millis", "long"): pa.timestamp("ms", "UTC"),
    ("timestamp-micros", "long"): pa.timestamp("us", "UTC"),
    ("timestamp-nanos", "long"): pa.timestamp("ns", "UTC"),
    ("local-timestamp-millis", "long"): pa.timestamp("ms"),
    ("local-timestamp-micros", "long"): pa.timestamp("us"),
    ("local-timestamp-nanos", "long"): pa.timestamp("ns"),
}
DIGITS_128, DIGITS_256 = 38, 76  # the most digits of Arrow's decimals
NAMED = ("record", "error", "enum", "fixed")  # types with a name


class Schema(NamedTuple):
    """The schema of the records of a file.

    Attributes:
        plain: The schema. Its types have their full names, and `names` has their definitions.
        names: Full name of a type -> its definition.
        fields: The names of its fields, in order.
        types: Field -> Arrow type. A field of a recursive type is absent, because Arrow has no such type.
        decode: The schema by which fastavro decodes a record to values that Arrow takes: without logical types, text
            as bytes, a map as a list of entries, a value of a union of several types as an object.
        read: The function of fastavro that decodes a record. For a recursive schema it is the one in Python: the one in
            C has no limit for nested records, so that a damaged block would end the process.
    """

    plain: dict[str, Any]
    names: dict[str, Any]
    fields: tuple[str, ...]
    types: dict[str, pa.DataType]
    decode: Any
    read: Any


@functools.lru_cache(64)
def parse(header: str) -> Schema:
    """Parses the schema of a file.

    Args:
        header: The schema as JSON; empty for records without fields.

    Raises:
        RunError: It is no schema, or not that of records.
    """
    record = json.loads(header) if header else {"type": "record", "name": "empty", "fields": []}
    if not isinstance(record, dict) or record.get("type") != "record":
        raise RunError(f"the rows are no records, their schema is {header[:60]}; write them as records with fields")
    try:
        names: dict[str, Any] = {}
        plain = _plain(record, "", names)
        types = {field["name"]: _arrow(field["type"], names, ()) for field in plain["fields"]}
        if len(types) != len(plain["fields"]):
            raise ValueError("two of its fields have one name")
        _check_items(names)
        is_recursive = any(kind is None for kind in types.values())
        return Schema(
            plain,
            names,
            tuple(types),
            {name: kind for name, kind in types.items() if kind is not None},
            fastavro.parse_schema(_Decoded().type_of(plain)),
            _read_py.schemaless_reader if is_recursive else fastavro.schemaless_reader,
        )
    except (
        SchemaParseException,
        UnknownType,
        KeyError,
        TypeError,
        ValueError,
        RecursionError,
        OverflowError,
    ) as error:
        raise RunError(f"the schema in the header is no Avro schema: {error!r}; it is {header[:60]}") from error


def _plain(kind: Any, namespace: str, names: dict[str, Any]) -> Any:
    """Returns a schema with full names, and adds the types that it defines to `names`."""
    if isinstance(kind, list):
        return [_plain(one, namespace, names) for one in kind]
    if isinstance(kind, str):
        return kind if kind in PRIMITIVES or "." in kind or not namespace else f"{namespace}.{kind}"
    if isinstance(kind["type"], dict | list):
        return _plain(kind["type"], namespace, names)
    made = {name: value for name, value in kind.items() if name != "namespace"}
    if kind["type"] in NAMED:
        space, _, name = kind["name"].rpartition(".")
        space = space or kind.get("namespace", namespace)
        made["name"] = f"{space}.{name}" if space else name
        if made["name"] in names:
            raise ValueError(f"{made['name']} is defined twice")
        names[made["name"]] = made
        if "fields" in kind:
            made["fields"] = [{**field, "type": _plain(field["type"], space, names)} for field in kind["fields"]]
    for inner in ("items", "values"):
        if inner in kind:
            made[inner] = _plain(kind[inner], namespace, names)
    return made


def _check_items(names: dict[str, Any]) -> None:
    """Refuses arrays of items without bytes: a damaged file could have any number of them, which nothing shows.

    Raises:
        ValueError: There is such an array.
    """
    for name, definition in names.items():
        for kind in _inner([field["type"] for field in definition.get("fields", ())]):
            if isinstance(kind, dict) and kind["type"] == "array" and not _takes_bytes(kind["items"], names, ()):
                raise ValueError(f"the items of an array in {name} take no bytes")


def _inner(kind: Any) -> Iterator[Any]:
    """Yields a type and the types inside of it. A name stays a name."""
    if isinstance(kind, list):
        for one in kind:
            yield from _inner(one)
        return
    yield kind
    if isinstance(kind, dict):
        for inner in [kind[name] for name in ("items", "values") if name in kind]:
            yield from _inner(inner)
        for field in kind.get("fields", ()):
            yield from _inner(field["type"])


def _takes_bytes(kind: Any, names: dict[str, Any], outer: tuple[str, ...]) -> bool:
    if isinstance(kind, str) and kind not in PRIMITIVES:
        kind = names[kind]
    if not isinstance(kind, dict):
        return kind != "null"
    if kind["type"] == "fixed":
        return bool(kind["size"])
    if "fields" not in kind:
        return kind["type"] != "null"
    inner = (*outer, kind["name"])
    return kind["name"] not in outer and any(_takes_bytes(field["type"], names, inner) for field in kind["fields"])


def members(union: Sequence[Any]) -> list[Any]:
    """Returns the types of a union that are not null."""
    return [kind for kind in union if kind != "null"]


def widest(kinds: Sequence[Any]) -> str | None:
    """Returns the type that holds the values of both types, for the two unions that have one; None for others."""
    return {"int|long": "long", "double|float": "double"}.get("|".join(sorted(map(str, kinds))))


class _Decoded:
    """Makes `Schema.decode`. A record adds no bytes to its fields, so records around values do not change the bytes."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}  # full name -> name
        self._made = 0

    def type_of(self, kind: Any) -> Any:
        if isinstance(kind, list):
            return self._union(kind)
        if isinstance(kind, str):
            return {"string": "bytes"}.get(kind, kind) if kind in PRIMITIVES else self._ids[kind]
        name = kind["type"]
        if name == "array":
            return {"type": "array", "items": self.type_of(kind["items"])}
        if name == "map":
            return {"type": "array", "items": self._record([(KEY, "string"), (VALUE, kind["values"])])}
        if name not in NAMED:
            return self.type_of(name)
        own = self._ids[kind["name"]] = self._name()
        if "fields" not in kind:
            return {key: value for key, value in kind.items() if key in ("type", "symbols", "size")} | {"name": own}
        fields = [{"name": field["name"], "type": self.type_of(field["type"])} for field in kind["fields"]]
        return {"type": "record", "name": own, "fields": fields}

    def _union(self, kinds: Sequence[Any]) -> Any:
        inner = members(kinds)
        if len(inner) < 2 or widest(inner):
            return [self.type_of(kind) for kind in kinds]
        number = iter(range(len(inner)))
        return ["null" if k == "null" else self._record([(f"{MEMBER}{next(number)}", k)]) for k in kinds]

    def _record(self, fields: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        made = [{"name": name, "type": self.type_of(kind)} for name, kind in fields]
        return {"type": "record", "name": self._name(), "fields": made}

    def _name(self) -> str:
        self._made += 1
        return f"type{self._made}"


def _arrow(kind: Any, names: dict[str, Any], outer: tuple[str, ...]) -> pa.DataType | None:
    """Returns the Arrow type of a type; None for a recursive type.

    Args:
        kind: The type, with full names.
        names: Full name -> definition.
        outer: The full names of the records around it.
    """
    if isinstance(kind, str) and kind not in PRIMITIVES:
        kind = names[kind]
    if isinstance(kind, list):
        return _arrow_union(members(kind), names, outer)
    if isinstance(kind, str):
        return _TYPES[kind]
    name = kind["type"]
    if name in ("array", "map"):
        inner = _arrow(kind["items" if name == "array" else "values"], names, outer)
        if inner is None:
            return None
        return pa.list_(inner) if name == "array" else pa.map_(pa.string(), inner)
    if name in ("record", "error"):
        if kind["name"] in outer:
            return None
        return _struct(
            [(field["name"], _arrow(field["type"], names, (*outer, kind["name"]))) for field in kind["fields"]]
        )
    if name == "enum":
        return pa.string()
    return _logical(kind) or (pa.binary(kind["size"]) if name == "fixed" else _TYPES[name])


def _struct(inner: Sequence[tuple[str, pa.DataType | None]]) -> pa.DataType | None:
    found = [(name, kind) for name, kind in inner if kind is not None]
    return pa.struct(found) if len(found) == len(inner) else None


def _arrow_union(kinds: Sequence[Any], names: dict[str, Any], outer: tuple[str, ...]) -> pa.DataType | None:
    """Returns the Arrow type of a union, as Spark has it.

    https://spark.apache.org/docs/latest/sql-data-sources-avro.html#supported-types-for-avro---spark-sql-conversion
    """
    if len(kinds) < 2:
        return _arrow(kinds[0], names, outer) if kinds else pa.null()
    if wide := widest(kinds):
        return _TYPES[wide]
    return _struct([(f"{MEMBER}{number}", _arrow(kind, names, outer)) for number, kind in enumerate(kinds)])


def _logical(kind: dict[str, Any]) -> pa.DataType | None:
    """Returns the Arrow type of a logical type; None for one that is unknown or invalid, which readers ignore."""
    name = kind.get("logicalType")
    if name != "decimal" or kind["type"] not in ("bytes", "fixed"):
        return _LOGICAL.get((str(name), kind["type"]))
    precision, scale = kind.get("precision"), kind.get("scale", 0)
    if not (isinstance(precision, int) and isinstance(scale, int) and 0 <= scale <= precision <= DIGITS_256):
        return None
    if not precision:
        return None
    return pa.decimal128(precision, scale) if precision <= DIGITS_128 else pa.decimal256(precision, scale)


class Sections(NamedTuple):
    """The fields of a record in sections, to take some of the fields in some order.

    Attributes:
        decode: For each section in the order of the record, the schema by which fastavro decodes its fields.
        places: The name of the first field of each wanted section -> the number of the section.
    """

    decode: list[Any]
    places: dict[str, int]


@functools.lru_cache(64)
def sections(header: str, wanted: tuple[str, ...]) -> Sections:
    """Cuts a record into sections of fields that follow each other both in the record and among the wanted ones.

    Args:
        header: The schema of the records.
        wanted: Names of fields, in order. Those that are not in the record end a section.
    """
    schema = parse(header)
    numbers = [schema.fields.index(name) if name in schema.fields else None for name in wanted]
    cuts, places = {0, len(schema.fields)}, list[int]()
    for before, number, after in zip([None, *numbers], numbers, [*numbers[1:], None], strict=False):
        if number is not None and (before is None or before + 1 != number):
            cuts.add(number)
            places.append(number)
        if number is not None and after != number + 1:
            cuts.add(number + 1)
    bounds = sorted(cuts)
    decoded, every = _Decoded().type_of(schema.plain), dict[str, Any]()
    fastavro.parse_schema(decoded, named_schemas=every)
    known = {decoded["name"]: every[decoded["name"]]}  # a field may refer to the record around it
    found = []
    for first, end in itertools.pairwise(bounds):
        part = {"type": "record", "name": f"section{first}", "fields": decoded["fields"][first:end]}
        made: Any = fastavro.parse_schema(part, named_schemas=known)
        found.append({**made, "__named_schemas": every})
    return Sections(found, {schema.fields[first]: bounds.index(first) for first in places})


def extended(header: str, wanted: Sequence[str] | None, added: dict[str, Any]) -> str:
    """Makes the schema of output rows.

    Args:
        header: The schema of the rows.
        wanted: Names of fields of an output row, in order; None for all fields of the rows, and then the added ones.
        added: Added field -> its type.

    Returns:
        The schema, as JSON.

    Raises:
        UsageError: A field of an output row holds whole rows, which would then need the added fields, too.
    """
    new = {name: _field(name, kind) for name, kind in added.items()}
    _check_nested(parse(header), wanted)
    if wanted is None:
        record = json.loads(header)
        return _json({**record, "fields": [*record["fields"], *new.values()]})
    schema = parse(header)
    own = {field["name"]: field for field in schema.plain["fields"]}
    defined: set[str] = {schema.plain["name"]}
    fields = [
        new[name] if name in new else {**own[name], "type": _defined(own[name]["type"], schema.names, defined)}
        for name in wanted
    ]
    return _json({**schema.plain, "fields": fields})


def _check_nested(schema: Schema, wanted: Sequence[str] | None) -> None:
    """Refuses fields that hold records of the rows' own type, see `extended`."""
    for field in schema.plain["fields"]:
        is_written = wanted is None or field["name"] in wanted
        if is_written and schema.plain["name"] in _named(field["type"], schema.names):
            raise UsageError(
                f"the field {field['name']} holds records of the type {schema.plain['name']}, which is that of the "
                f"rows; they would need predictions, too; leave it out with --exclude_fields={field['name']}"
            )


def _named(kind: Any, names: dict[str, Any]) -> set[str]:
    """Returns the full names of all types that a type holds."""
    found, left = set[str](), [kind]
    while left:
        for one in _inner(left.pop()):
            name = one["name"] if isinstance(one, dict) and one["type"] in NAMED else one
            if isinstance(name, str) and name in names and name not in found:
                found.add(name)
                left.append(names[name])
    return found


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _field(name: str, kind: Any) -> dict[str, Any]:
    is_nullable = isinstance(kind, list) and kind[0] == "null"
    return {"name": name, "type": kind, **({"default": None} if is_nullable else {})}


def _defined(kind: Any, names: dict[str, Any], defined: set[str]) -> Any:
    """Returns a type that defines each of its named types where it first occurs, if it is not among `defined`."""
    if isinstance(kind, list):
        return [_defined(one, names, defined) for one in kind]
    if isinstance(kind, str):
        return kind if kind in PRIMITIVES or kind in defined else _defined(names[kind], names, defined)
    made = dict(kind)
    if kind["type"] in NAMED:
        if kind["name"] in defined:
            return kind["name"]
        defined.add(kind["name"])
    for inner in {"items", "values"} & made.keys():
        made[inner] = _defined(made[inner], names, defined)
    if "fields" in made:
        made["fields"] = [{**field, "type": _defined(field["type"], names, defined)} for field in made["fields"]]
    return made
