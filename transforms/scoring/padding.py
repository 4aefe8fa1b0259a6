"""Pads rows of different sizes to the longest row of a model call."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms import columns
from transforms.dtypes import STRING
from transforms.errors import UsageError
from transforms.mapping import input_names
from transforms.mapping.defaults import number
from transforms.mapping.nested import row_shapes
from transforms.records import Feature, Positions

BOOLS = {"true": True, "false": False, "1": True, "0": False}


def resolve(texts: Sequence[str], inputs: Sequence[str]) -> dict[str, str]:
    """Resolves the texts of `--pad INPUT=VALUE` to the model's inputs, see `input_names.resolve`.

    Args:
        texts: The values of the flag.
        inputs: Names of the model's inputs.

    Returns:
        Input -> padding value, as text.

    Raises:
        UsageError: A text names no input or could name several, or an input is named twice.
    """
    pairs = ((name, value) for name, _, value in (text.partition("=") for text in texts))
    return input_names.resolve("--pad", pairs, inputs)


def with_padding(features: Sequence[Feature], pads: Mapping[str, str]) -> tuple[Feature, ...]:
    """Sets the padding values of features.

    Args:
        features: The features that feed the model's inputs.
        pads: Input -> the text of its padding value. Inputs without a feature are ignored.

    Raises:
        UsageError: An input has no open size or is sparse, or its dtype cannot hold the value.
    """
    made = []
    for feature in features:
        text = pads.get(feature.name)
        if text is not None:
            if feature.is_sparse:
                raise UsageError(f"--pad {feature.name}={text}: sparse rows are not padded; leave the flag out")
            if not feature.is_open:
                raise UsageError(
                    f"--pad {feature.name}={text}: input {feature.name} leaves no size open; leave the flag out"
                )
            value(feature._replace(pad=text))
        made.append(feature._replace(pad=text))
    return tuple(made)


def value(feature: Feature) -> Any:
    """Returns the padding value of a feature, in the dtype of its input.

    Raises:
        UsageError: The dtype cannot hold the value.
    """
    text, dtype = feature.pad or "", feature.dtype
    if dtype == STRING:
        return text.encode()
    found = BOOLS.get(text) if dtype == "bool" else number(text, dtype)
    if found is None:
        raise UsageError(
            f"--pad {feature.name}={text}: {text!r} is no {dtype}, the dtype of the input; give another value"
        )
    return np.dtype(dtype).type(found)


class Padded:
    """A column of rows of different sizes. Indexing it returns the selected rows, padded to the longest of them.

    Attributes:
        dtype: The dtype of the rows; strings are objects.
        sizes: The shape of each row, int64, (rows, dimensions).
        nbytes: An estimate of the bytes of all rows, each padded to the largest row.
    """

    def __init__(self, column: pa.Array, feature: Feature) -> None:
        """Takes a column of nested lists and its feature."""
        self._column, self._feature, self._value = column, feature, value(feature)
        self.sizes = row_shapes(column, feature.shape).shapes
        self.dtype = np.dtype(object if feature.dtype == STRING else feature.dtype)
        self.nbytes = int(self.row_bytes.max(initial=0)) * len(column)

    @property
    def row_bytes(self) -> Positions:
        """The bytes of each row, int64, (rows,). A string counts as `columns.STRING_BYTES`."""
        item = columns.STRING_BYTES if self.dtype == object else self.dtype.itemsize
        found: Positions = self.sizes.prod(axis=1) * item
        return found

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        """Yields the rows one by one, without padding."""
        return (self[number : number + 1][0] for number in range(len(self)))

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self._column)

    def take(self, which: Positions) -> "Padded":
        """Selects some of the rows, without padding them yet."""
        return Padded(self._column.take(pa.array(which)), self._feature)

    def __getitem__(self, which: slice | Positions) -> npt.NDArray[Any]:
        """Selects some of the rows and pads them to the longest of them, (rows, …)."""
        picked = np.arange(len(self))[which]
        sizes, column = self.sizes[picked], self._column.take(pa.array(picked))
        widest = sizes.max(axis=0, initial=0)
        made = np.full((len(picked), *widest), self._value, self.dtype)
        inside = np.ones(made.shape, np.bool_)
        for level, size in enumerate(widest):
            fits = np.arange(size) < sizes[:, level, None]
            inside &= fits.reshape(len(picked), *[1] * level, size, *[1] * (len(widest) - level - 1))
        while pa.types.is_list(column.type):
            column = column.flatten()
        made[inside] = columns.to_array(column, self._feature._replace(shape=()))
        return made
