"""Converts JSON lines to columns, for parts of another format.

Objects become structs, arrays become lists. Integers become int64, or uint64 if one is beyond that. Numbers with a
point or an exponent become float64. A row has to fit the planned types exactly, see `table`.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms import columns
from transforms.formats import schemas, slices
from transforms.formats.jsonl import diagnose, parse_lines, split
from transforms.formats.jsonl.diagnose import Number, Pairs
from transforms.reasons import Reason
from transforms.records import BadRow, Positions, Rows
from transforms.threads import in_threads

DIAGNOSED = 1024  # lines that do not parse together are diagnosed one by one if they are at most this many
EXACT = 1 << 53  # float64 holds all integers up to this one
LONG_INTEGER = r"[\s\[:,]-?[0-9]{16,}[\s\],}]"  # an integer that may be above `EXACT`
RAW = msgspec.json.Decoder(dict[str, msgspec.Raw])


def schema(data: bytes, rows: Rows) -> pa.Schema:
    """Returns the fields of the rows that are objects, in the order of their first appearance, each with its type."""
    found = []
    for start, end in zip(rows.starts.tolist(), rows.ends.tolist(), strict=True):
        try:
            row = diagnose.parse(data[start:end])
            if isinstance(row, Pairs):
                found.append(pa.schema([pa.field(name, _type_of(value)) for name, value in dict(row).items()]))
        except ValueError:  # not JSON, or half of a surrogate pair in a name: no reader takes the row
            continue
    return schemas.merge(found)


def _type_of(value: Any) -> pa.DataType:
    if value is None:
        return pa.null()
    if isinstance(value, Pairs):
        return pa.struct([pa.field(name, _type_of(inner)) for name, inner in dict(value).items()])
    if isinstance(value, list):
        kind = pa.null()
        for item in value:
            kind = schemas.merge_types(kind, _type_of(item))
        return pa.list_(kind)
    if isinstance(value, Number):
        return _type_of_number(value)
    return pa.bool_() if isinstance(value, bool) else pa.string()


def _type_of_number(number: Number) -> pa.DataType:
    if not re.fullmatch("-?[0-9]+", number):
        return pa.float64()
    fitting = [kind for kind in (np.int64, np.uint64) if np.iinfo(kind).min <= int(number) <= np.iinfo(kind).max]
    return pa.from_numpy_dtype(fitting[0]) if fitting else pa.float64()


def table(data: bytes, rows: Rows, which: Positions, schema: pa.Schema) -> tuple[pa.Table, list[BadRow]]:
    """Converts some rows to columns, see `transforms.formats.base.Block`.

    A row fits if `pyarrow.json` reads it by the schema: no field is unknown or given twice, each value has the type of
    its column, and an integer column gets no number with a point or an exponent. A float64 column gets no integer above
    `EXACT`, because it would be rounded.

    Args:
        data: The bytes of the chunk.
        rows: The places of its rows.
        which: The numbers of the rows to convert, ascending.
        schema: The columns.
    """
    step = slices.row_count(len(rows.starts), len(data))
    parts = [which[at : at + step] for at in range(0, len(which), step)]

    def convert(part: Positions) -> tuple[pa.Table, dict[int, tuple[str, str]]]:
        return _convert(data, Rows(rows.starts[part], rows.ends[part]), schema)

    tables, bad = [schema.empty_table()], []
    for part, (found, refused) in zip(parts, in_threads(convert, parts), strict=True):
        tables.append(found)
        bad += [BadRow(int(part[at]), "write", *why) for at, why in sorted(refused.items())]
    return pa.concat_tables(tables), bad


def _convert(data: bytes, rows: Rows, schema: pa.Schema) -> tuple[pa.Table, dict[int, tuple[str, str]]]:
    """Converts the rows of a slice. Returns the rows that fit, and for each other row its number -> why."""
    refused, ignored = {}, schemas.ignores(schema)
    tried = np.flatnonzero(~parse_lines.suspect(data, rows))
    lines = columns.gather(data, rows.starts[tried], np.minimum(rows.ends[tried] + 1, len(data)))
    if len(tried) and not _ends_line(lines):
        lines = pa.concat_arrays([lines[:-1], pa.array([lines[-1].as_py() + b"\n"], pa.large_binary())])
    for at in np.setdiff1d(np.arange(len(rows.starts)), tried).tolist():
        refused[at] = _why(data[rows.starts[at] : rows.ends[at]], schema, ignored)
    if ignored:
        lines, dropped = _without(lines, schema, ignored)
        refused.update((int(tried[at]), why) for at, why in dropped.items())
        tried = np.delete(tried, list(dropped))
    tables, todo = [schema.empty_table()], [(tried, lines)]
    while todo:
        numbers, some = todo.pop()
        found = parse_lines.read_by_schema(some, schema, exact=True) if len(some) else schema.empty_table()
        if found is not None and found.num_rows == len(some):
            rounded = _rounded(some, found, schema)
            refused.update((int(numbers[at]), why) for at, why in rounded.items())
            tables.append(found.select(schema.names).take(np.delete(np.arange(len(some)), list(rounded))))
        elif len(some) == 1:
            refused[int(numbers[0])] = _why(some[0].as_py(), schema, None)
        else:
            todo += _halves(numbers, some, schema, refused)
    return pa.concat_tables(tables), refused


def _ends_line(lines: pa.LargeBinaryArray) -> bool:
    return bool(lines[-1].as_py().endswith(b"\n"))


def _halves(
    numbers: Positions, lines: pa.LargeBinaryArray, schema: pa.Schema, refused: dict[int, tuple[str, str]]
) -> list[tuple[Positions, pa.LargeBinaryArray]]:
    """Splits lines that do not parse together. Of few lines, it first adds those that are surely bad to `refused`."""
    if len(lines) <= DIAGNOSED:
        found = {at: why for at, line in enumerate(lines.to_pylist()) if (why := _find(line, schema, None))}
        refused.update((int(numbers[at]), why) for at, why in found.items())
        if found:
            kept = np.delete(np.arange(len(lines)), list(found))
            return [(numbers[kept], columns.pick(lines, kept))]
    middle = len(lines) // 2
    both = (np.arange(middle, len(lines)), np.arange(middle))  # the first half is taken up first
    return [(numbers[half], columns.pick(lines, half)) for half in both]


def _rounded(lines: pa.LargeBinaryArray, found: pa.Table, schema: pa.Schema) -> dict[int, tuple[str, str]]:
    """Finds lines with an integer that pyarrow rounded, because its column has floats: number of a line -> why."""
    if not any(_is_large(column) for column in found.itercolumns()):
        return {}
    suspects = pc.match_substring_regex(lines, LONG_INTEGER).to_numpy(zero_copy_only=False)
    found_in = {int(at): _find(lines[int(at)].as_py(), schema, None) for at in np.flatnonzero(suspects)}
    return {at: why for at, why in found_in.items() if why}


def _is_large(column: pa.Array | pa.ChunkedArray) -> bool:
    """Whether a column, or a column inside it, has a float of at least `EXACT`."""
    if pa.types.is_floating(column.type):
        return bool((pc.max(pc.abs(column)).as_py() or 0) >= EXACT)
    if pa.types.is_struct(column.type):
        return any(map(_is_large, column.flatten()))
    return pa.types.is_list(column.type) and _is_large(pc.list_flatten(column))


def _without(
    lines: pa.LargeBinaryArray, schema: pa.Schema, ignored: Callable[[str], bool]
) -> tuple[pa.LargeBinaryArray, dict[int, tuple[str, str]]]:
    """Takes the ignored fields out of lines. It parses each line in Python.

    Returns:
        The new lines; and for each line that does not fit, its number -> why.
    """
    kept, refused = [], {}
    for at, line in enumerate(lines.to_pylist()):
        why = _find(line, schema, ignored)
        if why:
            refused[at] = why
            continue
        members = ((name, raw) for name, raw in RAW.decode(line).items() if not ignored(name))
        kept.append(b"{%b}\n" % b", ".join(b"%b: %b" % (msgspec.json.encode(name), raw) for name, raw in members))
    text = b"".join(kept)
    rows = split.rows(text, first=False)
    return columns.gather(text, rows.starts, rows.ends + 1), refused


def _why(line: bytes, schema: pa.Schema, ignored: Callable[[str], bool] | None) -> tuple[str, str]:
    """Returns why a line does not fit."""
    return _find(line, schema, ignored) or (Reason.SCHEMA.value, "pyarrow.json does not read the row by the schema")


def _find(line: bytes, schema: pa.Schema, ignored: Callable[[str], bool] | None) -> tuple[str, str] | None:
    """Returns what is surely wrong with a line; None if nothing is."""
    found = diagnose.find(line, ())
    if found:
        return found
    try:
        row = diagnose.parse(line)
        if ignored:
            RAW.decode(line)
    except (ValueError, msgspec.MsgspecError) as error:
        return Reason.NOT_JSON.value, str(error)
    kept = Pairs((name, value) for name, value in row if not (ignored and ignored(name)))
    misfit = next(_misfits(kept, pa.struct(list(schema)), ()), None)
    return (misfit[0].value, misfit[1]) if misfit else None


def _misfits(value: Any, kind: pa.DataType, path: tuple[str, ...]) -> Iterator[tuple[Reason, str]]:
    """Yields what in a value does not fit a type."""
    where = f"field {'.'.join(path)}"
    if value is None:
        return
    if pa.types.is_struct(kind) and isinstance(value, Pairs):
        counts = Counter(name for name, _ in value)
        types = {inner.name: inner.type for inner in kind}
        for name, inner in value:
            inside = (*path, name)
            if counts[name] > 1:
                yield Reason.DUPLICATE_NAME, f"field {'.'.join(inside)}: given twice"
            elif name not in types:
                yield Reason.SCHEMA, f"field {'.'.join(inside)}: no sampled row has it, so the parts have no such field"
            else:
                yield from _misfits(inner, types[name], inside)
    elif pa.types.is_list(kind) and isinstance(value, list) and not isinstance(value, Pairs):
        for item in value:
            yield from _misfits(item, kind.value_type, path)
    elif not _holds(kind, value):
        shown = diagnose.described(value)
        yield Reason.SCHEMA, f"{where}: {shown}, but the parts have {_named(kind)} there, as the sampled rows do"


def _holds(kind: pa.DataType, value: Any) -> bool:
    if isinstance(value, Number):
        whole = int(value) if re.fullmatch("-?[0-9]+", value) else None
        if pa.types.is_integer(kind):
            limits = np.iinfo(kind.to_pandas_dtype())
            return whole is not None and int(limits.min) <= whole <= int(limits.max)
        return pa.types.is_floating(kind) and (whole is None or abs(whole) <= EXACT)
    if isinstance(value, bool):
        return pa.types.is_boolean(kind)
    return isinstance(value, str) and pa.types.is_string(kind)


def _named(kind: pa.DataType) -> str:
    """Names a type as JSON does."""
    if pa.types.is_null(kind):
        return "null"
    if pa.types.is_nested(kind):
        return "an object" if pa.types.is_struct(kind) else "a list"
    return {pa.string(): "a string", pa.bool_(): "true or false", pa.float64(): "a float"}.get(kind, "an integer")
