"""Measures how far the features and predictions of a run moved from those of a baseline run.

The population stability index (PSI) is the sum of (q - p) ln(q / p) over bins, with the shares p of the baseline and q
of the run. See Yurdakul, "Statistical Properties of Population Stability Index", Western Michigan University, 2018,
https://scholarworks.wmich.edu/dissertations/3208: if both runs draw n and m rows from one distribution, the expected
PSI over B bins is (B - 1)(1/n + 1/m). This is the noise floor. There is no verdict where the floor is large.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from transforms.records import Count
from transforms.statistics import BITS, NEGATIVE, PATTERNS, Column, Role, ranks

BINS = 10
THRESHOLD = 0.2  # of the PSI; above it, scorecards are rebuilt by convention (Yurdakul 2018, section 1)
Verdict = Literal["same", "moved", "too few rows", "only in the run", "only in the baseline"]
Counts = npt.NDArray[np.int64]


class Drift(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a feature or prediction moved. The manifest records it.

    Attributes:
        name: The name of the column.
        role: Whether its values went into the model or came from it.
        n: The values of the run, one for each row; of a long or ragged vector, all of its elements.
        m: The values of the baseline.
        outside: How many values of the run are below the least value of the baseline or above its greatest, as far as
            their counted bits tell; NaN is none of them. Of texts, how many the baseline surely did not have.
        psi: The population stability index.
        floor: The PSI that two samples of one distribution would have on average, for these numbers of values. It is 0,
            like the PSI and the distance, if a side has no values.
        cdf_distance: The largest distance between the two cumulative distributions, from 0 to 1. It is computed from
            the exact counts, not from the bins of the PSI.
        verdict: `moved` if the PSI is above `THRESHOLD`, `too few rows` if the floor is above half of it.
    """

    name: str
    role: Role
    n: Count
    m: Count
    outside: Count
    psi: float
    floor: float
    cdf_distance: float
    verdict: Verdict


def drifts(now: Iterable[Column], base: Iterable[Column]) -> list[Drift]:
    """Compares all columns of two runs.

    Args:
        now: The columns of the run.
        base: The columns of the baseline.

    Returns:
        One result for each column, in the order of the run. Those that only the baseline has come last. A column that
        changed from numbers to texts counts as two columns.
    """
    before = {(column.role, column.kind, column.name): column for column in base}
    found = []
    for column in now:
        other = before.pop((column.role, column.kind, column.name), None)
        if other is None:
            found.append(Drift(column.name, column.role, column.rows, 0, 0, 0.0, 0.0, 0.0, "only in the run"))
        else:
            found.append(drift(column, other))
    lost = (
        Drift(column.name, column.role, 0, column.rows, 0, 0.0, 0.0, 0.0, "only in the baseline")
        for column in before.values()
    )
    return [*found, *lost]


def drift(now: Column, base: Column, bins: int = BINS) -> Drift:
    """Compares a column of two runs.

    Numbers are ordered by value, -inf first, then +inf and NaN last. Texts are ordered by their frequency in the
    baseline, and texts that are not counted one by one come last. The bins are cut at the baseline's quantiles.
    A value that takes the share of a bin alone is a bin of its own, so a constant column has bins below and above it.

    Args:
        now: The column of the run.
        base: The column of the baseline, of the same kind.
        bins: How many bins the baseline is cut into.
    """
    counts = _texts(now, base) if base.kind == "text" else _numbers(now, base)
    if not (now.rows and base.rows and counts.sum(axis=1).all()):
        return Drift(now.name, now.role, now.rows, base.rows, 0, 0.0, 0.0, 0.0, "too few rows")
    shares = np.cumsum(counts, axis=1) / counts.sum(axis=1, keepdims=True)
    binned = np.add.reduceat(counts, cuts(counts[1], bins), axis=1)
    binned = binned[:, binned.any(axis=0)]
    # Two constant columns share one bin. A few rows do not show that the next row is equal, too.
    floor = max(1, binned.shape[1] - 1) * (1 / now.rows + 1 / base.rows)
    found = psi(binned[0], binned[1])
    verdict: Verdict = "too few rows" if floor > THRESHOLD / 2 else "moved" if found > THRESHOLD else "same"
    distance = float(np.abs(shares[0] - shares[1]).max())
    return Drift(now.name, now.role, now.rows, base.rows, _outside(now, base, counts), found, floor, distance, verdict)


