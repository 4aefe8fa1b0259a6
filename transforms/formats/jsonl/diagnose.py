"""Explains why a JSON line is bad.

It parses one line at a time in Python, which is slow. So it is used only for lines that the fast reader refused, and
for suspect lines.
"""

import functools
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.json

from transforms import columns
from transforms.columns import B64, unbase64
from transforms.dtypes import STRING
from transforms.mapping import numbers, sparse
from transforms.mapping.name_lists import Path
from transforms.reasons import Reason
from transforms.records import Feature

SHOWN = 40  # characters of a value in a message
DEEP = 250  # levels of lists and objects; functions that call themselves for each level stay below Python's limit
LONG_INTEGER = 4000  # digits; Python refuses to read 4300
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')
SPARSE_FORM = '{"indices": [[0], [5]], "values": [1.0, 2.0]}'
TOO_BIG = "too big to be stored in double"


class DeepError(ValueError):
    """A line is nested deeper than `DEEP`."""


class Number(str):
    """The text of a JSON number, as the line spells it."""


class Pairs(list[tuple[str, Any]]):
    """The members of a JSON object, in order. A name that is given twice is there twice."""


def parse(line: bytes) -> Any:
    """Parses one line. Objects become `Pairs`, and numbers become `Number`.

    Raises:
        ValueError: The line is not JSON, or not UTF-8, or nested deeper than `DEEP`.
    """
    text = line.decode()
    if text.startswith("\ufeff"):
        raise ValueError("a byte order mark is not JSON")
    if _shallow(text) != text:
        raise DeepError(f"nested more than {DEEP} levels deep")
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg}: character {error.pos + 1} of the row") from error


def plain(line: bytes) -> Any:
    """Parses one line to plain values, for comparisons and examples. Every value that a good row may have is read.

    A list or object that is nested deeper than `DEEP`, and an integer of very many digits, is its text.

    Raises:
        ValueError: The line is not JSON, or not UTF-8.
    """
    return json.loads(_shallow(line.decode()), parse_int=_whole)


def _whole(text: str) -> int | str:
    return int(text) if len(text) <= LONG_INTEGER else text


def _shallow(text: str) -> str:
    """Writes lists and objects that are nested deeper than `DEEP` as strings of their text."""
    if text.count("[") + text.count("{") <= DEEP:
        return text
    pieces, depth, done = [], 0, 0
    for token in _BRACKETS.finditer(text):
        if token[0] in ("[", "{"):
            depth += 1
            if depth == DEEP + 1:
                pieces.append(text[done : token.start()])
                done = token.start()
        elif token[0] in ("]", "}"):
            depth -= 1
            if depth == DEEP:
                pieces.append(json.dumps(text[done : token.end()]))
                done = token.end()
    return "".join([*pieces, json.dumps(text[done:]) if depth > DEEP else text[done:]])


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=Pairs, parse_int=Number, parse_float=Number, parse_constant=_no_constant
)  # made once, because making it takes as long as reading a short line


def syntax(line: bytes) -> str | None:
    """Returns why a line is not one JSON value; None if it is one."""
    try:
        parse(line)
    except ValueError as error:
        return str(error)
    return None


def explain(line: bytes, features: Sequence[Feature]) -> tuple[str, str]:
    """Returns the reason code and the message for a line that the fast reader refused."""
    found = find(line, features)
    if found is None:
        said = _reader_error(line)
        found = (Reason.OUT_OF_RANGE if TOO_BIG in said else Reason.NOT_JSON).value, said
    return found


def find(line: bytes, features: Sequence[Feature]) -> tuple[str, str] | None:
    """Finds what is surely wrong with a line.

    It finds nothing in a line that `pyarrow.json` reads into valid inputs.

    Args:
        line: The line, without its newline.
        features: The model's inputs, and the fields that feed them.

    Returns:
        The reason code and the message; None if nothing is surely wrong.
    """
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return Reason.NOT_UTF8.value, f"byte {error.start} of the row: {error.reason}"
    try:
        row = parse(line)
    except DeepError:
        return None  # pyarrow may be able to read it
    except ValueError as error:
        return Reason.NOT_JSON.value, str(error)
    if not isinstance(row, Pairs):
        return Reason.NOT_OBJECT.value, f"the line is {described(row)}"
    for feature in features:
        for at, path in enumerate(feature.paths):
            has_default = feature.has_default(at)
            found = _explain_field(row, path, feature, has_default=has_default)
            if found:
                return found[0].value, f"field {'.'.join(path)}: {found[1]}"
    return None


