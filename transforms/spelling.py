"""Lists of names and pairs of names as texts of a command line, and back."""

import json
from collections.abc import Callable, Sequence
from typing import Any

Path = tuple[str, ...]  # a field of a row, and the fields inside of it down to a value
FORM = """--input_map '{"INPUT": "FIELD", "OTHER": ["FIELD", "FIELD INSIDE OF IT"]}'"""


def names(text: str) -> tuple[str, ...]:
    """The names in a list: between commas, or a JSON array of strings.

    Raises:
        ValueError: A name is empty, or the array holds something else.

    >>> names("a, b"), names('["a,b", " c"]')
    (('a', 'b'), ('a,b', ' c'))
    """
    if text.startswith("["):
        found = _json(text)
        if not isinstance(found, list) or not found or not all(isinstance(name, str) and name for name in found):
            raise ValueError(f'{text!r} is no JSON array of names such as ["a,b", "c"]')
        return tuple(found)
    split = tuple(name.strip() for name in text.split(","))
    if not all(split):
        raise ValueError(f"{text!r} has an empty name; write names with single commas between them")
    return split


def names_text(found: Sequence[str]) -> str:
    """The text of a list of names, of which `names` makes the same list.

    >>> names_text(["a", "b"]), names_text(["a,b", " c"])
    ('a,b', '["a,b", " c"]')
    """
    text = ",".join(found)
    plain = not text.startswith("[") and all(name and name == name.strip() and "," not in name for name in found)
    return text if plain else json.dumps(list(found), ensure_ascii=False)


def pairs(text: str) -> list[tuple[str, str | Path]]:
    """What feeds inputs: `INPUT=FIELD`, several of them with commas between, or a JSON object.

    Returns:
        Input and field. A field is a text as it was given, or where it was given as JSON, a path.

    Raises:
        ValueError: It is none of these, or may be several.

    >>> pairs("x=a.b"), pairs("a=x,b=y"), pairs('{"x": ["a", "b.c"], "y": "d"}')
    ([('x', 'a.b')], [('a', 'x'), ('b', 'y')], [('x', ('a', 'b.c')), ('y', ('d',))])
    """
    if text.startswith("{"):
        return [(name, _path(value, text)) for name, value in members(text)]
    pieces = [piece.strip() for piece in text.split(",")] if text.count("=") > 1 and "," in text else [text]
    split: list[tuple[str, str | Path]] = []
    for piece in pieces:
        at = piece.rfind("=", 1, -1)  # of several; which one it is depends on the model, see `mapping.resolve`
        if at < 0 or piece.startswith("="):
            raise ValueError(f"{text!r} is not of the form INPUT=FIELD; write names with = or , as JSON: {FORM}")
        split.append((piece[:at], piece[at + 1 :]))
    return split


def pairs_texts(found: Sequence[tuple[str, str | Path]]) -> list[str]:
    """The texts of pairs, of which `pairs` makes the same ones."""
    plain = [f"{name}={field}" for name, field in found if isinstance(field, str)]
    paths = {name: list(field) for name, field in found if not isinstance(field, str)}
    return [*plain, *([json.dumps(paths, ensure_ascii=False)] if paths else [])]


def members(text: str) -> list[tuple[str, Any]]:
    """The members of a JSON object, in order; a name that is given twice comes twice.

    Raises:
        ValueError: It is none.
    """
    found = _json(text)
    if not isinstance(found, _Members) or not found or not all(name for name, _ in found):
        raise ValueError(f"{text!r} is no JSON object with names")
    return list(found)


class _Members(list[tuple[str, Any]]):
    """An object's members."""


_read: Callable[[str], Any] = json.JSONDecoder(object_pairs_hook=_Members).decode


def _json(text: str) -> Any:
    try:
        return _read(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{text!r} begins like JSON and is none: {error}") from error


def _path(value: Any, text: str) -> Path:
    steps = [value] if isinstance(value, str) else value
    if isinstance(value, _Members) or not isinstance(steps, list) or not steps:
        raise ValueError(f"{text!r} is not of the form {FORM}")
    if not all(isinstance(step, str) for step in steps):
        raise ValueError(f"{text!r} is not of the form {FORM}")
    return tuple(steps)
