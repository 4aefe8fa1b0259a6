"""Parses and applies defaults for fields that are missing or null in a row: `--missing FIELD=VALUE`."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms import columns
from transforms.dtypes import STRING
from transforms.mapping import numbers
from transforms.records import Feature, Mask


def value(text: str, dtype: str, shape: Sequence[int | None], varied: int = 1) -> Any:
    """Parses the text of a default into nested lists.

    Args:
        text: A single value, or a JSON list of the shape. A single value fills the whole shape. Floats may be `nan`.
        dtype: The dtype of the model's input.
        shape: The shape of a row's value, without the batch dimension; None for an open size.
        varied: How many levels of the value's lists may have different lengths.

    Raises:
        ValueError: The text is not a value of this dtype and shape.

    >>> value("0", "int32", (2,)), value("[1.5, nan]", "float32", (2,)), value("Bern", "string", ())
    ([0, 0], [1.5, nan], b'Bern')
    """
    if not shape or not text.startswith("["):
        one = _leaf(text, dtype)
        sizes = [size for size in shape if size is not None]
        if len(sizes) < len(shape):
            raise ValueError(f"the input's size is open; give a list such as [{text}]")
        for size in reversed(sizes):
            one = [one] * size
        return one
    if "float" in dtype:
        text = text.replace("nan", "NaN")
    found = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    return _nested(found, dtype, shape, varied)


def _nested(found: Any, dtype: str, shape: Sequence[int | None], varied: int) -> Any:
    if not shape:
        if isinstance(found, bool):
            found = json.dumps(found)
        if not isinstance(found, str):
            raise ValueError(f"{json.dumps(found)} is no {dtype}")
        return _leaf(found, dtype)
    if not isinstance(found, list) or shape[0] not in (None, len(found)):
        raise ValueError(f"{json.dumps(found)} is no list of the input's length")
    made = [_nested(item, dtype, shape[1:], varied - 1) for item in found]
    if varied <= 1 and len({np.shape(item) for item in made}) > 1:
        raise ValueError(f"{json.dumps(found)} has lists of different lengths")
    return made


def _leaf(text: str, dtype: str) -> Any:
    if dtype == STRING:
        return text.encode()
    if dtype == "bool":
        found = {"true": True, "false": False}.get(text)
    else:
        found = number("NaN" if text == "nan" else text, dtype)
    if found is None:
        raise ValueError(f"{text!r} is no {dtype}")
    return found


def number(text: str, dtype: str) -> Any:
    """Parses a number; returns None if the text is not a number that the dtype holds.

    >>> number("31", "int8"), number("310", "int8"), number("1.5", "float32")
    (31, None, 1.5)
    """
    made = numbers.from_text(pa.array([text]), columns.READ_AS[dtype])
    fits = not made.null_count and columns.in_range(made, dtype, words=True).all()
    return made[0].as_py() if fits else None


def fill(values: pa.Array, text: str, feature: Feature) -> pa.Array:
    """Replaces nulls with the default.

    Args:
        values: The values as read: single values, or lists of the input's shape.
        text: The text of the default.
        feature: The feature that the values feed.
    """
    if not values.null_count:
        return values
    shape = feature.shape if len(feature.fields) == 1 else ()
    made = value(text, feature.dtype, shape, feature.varied)
    if not pa.types.is_list(values.type) and shape:  # each row is a single value, and the shape is (1,)
        (made,) = made
    return pc.coalesce(values, pa.scalar(made, values.type))


def which(features: Sequence[Feature], lacks: Callable[[int, int], Mask]) -> list[pa.Array]:
    """Marks the rows that take the default of a field.

    Args:
        features: The features that feed the model's inputs.
        lacks: Marks the rows that lack a value. Its arguments are the number of the feature and the number of the
            field in the feature.

    Returns:
        One bool array, (rows,), for each column of `columns.default_columns`, in the same order.
    """
    found: dict[str, Mask] = {}
    for at in [at for at, feature in enumerate(features) if feature.missing]:
        for field, number in features[at].defaults.items():
            mask = lacks(at, number)
            found[field] = found[field] | mask if field in found else mask
    return [pa.array(mask, pa.bool_()) for mask in found.values()]


def pack(inputs: pa.RecordBatch, features: Sequence[Feature]) -> tuple[tuple[str, bytes], ...]:
    """Packs the marks of the rows that take a default into bits, one for each row that goes into the model.

    Args:
        inputs: The model inputs of these rows, with the columns of `columns.default_columns`.
        features: The features that feed the model's inputs.

    Returns:
        Pairs of field and bits, see `transforms.records.Receipt.filled`. Fields whose default no row takes are absent.
    """
    masks = {field: inputs[name] for field, name in columns.default_columns(features).items()}
    return tuple(
        (field, np.packbits(mask.to_numpy(zero_copy_only=False)).tobytes())
        for field, mask in masks.items()
        if mask.true_count
    )


def count(packed: Sequence[tuple[str, bytes]], joined: Mask) -> dict[str, int]:
    r"""Counts the joined rows that take the default of a field, by field.

    Args:
        packed: The result of `pack`.
        joined: Marks the joined rows among the rows that went into the model. bool, (rows,).

    >>> count([("x", b"\xa0"), ("y", b"\x40")], np.array([True, False, True]))
    {'x': 2}
    """
    counts = {
        field: int(np.unpackbits(np.frombuffer(bits, np.uint8), count=len(joined))[joined].sum())
        for field, bits in packed
    }
    return {field: number for field, number in counts.items() if number}
