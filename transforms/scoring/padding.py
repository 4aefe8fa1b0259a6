"""Pads rows of different sizes to the longest of the rows that are called together."""

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
    """Reads `--pad INPUT=VALUE` by the model's inputs, see `input_names.resolve`.

    Args:
        texts: What was given.
        inputs: Names of the model's inputs.

    Returns:
        Input -> value.

    Raises:
        UsageError: A text names no input, or may name several, or an input is named twice.
    """
    pairs = ((name, value) for name, _, value in (text.partition("=") for text in texts))
    return input_names.resolve("--pad", pairs, inputs)


def with_padding(features: Sequence[Feature], pads: Mapping[str, str]) -> tuple[Feature, ...]:
    """Features of which some are padded.

    Args:
        features: What the model's inputs are fed with.
        pads: Input -> the text of its padding value; others than those of the features are ignored.

    Raises:
        UsageError: An input leaves no size open, or its dtype does not hold the value.
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
    """The padding value of a feature, in the dtype of its input.

    Raises:
        UsageError: The dtype does not hold it.
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
    """A column of rows of different sizes; rows that are taken from it are padded to the longest of them.

    Attributes:
        dtype: Of the rows; strings are objects.
        sizes: The shape of each row: int64, (rows, dimensions).
        nbytes: What the rows take at most, padded.
    """

    def __init__(self, column: pa.Array, feature: Feature) -> None:
        """Takes a column of nested lists, and what it feeds."""
        self._column, self._feature, self._value = column, feature, value(feature)
        self.sizes = row_shapes(column, feature.shape).shapes
        self.dtype = np.dtype(object if feature.dtype == STRING else feature.dtype)
        self.nbytes = int(self.row_bytes.max(initial=0)) * len(column)

    @property
    def row_bytes(self) -> Positions:
        """Bytes of each row."""
        item = columns.STRING_BYTES if self.dtype == object else self.dtype.itemsize
        found: Positions = self.sizes.prod(axis=1) * item
        return found

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        """The rows as they are."""
        return (self[number : number + 1][0] for number in range(len(self)))

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._column)

    def take(self, which: Positions) -> "Padded":
        """Some of the rows, still not padded."""
        return Padded(self._column.take(pa.array(which)), self._feature)

    def __getitem__(self, which: slice | Positions) -> npt.NDArray[Any]:
        """Some of the rows, padded to the longest of them: (rows, …)."""
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
