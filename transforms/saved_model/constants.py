"""Reads the values of `--constant`, for inputs that have one value for all rows, and refuses inputs without a value."""

import json
import math
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transforms.dtypes import STRING
from transforms.errors import UsageError

FLAG = "--constant"
NOT_FINITE = ("nan", "inf", "-inf", "infinity", "-infinity")
# A value is the text after `NAME=`. With None, the input takes its default.
Values = Mapping[str, str | None]


class Constant(NamedTuple):
    """An input that no row feeds.

    Attributes:
        name: The input's name in the signature.
        dtype: TensorFlow's name of its dtype.
        sizes: Its whole shape; None for an open size. None instead of a shape is an unknown rank.
        tensor: The tensor's name in the graph.
        has_default: Whether the graph has a default for it.
        value: The value that it is fed, as text; None if it is not fed.
    """

    name: str
    dtype: str
    sizes: tuple[int | None, ...] | None
    tensor: str
    has_default: bool = False
    value: str | None = None

    @property
    def is_lacking(self) -> bool:
        """Whether the input has neither a value nor a default."""
        return self.value is None and not self.has_default

    @property
    def source(self) -> str:
        """Describes where its value comes from, for reports."""
        return "its default in the model" if self.value is None else f"{FLAG} {self.name}={self.value}"

    def __str__(self) -> str:
        """Returns its dtype and shape, such as `float32 [13]`."""
        if self.sizes is None:
            return f"{self.dtype} of any shape"
        return f"{self.dtype} [{', '.join('?' if size is None else str(size) for size in self.sizes)}]"


class Fed(NamedTuple):
    """The value of a constant, ready to be fed.

    Attributes:
        value: The whole tensor, or the value of one row of the tensor.
        is_repeated: Whether `value` is the value of one row, which is repeated for each row of a call.
    """

    value: npt.NDArray[Any]
    is_repeated: bool

    def array(self, rows: int) -> npt.NDArray[Any]:
        """Returns the tensor for a call.

        Args:
            rows: The number of rows of the call.
        """
        return np.repeat(self.value[None], rows, axis=0) if self.is_repeated else self.value


class WithConstants:
    """Calls a signature with the arrays of rows, followed by the constants."""

    def __init__(self, call: Any, fed: Sequence[Fed]) -> None:
        """Wraps a call.

        Args:
            call: Takes the arrays of rows, then those of the constants, and returns the arrays of the outputs.
            fed: The constants, in the order in which the call takes them.
        """
        self._call, self._fed = call, fed

    def __call__(self, *arrays: npt.NDArray[Any], outputs: Sequence[str] | None = None) -> Sequence[npt.NDArray[Any]]:
        """Calls the signature.

        Args:
            arrays: The arrays of the inputs that rows feed, (batch, …) each.
            outputs: The names of the outputs to compute; None for all.
        """
        constants = (one.array(len(arrays[0])) for one in self._fed)
        answer: Sequence[npt.NDArray[Any]] = self._call(*arrays, *constants, outputs=outputs)
        return answer


def fed(constant: Constant) -> Fed:
    """Parses the value of a constant.

    A value with as many dimensions as the input is the whole tensor. A value with one dimension less is one row of the
    tensor, and is repeated.

    Args:
        constant: A constant with a value.

    Raises:
        UsageError: The value does not have the dtype or shape of the input.
    """
    try:
        array = parse(constant.value or "", constant.dtype, constant.sizes)
    except ValueError as error:
        raise UsageError(
            f"{FLAG} {constant.name}={constant.value}: {error}, and the model's input {constant.name} is {constant}; "
            f"give such a value, as {FLAG} {constant.name}={_example(constant)}"
        ) from error
    return Fed(array, constant.sizes is not None and array.ndim < len(constant.sizes))


def parse(text: str, dtype: str, sizes: Sequence[int | None] | None) -> npt.NDArray[Any]:
    """Parses a value from a text: a JSON value, or for strings the text itself.

    Args:
        text: The text, such as `1.5`, `true` or `[1, 2, 3]`.
        dtype: TensorFlow's name of the dtype. It must hold the value exactly, except that floats are rounded.
        sizes: The shape of the tensor. The value may lack the first dimension. None allows any shape.

    Returns:
        An array of the dtype; strings are `object` arrays of bytes.

    Raises:
        ValueError: The text is not such a value. The message says why.

    >>> parse("1.5", "float32", []).item(), parse("[1, 2]", "int64", [2]).tolist(), parse("a", "string", []).item()
    (1.5, [1, 2], b'a')
    """
    found = _read(text, dtype, is_plain=sizes is not None and len(sizes) == 0)
    shape = _shape(found)
    if sizes is not None:
        expected = [tuple(sizes), tuple(sizes[1:])] if sizes else [()]
        if not any(agree(shape, one) for one in expected):
            raise ValueError(f"it has the shape {list(shape)}")
    leaves = [_leaf(value, dtype) for value in _leaves(found)]
    array = np.empty(len(leaves), object if dtype == STRING else dtype)
    array[:] = leaves
    return array.reshape(shape)


