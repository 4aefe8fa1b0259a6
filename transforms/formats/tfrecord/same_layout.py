"""tf.Examples that are laid out alike, decoded many at once.

Programs mostly write the same features in the same order, as many values each: such records differ in the bytes
of their values alone. Which way a protobuf parser takes is told by all other bytes, tags, lengths and names
(https://protobuf.dev/programming-guides/encoding/). So one record tells of all that have these in common with it
where their values lie. Whether it was understood is not believed but tried: with its values changed, tfx_bsl has
to find just the changed ones.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms import columns
from transforms.formats.tfrecord.parse import BYTES, FLOATS, INTS, parse
from transforms.records import Positions

# Less is parsed in the time that it takes to learn how it is laid out, 1.5 ms.
LEAST_RECORDS, LEAST_BYTES = 4, 1 << 19
MISSES = 3  # layouts that fewer records have, before the others are left to the parser
Octets = npt.NDArray[np.uint8]
Span = tuple[int, int]

# Numbers of fields in Example, Features, the entries of its map and Feature, as TensorFlow's example.proto and
# feature.proto in core/example have them.
FEATURES = FEATURE = NAME = LIST = 1
VALUE = 2
KINDS = {1: BYTES, 2: FLOATS, 3: INTS}
WIRE_BITS = 3  # of a tag, below the number
VARINT_MOST, VARINT_BITS, LOW, MORE = 10, 7, 0x7F, 0x80  # of a varint; MORE says that another byte follows
ALL = 0xFF
PROBE = 0x3F  # the bits that are changed to try a layout: floats of such bytes are never NaN


class _List(NamedTuple):
    """Where the values of a feature lie in a record.

    Attributes:
        kind: `FLOATS`, `INTS` or `BYTES`.
        spans: Start and end of each value; of floats, of all together.
    """

    kind: str
    spans: list[Span]

    def take(self, records: Octets) -> pa.LargeListArray:
        """The values of records, (records, bytes), as a list each."""
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
    """How a record is laid out.

    Attributes:
        record: Its bytes.
        decisive: The bits of each byte that tell the way of a parser.
        lists: Its features, but those without a value.
    """

    record: Octets
    decisive: Octets
    lists: dict[str, _List]


Group = tuple[Positions, dict[str, pa.LargeListArray]]


def groups(records: pa.LargeBinaryArray, kinds: Mapping[str, str]) -> Iterator[Group]:
    """Finds records that are laid out alike and have lists of the wanted kinds; not all that there are.

    Args:
        records: Serialized Examples, or what should be; side by side, as of `columns.gather`.
        kinds: Field -> the kinds that its list may be of.

    Yields:
        Numbers of records, ascending, and of each field their lists of values.
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
    """Whether so many records of that size are decoded faster, once it is known how they are laid out."""
    return (count >= LEAST_RECORDS) & (count * size >= LEAST_BYTES)


def _group(records: pa.LargeBinaryArray, numbers: Positions, kinds: Mapping[str, str]) -> Group | None:
    """Those among records of one size that are like the first of them; None if there are too few."""
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
    """Records like one that has but a list of floats, each with its own; None if it is not laid out as usual.

    Args:
        record: A serialized Example.
        field: Name of its feature.
        lists: The floats, as many for each record as it has.
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
    """A record's layout; None if it is an unusual one."""
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
    """Walks through an Example to its lists; takes for granted what is tried afterwards.

    Raises:
        ValueError: Something is not as programs usually write it.
        IndexError: The same.
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
    """Where the values of a list lie, see `_List`."""
    spans = [span for _, span in _fields(record, values, (LIST,))]
    if kind == BYTES:
        return spans
    ((start, end),) = spans or [(0, 0)]  # numbers lie in one piece
    if kind == FLOATS:
        return [(start, end)] * (start < end)
    ends = [at + 1 for at in range(start, end) if record[at] < MORE]
    return list(zip([start, *ends], ends, strict=False))


def _fields(record: bytes, message: Span, numbers: Collection[int]) -> Iterator[tuple[int, Span]]:
    """The fields of a message, number and content, if all have one of these numbers; as if all had a length."""
    at, end = message
    while at < end:
        tag, at = _varint(record, at)
        size, at = _varint(record, at)
        if tag >> WIRE_BITS not in numbers:
            raise ValueError(f"tag {tag}")
        yield tag >> WIRE_BITS, (at, at + size)
        at += size


def _varint(record: bytes, at: int) -> tuple[int, int]:
    """The number that stands there, and where it ends."""
    value = 0
    for bits in range(0, VARINT_MOST * VARINT_BITS, VARINT_BITS):
        value |= (record[at] & LOW) << bits
        at += 1
        if record[at - 1] < MORE:
            return value, at
    raise ValueError("a number that does not end")  # of a large record, this could take hours


def _numbers(octets: Octets) -> npt.NDArray[np.int64]:
    """The values of varints of one length, (varints, bytes), without bits beyond the 64th."""
    found = np.zeros(len(octets), np.uint64)
    for place, column in enumerate(octets.T):
        found |= (column.astype(np.uint64) & LOW) << VARINT_BITS * place
    return found.view(np.int64)
