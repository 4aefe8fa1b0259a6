"""Reads sparse rows that are objects: `{"indices": [[0], [5]], "values": [1.0, 2.0], "dense_shape": [10]}`.

The names are those of https://www.tensorflow.org/api_docs/python/tf/sparse/SparseTensor. Each value has an index. The
shape is that of the row, without the batch dimension.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms import columns
from transforms.columns import PLACES, SIZES, VALUES
from transforms.dtypes import STRING
from transforms.records import Feature, Mask, Positions

INDICES, DENSE_SHAPE = "indices", "dense_shape"
LEAST = len('{"indices":[],"values":[]}')  # the size of the shortest such object, in bytes
MOST_PLACES = 1 << 62  # a row with at least so many positions is bad: its positions might not fit into int64
ABSENT = -1  # the position of the padding in a record that is shorter than the longest record


def is_object(value: Any) -> bool:
    """Whether a value is an object with the members of a sparse row."""
    return isinstance(value, Mapping) and {INDICES, VALUES} <= value.keys()


def read_as(feature: Feature) -> pa.DataType:
    """Returns the Arrow type with which the JSON reader reads the objects of a feature."""
    whole = pa.list_(pa.int64())
    members = ((INDICES, pa.list_(whole)), (VALUES, pa.list_(columns.READ_AS[feature.dtype])), (DENSE_SHAPE, whole))
    return pa.struct(members)


class _Entries(NamedTuple):
    """The entries of all rows, concatenated. An entry is an index and its value.

    Attributes:
        counts: The number of entries of each row. int64, (rows,).
        indices: The index of each entry in its row. int64, (entries, dimensions).
        sizes: The shape of each row; -1 for an unknown size, or one that contradicts the signature. int64,
            (rows, dimensions).
    """

    counts: Positions
    indices: Positions
    sizes: Positions

    def places(self) -> Positions:
        """Computes the row-major position of each entry in its row. int64, (entries,)."""
        found = np.zeros(len(self.indices), np.int64)
        for index, size in zip(self.indices.T, np.repeat(self.sizes, self.counts, axis=0).T, strict=True):
            found = found * size + index
        return found

    def fitting(self, order: Positions, places: Positions) -> Mask:
        """Marks the rows whose sizes are all known, and whose indices are within the sizes and occur once.

        Args:
            order: The numbers of the entries, sorted by row and position.
            places: The position of each entry in its row, see `places`.
        """
        mask: Mask = (self.sizes >= 0).all(axis=1) & (self.sizes.astype(np.float64).prod(axis=1) < MOST_PLACES)
        row = np.repeat(np.arange(len(self.counts)), self.counts)
        beyond = ((self.indices < 0) | (self.indices >= self.sizes[row])).any(axis=1)
        mask[row[beyond]] = False
        again = (np.diff(row[order]) == 0) & (np.diff(places[order]) == 0)
        mask[row[order][1:][again]] = False
        return mask


def column(raw: pa.Array, feature: Feature) -> tuple[pa.Array, Mask]:
    """Converts a column of objects to the form in which they go into the model.

    A row fits if it has an index for each value. Each index has one number for each dimension, lies within the row's
    sizes, and occurs once. Entries may come in any order.

    Args:
        raw: The objects, read with the type of `read_as`.
        feature: The feature that they feed.

    Returns:
        A struct of `PLACES`, `VALUES` and `SIZES` for each row, empty for a row that does not fit. Then a mask of the
        rows that fit: bool, (rows,).
    """
    fitting = _well_formed(raw, feature)
    numbers = np.flatnonzero(fitting)
    good = raw.take(pa.array(numbers))
    entries = _entries(good, feature)
    values = pc.struct_field(good, VALUES).flatten()
    places = entries.places()
    order = np.lexsort((places, np.repeat(np.arange(len(numbers)), entries.counts)))
    fits = entries.fitting(order, places)
    fitting[numbers[~fits]] = False
    # `order` sorts by row first, so each row's entries fill the same range in it as in `entries`.
    order = order[np.repeat(fits, entries.counts)]
    counts, sizes = np.zeros(len(raw), np.int64), np.zeros((len(raw), len(feature.shape)), np.int64)
    counts[numbers[fits]], sizes[numbers[fits]] = entries.counts[fits], entries.sizes[fits]
    ends = np.append(0, np.cumsum(counts)).astype(np.int32)
    taken = values.take(pa.array(order))
    taken = taken.cast(pa.binary()) if feature.dtype == STRING else taken
    members = [
        pa.ListArray.from_arrays(ends, pa.array(places[order])),
        pa.ListArray.from_arrays(ends, taken),
        pa.ListArray.from_arrays(np.arange(len(raw) + 1, dtype=np.int32) * sizes.shape[1], pa.array(sizes.reshape(-1))),
    ]
    return pa.StructArray.from_arrays(members, [PLACES, VALUES, SIZES]), fitting


def _lengths(lists: pa.Array) -> Positions:
    found: Positions = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _valid(array: pa.Array) -> Mask:
    mask: Mask = array.is_valid().to_numpy(zero_copy_only=False)
    return mask


def _well_formed(raw: pa.Array, feature: Feature) -> Mask:
    """Marks the well-formed rows.

    A well-formed row has an index for each value, and values that fit. Its indices, and its shape if it gives one,
    have one number for each dimension.
    """
    indices, values, shape = (pc.struct_field(raw, name) for name in (INDICES, VALUES, DENSE_SHAPE))
    rank, counts = len(feature.shape), _lengths(indices)
    mask = _valid(raw) & _valid(indices) & (counts == _lengths(values))
    mask &= columns.fits(values, (None,), feature.dtype)
    mask &= ~_valid(shape) | (_lengths(shape) == rank)
    mask[np.repeat(np.arange(len(raw)), _lengths(shape))[~_valid(shape.flatten())]] = False
    row, each = np.repeat(np.arange(len(raw)), counts), indices.flatten()
    mask[row[_lengths(each) != rank]] = False
    mask[np.repeat(row, _lengths(each))[~_valid(each.flatten())]] = False
    return mask


def _entries(good: pa.Array, feature: Feature) -> _Entries:
    """Reads the entries of well-formed rows."""
    indices, shape = (pc.struct_field(good, name) for name in (INDICES, DENSE_SHAPE))
    rank = len(feature.shape)
    flat = indices.flatten().flatten().to_numpy(zero_copy_only=False).astype(np.int64).reshape(-1, rank)
    own = np.array([-1 if size is None else size for size in feature.shape], np.int64)
    sizes = np.tile(own, (len(good), 1))
    given = _valid(shape)
    said = shape.flatten().to_numpy(zero_copy_only=False).astype(np.int64).reshape(-1, rank)
    sizes[given] = np.where((own < 0) | (said == own), said, -1)
    return _Entries(_lengths(indices), flat, sizes)


class SparseRows:
    """A column of sparse rows. Indexing it makes records, padded to the longest of them.

    Attributes:
        dtype: The NumPy dtype of the values; `object` for strings.
        sizes: The shape of each row. int64, (rows, dimensions).
        row_bytes: The size of each row, in bytes. int64, (rows,).
        nbytes: An upper limit for the size of the records of all rows, in bytes.
    """

    def __init__(self, rows: pa.Array, feature: Feature) -> None:
        """Holds a column.

        Args:
            rows: The structs that `column` returns.
            feature: The feature that they feed.
        """
        self._column, self._feature = rows, feature
        self.dtype = np.dtype(object if feature.dtype == STRING else feature.dtype)
        self._counts, self.sizes = _lengths(pc.struct_field(rows, PLACES)), sizes_of(rows, feature)
        item = columns.STRING_BYTES if self.dtype == object else self.dtype.itemsize
        self.row_bytes: Positions = self._counts * (8 + item)
        self.nbytes = int(self.row_bytes.max(initial=0)) * len(rows)

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self._column)

    def __iter__(self) -> Iterator[Any]:
        """Yields each row as a record of its own length, without padding."""
        return (self[number : number + 1][0] for number in range(len(self)))

    def take(self, which: Positions) -> "SparseRows":
        """Returns the rows with these numbers, as another column."""
        return SparseRows(self._column.take(pa.array(which)), self._feature)

    def __getitem__(self, which: slice | Positions) -> npt.NDArray[Any]:
        """Returns some rows as records, (rows,), padded to the longest of them."""
        picked = np.arange(len(self))[which]
        counts, some = self._counts[picked], self._column.take(pa.array(picked))
        widest = int(counts.max(initial=0))
        fields = [(PLACES, "int64", (widest,)), (VALUES, self.dtype, (widest,)), (SIZES, "int64", self.sizes.shape[1:])]
        made = np.empty(len(picked), np.dtype(fields))
        inside = np.arange(widest) < counts[:, None]
        made[PLACES], made[VALUES], made[SIZES] = ABSENT, b"" if self.dtype == object else 0, self.sizes[picked]
        made[PLACES][inside] = pc.struct_field(some, PLACES).flatten().to_numpy(zero_copy_only=False)
        made[VALUES][inside] = columns.to_array(
            pc.struct_field(some, VALUES).flatten(), self._feature._replace(shape=())
        )
        return made


def sizes_of(rows: pa.Array, feature: Feature) -> Positions:
    """Returns the shape of each row of a column. int64, (rows, dimensions)."""
    flat: Positions = pc.struct_field(rows, SIZES).flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(rows), len(feature.shape))


def tensors(rows: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Makes the tensors of a sparse input for one call of the model.

    Args:
        rows: Records of `SparseRows`, at least one, all of the same sizes.

    Returns:
        The indices, (values, 1 + dimensions), the values, (values,), and the dense shape, (1 + dimensions,). The
        first dimension is the batch. Indices are int64 in row-major order, as TensorFlow requires.
    """
    there, sizes = rows[PLACES] != ABSENT, rows[SIZES][0]
    row, places = np.nonzero(there)[0], rows[PLACES][there]
    inner = np.unravel_index(places, sizes) if math.prod(sizes.tolist()) else [np.zeros(0, np.int64)] * len(sizes)
    return [np.stack([row, *inner], axis=1), rows[VALUES][there], np.array([len(rows), *sizes], np.int64)]
