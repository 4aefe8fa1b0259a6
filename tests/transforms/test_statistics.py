"""Counts of values: they add up, and they say of any rows what NumPy says."""

import contextlib
import math
import struct
import zlib
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.counts import columns_of, merged
from transforms import statistics
from transforms.errors import RunError
from transforms.records import Feature
from transforms.statistics import Column, Counts, Tally, count_features, count_predictions, pack, unpack

LEAST, GREATEST = 2.0**-149, (2 - 2.0**-23) * 2.0**127
floats = st.floats(width=32) | st.sampled_from([0.0, -0.0, LEAST, -LEAST, GREATEST, math.inf, -math.inf, math.nan])
rows = st.lists(floats, max_size=40)


def counted(values: Any, kind: pa.DataType | None = None) -> Column:
    """The column of a scalar prediction."""
    made = count_predictions(pa.record_batch({"y": pa.array(values, kind or pa.float32())}), [("y", "p")])
    return columns_of(made)[0] if columns_of(made) else Column("p", "prediction", "number", 0)


def upper(value: float) -> int:
    return int(struct.unpack(">I", struct.pack(">f", value))[0] >> 16)


@given(rows)
def test_numbers_are_counted_by_the_upper_half_of_their_float32(values: list[float]) -> None:
    found = counted(values)
    finite = [value for value in values if math.isfinite(value)]
    assert dict(found.bins) == Counter(map(upper, finite))
    edges = statistics.edges_and_counts(found)[0].tolist()
    assert edges == sorted(edges)
    assert (found.nan, found.positive_infinity, found.negative_infinity) == (
        sum(map(math.isnan, values)), values.count(math.inf), values.count(-math.inf)
    )  # fmt: skip
    assert found.rows == len(values) == found.finite + found.nan + found.positive_infinity + found.negative_infinity
    assert (found.least, found.greatest) == (min(finite, default=None), max(finite, default=None))


@given(st.lists(rows, max_size=4), st.randoms())
def test_counts_add_up_in_any_order(groups: list[list[float]], random: Any) -> None:
    whole = counted([value for group in groups for value in group])
    parts = [[counted(group)] for group in groups]
    random.shuffle(parts)
    made = merged([merged(parts[:2]), *parts[2:]])
    assert made in ([whole], [])
    assert bool(made) == bool(groups)


@given(st.lists(st.lists(st.integers(-(1 << 15), (1 << 15) - 1), max_size=300), max_size=4))
def test_counts_of_many_bins_add_up_too(groups: list[list[int]]) -> None:
    """Bins are folded to the same ones whether counts are added before or after."""
    whole = [value for group in groups for value in group]

    def column(values: list[int]) -> Column:
        counts = np.bincount(np.array(values, np.int64) + (1 << 15), minlength=statistics.PATTERNS)
        counts[statistics.INFINITE : statistics.NEGATIVE] = counts[-0x80:] = 0
        bits, *bins = statistics._bins(counts[: statistics.PATTERNS], 512, statistics.BITS)
        return Tally(Column("y", "prediction", "number", int(counts.sum()), bits=bits), *bins).whole()

    # 32 columns share the bins
    others = [Column(f"{n}", "prediction", "number", 1) for n in range(31)]
    made = merged([[column(group), *others] for group in groups])
    assert made[:1] == [column(whole)][: len(groups)]


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=60),
    st.lists(st.floats(0, 1), max_size=5),
)
def test_quantiles_are_those_of_numpy_but_for_a_bins_width(values: list[float], qs: list[float]) -> None:
    exact = np.quantile(np.array(values, np.float64), qs)
    found = statistics.quantiles(counted(values), qs)
    widest = max(map(abs, values)) * 2**-7 + 1e-38  # interpolation is between two values
    assert (np.abs(found - exact) <= widest).all()
    low, high = statistics.minimum(counted(values)), statistics.maximum(counted(values))
    assert (low, high) == (min(values), max(values))


@given(st.lists(st.integers(-256, 256), min_size=1))
def test_small_integers_are_exact(values: list[int]) -> None:
    found = counted(values, pa.int64())
    assert statistics.quantiles(found, [0, 0.25, 0.5, 1]).tolist() == np.quantile(values, [0, 0.25, 0.5, 1]).tolist()
    assert statistics.is_constant(found) == (len(set(values)) == 1)