def _reader_error(line: bytes) -> str:
    """Returns why pyarrow refuses a line that `find` accepts, such as one with 1e999 in a field that feeds no input."""
    options = pyarrow.json.ParseOptions(explicit_schema=pa.schema([]), unexpected_field_behavior="ignore")
    try:
        pyarrow.json.read_json(pa.BufferReader(line), parse_options=options)
    except pa.ArrowInvalid as error:
        return str(error).removeprefix("JSON parse error: ").removesuffix(" in row 0")
    return f"nested more than {DEEP} levels deep, or not one row to the JSON reader"


def is_list(value: Any) -> bool:
    """Whether a value that `parse` returned is a list. An object is not, although `Pairs` is a subclass of list."""
    return isinstance(value, list) and not isinstance(value, Pairs)


def described(value: Any) -> str:
    """Describes a value for a message: its kind, and its text if it has one, shortened to `SHOWN` characters."""
    if isinstance(value, Pairs):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, Number):
        return f"the number {_shown(value)}"
    return f"the string {_shown(json.dumps(value))}" if isinstance(value, str) else json.dumps(value)


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _explain_field(row: Any, path: Path, feature: Feature, *, has_default: bool) -> tuple[Reason, str] | None:
    value = row
    for name in path:
        if value is None:
            return None if has_default else (Reason.NULL, f"null where an object with {name} is expected")
        if not isinstance(value, Pairs):
            return Reason.WRONG_TYPE, f"{described(value)} where an object with {name} is expected"
        values = [inner for other, inner in value if other == name]
        if not values:
            return None if has_default else (Reason.MISSING, "not in the row")
        if len(values) > 1:
            return Reason.DUPLICATE_NAME, f"given {len(values)} times"
        (value,) = values
    if value is None and has_default:
        return None
    if feature.is_base64:
        return _explain_bytes(Pairs([(B64, value)]))
    if feature.is_sparse:
        return _explain_sparse(value, feature)
    shape = () if len(feature.fields) > 1 else feature.shape
    if shape == (1,) and not is_list(value):
        shape = ()
    found = _explain_value(value, shape, feature) or _explain_lengths(value, len(shape), feature.varied)
    if found is None and len({isinstance(leaf, Pairs) for leaf in leaves(value)}) > 1:
        return Reason.WRONG_TYPE, "text and base64 in one list"
    return found


def _explain_sparse(value: Any, feature: Feature) -> tuple[Reason, str] | None:
    """Returns what is wrong with a sparse value, see `transforms.mapping.sparse`; None if nothing is wrong."""
    if not isinstance(value, Pairs):
        return (Reason.NULL, "null") if value is None else (Reason.WRONG_TYPE, f"{described(value)}, not {SPARSE_FORM}")
    for name in (sparse.INDICES, columns.VALUES, sparse.DENSE_SHAPE):
        if (count := sum(other == name for other, _ in value)) > 1:
            return Reason.DUPLICATE_NAME, f"{name} is given {count} times"
    members, whole = dict(value), feature._replace(dtype="int64", strict=True)
    rank, shape = len(feature.shape), members.get(sparse.DENSE_SHAPE)
    parts: list[tuple[str, tuple[int | None, ...], Feature]] = [
        (sparse.INDICES, (None, rank), whole),
        (columns.VALUES, (None,), feature._replace(strict=True)),
    ]
    for name, dims, part in [*parts, *([(sparse.DENSE_SHAPE, (rank,), whole)] if shape is not None else [])]:
        if name not in members:
            return Reason.MISSING, f"no {name} in it; write {SPARSE_FORM}"
        if found := _explain_value(members[name], dims, part):
            return found[0], f"{name}: {found[1]}"
    return _explain_entries(
        [[*map(int, one)] for one in members[sparse.INDICES]], members[columns.VALUES], shape, feature
    )


def _explain_entries(
    indices: Sequence[list[int]], values: Sequence[Any], shape: Sequence[str] | None, feature: Feature
) -> tuple[Reason, str] | None:
    """Returns what is wrong with a sparse value whose members have the right types; None if nothing is wrong.

    Args:
        indices: The index of each value.
        values: The values.
        shape: The value's own dense shape, as texts of integers; None if it has none.
        feature: The model input.
    """
    if len(indices) != len(values):
        return Reason.WRONG_SHAPE, f"{len(indices)} indices and {len(values)} values"
    if shape is None and None in feature.shape:
        return Reason.WRONG_SHAPE, f"no {sparse.DENSE_SHAPE}, and the model leaves a size open"
    sizes = feature.shape if shape is None else tuple(map(int, shape))
    if (
        any(own not in (None, size) for own, size in zip(feature.shape, sizes, strict=True))
        or min(size or 0 for size in sizes) < 0
    ):
        return Reason.WRONG_SHAPE, f"{sparse.DENSE_SHAPE} is {list(sizes)} where {_sizes_of(feature)} is expected"
    if math.prod(size or 0 for size in sizes) >= sparse.MOST_PLACES:
        return Reason.OUT_OF_RANGE, f"{sparse.DENSE_SHAPE} {list(sizes)} is too large"
    seen = set[tuple[int, ...]]()
    for index in indices:
        if any(not 0 <= at < (size or 0) for at, size in zip(index, sizes, strict=True)):
            return Reason.OUT_OF_RANGE, f"the index {index} is not within the shape {list(sizes)}"
        if tuple(index) in seen:
            return Reason.WRONG_SHAPE, f"the index {index} is given twice"
        seen.add(tuple(index))
    return None


