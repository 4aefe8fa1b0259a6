"""Inputs that have one value for all rows: reads what `--constant` gives them, and refuses those that lack a value."""

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
# A value is the text that follows `NAME=`; None leaves the input to its default.
Values = Mapping[str, str | None]


class Constant(NamedTuple):
    """An input that no row feeds.

    Attributes:
        name: In the signature.
        dtype: TensorFlow's name of it.
        sizes: All of its sizes, None for an open one; None for an unknown rank.
        tensor: Name in the graph.
        has_default: Whether the graph has a value for it.
        value: What it is fed, as text; None if it is not fed.
    """

    name: str
    dtype: str
    sizes: tuple[int | None, ...] | None
    tensor: str
    has_default: bool = False
    value: str | None = None

    @property
    def is_lacking(self) -> bool:
        """Whether it has neither a value nor a default."""
        return self.value is None and not self.has_default

    @property
    def source(self) -> str:
        """Where its value comes from, for people."""
        return "its default in the model" if self.value is None else f"{FLAG} {self.name}={self.value}"

    def __str__(self) -> str:
        """Its dtype and sizes: `float32 [13]`."""
        if self.sizes is None:
            return f"{self.dtype} of any shape"
        return f"{self.dtype} [{', '.join('?' if size is None else str(size) for size in self.sizes)}]"


class Fed(NamedTuple):
    """The value of a constant.

    Attributes:
        value: The whole tensor, or what each row of it is.
        is_repeated: Whether it is the latter.
    """

    value: npt.NDArray[Any]
    is_repeated: bool

    def array(self, rows: int) -> npt.NDArray[Any]:
        """The tensor for a call of so many rows."""
        return np.repeat(self.value[None], rows, axis=0) if self.is_repeated else self.value


class WithConstants:
    """Calls a signature, and feeds it constants after the arrays of rows."""

    def __init__(self, call: Any, fed: Sequence[Fed]) -> None:
        """Takes the call and the constants, in its order."""
        self._call, self._fed = call, fed

    def __call__(self, *arrays: npt.NDArray[Any], outputs: Sequence[str] | None = None) -> Sequence[npt.NDArray[Any]]:
        """Calls it."""
        constants = (one.array(len(arrays[0])) for one in self._fed)
        answer: Sequence[npt.NDArray[Any]] = self._call(*arrays, *constants, outputs=outputs)
        return answer


def fed(constant: Constant) -> Fed:
    """What a constant is fed.

    A value with as many dimensions as the input is the whole tensor. One with a dimension less is what each row of
    the tensor is.

    Args:
        constant: One that has a value.

    Raises:
        UsageError: The value is not of its dtype or shape.
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
    """The value that a text spells: a JSON value, or for strings the text itself.

    Args:
        text: The text: `1.5`, `true`, `[1, 2, 3]`.
        dtype: TensorFlow's name of the dtype, which must hold the value exactly, but for the digits of floats.
        sizes: Those of the tensor, which the value may have without the first; None for any.

    Raises:
        ValueError: It spells no such value; the message says why.

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
    """Whether a shape has these sizes, of which None is any."""
    return len(shape) == len(sizes) and all(size in (None, found) for found, size in zip(shape, sizes, strict=True))


def _leaf(value: Any, dtype: str) -> Any:
    """A value of the dtype."""
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
    # The exponent first: the digits of 1e1000000000 are not to be written out.
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
    """The inputs that are left to the default that the graph has: no field feeds them, and other inputs are fed.

    Args:
        inputs: Input of rows -> its `transforms.saved_model.model.Tensor`.
        fields: What feeds inputs by their names: the rows' fields, and the inputs that are mapped.
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
    """Refuses a model with an input that is one value for all rows, and has none.

    Args:
        constants: What no row feeds.
        fields: Names of the rows' fields, and of the inputs that are mapped: they cannot feed such an input.
        row: A row, whose values are suggested if it is an object; or None.
        in_python: Whether values are given to `KeyedPredict`, and not as flags.

    Raises:
        UsageError: There is such an input. All of them are named.
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
    """The value in a row, where it fits."""
    if isinstance(row, dict) and constant.name in row:
        value = row[constant.name]
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        try:
            parse(text, constant.dtype, constant.sizes)
        except ValueError:
            return "VALUE"
        return text
    return "VALUE"
