"""Measures how far the predictions of two runs differ, batch by batch, without keeping the rows."""

import heapq
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.comparison.tolerance import Tolerance
from transforms.records import Mask, PartReceipt, Positions

WORST = 5  # rows that are kept
SHARES = (0.5, 0.9, 0.99)  # of the quantiles
Floats = npt.NDArray[np.float64]
_CODES = 1 << 15  # of the top 16 bits of a float32 that is not negative
POWERS = np.array([float(f"1e{power}") for power in range(-38, 39)])  # of ten, between the ranges of differences
_EDGES = np.array([np.nextafter(0, 1), *POWERS, np.inf])


class Worst(NamedTuple):
    """One of the rows that differ most.

    Attributes:
        difference: The largest difference of its values; infinite for text, other shapes, and values that are not
            finite in one run only.
        relative: The largest difference of its values, relative to the larger magnitude of the two values; infinite
            where `difference` is.
        number: The number of the row in its source, from 0.
        part: The receipt of its part in the first run.
        first: The number of the first row of that part.
        values: Its values in both runs.
    """

    difference: float
    relative: float
    number: int
    part: PartReceipt
    first: int
    values: tuple[list[Any], list[Any]]


class Place(NamedTuple):
    """The rows of a batch: their numbers in their source, and the part of the first run that has them."""

    numbers: Positions
    part: PartReceipt
    first: int


class _Differences(NamedTuple):
    """The differences of values, one for each pair of values of rows with the same shape.

    Attributes:
        unequal: Marks the values that are not equal. NaN equals NaN.
        absolute: The differences. They are infinite where one value is not finite, or where texts differ.
        relative: The differences, relative to the larger magnitude of the two values.
        finite: Marks the values that are finite numbers in both runs.
        pair: The values as float64, (2, values); None for texts.
    """

    unequal: Mask
    absolute: Floats
    relative: Floats
    finite: Mask
    pair: Floats | None = None


class Tally:
    """Adds up the differences of one prediction.

    Attributes:
        name: The name of the prediction.
        tolerance: How far values may differ.
        rows: How many rows were compared.
        equal: How many of them have equal values.
        within: How many of them differ by at most the tolerance.
        other_shape: How many of them have another number of values. They are neither equal nor within the tolerance.
        non_finite: How many values are NaN or infinite, and another value in the other run.
        values: How many values are finite numbers in both runs. The figures below are about them.
        largest: The largest difference.
        largest_relative: The largest difference, relative to the larger magnitude of the two values.
        argmax_rows: How many rows are vectors of numbers.
        argmax_equal: How many of them have their largest value at the same place.
    """

    def __init__(self, name: str, tolerance: Tolerance, *, is_vector: bool, has_nan: bool = True) -> None:
        """Starts without rows.

        Args:
            name: The name of the prediction.
            tolerance: How far values may differ.
            is_vector: Whether the place of the largest value is compared.
            has_nan: Whether NaN, infinity and -infinity are three values. Otherwise they count as equal.
        """
        self.name, self.tolerance, self._is_vector, self._has_nan = name, tolerance, is_vector, has_nan
        self.rows = self.equal = self.within = self.other_shape = self.non_finite = self.values = 0
        self.argmax_rows = self.argmax_equal = 0
        self.largest = self.largest_relative = self._sum = 0.0
        self._codes = np.zeros(_CODES, np.int64)  # how many differences have the same top 16 bits as float32
        self._powers = np.zeros(len(_EDGES), np.int64)  # how many differences are 0, and between two of `_EDGES`
        self._means, self._products = np.zeros(2), np.zeros((2, 2))
        self._worst: list[tuple[float, int, Worst]] = []
        self._order = 0

    def add(self, one: pa.LargeListArray, other: pa.LargeListArray, place: Place) -> None:
        """Adds rows.

        Args:
            one: The values of each row in the first run.
            other: The values of each row in the second run, in the same order.
            place: The rows.
        """
        sizes = [np.diff(lists.offsets.to_numpy()) for lists in (one, other)]
        alike = sizes[0] == sizes[1]
        self.rows += len(alike)
        self.other_shape += int((~alike).sum())
        differences = np.where(alike, 0.0, np.inf) * np.ones((2, 1))  # absolute and relative ones, (2, rows)
        pair = [lists if alike.all() else lists.filter(pa.array(alike)) for lists in (one, other)]
        found = _differences(*(lists.flatten() for lists in pair), has_nan=self._has_nan)
        sizes = sizes[0][alike]
        self._add_values(found)
        self.equal += int((~_any(found.unequal, sizes)).sum())
        measured = found.relative if self.tolerance.is_relative else found.absolute
        self.within += int((~_any(found.unequal & ~(measured <= self.tolerance.value), sizes)).sum())
        differences[:, alike] = _largest(found.absolute, sizes), _largest(found.relative, sizes)
        self._add_argmax(found, sizes)
        self._keep_worst(differences, (one, other), place)

    def _add_values(self, found: _Differences) -> None:
        if found.pair is None:
            return
        self.non_finite += int((found.unequal & ~found.finite).sum())
        some = found.absolute[found.finite]
        if not len(some):
            return
        self.largest = max(self.largest, float(some.max()))
        self.largest_relative = max(self.largest_relative, float(found.relative[found.finite].max()))
        self._sum += float(some.sum())
        self._powers += np.bincount(np.searchsorted(_EDGES, some, "right"), minlength=len(_EDGES))
        narrow = np.minimum(some, np.finfo(np.float32).max).astype(np.float32)
        self._codes += np.bincount(narrow.view(np.uint32) >> 16, minlength=_CODES)
        self._add_moments(found.pair[:, found.finite])

    def _add_moments(self, pair: Floats) -> None:
        """Adds to means and products, see Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm", 1979."""
        count = pair.shape[1]
        means = pair.mean(axis=1)
        off, shift = pair - means[:, None], means - self._means
        total = self.values + count
        self._products += off @ off.T + np.outer(shift, shift) * self.values * count / total
        self._means += shift * count / total
        self.values = total

    def _add_argmax(self, found: _Differences, sizes: Positions) -> None:
        if not self._is_vector or found.pair is None or not len(sizes) or (sizes != sizes[0]).any() or not sizes[0]:
            return
        best = found.pair.reshape(2, len(sizes), -1).argmax(axis=2)
        self.argmax_rows += len(sizes)
        self.argmax_equal += int((best[0] == best[1]).sum())

    def _keep_worst(self, differences: Floats, pair: Sequence[pa.LargeListArray], place: Place) -> None:
        """Keeps the rows with the largest differences, in the measure of the tolerance: absolute or relative."""
        measured = differences[int(self.tolerance.is_relative)]
        least = self._worst[0][0] if len(self._worst) == WORST else 0.0
        rows = np.flatnonzero(measured > least)
        for row in rows[np.argsort(-measured[rows], kind="stable")[:WORST]].tolist():
            values = pair[0][row].as_py(), pair[1][row].as_py()
            absolute, relative = differences[:, row].tolist()
            kept = Worst(absolute, relative, int(place.numbers[row]), place.part, place.first, values)
            self._order -= 1  # of rows that differ as much, the first ones are kept
            keep = heapq.heappush if len(self._worst) < WORST else heapq.heappushpop
            keep(self._worst, (float(measured[row]), self._order, kept))

    @property
    def is_same(self) -> bool:
        """Whether all rows are within the tolerance."""
        return self.within == self.rows

    @property
    def worst(self) -> list[Worst]:
        """The rows that differ most, the worst one first."""
        return [worst for _, _, worst in sorted(self._worst, reverse=True, key=lambda one: one[:2])]

    @property
    def mean(self) -> float | None:
        """The mean difference; None without numbers."""
        return self._sum / self.values if self.values else None

    @property
    def correlation(self) -> float | None:
        """Pearson's correlation; None if a run has a constant prediction, or without numbers."""
        scale = math.sqrt(self._products[0, 0]) * math.sqrt(self._products[1, 1])
        return float(np.clip(self._products[0, 1] / scale, -1, 1)) if scale else None

    @property
    def distribution(self) -> list[tuple[float, float, int]]:
        """How many values differ by how much: from, below, and count.

        The first range has the values that do not differ, from 0 to 0. The others are powers of ten, without a gap from
        the smallest difference to the largest one. What is below 1e-38 is one range, and what is above 1e38 another.
        """
        if not self.values:
            return []
        ends = np.concatenate([[0.0], POWERS, [np.inf]])
        found = np.flatnonzero(self._powers[1:])
        few = slice(found[0], found[-1] + 1) if len(found) else slice(0)
        ranges = zip(ends[:-1][few].tolist(), ends[1:][few].tolist(), self._powers[1:][few].tolist(), strict=True)
        return [(0.0, 0.0, int(self._powers[0])), *ranges]

    def quantile(self, share: float) -> float | None:
        """Returns a quantile of the differences, to 1 %; 0 for one below 1e-38; None without numbers.

        It is the upper end of the range of differences with the same top 16 bits as float32, or the largest difference.

        Args:
            share: Which share of the values differs by at most the quantile.
        """
        if not self.values:
            return None
        code = int(np.searchsorted(np.cumsum(self._codes), share * self.values))
        if code == 0:
            return 0.0
        upper = np.array([((code + 1) << 16) - 1], np.uint32).view(np.float32)[0]
        return min(float(upper), self.largest)


