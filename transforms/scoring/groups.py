"""Groups the rows of a chunk by the shapes of their inputs, so that all rows of one model call have the same shapes."""

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

LATE = (Padded, sparse.SparseRows)  # arrays that pad rows only when they are taken, to the longest of these rows
CALL_BYTES = 32 << 20  # most bytes of the inputs of one call, where rows have different sizes


class Group(NamedTuple):
    """Rows whose inputs have the same shapes.

    Padded inputs may have different sizes, and sparse inputs different numbers of values. Such rows are sorted by size.

    Attributes:
        numbers: The numbers of these rows among all rows.
        arrays: Data input -> (rows of the group, …), or `Padded` or `SparseRows`.
        row_bytes: Bytes of the inputs of each row.
        shapes: The open sizes, where all rows of the group have the same. For ragged features also the lengths of the
            inner lists, which are the same for all rows, too.
    """

    numbers: Positions
    arrays: Arrays
    row_bytes: Positions
    shapes: tuple[Any, ...] = ()

    @property
    def whole(self) -> Arrays:
        """The inputs of all rows of the group. Padded inputs are padded to the longest row of the group."""
        return {name: array[:] for name, array in self.arrays.items()}

    def batches(self, most: int) -> Iterator[tuple[int, int]]:
        """Yields the first row and one past the last row of each batch. A batch has at most `most` rows.

        It also has at most `CALL_BYTES` bytes, unless it is a single row.
        """
        first, rows = 0, len(self.numbers)
        while first < rows:
            sizes = self.row_bytes[first : first + most]
            count = int(np.count_nonzero(sizes * np.arange(1, len(sizes) + 1) <= CALL_BYTES))
            if count < len(sizes):
                count = count // MULTIPLE * MULTIPLE or max(count, 1)
            yield first, first + count
            first += count


def by_shape(inputs: pa.RecordBatch, features: Sequence[Feature]) -> Iterator[Group]:
    """Yields the rows of a chunk group by group. There is one group if every open size is padded, or none is open.

    The arrays of a group are made only when the iterator reaches it.

    Args:
        inputs: One column for each feature.
        features: The features that feed the model's inputs.
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
    """Returns the sizes of each row of an open feature, int64, (rows, dimensions)."""
    if feature.is_sparse:
        return sparse.sizes_of(column, feature)
    return row_shapes(column, feature.shape, feature.varied).shapes


def largest(inputs: pa.RecordBatch, features: Sequence[Feature]) -> Group | None:
    """Returns the largest group of rows; None if there are no rows."""
    return max(by_shape(inputs, features), key=lambda group: len(group.numbers), default=None)


def _group(
    rows: pa.RecordBatch,
    numbers: Positions,
    features: Sequence[Feature],
    sizes: tuple[int, ...],
    inner: Mapping[str, tuple[bytes, ...]],
) -> Group:
    """Makes the group of some rows.

    Args:
        rows: The inputs of these rows only.
        numbers: The numbers of these rows.
        features: The features that feed the model's inputs.
        sizes: The sizes of the open features that are not padded, one feature after the other.
        inner: Ragged feature -> the lengths of the inner lists of these rows, see `inner_lengths`.
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
