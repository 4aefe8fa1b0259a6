"""Checks whether a value of a sampled row fits an input, and finds the shape that it gives an input with open sizes."""

from collections.abc import Sequence
from typing import Any

from transforms.columns import B64
from transforms.dtypes import STRING
from transforms.formats.base import RowTraits
from transforms.mapping import numbers, sparse
from transforms.saved_model.constants import agree
from transforms.saved_model.model import SPARSE, Tensor


def fits(value: Any, tensor: Tensor, traits: RowTraits) -> bool:
    """Whether a value has the dtype and the shape of a tensor. Lists of tf.Examples are flat, so their length decides.

    Args:
        value: The value of a field.
        tensor: The model's input.
        traits: The traits of the row's format.
    """
    if tensor.kind == SPARSE and sparse.is_object(value):
        return True
    first, shape = leaf(value), _shape(value)
    if tensor.dtype == STRING:
        kind = isinstance(first, (str, bytes)) or (isinstance(first, dict) and set(first) == {B64})
    elif tensor.dtype == "bool":
        kind = isinstance(first, bool) or (traits.flat_lists and first in (0, 1))
    else:
        kind = _is_number(first, tensor.dtype, text=not traits.flat_lists)
    if not kind or tensor.shape is None:
        return kind
    if traits.flat_lists:
        return _open_size(tensor.shape, shape[0]) is not None
    if tensor.shape == (1,) and shape == ():
        return True
    return agree(shape, tensor.shape)


def _is_number(leaf: Any, dtype: str, *, text: bool) -> bool:
    """Whether a value can feed a number of the dtype.

    If `text` is set, strings can feed numbers, and whole floats can feed integers. In tf.Examples neither can.
    """
    if isinstance(leaf, str):
        return text and (
            numbers.spells(leaf) or leaf in numbers.WORDS if "float" in dtype else numbers.whole(leaf) is not None
        )
    if isinstance(leaf, float):
        return "float" in dtype or (text and leaf.is_integer())
    return isinstance(leaf, int) and not isinstance(leaf, bool)


def settled(value: Any, tensor: Tensor, traits: RowTraits) -> tuple[int, ...] | None:
    """Returns the shape that a value gives an input with open sizes; None if the value does not fit.

    Args:
        value: The value of a field.
        tensor: The model's input.
        traits: The traits of the row's format.
    """
    if sparse.is_object(value):
        sizes = value.get(sparse.DENSE_SHAPE)
        return tuple(sizes) if isinstance(sizes, list) and len(sizes) == len(tensor.shape or ()) else None
    shape = _shape(value)
    if traits.flat_lists:
        return shape if tensor.shape is None else _open_size(tensor.shape, shape[0])
    if tensor.shape is None:
        return shape
    return shape if agree(shape, tensor.shape) else None


def _open_size(shape: Sequence[int | None], count: int) -> tuple[int, ...] | None:
    """Fills the open size of a shape so that the shape holds `count` values.

    Returns None if more than one size is open, or if no size gives `count` values.
    """
    known = 1
    for size in shape:
        known *= 1 if size is None else size
    free = sum(size is None for size in shape)
    if free > 1 or (free == 0 and known != count) or (known and count % known):
        return None
    return tuple(count // known if size is None else size for size in shape)


def _shape(value: Any) -> tuple[int, ...]:
    """Returns the shape of nested lists, measured along their first elements."""
    return (len(value), *(_shape(value[0]) if value else ())) if isinstance(value, list) else ()


def leaf(value: Any) -> Any:
    """Returns the first value in nested lists."""
    while isinstance(value, list) and value:
        value = value[0]
    return value