def _differences(one: pa.Array, other: pa.Array, *, has_nan: bool) -> _Differences:
    a, b = (array.to_numpy(zero_copy_only=False) for array in (one, other))
    if object in (a.dtype, b.dtype):
        texts: Mask = np.asarray(a != b, np.bool_)
        apart = np.where(texts, np.inf, 0.0)
        return _Differences(texts, apart, apart, np.zeros(len(a), np.bool_))
    if a.dtype.kind == b.dtype.kind == "f" and a.dtype != b.dtype:
        with np.errstate(over="ignore"):
            a, b = a.astype(np.float32), b.astype(np.float32)  # a format of one run has no wider floats
    # Integers are compared before they become floats, which do not hold all of them.
    unequal: Mask = a != b
    pair = np.array([a, b], np.float64).reshape(2, -1)
    finite: Mask = np.logical_and(*np.isfinite(pair))
    unequal &= ~np.logical_and(*(np.isnan(pair) if has_nan else ~np.isfinite(pair)))
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        absolute = np.abs(pair[0] - pair[1])
        if "f" not in (a.dtype.kind, b.dtype.kind):
            absolute = np.maximum(absolute, unequal)
        absolute = np.where(unequal, np.where(finite, absolute, np.inf), 0.0)
        relative = np.where(unequal, absolute / np.abs(pair).max(axis=0), 0.0)
    return _Differences(unequal, absolute, np.where(finite, relative, absolute), finite, pair)


def _largest(values: Floats, sizes: Positions) -> Floats:
    """Returns the largest value of each row; 0 for a row without values."""
    found = np.zeros(len(sizes))
    some = sizes > 0
    if some.any():
        found[some] = np.maximum.reduceat(values, (np.cumsum(sizes) - sizes)[some])
    return found


def _any(marks: Mask, sizes: Positions) -> Mask:
    """Marks the rows with a marked value."""
    marked: Mask = _largest(marks.astype(np.float64), sizes) > 0
    return marked
