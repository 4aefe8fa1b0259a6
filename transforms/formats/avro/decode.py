"""Decodes records by fastavro: finds where each record ends, and makes Arrow columns of fields."""

import decimal
import io
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import fastavro
import numpy as np
import pyarrow as pa

from transforms.errors import RunError
from transforms.formats.avro.schema import KEY, VALUE, Schema
from transforms.records import Positions

BATCH = 8_192  # records that are Python objects at one time
# What fastavro raises for bytes that are no record.
DAMAGED = (
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    OverflowError,
    RecursionError,
    MemoryError,
    struct.error,
)
_DECIMALS = decimal.Context(prec=100)


class Piece(NamedTuple):
    """Records from one block of a file, or from none.

    Attributes:
        data: Their bytes.
        rows: How many there are.
        start: The position of their block in the file, for messages.
    """

    data: bytes
    rows: int
    start: int = 0


def ends(piece: Piece, schema: Schema, first: int = 0) -> Positions:
    """Finds the ends of records.

    Args:
        piece: The records.
        schema: Their schema.
        first: The position of the piece in the result.

    Returns:
        The position after each record. int64, (records,).

    Raises:
        RunError: The bytes are not that many records.
    """
    stream, found = io.BytesIO(piece.data), np.empty(piece.rows, np.int64)
    read, decode, tell = schema.read, schema.decode, stream.tell
    row = 0
    try:
        for row in range(piece.rows):
            read(stream, decode, None)
            found[row] = tell()
    except DAMAGED as error:
        raise _damaged(piece, f"record {row} of it cannot be decoded: {error!r}") from error
    _check_end(piece, stream)
    return found + first


def borders(data: bytes, starts: Positions, decode: Sequence[Any]) -> Positions:
    """Finds where the sections of records begin and end.

    Args:
        data: A buffer with records. They decode without errors.
        starts: The position of each record in it.
        decode: The schema of each section, see `schema.sections`.

    Returns:
        For each record, the positions before, between and after its sections. int64, (records, sections + 1).
    """
    stream, found = io.BytesIO(data), np.empty((len(starts), len(decode) + 1), np.int64)
    read, tell = fastavro.schemaless_reader, stream.tell
    found[:, 0] = starts
    for row, start in enumerate(starts.tolist()):
        stream.seek(start)
        for number, section in enumerate(decode, 1):
            read(stream, section, None)
            found[row, number] = tell()
    return found


def _check_end(piece: Piece, stream: io.BytesIO) -> None:
    if stream.tell() != len(piece.data):
        raise _damaged(piece, f"its {piece.rows} records end at byte {stream.tell()} of {len(piece.data)}")


def _damaged(piece: Piece, why: str) -> RunError:
    return RunError(f"the block at byte {piece.start} is damaged: {why}; copy the file again from where it was written")


def batches(pieces: Iterable[Piece], schema: Schema) -> Iterator[list[dict[str, Any]]]:
    """Decodes records, at most `BATCH` at a time.

    Raises:
        RunError: The bytes of a piece are not its number of records.
    """
    read, decode = schema.read, schema.decode
    made = list[dict[str, Any]]()
    for piece in pieces:
        stream = io.BytesIO(piece.data)
        try:
            for _ in range(piece.rows):
                made.append(read(stream, decode, None))
                if len(made) == BATCH:
                    yield made
                    made = []
        except DAMAGED as error:
            raise _damaged(piece, f"a record of it cannot be decoded: {error!r}") from error
        _check_end(piece, stream)
    if made:
        yield made


def table(rows: Sequence[Mapping[str, Any]], schema: Schema, fields: Sequence[str]) -> tuple[pa.Table, dict[int, str]]:
    """Makes Arrow columns of some fields of decoded records.

    Args:
        rows: The records, decoded by `Schema.decode`.
        schema: Their schema.
        fields: The fields, of those in `Schema.types`.

    Returns:
        The columns; and for each row with a value that Arrow cannot hold, its number -> what is wrong. That value is
        null: text that is not UTF-8, a decimal with more digits than its type, an integer with more bits.
    """
    found, bad = [], dict[int, str]()
    for name in fields:
        kind, values = schema.types[name], [row[name] for row in rows]
        try:
            found.append(_column(values, kind))
        except (ValueError, OverflowError):
            each = []
            for number, value in enumerate(values):
                try:
                    each.append(_column([value], kind))
                except (ValueError, OverflowError) as error:
                    bad.setdefault(number, f"field {name}: {str(error)[:200]}")
                    each.append(pa.nulls(1, kind))
            found.append(pa.concat_arrays(each))
    if not found:
        return pa.table({"": pa.nulls(len(rows))}), bad  # a table without columns would have no rows
    return pa.Table.from_arrays(found, names=list(fields)), bad


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    return finished(pa.array(values, storage(kind)), kind)


def storage(kind: pa.DataType) -> pa.DataType:
    """Returns the Arrow type that decoded values of a type have before `finished`."""
    if pa.types.is_list(kind):
        return pa.list_(storage(kind.value_type))
    if pa.types.is_map(kind):
        return pa.list_(pa.struct([(KEY, pa.binary()), (VALUE, storage(kind.item_type))]))
    if pa.types.is_struct(kind):
        return pa.struct([(member.name, storage(member.type)) for member in kind])
    if pa.types.is_string(kind) or pa.types.is_decimal(kind):
        return pa.binary()
    if pa.types.is_temporal(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    return kind


def finished(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Converts decoded values to their type.

    Raises:
        ArrowInvalid: A text is not UTF-8, or a decimal has too many digits.
    """
    if array.type == kind:
        return array
    if pa.types.is_list(kind):
        return pa.ListArray.from_arrays(
            array.offsets, finished(array.values, kind.value_type), type=kind, mask=_mask(array)
        )
    if pa.types.is_map(kind):
        keys, items = (array.values.field(name) for name in (KEY, VALUE))
        made = [finished(keys, kind.key_type), finished(items, kind.item_type)]
        return pa.MapArray.from_arrays(array.offsets, *made, type=kind, mask=_mask(array))
    if pa.types.is_struct(kind):
        made = [finished(array.field(member.name), member.type) for member in kind]
        return pa.StructArray.from_arrays(made, fields=list(kind), mask=array.is_null())
    if pa.types.is_string(kind):
        return array.cast(kind)
    if pa.types.is_decimal(kind):
        return pa.array([_decimal(value, kind.scale) for value in array.to_pylist()], kind)
    return array.view(kind)


def _mask(array: pa.Array) -> pa.Array | None:
    return array.is_null() if array.null_count else None


def _decimal(value: bytes | None, scale: int) -> decimal.Decimal | None:
    if value is None:
        return None
    whole = int.from_bytes(value, "big", signed=True)
    return decimal.Decimal(whole).scaleb(-scale, _DECIMALS)
