"""Reads counts of `transforms.statistics` as columns, and adds up columns as a run does."""

from collections.abc import Iterable, Sequence

from transforms.statistics import Column, Counts, Merging, Tally


def columns_of(counts: Counts) -> tuple[Column, ...]:
    """The columns of counts, with their bins."""
    return tuple(tally.whole() for tally in counts.tallies)


def merged(columns: Iterable[Sequence[Column]]) -> list[Column]:
    """The columns of all rows, from the columns of some rows, those of other rows, and so on."""
    merging = Merging()
    for some in columns:
        merging.add(Counts(tuple(map(Tally.of, some))))
    return list(merging.result().columns)
