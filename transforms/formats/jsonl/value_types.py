"""Detects how JSON lines spell their values, to choose the types by which pyarrow can read many lines together."""

import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.columns import B64
from transforms.dtypes import STRING
from transforms.formats.jsonl.convert import LISTED, TEXT, WHOLE, Spelling
from transforms.formats.jsonl.diagnose import Number, Pairs, is_list, leaves, parse
from transforms.mapping import numbers, row_paths
from transforms.mapping.name_lists import Path
from transforms.records import Feature, Mask

LONG = "long"  # a number with more digits than an Arrow decimal can hold
# Patterns for values that can be read. They let null pass, because it is detected later. A number may be a string, also
# "NaN" or "Infinity".
NUMBERS, BOOLS, TEXTS = r'[-+0-9.eEnul"NaIfity]', r"[truefalsn]", r'(?:"(?:[^"\\]|\\.)*"|null)'


def spelling(line: bytes, features: Sequence[Feature]) -> Spelling:
    """Detects the spelling of a line's values: single values in lists, and bytes as base64.

    Numbers have more spellings, see `number_spelling`.
    """
    open_ = [f for f in features if (f.dtype == STRING or f.shape == (1,)) and not (f.is_base64 or f.is_sparse)]
    if not open_:
        return frozenset()
    row, found = _parsed(line), set()
    for feature in open_:
        for slot in feature.paths:
            value = _at(row, slot)
            if feature.shape == (1,) and is_list(value):
                found.add((slot, LISTED))
            while is_list(value) and value:
                value = value[0]
            if feature.dtype == STRING and isinstance(value, Pairs):
                found.add((slot, B64))
    return frozenset(found)


def number_spelling(lines: Sequence[bytes], features: Sequence[Feature]) -> Spelling | None:
    """Detects the spelling of numbers in lines that cannot be read with the usual spelling.

    It looks at the first value of each field that is not null.

    Args:
        lines: The lines.
        features: The model's inputs, and the fields that feed them.

    Returns:
        The spelling; None if the lines have to be rewritten with `as_text`. They have to be if a field mixes strings
        and numbers, or has an integer of more than `numbers.DIGITS` characters.
    """
    open_, found = _open_numbers(features), set[tuple[Path, str]]()
    for line in lines:
        if not open_:
            break
        row = _parsed(line)
        for slot, value in [(slot, value) for slot in open_ if (value := _at(row, slot)) is not None]:
            seen = _number_kinds(value, open_.pop(slot).dtype)
            if LONG in seen or (TEXT in seen and len(seen) > 1):
                return None
            found.update((slot, kind) for kind in seen if kind)
    return frozenset(found)


def _parsed(line: bytes) -> Any:
    try:
        return parse(line)
    except ValueError:
        return None


def _at(value: Any, path: Path) -> Any:
    """Returns the value at a path in a parsed row; None if the row has none."""
    for name in path:
        value = dict(value).get(name) if isinstance(value, Pairs) else None
    return value


def _open_numbers(features: Sequence[Feature]) -> dict[Path, Feature]:
    """Returns the paths of the numbers that may be spelled in several ways, each with its feature."""
    return {
        path: feature
        for feature in features
        if feature.dtype not in ("bool", STRING) and not (feature.strict or feature.is_sparse)
        for path in feature.paths
    }


def _number_kinds(value: Any, dtype: str) -> set[str | None]:
    """Returns the spellings of the numbers in a value: TEXT, WHOLE, LONG, or None for the usual one."""
    return {_number_kind(leaf, dtype) for leaf in leaves(value) if isinstance(leaf, str)}


def _number_kind(leaf: str, dtype: str) -> str | None:
    if not isinstance(leaf, Number):
        return TEXT
    if "float" in dtype:
        return None
    if len(leaf) > numbers.DIGITS:
        return LONG
    # pyarrow refuses even -0 for an unsigned type.
    return WHOLE if any(c in leaf for c in ".eE") or (dtype == "uint64" and leaf.startswith("-")) else None


def as_text(lines: Sequence[bytes], features: Sequence[Feature]) -> tuple[bytes, Spelling]:
    """Rewrites lines so that each number that feeds an input is a string.

    Args:
        lines: The lines.
        features: The model's inputs, and the fields that feed them.

    Returns:
        The new lines, and the spelling of their numbers.

    Raises:
        ValueError: A line is not JSON.
        RecursionError: A line is nested too deeply.
    """
    slots = frozenset(_open_numbers(features))
    written = "".join(f"{_spelled(parse(line), slots)}\n" for line in lines)
    return written.encode(), frozenset((slot, TEXT) for slot in slots)


def _spelled(value: Any, slots: frozenset[Path]) -> str:
    """Writes a value as JSON, with the numbers at these paths as strings."""
    if isinstance(value, Pairs):
        members = ((name, inner, frozenset(s[1:] for s in slots if s[:1] == (name,))) for name, inner in value)
        return f"{{{', '.join(f'{json.dumps(name)}: {_spelled(inner, rest)}' for name, inner, rest in members)}}}"
    if isinstance(value, list):
        return f"[{', '.join(_spelled(item, slots) for item in value)}]"
    return str(value) if isinstance(value, Number) and () not in slots else json.dumps(value)


def kinds(line: bytes, features: Sequence[Feature]) -> tuple[Any, ...] | None:
    """Returns the Python types of a line's needed values. Lines with equal types can probably be parsed together.

    It is fast and not exact, because the result only decides which lines are tried together first.

    Returns:
        The types; None if the line is not JSON.
    """
    try:
        row = msgspec.json.decode(line)
        return tuple(_kind(row_paths.at(row, path)) for feature in features for path in feature.paths)
    except (msgspec.MsgspecError, AttributeError, RecursionError):
        return None


def _kind(value: Any) -> Any:
    return frozenset(map(_kind, value)) if isinstance(value, list | dict) else type(value)


def likely(lines: pa.LargeBinaryArray, features: Sequence[Feature]) -> Mask:
    """Marks the lines whose needed fields can probably be read. It is a guess, made with Arrow's fast pattern search.

    Returns:
        bool, (lines,).
    """
    mask = np.ones(len(lines), np.bool_)
    for feature in features:
        for path in feature.paths:
            name = re.escape(json.dumps(path[-1], ensure_ascii=False))
            found = pc.match_substring_regex(lines, rf"{name}\s*:\s*{_likely_value(feature)}\s*[,}}]")
            mask &= found.to_numpy(zero_copy_only=False)
    return mask


def _likely_value(feature: Feature) -> str:
    """Makes an RE2 pattern for the values of a feature."""
    if feature.is_sparse:
        return r"\{[^{}]*\}"
    leaf = {"bool": BOOLS, STRING: TEXTS}.get(feature.dtype, NUMBERS)
    depth = 0 if len(feature.fields) > 1 else len(feature.shape)
    listed = rf"\[(?:{leaf}|[,\s\[\]])*" + r"\]\s*" * depth
    return rf"(?:{leaf}+|{listed})" if feature.shape in ((), (1,)) or not depth else listed