def _sizes_of(feature: Feature) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in feature.shape)}]"


def _explain_lengths(value: Any, depth: int, varied: int) -> tuple[Reason, str] | None:
    """Returns why nested lists are not an array; None if they are one.

    Args:
        value: The nested lists.
        depth: How many levels of lists there are.
        varied: How many of the outer levels may have lists of different lengths.
    """
    level = [value]
    for at in range(depth):
        lengths = {len(item): None for item in level}
        if len(lengths) > 1 and at >= varied:
            return Reason.WRONG_SHAPE, f"lists of {' and '.join(map(str, list(lengths)[:2]))} where all are as long"
        level = [inner for item in level for inner in item]
    return None


def leaves(value: Any) -> Iterator[Any]:
    """Yields the values in nested lists."""
    if is_list(value):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def _explain_value(value: Any, shape: Sequence[int | None], feature: Feature) -> tuple[Reason, str] | None:
    if value is None:
        return Reason.NULL, "null"
    if not shape:
        if is_list(value):
            return Reason.WRONG_SHAPE, f"{described(value)} where one value is expected"
        return explain_leaf(value, feature)
    if not is_list(value):
        return Reason.WRONG_SHAPE, f"{described(value)} where a list{_of(shape[0])} is expected"
    if shape[0] is not None and len(value) != shape[0]:
        return Reason.WRONG_SHAPE, f"a list of {len(value)} where {shape[0]} are expected"
    return next(filter(None, (_explain_value(v, shape[1:], feature) for v in value)), None)


def _of(size: int | None) -> str:
    return "" if size is None else f" of {size}"


def explain_leaf(value: Any, feature: Feature) -> tuple[Reason, str] | None:
    """Returns what is wrong with a single value for an input; None if nothing is wrong.

    Args:
        value: The value, as `parse` returns it.
        feature: The input.
    """
    dtype = feature.dtype
    if dtype == STRING:
        return None if isinstance(value, str) and not isinstance(value, Number) else _explain_bytes(value)
    if dtype == "bool":
        return None if isinstance(value, bool) else (Reason.WRONG_TYPE, f"{described(value)}, not a bool")
    if isinstance(value, str) and not isinstance(value, Number) and not feature.strict:
        if "float" in dtype and value in numbers.WORDS:
            return None
        value = Number(value) if numbers.spells(value) else value
    if not isinstance(value, Number):
        return Reason.WRONG_TYPE, f"{described(value)}, not a number"
    if "float" not in dtype and _has_fraction(value, strict=feature.strict):
        return Reason.FRACTION, f"{_shown(value)} for an {dtype} input"
    return (Reason.OUT_OF_RANGE, f"{_shown(value)} does not fit {dtype}") if _beyond(value, feature) else None


def _has_fraction(number: Number, *, strict: bool) -> bool:
    pointed = any(c in number for c in ".eE")
    return pointed if strict else pointed and numbers.has_fraction(number)


@functools.cache
def _limits(dtype: str) -> tuple[float, float]:
    limits: Any = ml_dtypes.finfo(dtype) if "float" in dtype else np.iinfo(dtype)  # type: ignore[no-untyped-call]
    return (float(limits.min), float(limits.max)) if "float" in dtype else (int(limits.min), int(limits.max))


def _beyond(number: Number, feature: Feature) -> bool:
    dtype = feature.dtype
    low, high = _limits(dtype)
    if "float" in dtype:
        if low <= float(number) <= high:
            return False
        with np.errstate(over="ignore"):  # a number a little beyond the limit may round to it
            return not np.isfinite(np.dtype(dtype).type(float(number)))
    if feature.strict and dtype == "uint64" and number.startswith("-"):
        return True  # pyarrow refuses even -0 for an unsigned type
    found = numbers.whole(number)
    return found is None or not low <= found <= high


def _explain_bytes(value: Any) -> tuple[Reason, str] | None:
    if not isinstance(value, Pairs) or [name for name, _ in value] != [B64]:
        return Reason.WRONG_TYPE, f"{described(value)}, not a string"
    text = value[0][1]
    if text is None:
        return Reason.NULL, "null"
    if not isinstance(text, str) or isinstance(text, Number):
        return Reason.WRONG_TYPE, f"{described(text)}, not base64"
    try:
        unbase64(text)
    except ValueError as error:
        return Reason.WRONG_TYPE, f"not base64: {error}"
    return None
