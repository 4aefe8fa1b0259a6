"""Groups the rows of a chunk by the shapes of their inputs, so that one call of the model has rows of one shape."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from transforms import columns
from transforms.mapping import ragged, sparse
from transforms.mapping.nested import inner_lengths, row_shapes
from transforms.records import Feature, Positions
from transforms.saved_model.model import Arrays
from transforms.scoring.bisect import MULTIPLE
from transforms.scoring.padding import Padded

LATE = (Padded, sparse.SparseRows)  # arrays whose rows are filled up to the longest of those that are taken
CALL_BYTES = 32 << 20  # that the inputs of one call take at most, where rows have sizes of their own


class Group(NamedTuple):
    """Rows with inputs of the same shapes, but for those that are padded; these are in the order of their sizes.

    Attributes:
        numbers: Their numbers among the rows.
        arrays: Data input -> (rows of the group, …), or `Padded`.
        row_bytes: Bytes of the inputs of each row.
        shapes: The sizes that the features leave open and that are the same for all rows; and of ragged features the
            lengths of inner lists, which are, too.
    """

    numbers: Positions
    arrays: Arrays
    row_bytes: Positions
    shapes: tuple[Any, ...] = ()

    @property
    def whole(self) -> Arrays:
        """The inputs of all rows of the group; padded ones to the longest of them."""
        return {name: array[:] for name, array in self.arrays.items()}

    def batches(self, most: int) -> Iterator[tuple[int, int]]:
        """The first row and one past the last row of each batch: of so many rows, or of `CALL_BYTES`, at most."""
        first, rows = 0, len(self.numbers)
        while first < rows:
            sizes = self.row_bytes[first : first + most]
            count = int(np.count_nonzero(sizes * np.arange(1, len(sizes) + 1) <= CALL_BYTES))
            if count < len(sizes):
                count = count // MULTIPLE * MULTIPLE or max(count, 1)
            yield first, first + count
            first += count


def by_shape(inputs: pa.RecordBatch, features: Sequence[Feature]) -> Iterator[Group]:
    """The rows of a chunk, group by group; one group if no feature leaves a size open, or open ones are padded.

    A group's arrays are made when it is asked for.

    Args:
        inputs: A column a feature.
        features: What the model's inputs are fed with.
    """
    grouped = [feature for feature in features if feature.is_open and feature.pad is None]
    if not grouped:
        yield _group(inputs, np.arange(inputs.num_rows), features, (), {})
        return
    shapes = np.concatenate([_sizes(inputs[f.name], f) for f in grouped], axis=1)
    inner = {f.name: inner_lengths(inputs[f.name], f.varied) for f in grouped if not f.is_sparse}
    alike = [one.dictionary_encode().indices.to_numpy()[:, None] for some in inner.values() for one in some]
    _, firsts, group_of = np.unique(
        np.concatenate([shapes, *alike], axis=1), axis=0, return_index=True, return_inverse=True
    )
    order = np.argsort(group_of.reshape(-1), kind="stable")
    ends = np.cumsum(np.bincount(group_of.reshape(-1), minlength=len(firsts)))
    for first, end, count in zip(firsts, ends, np.diff(np.append(0, ends)), strict=True):
        numbers = order[end - count : end]
        rows = inputs if len(firsts) == 1 else inputs.take(pa.array(numbers))
        lengths = {name: tuple(one[int(first)].as_py() for one in some) for name, some in inner.items() if some}
        yield _group(rows, numbers, features, tuple(shapes[first].tolist()), lengths)


def _sizes(column: pa.Array, feature: Feature) -> Positions:
    """The sizes of each row of an open feature: (rows, dimensions)."""
    if feature.is_sparse:
        return sparse.sizes_of(column, feature)
    return row_shapes(column, feature.shape, feature.varied).shapes


def largest(inputs: pa.RecordBatch, features: Sequence[Feature]) -> Group | None:
    """The largest group of rows; None if there are no rows."""
    return max(by_shape(inputs, features), key=lambda group: len(group.numbers), default=None)


def _group(
    rows: pa.RecordBatch,
    numbers: Positions,
    features: Sequence[Feature],
    sizes: tuple[int, ...],
    inner: Mapping[str, tuple[bytes, ...]],
) -> Group:
    """The group of some rows.

    Args:
        rows: The inputs of these rows alone.
        numbers: Their numbers.
        features: What the model's inputs are fed with.
        sizes: The shapes of the open ones that are not padded, one behind the other.
        inner: Feature of ragged lists -> the lengths of the inner lists of each of these rows, as of `inner_lengths`.
    """
    arrays: dict[str, Any] = {}
    fixed, left = list[Feature](), list(sizes)
    for feature in features:
        if feature.pad is not None:
            arrays[feature.name] = Padded(rows[feature.name], feature)
            continue
        rank = len(feature.shape) if feature.is_open else 0
        shaped, left = feature._replace(shape=tuple(left[:rank])) if rank else feature, left[rank:]
        lengths = [np.frombuffer(text, np.int64) for text in inner.get(feature.name, ())]
        if feature.is_sparse:
            arrays[feature.name] = sparse.SparseRows(rows[feature.name], feature)
            continue
        if any((one != one[0]).any() for one in lengths if len(one)):
            shaped, arrays[feature.name] = ragged.records(rows[feature.name], shaped, lengths)
        else:
            arrays[feature.name] = columns.to_array(rows[feature.name], shaped)
        fixed.append(shaped)
    row_bytes: Positions = np.full(len(numbers), columns.row_bytes(fixed), np.int64)
    padded = [array for array in arrays.values() if isinstance(array, LATE)]
    shapes = (*sizes, *inner.values())
    if not padded:
        return Group(numbers, arrays, row_bytes, shapes)
    row_bytes = row_bytes + sum(array.row_bytes for array in padded)
    order = np.argsort(row_bytes, kind="stable")
    arrays = {n: a.take(order) if isinstance(a, LATE) else a[order] for n, a in arrays.items()}
    return Group(numbers[order], arrays, row_bytes[order], shapes)