@pytest.mark.parametrize(
    ("values", "kind", "counts"),
    [
        ([True, False, True], pa.bool_(), {1.0: 2, 0.0: 1}),
        ([(1 << 53) + 1, (1 << 53), 3], pa.int64(), {float(1 << 53): 2, 3.0: 1}),
        ([(1 << 64) - 1], pa.uint64(), {2.0**64: 1}),
        ([1e300, -1e300, 1e-300], pa.float64(), {1.9921875 * 2.0**127: 1, -1.9921875 * 2.0**127: 1, 0.0: 1}),
    ],
)
def test_other_numbers_are_rounded_to_float32_and_finite_ones_stay_finite(
    values: list[Any], kind: pa.DataType, counts: dict[float, int]
) -> None:
    found = counted(values, kind)
    lower, higher, number = statistics.edges_and_counts(found)
    near = np.where(higher <= 0, higher, lower)
    assert dict(zip(near.tolist(), number.tolist(), strict=True)) == counts
    assert found.positive_infinity == found.negative_infinity == found.nan == 0


def test_a_nan_with_a_small_payload_is_no_infinity() -> None:
    values = np.array([0x7F800001, 0xFF800001, 0x7F800000], np.uint32).view(np.float32)
    found = counted(pa.array(values))
    assert (found.nan, found.positive_infinity, found.negative_infinity) == (2, 1, 0)


texts = st.lists(st.binary(max_size=3) | st.text(max_size=3).map(str.encode) | st.just(b"x" * 81) | st.just(b"x" * 82))


@given(st.lists(texts, min_size=1, max_size=4), st.randoms())
def test_texts_are_counted_exactly_while_they_are_few(groups: list[list[bytes]], random: Any) -> None:
    parts = [[counted(group, pa.binary())] for group in groups if group]
    random.shuffle(parts)
    made = merged(parts)
    whole = [text for group in groups for text in group]
    assert bool(made) == bool(whole)
    for column in made:
        assert (column.rows, column.other, column.error) == (len(whole), 0, 0)
        assert sorted(count for _, count in column.texts) == sorted(Counter(whole).values())
        assert all(len(text) <= 80 + 42 for text, _ in column.texts)


@given(
    st.lists(st.lists(st.integers(0, 30).flatmap(lambda scale: st.integers(0, 1 << scale)), max_size=30), max_size=4)
)
def test_many_texts_keep_what_the_error_promises(groups: list[list[int]]) -> None:
    many = [*range(1_500)] * 2
    parts = [[f"{n}".encode() for n in [*group * 60, *many]] for group in groups]
    made = merged([[counted(part, pa.binary())] for part in parts])
    true = Counter(text.decode() for part in parts for text in part)
    for column in made:
        said = dict(column.texts)
        assert len(said) <= statistics.TOP
        assert all(said.get(text, 0) <= count <= said.get(text, 0) + column.error for text, count in true.items())
        assert column.other == column.rows - sum(said.values()) > 0
        assert column.error <= column.rows / statistics.TOP + column.rows / statistics.LISTED


@pytest.mark.parametrize("start", [b"x" * 400, "価".encode() * 200, b"\xff" * 400], ids=["ascii", "wide", "bytes"])
def test_long_texts_that_differ_at_their_end_stay_different(start: bytes) -> None:
    found = counted([start + b"1", start + b"2", start + b"1"], pa.binary())
    assert [count for _, count in found.texts] == [2, 1]
    (one, _), (other, _) = found.texts
    assert one[:80] == other[:80] == start.decode(errors="backslashreplace")[:80]
    assert len(one) == len(other) == 80 + len("… sha256:") + 32


def test_the_texts_that_are_held_at_once_are_bounded() -> None:
    merging = statistics.Merging()
    often = [b"often"] * 300
    for number in range(30):
        some = [counted([*often, *(f"{number} {n}".encode() for n in range(900))], pa.binary())]
        merging.add(Counts(tuple(map(Tally.of, some))))
    (column,) = merging.result().columns
    assert column.texts[0][0] == "often"
    assert column.texts[0][1] <= 9_000 <= column.texts[0][1] + column.error
    assert all(len(made.texts) <= 8 * statistics.LISTED for made in merging._sums.values())


VECTOR = Feature("v", "float32", (2, 2), ("f",))
STACKED = Feature("s", "float32", (2,), ("A", "B"), inside=((), ("c",)), missing=("0", None))
OPEN = Feature("o", "float32", (None,), ("o",))
SPARSE = Feature("q", "float32", (None,), ("q",), is_sparse=True)
LONG = Feature("l", "float32", (17,), ("l",))
WORDS = Feature("w", "string", (2,), ("w",))
WHOLE = Feature("whole", "string", (), ())


def column_of(values: Any, kind: pa.DataType) -> pa.Array:
    return pa.array(values, kind)


