"""How values are spelled in JSON lines, as far as that decides by which types they can be read together."""

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

LONG = "long"  # a number of more digits than Arrow's decimals have
# What a value that can be read is made of: null is found later. Numbers may be strings, NaN and Infinity among them.
NUMBERS, BOOLS, TEXTS = r'[-+0-9.eEnul"NaIfity]', r"[truefalsn]", r'(?:"(?:[^"\\]|\\.)*"|null)'


def spelling(line: bytes, features: Sequence[Feature]) -> Spelling:
    """How the values of this line are spelled where there is a choice."""
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
    """How numbers are spelled in lines that cannot be read as they mostly are.

    Returns:
        What the first value of each field says; None if one is spelled so that only `as_text` reads it.
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
    """The value at a path in a parsed row, None where there is none."""
    for name in path:
        value = dict(value).get(name) if isinstance(value, Pairs) else None
    return value


def _open_numbers(features: Sequence[Feature]) -> dict[Path, Feature]:
    """The fields of numbers that may be spelled in several ways."""
    return {
        path: feature
        for feature in features
        if feature.dtype not in ("bool", STRING) and not (feature.strict or feature.is_sparse)
        for path in feature.paths
    }


def _number_kinds(value: Any, dtype: str) -> set[str | None]:
    """How the numbers of a value are spelled: TEXT, WHOLE, LONG, or None for the usual way."""
    return {_number_kind(leaf, dtype) for leaf in leaves(value) if isinstance(leaf, str)}


def _number_kind(leaf: str, dtype: str) -> str | None:
    if not isinstance(leaf, Number):
        return TEXT
    if "float" in dtype:
        return None
    if len(leaf) > numbers.DIGITS:
        return LONG
    # The reader takes not even -0 for an unsigned number.
    return WHOLE if any(c in leaf for c in ".eE") or (dtype == "uint64" and leaf.startswith("-")) else None


def as_text(lines: Sequence[bytes], features: Sequence[Feature]) -> tuple[bytes, Spelling]:
    """Lines that say the same with all numbers that are needed as strings; how these are spelled."""
    slots = frozenset(_open_numbers(features))
    written = "".join(f"{_spelled(parse(line), slots)}\n" for line in lines)
    return written.encode(), frozenset((slot, TEXT) for slot in slots)


def _spelled(value: Any, slots: frozenset[Path]) -> str:
    """A value as JSON, with numbers at these paths as strings."""
    if isinstance(value, Pairs):
        members = ((name, inner, frozenset(s[1:] for s in slots if s[:1] == (name,))) for name, inner in value)
        return f"{{{', '.join(f'{json.dumps(name)}: {_spelled(inner, rest)}' for name, inner, rest in members)}}}"
    if isinstance(value, list):
        return f"[{', '.join(_spelled(item, slots) for item in value)}]"
    return str(value) if isinstance(value, Number) and () not in slots else json.dumps(value)


def kinds(line: bytes, features: Sequence[Feature]) -> tuple[Any, ...] | None:
    """Of what kinds the needed values are: what lines have in common that can be parsed together.

    None if the line is not JSON. Quick rather than exact: it only decides what is tried first.
    """
    try:
        row = msgspec.json.decode(line)
        return tuple(_kind(row_paths.at(row, path)) for feature in features for path in feature.paths)
    except (msgspec.MsgspecError, AttributeError, RecursionError):
        return None


def _kind(value: Any) -> Any:
    return frozenset(map(_kind, value)) if isinstance(value, list | dict) else type(value)


def likely(lines: pa.LargeBinaryArray, features: Sequence[Feature]) -> Mask:
    """Which lines look as if the needed fields could be read; a guess, at the speed of Arrow."""
    mask = np.ones(len(lines), np.bool_)
    for feature in features:
        for path in feature.paths:
            name = re.escape(json.dumps(path[-1], ensure_ascii=False))
            found = pc.match_substring_regex(lines, rf"{name}\s*:\s*{_likely_value(feature)}\s*[,}}]")
            mask &= found.to_numpy(zero_copy_only=False)
    return mask


def _likely_value(feature: Feature) -> str:
    """A pattern (RE2) for a value of a feature."""
    if feature.is_sparse:
        return r"\{[^{}]*\}"
    leaf = {"bool": BOOLS, STRING: TEXTS}.get(feature.dtype, NUMBERS)
    depth = 0 if len(feature.fields) > 1 else len(feature.shape)
    listed = rf"\[(?:{leaf}|[,\s\[\]])*" + r"\]\s*" * depth
    return rf"(?:{leaf}+|{listed})" if feature.shape in ((), (1,)) or not depth else listed
