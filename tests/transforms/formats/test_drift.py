"""Headers that describe the same columns never differ, and each change is named by file and column."""

from random import Random

import pyarrow as pa
from hypothesis import assume, given
from hypothesis import strategies as st

from transforms.formats.drift import Column, Columns, differences, spelled

columns = st.dictionaries(
    st.text(min_size=1), st.sampled_from(["int64", "double", "string"]), min_size=1, max_size=6
).map(lambda found: [Column(*pair) for pair in found.items()])
SAME = [
    (pa.string(), pa.large_string()),
    (pa.string(), pa.dictionary(pa.int32(), pa.string())),
    (pa.binary(), pa.large_binary()),
    (pa.list_(pa.field("item", pa.int8())), pa.large_list(pa.field("element", pa.int8(), nullable=False))),
    (pa.struct([("a", pa.string())]), pa.struct([pa.field("a", pa.large_string(), nullable=False)])),
    (pa.map_(pa.string(), pa.int8()), pa.map_(pa.large_string(), pa.field("v", pa.int8(), nullable=False))),
]
OTHERS = [
    pa.int64(), pa.int32(), pa.float64(), pa.string(), pa.binary(), pa.bool_(), pa.date32(), pa.decimal128(9, 2),
    pa.decimal128(9, 3), pa.timestamp("us"), pa.timestamp("ms"), pa.timestamp("us", "UTC"), pa.list_(pa.int64()),
    pa.list_(pa.int64(), 2), pa.list_(pa.float64()), pa.struct([("a", pa.int64())]), pa.struct([("b", pa.int64())]),
    pa.map_(pa.string(), pa.int64()),
]  # fmt: skip


def found(first: list[Column], other: list[Column]) -> list[str]:
    return list(differences(Columns("a.csv", first), Columns("b.csv", other)))


@given(columns)
def test_equal_columns_never_differ(some: list[Column]) -> None:
    assert found(some, list(some)) == []


@given(columns, st.data())
def test_each_single_change_is_named(some: list[Column], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(some) - 1))
    name, kind = some[at]
    fewer = some[:at] + some[at + 1 :]
    assert found(some, fewer) == [f"b.csv has no column {name}, which a.csv has"]
    assert found(fewer, some) == [f"b.csv has a column {name}, which a.csv does not have"]
    retyped = [*some[:at], Column(name, "bool"), *some[at + 1 :]]
    assert found(some, retyped) == [f"b.csv has bool in the column {name}, and a.csv has {kind}"]


@given(columns, st.randoms(use_true_random=False))
def test_another_order_is_named(some: list[Column], random: Random) -> None:
    shuffled = list(some)
    random.shuffle(shuffled)
    assume(shuffled != some)
    at = next(at for at in range(len(some)) if some[at] != shuffled[at])
    order = f"{shuffled[at].name} comes before {some[at].name}"
    assert found(some, shuffled) == [f"b.csv has the columns in another order than a.csv: {order}"]


def test_how_arrow_holds_values_and_whether_they_may_be_null_does_not_count() -> None:
    for one, other in SAME:
        assert spelled(one) == spelled(other)


def test_types_of_other_values_differ() -> None:
    assert len({spelled(kind) for kind in OTHERS}) == len(OTHERS)
