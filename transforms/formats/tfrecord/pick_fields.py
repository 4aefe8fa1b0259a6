"""Picks the features of a record that are written, and finds records that cannot be written with their predictions."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms import columns
from transforms.formats.tfrecord import sequence
from transforms.formats.tfrecord.parse import LIST_NAMES, Values, parse
from transforms.formats.tfrecord.read import RecordBlock
from transforms.reasons import Reason
from transforms.records import BadRow, Layout, Positions, Rows, without

INT64_MAX = np.iinfo(np.int64).max


class Kept(NamedTuple):
    """The rows that can be written.

    Attributes:
        numbers: Their numbers in the chunk. int64, (rows,).
        heads: For each row, the serialized Example that precedes the predictions; it may be empty. None if that is the
            whole record, see `RecordBlock.examples`.
        predictions: One record for each row.
    """

    numbers: Positions
    heads: pa.LargeBinaryArray | None
    predictions: pa.RecordBatch


def keep(
    block: RecordBlock, bad: Sequence[BadRow], predictions: pa.RecordBatch, layout: Layout
) -> tuple[Kept, list[BadRow]]:
    """Picks the features to write from the good rows, and finds the rows that cannot be written.

    Args:
        block: The rows of a chunk.
        bad: The rows without a prediction.
        predictions: One record for each other row, in order.
        layout: The fields of an output row.

    Returns:
        The rows that can be written, and those that have a prediction but cannot be written with it.
    """
    numbers = without(len(block.rows.starts), bad)
    heads: list[bytes] | None
    refused: dict[int, Refusal] = {}
    if block.record_field:
        heads = None if has_own_fields(block, layout) else [b""] * len(numbers)
    else:
        heads, refused = _heads(block.data, block.records, numbers, layout)
    if layout.log is None:
        refused = _beyond(predictions, layout) | refused
    found = [BadRow(int(numbers[at]), "write", why.reason.value, why.message) for at, why in refused.items()]
    if refused:
        kept = np.ones(len(numbers), np.bool_)
        kept[list(refused)] = False
        numbers, predictions = numbers[kept], predictions.filter(pa.array(kept))
        heads = None if heads is None else [head for at, head in enumerate(heads) if at not in refused]
    picked = None if heads is None else pa.array(heads, pa.large_binary())
    return Kept(numbers, picked, predictions), sorted(found)


def has_own_fields(block: RecordBlock, layout: Layout) -> bool:
    """Whether output rows hold fields of the rows themselves."""
    field = block.record_field
    if field:
        return layout.key_field == field or (layout.row and _wanted(field, layout))
    return layout.row or layout.key_field is not None


class Refusal(NamedTuple):
    """Why a row cannot be written."""

    reason: Reason
    message: str


def _beyond(predictions: pa.RecordBatch, layout: Layout) -> dict[int, Refusal]:
    """Finds predictions with a finite number that no list of a feature can hold: number of the record -> the reason."""
    found: dict[int, Refusal] = {}
    for output, name in layout.predictions:
        flat = columns.flat_values(predictions[output])
        values = flat.to_numpy(zero_copy_only=False)
        if flat.type == pa.uint64():
            beyond, kind = values > INT64_MAX, "an int64_list"
        elif flat.type == pa.float64():
            with np.errstate(over="ignore"):
                beyond, kind = np.isfinite(values) & ~np.isfinite(values.astype(np.float32)), "a float_list"
        else:
            continue
        for at in np.flatnonzero(beyond).tolist():
            message = f"prediction {name}: {values[at]} does not fit {kind}"
            record = int(np.searchsorted(columns.value_bounds(predictions[output]), at, side="right")) - 1
            found.setdefault(record, Refusal(Reason.OUT_OF_RANGE, message))
    return found


def _heads(
    data: bytes, records: Rows, numbers: Positions, layout: Layout
) -> tuple[list[bytes] | None, dict[int, Refusal]]:
    """Picks what is written before the predictions.

    Args:
        data: The chunk's bytes.
        records: The places of all records.
        numbers: The numbers of the good rows.
        layout: The fields of an output row.

    Returns:
        `Kept.heads` for all good rows, and for each row that cannot be written, its index in `numbers` -> the reason.
    """
    if not layout.row and not layout.key_field:
        return [b""] * len(numbers), {}
    tried = _suspects(data, records, numbers, layout.added) if layout.whole_row else range(len(numbers))
    picked = {}
    for at in tried:
        picked[at] = pick(data[records.starts[numbers[at]] : records.ends[numbers[at]]], layout)
    refused = {at: found for at, found in picked.items() if isinstance(found, Refusal)}
    if layout.whole_row:
        return None, refused
    return [b"" if isinstance(found, Refusal) else found for found in picked.values()], refused


def _suspects(data: bytes, records: Rows, numbers: Positions, names: Sequence[str]) -> list[int]:
    """Finds the records that may have a feature with one of the given names.

    In a record, the last byte of a name's length precedes the name. That byte is 0 if the length is written with more
    bytes than necessary.

    Args:
        data: The chunk's bytes.
        records: The places of all records.
        numbers: The numbers of the records to search.
        names: The names.

    Returns:
        The records' indices in `numbers`, ascending.
    """
    whole = columns.gather(data, np.array([0]), np.array([len(data)]))
    # First search for each name as a literal, which RE2 does with SIMD instructions. Most chunks need no second search.
    found = [name for name in map(str.encode, names) if len(_holding(whole, re.escape(name)))]
    if not found:
        return []
    rows = columns.gather(data, records.starts[numbers], records.ends[numbers])
    suspects: set[int] = set()
    for name in found:
        length = len(name)
        while length > 0x7F:
            length >>= 7
        named = _holding(rows, re.escape(name))
        behind = _holding(columns.pick(rows, named), rb"[\x00\x%02x]" % length + re.escape(name))
        suspects.update(named[behind].tolist())
    return sorted(suspects)


def _holding(pieces: pa.LargeBinaryArray, pattern: bytes) -> Positions:
    """Returns the numbers of the pieces that match an RE2 pattern of bytes."""
    return np.flatnonzero(pc.match_substring_regex(pieces, pattern).to_numpy(zero_copy_only=False))


def pick(record: bytes, layout: Layout) -> bytes | Refusal:
    """Returns the Example to write before the predictions of a record, or why the record cannot be written."""
    if not layout.row and not layout.key_field:
        return b""
    example = parse(record)
    if example is None:
        return Refusal(Reason.NOT_EXAMPLE, f"its {len(record)} bytes do not parse as a tf.train.Example")
    picked = {name: values for name, values in example.items() if _wanted(name, layout)}
    if layout.key_field and layout.key_field not in picked:
        return Refusal(Reason.MISSING, f"field {layout.key_field}: not in the row")
    taken = [name for name in layout.added if name in picked]
    if taken:
        return Refusal(Reason.COLLISION, f"the row already has a field {taken[0]}")
    if layout.whole_row:
        return record
    try:
        lists = sequence.lists_of(record)
    except ValueError as error:
        return Refusal(Reason.NOT_EXAMPLE, str(error))
    return _serialize(picked) + sequence.encode({name: found for name, found in lists.items() if _wanted(name, layout)})


def _serialize(features: dict[str, Values | None]) -> bytes:
    # Imported here, because the import takes seconds, and few jobs write only some features of a row.
    from tensorflow.core.example.example_pb2 import Example

    example = Example()
    for name, values in features.items():
        feature = example.features.feature[name]
        if values is not None:
            getattr(feature, LIST_NAMES[values.dtype.kind]).value.extend(values.tolist())
    serialized: bytes = example.SerializeToString(deterministic=True)
    return serialized


def _wanted(name: str, layout: Layout) -> bool:
    if not layout.row:
        return name == layout.key_field
    return layout.keeps(name)
