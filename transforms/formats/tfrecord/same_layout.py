"""Decodes many tf.Examples at once if they have the same layout.

Most programs write the same features in the same order, each with the same number of values. The bytes of such records
differ only in their values. All other bytes are tags, lengths and names, and they alone decide how a protobuf parser
reads the record (https://protobuf.dev/programming-guides/encoding/). So if records have these bytes in common, their
values are at the same places.

`_learn` finds these places in one record. `_is_right` then tests the result: it changes the values at these places, and
tfx_bsl has to read exactly the changed values.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms import columns
from transforms.formats.tfrecord.parse import BYTES, FLOATS, INTS, parse
from transforms.formats.tfrecord.wire import LOW, MORE, VARINT_BITS, WIRE_BITS
from transforms.records import Positions

# Learning a layout takes 1.5 ms. Fewer records or bytes than these are parsed in that time.
LEAST_RECORDS, LEAST_BYTES = 4, 1 << 19
MISSES = 3  # after so many layouts that too few records have, the parser reads the remaining records
Octets = npt.NDArray[np.uint8]
Span = tuple[int, int]

# The numbers of fields in the messages Example, Features, Feature and in entries of the map of Features. Source:
# example.proto and feature.proto in core/example of TensorFlow.
FEATURES = FEATURE = NAME = LIST = 1
VALUE = 2
KINDS = {1: BYTES, 2: FLOATS, 3: INTS}
VARINT_MOST = 10  # bytes of a varint
ALL = 0xFF
PROBE = 0x3F  # the most that a random byte in a test of a layout may be: floats of such bytes are never NaN


class _List(NamedTuple):
    """The places of a feature's values in a record.

    Attributes:
        kind: `FLOATS`, `INTS` or `BYTES`.
        spans: Start and end of each value. Floats have one span for all values.
    """

    kind: str
    spans: list[Span]

    def take(self, records: Octets) -> pa.LargeListArray:
        """Returns the values of this feature as one list for each record. `records` has the shape (records, bytes)."""
        count, size = records.shape
        if self.kind == FLOATS:
            ((start, end),) = self.spans
            flat = pa.array(np.ascontiguousarray(records[:, start:end]).view("<f4").reshape(-1))
        elif self.kind == INTS:
            flat = pa.array(np.stack([_numbers(records[:, start:end]) for start, end in self.spans], 1).reshape(-1))
        else:
            bounds = (size * np.arange(count)[:, None, None] + self.spans).reshape(-1, 2)
            flat = columns.gather(pa.py_buffer(records), bounds[:, 0], bounds[:, 1])
        return pa.LargeListArray.from_arrays(pa.array(np.arange(count + 1) * (len(flat) // count)), flat)


class _Layout(NamedTuple):
    """The layout of a record.

    Attributes:
        record: The bytes of the record. uint8, (bytes,).
        decisive: For each byte, the bits that decide how a parser reads the record. uint8, (bytes,).
        lists: Name -> the places of the values, for each feature that has values.
    """

    record: Octets
    decisive: Octets
    lists: dict[str, _List]


Group = tuple[Positions, dict[str, pa.LargeListArray]]


def groups(records: pa.LargeBinaryArray, kinds: Mapping[str, str]) -> Iterator[Group]:
    """Finds groups of records that have the same layout, and lists of the wanted kinds. It does not find all of them.

    Args:
        records: Serialized Examples, side by side, as `columns.gather` makes them. Some may be damaged.
        kinds: Field -> the kinds that its list may have.

    Yields:
        For each group, the numbers of its records, ascending; and field -> the records' lists of values.
    """
    sizes = columns.sizes(records)
    left, misses = _of_frequent_sizes(sizes), 0
    while len(left) and misses < MISSES:
        group = _group(records, left[sizes[left] == sizes[left[0]]], kinds)
        if group is None:
            left, misses = left[1:], misses + 1
        else:
            yield group
            left = np.delete(left, np.searchsorted(left, group[0]))


def _of_frequent_sizes(sizes: Positions) -> Positions:
    found = pa.array(sizes).value_counts()
    size, count = found.field("values").to_numpy(), found.field("counts").to_numpy()
    return np.flatnonzero(np.isin(sizes, size[_pays(count, size)]))


def _pays(count: Any, size: Any) -> Any:
    """Whether `count` records of `size` bytes are enough: learning their layout is then faster than parsing them."""
    return (count >= LEAST_RECORDS) & (count * size >= LEAST_BYTES)


def _group(records: pa.LargeBinaryArray, numbers: Positions, kinds: Mapping[str, str]) -> Group | None:
    """Finds the records that have the layout of the first one.

    Args:
        records: Serialized Examples.
        numbers: The numbers of records that all have one size.
        kinds: Field -> the kinds that its list may have.

    Returns:
        The group; None if it has too few records, or its layout is unusual or lacks a wanted list.
    """
    layout = _learn(records[numbers[0]].as_py())
    if layout is None or any(f not in layout.lists or layout.lists[f].kind not in k for f, k in kinds.items()):
        return None
    octets = np.frombuffer(columns.contents(columns.pick(records, numbers)), np.uint8)
    octets = octets.reshape(len(numbers), len(layout.record))
    which = np.flatnonzero(layout.decisive)
    fitting = ((octets[:, which] ^ layout.record[which]) & layout.decisive[which] == 0).all(axis=1)
    if not fitting.all():
        numbers, octets = numbers[fitting], octets[fitting]
    if not _pays(len(numbers), len(layout.record)):
        return None
    return numbers, {field: layout.lists[field].take(octets) for field in kinds}


def with_floats(record: bytes, field: str, lists: pa.LargeListArray) -> pa.LargeBinaryArray | None:
    """Makes copies of an Example that differ only in their floats.

    Args:
        record: The serialized Example. It has one feature, a list of floats.
        field: Name of that feature.
        lists: The floats of each copy, as many as the Example has.

    Returns:
        The serialized copies; None if the Example's layout is unusual.
    """
    layout = _learn(record)
    if layout is None or field not in layout.lists:
        return None
    ((start, end),) = layout.lists[field].spans
    octets = np.tile(layout.record, (len(lists), 1))
    octets[:, start:end] = lists.flatten().to_numpy().view(np.uint8).reshape(len(lists), -1)
    bounds = np.arange(len(lists) + 1) * len(record)
    return columns.gather(pa.py_buffer(octets), bounds[:-1], bounds[1:])


def _learn(record: bytes) -> _Layout | None:
    """Finds the layout of a record; None if the layout is unusual."""
    try:
        lists = _lists(record)
    except (ValueError, IndexError):
        return None
    decisive = np.full(len(record), ALL, np.uint8)
    for kind, spans in lists.values():
        for start, end in spans:
            decisive[start:end] = MORE if kind == INTS else 0
    layout = _Layout(np.frombuffer(record, np.uint8), decisive, lists)
    return layout if _is_right(layout) else None


def _is_right(layout: _Layout) -> bool:
    """Whether tfx_bsl reads the changed values, and nothing else, after all values of the record are changed."""
    changed = np.random.default_rng(0).integers(0, PROBE, len(layout.record), np.uint8, endpoint=True)
    probe = layout.record & layout.decisive | changed & ~layout.decisive
    example = parse(probe.tobytes())
    if example is None:
        return False
    found = {name: values for name, values in example.items() if values is not None and len(values)}
    taken = {name: values.take(probe[None]).flatten() for name, values in layout.lists.items()}
    return found.keys() == taken.keys() and all(
        layout.lists[name].kind == found[name].dtype.kind
        and np.array_equal(values.to_numpy(zero_copy_only=False), found[name])
        for name, values in taken.items()
    )


def _lists(record: bytes) -> dict[str, _List]:
    """Finds the lists of values in an Example. It checks little, because `_is_right` tests the result.

    Raises:
        ValueError: The Example is not written in the usual way, or is damaged.
        IndexError: For the same reasons.
    """
    lists: dict[str, _List] = {}
    for _, features in _fields(record, (0, len(record)), (FEATURES,)):
        for _, entry in _fields(record, features, (FEATURE,)):
            (_, name), (_, feature) = _fields(record, entry, (NAME, VALUE))
            text = record[slice(*name)].decode()
            if text in lists:
                raise ValueError(f"{text} is there twice")
            for number, values in _fields(record, feature, KINDS):
                found = _List(KINDS[number], _spans(record, values, KINDS[number]))
                if found.spans:
                    lists[text] = found
    return lists


def _spans(record: bytes, values: Span, kind: str) -> list[Span]:
    """Finds the places of the values of a list, see `_List.spans`."""
    spans = [span for _, span in _fields(record, values, (LIST,))]
    if kind == BYTES:
        return spans
    ((start, end),) = spans or [(0, 0)]  # all numbers are in one packed field, or the layout is unusual
    if kind == FLOATS:
        return [(start, end)] * (start < end)
    ends = [at + 1 for at in range(start, end) if record[at] < MORE]
    return list(zip([start, *ends], ends, strict=False))


def _fields(record: bytes, message: Span, numbers: Collection[int]) -> Iterator[tuple[int, Span]]:
    """Finds the fields of a message. It assumes that each field has a length.

    Args:
        record: The bytes that hold the message.
        message: The place of the message.
        numbers: The field numbers that it may have.

    Yields:
        The number of each field, and the place of its content.

    Raises:
        ValueError: A field has another number, or a varint is too long.
        IndexError: The record ends inside a field's tag or length.
    """
    at, end = message
    while at < end:
        tag, at = _varint(record, at)
        size, at = _varint(record, at)
        if tag >> WIRE_BITS not in numbers:
            raise ValueError(f"tag {tag}")
        yield tag >> WIRE_BITS, (at, at + size)
        at += size


def _varint(record: bytes, at: int) -> tuple[int, int]:
    """Reads the varint at a position. Returns its value and the position after it."""
    value = 0
    for bits in range(0, VARINT_MOST * VARINT_BITS, VARINT_BITS):
        value |= (record[at] & LOW) << bits
        at += 1
        if record[at - 1] < MORE:
            return value, at
    raise ValueError("a number that does not end")  # without this limit, a large record could take hours


def _numbers(octets: Octets) -> npt.NDArray[np.int64]:
    """Returns the values of varints of equal length, given as (varints, bytes). It ignores bits beyond the 64th."""
    found = np.zeros(len(octets), np.uint64)
    for place, column in enumerate(octets.T):
        found |= (column.astype(np.uint64) & LOW) << VARINT_BITS * place
    return found.view(np.int64)