def _outside(now: Column, base: Column, counts: Counts) -> int:
    """Returns `Drift.outside`, from the counts of both sides in the order of `drift`."""
    if base.kind == "text":
        listed = counts[:, :-1]  # the last are texts that are not counted one by one
        return int(listed[0, listed[1] == 0].sum())
    seen = np.flatnonzero(counts[1])
    seen = seen[:-1] if base.nan else seen
    inside = counts[0, seen[0] : seen[-1] + 1].sum() if len(seen) else 0
    return int(counts[0].sum() - now.nan - inside)


def psi(now: Counts, base: Counts) -> float:
    """Returns the population stability index. It is symmetric, and 0 for equal counts.

    Half a count is added to each bin: a bin that is empty on one side would make the index infinite.

    Args:
        now: The counts of the run in each bin. No bin is empty on both sides.
        base: The counts of the baseline.

    >>> psi(np.array([10, 10]), np.array([10, 10])), round(psi(np.array([15, 5]), np.array([5, 15])), 2)
    (0.0, 0.99)
    """
    q, p = ((counts + 0.5) / (counts + 0.5).sum() for counts in (now, base))
    return float(((q - p) * np.log(q / p)).sum())


def cuts(base: Counts, bins: int = BINS) -> npt.NDArray[np.intp]:
    """Returns the index of the first value of each bin.

    Args:
        base: The baseline's count of each value, in order. A value that only the run has counts 0.
        bins: How many bins to make, at most. Values with the share of a bin make more of them.

    >>> cuts(np.array([5, 5, 5, 5]), 2).tolist(), cuts(np.array([0, 100, 0]), 10).tolist()
    ([0, 2], [0, 1, 2])
    """
    total = base.sum()
    number = (np.cumsum(base) - base) * bins // total  # of the quantile in which a value begins
    alone = base * bins >= total
    begins = np.append(True, (np.diff(number) > 0) | alone[1:] | alone[:-1])
    return np.flatnonzero(begins)


def _numbers(now: Column, base: Column) -> Counts:
    """Returns the counts of the run and of the baseline for each value, (2, values), in the order of `drift`."""
    found = [_by_place(column, min(now.bits, base.bits)) for column in (now, base)]
    places = np.union1d(found[0][0], found[1][0])
    counts = np.zeros((2, len(places)), np.int64)
    for row, (place, count) in zip(counts, found, strict=True):
        np.add.at(row, np.searchsorted(places, place), count)
    return counts


def _by_place(column: Column, bits: int) -> tuple[Counts, Counts]:
    """Returns the place of each value in the order of all float32, and its count.

    Args:
        column: The column.
        bits: How many upper bits of a value count, see `Column.bits`.
    """
    codes, counts = np.array(column.bins, np.int64).reshape(-1, 2).T
    codes &= -1 << (BITS - bits)
    places = ranks(np.where(codes == NEGATIVE, 0, codes))  # -0.0 is 0.0
    others = {-1: column.negative_infinity, PATTERNS: column.positive_infinity, PATTERNS + 1: column.nan}
    more = np.array([(place, count) for place, count in others.items() if count], np.int64).reshape(-1, 2).T
    return np.concatenate([places, more[0]]), np.concatenate([counts, more[1]])


def _texts(now: Column, base: Column) -> Counts:
    """Returns the counts of the run and of the baseline for each text, (2, texts), in the order of `drift`."""
    unknown = _unlisted(now, base) | _unlisted(base, now)
    listed = [dict(column.texts) for column in (now, base)]
    texts = sorted({*listed[0], *listed[1]} - unknown, key=lambda text: (-listed[1].get(text, 0), text))
    return np.array([_counted(side, texts, column) for side, column in zip(listed, (now, base), strict=True)], np.int64)


def _unlisted(column: Column, other: Column) -> set[str]:
    """Returns the texts of another column that this one may have without listing them."""
    return {text for text, _ in other.texts} - {text for text, _ in column.texts} if column.other else set()


def _counted(listed: dict[str, int], texts: Sequence[str], column: Column) -> list[int]:
    known = [listed.get(text, 0) for text in texts]
    return [*known, sum(listed.values()) - sum(known) + column.other]
