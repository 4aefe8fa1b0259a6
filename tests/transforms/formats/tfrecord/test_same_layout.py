"""Examples of the same layout are decoded together, with the parser's results, or are left to the parser."""

from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import delimited, entry, example, floats, ints, texts
from transforms import columns
from transforms.formats.tfrecord import same_layout
from transforms.formats.tfrecord.parse import parse
from transforms.formats.tfrecord.same_layout import groups

ANY = {"f": "f", "i": "i", "b": "O"}
numbers = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 300)


def gathered(records: Sequence[bytes]) -> pa.LargeBinaryArray:
    bounds = np.cumsum([0, *map(len, records)], dtype=np.int64)
    return columns.gather(b"".join(records), bounds[:-1], bounds[1:])


def found(records: Sequence[bytes], kinds: dict[str, str], least: int = 1) -> list[tuple[list[int], dict[str, Any]]]:
    with mock.patch.multiple(same_layout, LEAST_RECORDS=least, LEAST_BYTES=0):
        made = list(groups(gathered(records), kinds))
    return [(which.tolist(), {field: lists.to_pylist() for field, lists in taken.items()}) for which, taken in made]


def parsed(record: bytes, kinds: dict[str, str]) -> dict[str, Any] | None:
    """Returns the parser's lists; None if a field has another kind, or no values."""
    values = parse(record)
    if values is None:
        return None
    lists = {field: values.get(field) for field in kinds}
    fit = all(v is not None and len(v) and v.dtype.kind in kinds[f] for f, v in lists.items())
    return {field: v.tolist() for field, v in lists.items() if v is not None} if fit else None


@st.composite
def alike(draw: st.DrawFn) -> list[bytes]:
    """Records with the same features and as many values, in different orders, some with extra features or damage."""
    sizes = draw(st.tuples(*[st.integers(1, 3)] * 3))
    extra = draw(
        st.sampled_from(
            [{}, {"z": floats()}, {"z": tf.train.Feature()}, {"z": texts(b"", b"z")}, {"z": ints(2**63 - 1)}]
        )
    )
    text = st.binary(min_size=2, max_size=2)
    made = []
    for _ in range(draw(st.integers(1, 8))):
        members = {
            "f": floats(*draw(st.lists(st.floats(width=32, allow_nan=False), min_size=sizes[0], max_size=sizes[0]))),
            "i": ints(*draw(st.lists(numbers, min_size=sizes[1], max_size=sizes[1]))),
            "b": texts(*draw(st.lists(text, min_size=sizes[2], max_size=sizes[2]))),
            **extra,
        }
        order = draw(st.permutations(list(members)))
        record = delimited(1, b"".join(entry(name.encode(), members[name]) for name in order))
        damaged = bytearray(record)
        if draw(st.integers(0, 4)) == 0:
            damaged[draw(st.integers(0, len(record) - 1))] = draw(st.integers(0, 255))
        made.append(bytes(damaged))
    return made


@given(alike(), st.sets(st.sampled_from(list(ANY))), st.integers(1, 3))
def test_groups_hold_what_the_parser_gives(records: list[bytes], fields: set[str], least: int) -> None:
    kinds = {field: ANY[field] for field in sorted(fields)}
    seen: list[int] = []
    for which, lists in found(records, kinds, least):
        assert len(which) >= least
        assert which == sorted(which)
        for at, number in enumerate(which):
            # Compared as text, because a damaged float may be NaN.
            assert repr({field: lists[field][at] for field in kinds}) == repr(parsed(records[number], kinds))
        seen += which
    assert len(seen) == len(set(seen))


@given(st.lists(st.binary(max_size=30) | st.just(b""), max_size=6), st.sets(st.sampled_from(list(ANY))))
def test_no_bytes_become_what_the_parser_does_not_see(records: list[bytes], fields: set[str]) -> None:
    kinds = {field: ANY[field] for field in fields}
    for which, _ in found(records, kinds):
        assert all(parsed(records[number], kinds) is not None for number in which)


def row(number: int) -> dict[str, tf.train.Feature]:
    return {"f": floats(number, 0.5), "i": ints(-number - 1, number % 2**6), "b": texts(b"%03d" % number)}