def _read(text: str, dtype: str, *, is_plain: bool) -> Any:
    if dtype == STRING and (is_plain or not text.startswith("[")):
        return text
    if text.lower() in (*NOT_FINITE, "true", "false"):
        return text.lower() == "true" if text.lower() in ("true", "false") else float(text)
    try:
        return json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=float)
    except (ValueError, RecursionError, InvalidOperation) as error:
        raise ValueError("it is no JSON value") from error


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        return ()
    shapes = {_shape(item) for item in value}
    if len(shapes) > 1:
        raise ValueError("its lists have different lengths")
    return (len(value), *(shapes.pop() if shapes else ()))


def _leaves(value: Any) -> Iterable[Any]:
    if not isinstance(value, list):
        return [value]
    return [leaf for item in value for leaf in _leaves(item)]


def agree(shape: Sequence[int], sizes: Sequence[int | None]) -> bool:
    """Whether a shape has the given sizes, where None allows any size."""
    return len(shape) == len(sizes) and all(size in (None, found) for found, size in zip(shape, sizes, strict=True))


def _leaf(value: Any, dtype: str) -> Any:
    """Converts a JSON value to a value of the dtype.

    Raises:
        ValueError: The dtype does not hold the value.
    """
    if dtype == STRING:
        kind, made = isinstance(value, str), value
    elif dtype == "bool":
        kind, made = isinstance(value, bool), value
    else:
        kind, made = isinstance(value, (Decimal, float)), value
    if not kind:
        raise ValueError(f"{json.dumps(value, default=str)} is no {dtype}")
    if dtype == STRING:
        return made.encode("utf-8", "surrogateescape")
    if dtype == "bool":
        return made
    return _float(made, dtype) if "float" in dtype else _integer(made, dtype)


def _integer(value: Decimal | float, dtype: str) -> int:
    bounds = np.iinfo(dtype)
    # The exponent is checked first, because int() would write out all digits of a number such as 1e1000000000.
    if isinstance(value, float) or value.adjusted() > len(str(bounds.max)) or value != value.to_integral_value():
        raise ValueError(f"{value} is no {dtype}")
    if not bounds.min <= int(value) <= bounds.max:
        raise ValueError(f"{value} is beyond {dtype}")
    return int(value)


def _float(value: Decimal | float, dtype: str) -> Any:
    with np.errstate(over="ignore"):
        made = np.array(float(value)).astype(dtype)
    if isinstance(value, Decimal) and not math.isfinite(float(made)):
        raise ValueError(f"{value} is beyond {dtype}")
    return made


def _example(constant: Constant) -> str:
    plain = {"bool": "true", STRING: "text"}.get(constant.dtype, "1.0" if "float" in constant.dtype else "1")
    if not constant.sizes:
        return plain
    leaf = f'"{plain}"' if constant.dtype == STRING else plain
    for _ in constant.sizes:
        leaf = f"[{leaf}]"
    return f"'{leaf}'"


def defaults(inputs: Mapping[str, Any], fields: Collection[str | None]) -> tuple[tuple[str, None], ...]:
    """Finds the inputs that take the default of the graph, because no field feeds them.

    Args:
        inputs: Input that rows can feed -> its `transforms.saved_model.model.Tensor`.
        fields: Names of the rows' fields, and of the inputs that are mapped.

    Returns:
        Pairs of input and None, as in `Values`. There are none if all inputs would take their default, because then
        no input would be left for the rows.
    """
    found = [name for name, tensor in inputs.items() if tensor.has_default and name not in fields]
    return tuple((name, None) for name in found) if len(found) < len(inputs) else ()


def check(
    constants: Iterable[Constant],
    fields: Collection[str] = (),
    row: Any = None,
    *,
    in_python: bool = False,
) -> None:
    """Refuses a model if an input that has one value for all rows lacks this value.

    Args:
        constants: The inputs that no row feeds.
        fields: Names of the rows' fields, and of the inputs that are mapped. They cannot feed such an input.
        row: A sampled row, or None. If it is an object, the message suggests its values.
        in_python: Whether the user gives values to `KeyedPredict` in Python, and not as flags.

    Raises:
        UsageError: Some inputs lack a value. The message names all of them.
    """
    lacking = [c for c in constants if c.is_lacking or (c.value is None and c.name in fields)]
    if not lacking:
        return
    named = [c.name for c in lacking if c.name in fields]
    why = f"; the rows' field {' and '.join(named)} cannot feed it row by row" if named else ""
    given = " ".join(f"{FLAG} {shlex.quote(f'{c.name}={_suggested(c, row)}')}" for c in lacking)
    if in_python:
        given = f"constants={{{', '.join(f'{c.name!r}: VALUE' for c in lacking)}}}"
    left = [c.name for c in lacking if c.has_default]
    beside = f" ({' and '.join(left)} has a default: leave the field out of the rows to use it)" if left else ""
    text = ", ".join(f"{c.name} ({c})" for c in lacking)
    raise UsageError(f"the model's input {text} is one value for all rows{why}; give it with {given}{beside}")


def _suggested(constant: Constant, row: Any) -> str:
    """Returns the row's value for a constant as text, if it fits; otherwise the placeholder `VALUE`."""
    if isinstance(row, dict) and constant.name in row:
        value = row[constant.name]
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        try:
            parse(text, constant.dtype, constant.sizes)
        except ValueError:
            return "VALUE"
        return text
    return "VALUE"