def test_inputs_of_each_kind() -> None:
    pair = pa.list_(pa.float32(), 2)
    inputs = pa.record_batch(
        {
            "v": column_of([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], pa.list_(pair, 2)),
            "s": column_of([[0, 1], [2, 3]], pair),
            "o": column_of([[1], [2, 3, 4]], pa.list_(pa.float32())),
            "q": column_of(
                [{"places": [1], "values": [7], "sizes": [9]}, {"places": [], "values": [], "sizes": [9]}],
                pa.struct([(n, pa.list_(pa.float32() if n == "values" else pa.int64())) for n in ("places", "values", "sizes")]),
            ),
            "l": column_of([[1] * 17] * 2, pa.list_(pa.float32(), 17)),
            "w": column_of([["a", "b"], ["a", "c"]], pa.list_(pa.binary(), 2)),
            "whole": column_of([b"1", b"2"], pa.binary()),
            "\0A": pa.array([True, False]),
        }
    )  # fmt: skip
    made = count_features(inputs, [VECTOR, STACKED, OPEN, SPARSE, LONG, WORDS, WHOLE])
    found = {column.name: column for column in columns_of(made)}
    assert list(found) == ["v[0][0]", "v[0][1]", "v[1][0]", "v[1][1]", "A", "B.c", "o", "q", "l", "w[0]", "w[1]"]
    assert [statistics.maximum(found[name]) for name in list(found)[:9]] == [5, 6, 7, 8, 2, 3, 4, 7, 1]
    assert [column.rows for column in found.values()] == [2, 2, 2, 2, 2, 2, 4, 1, 34, 2, 2]
    assert (found["A"].missing, found["B.c"].missing) == (1, 0)
    assert (found["w[0]"].texts, found["w[1]"].texts) == ((("a", 2),), (("b", 1), ("c", 1)))
    assert (columns_of(unpack(pack(made))), unpack(pack(made)).left_out) == (columns_of(made), {})
    assert count_features(inputs.slice(0, 0), [VECTOR]) == Counts()


def test_two_inputs_of_the_same_fields_have_columns_of_their_own() -> None:
    pair = pa.list_(pa.float32(), 2)
    inputs = pa.record_batch({"a": column_of([[0, 1]], pair), "b": column_of([[0, 2]], pair)})
    made = count_features(
        inputs, [Feature("a", "float32", (2,), ("x", "y")), Feature("b", "float32", (2,), ("x", "z"))]
    )
    assert [column.name for column in columns_of(made)] == ["a.x", "y", "b.x", "z"]


def test_too_many_columns_are_left_out_and_numbered() -> None:
    some = [Feature(f"f{n}", "float32", (16,), (f"f{n}",)) for n in range(5)]
    column = column_of([[*range(16)]], pa.list_(pa.float32(), 16))
    made = count_features(pa.record_batch({one.name: column for one in some}), some)
    assert (len(columns_of(made)), made.left_out) == (64, {"feature": 16})
    merging = statistics.Merging()
    for _ in range(2):
        merging.add(unpack(pack(made)))
    assert merging.result().left_out == {"feature": 16}


def test_only_the_joined_rows_are_counted() -> None:
    batch = pa.record_batch({"y": pa.array([1.0, 2.0, 3.0])})
    made = count_predictions(batch, [("y", "p")], np.array([True, False, True]))
    assert [statistics.quantiles(columns_of(made)[0], [0, 1]).tolist(), columns_of(made)[0].rows] == [[1, 3], 2]
    assert count_predictions(batch, [("y", "p")], np.zeros(3, np.bool_)) == Counts()


def test_a_part_has_few_bytes() -> None:
    values = np.random.default_rng(0).standard_normal((50_000, 13)).astype(np.float32)
    feature = Feature("x", "float32", (13,), tuple("abcdefghijklm"))
    batch = pa.record_batch({"x": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 13)})
    assert len(pack(count_features(batch, [feature]))) < 40_000
    assert len(pack(count_features(batch.slice(7, 1), [feature]))) < 600


@given(st.binary(max_size=40))
def test_damaged_bytes_are_refused(data: bytes) -> None:
    packed = pack(Counts((Tally.of(counted([1.0, 2.0])),)))
    for damaged in (packed[: len(packed) // 2], packed[:-1], packed + b"x"):
        with pytest.raises(RunError, match="the statistics of a part are damaged"):
            unpack(damaged)
    for any_bytes in (data, zlib.compress(data), packed[: len(packed) // 2] + data):
        with contextlib.suppress(RunError):
            assert isinstance(unpack(any_bytes), Counts)


def test_the_bins_of_all_columns_are_bounded() -> None:
    values = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    scalars = [Feature(f"f{n}", "float32", (), (f"f{n}",)) for n in range(64)]
    made = count_features(pa.record_batch({one.name: pa.array(values) for one in scalars}), scalars)
    assert sum(len(column.bins) for column in columns_of(made)) <= 1 << 16
    assert {column.bits for column in columns_of(made)} == {10}
    assert sum(column.finite for column in columns_of(made)) == 64 * (2 * statistics.INFINITE)
    assert merged([columns_of(made), columns_of(made)])[0].finite == 4 * statistics.INFINITE