def test_records_that_differ_in_values_are_one_group() -> None:
    records = [example(**row(number), name=texts(b"house-%05d" % number)) for number in range(200)]
    ((which, lists),) = found(records, ANY, 64)
    assert which == list(range(200))
    assert lists["f"][7] == [7.0, 0.5]
    assert lists["i"][7] == [-8, 7]
    assert lists["b"][7] == [b"007"]


def test_each_layout_is_a_group_and_odd_records_are_left_out() -> None:
    records = [example(**row(n), name=texts(b"x" * (n % 3))) if n % 50 else b"odd" for n in range(600)]
    made = found(records, ANY, 64)
    assert sorted(number for which, _ in made for number in which) == [n for n in range(600) if n % 50]
    assert len(made) == 3


def test_bits_beyond_the_64th_are_none() -> None:
    """A varint of 64 bits fills ten bytes; only one bit of the last byte counts."""
    packed = [bytes([0x81] * 9 + [last]) for last in range(128)]
    records = [
        delimited(1, delimited(1, delimited(1, b"i") + delimited(2, delimited(3, delimited(1, value)))))
        for value in packed
    ]
    ((which, lists),) = found(records, {"i": "i"}, 128)
    assert which == list(range(128))
    assert [{"i": value} for value in lists["i"]] == [parsed(record, {"i": "i"}) for record in records]


UNUSUAL = {
    "a name twice": delimited(1, entry(b"f", floats(1)) + entry(b"f", floats(2))),
    "floats one by one": delimited(1, delimited(1, delimited(1, b"f") + delimited(2, delimited(2, b"\x0d\0\0\0\0")))),
    "floats in two pieces": delimited(1, delimited(1, delimited(1, b"f") + delimited(2, delimited(2, delimited(1, bytes(4)) * 2)))),
    "two kinds": delimited(1, delimited(1, delimited(1, b"f") + delimited(2, delimited(2, delimited(1, bytes(4))) + delimited(3, b"")))),
    "value before its name": delimited(1, delimited(1, delimited(2, floats(1).SerializeToString()) + delimited(1, b"f"))),
    "unknown field": delimited(1, entry(b"f", floats(1))) + delimited(9, b"?"),
    "name that is not UTF-8": delimited(1, entry(b"f", floats(1)) + entry(b"\xff", floats(1))),
    "no value": example(f=floats()),
    "another kind": example(f=ints(1)),
    "cut": example(f=floats(1))[:-1],
    "a number that goes on": delimited(1, entry(b"f", floats(1)) + delimited(1, delimited(1, b"i") + delimited(2, delimited(3, delimited(1, b"\xff"))))),
}  # fmt: skip


@pytest.mark.parametrize("record", UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_unusual_is_left_to_the_parser(record: bytes) -> None:
    assert found([record] * 3, {"f": "f"}) == []


def test_a_number_without_an_end_is_not_followed() -> None:
    with pytest.raises(ValueError, match="does not end"):
        same_layout._varint(b"\xff" * 11, 0)


def test_where_nothing_is_alike_the_search_ends() -> None:
    records = [example(f=floats(1), i=ints(*[1 << 7 * (number >> at & 1) for at in range(6)])) for number in range(64)]
    # Of one size, but each in another layout.
    records = [record for record in records if len(record) == len(records[-2])]
    with mock.patch.object(same_layout, "_learn", wraps=same_layout._learn) as learn:
        assert found(records, {"f": "f"}, 2) == []
    assert learn.call_count == same_layout.MISSES


def test_of_few_bytes_nothing_is_learnt() -> None:
    with mock.patch.object(same_layout, "_learn") as learn:
        record = example(f=floats(1))
        few = [record] * (same_layout.LEAST_BYTES // len(record) - 1)
        assert list(groups(gathered(few), {"f": "f"})) == []
        assert list(groups(gathered([b"x" * same_layout.LEAST_BYTES] * 3), {"f": "f"})) == []
    assert not learn.called


def test_a_layout_is_not_believed_but_tried() -> None:
    wrong = {"f": same_layout._List("f", [(12, 16)])}
    record = example(f=floats(1.0, 2.0))
    assert found([record] * 3, {"f": "f"}) == [([0, 1, 2], {"f": [[1.0, 2.0]] * 3})]
    with mock.patch.object(same_layout, "_lists", return_value=wrong):
        assert found([record] * 3, {"f": "f"}) == []
