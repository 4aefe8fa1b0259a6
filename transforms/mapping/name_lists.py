"""Lists of names and pairs of names as texts of a command line, and back."""

import json
from collections.abc import Callable, Mapping, Sequence
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


def fields(text: str) -> tuple[str | Path, ...]:
    """The fields in a list: names between commas, or a JSON array.

    Returns:
        Names as they were given, which may lead into objects; of an array, paths: of a string the field of that name,
        of an array of strings the names that lead to a value.

    Raises:
        ValueError: A name is empty, or the array holds something else.

    >>> fields("a, b.c"), fields('["a.b", ["b", "c"]]')
    (('a', 'b.c'), (('a.b',), ('b', 'c')))
    """
    if not text.startswith("["):
        return names(text)
    found = _json(text)
    if not isinstance(found, list) or isinstance(found, _Members) or not found:
        raise ValueError(f'{text!r} is no JSON array of fields such as ["a.b", ["b", "c"]]')
    paths = [_path(field, text, '["FIELD", ["FIELD", "FIELD INSIDE OF IT"]]') for field in found]
    if not all(all(path) for path in paths):
        raise ValueError(f"{text!r} has an empty name; give each field its name")
    return tuple(paths)


def fields_text(found: Sequence[str | Path]) -> str:
    """The text of fields, of which `fields` makes the same ones."""
    given = [field if isinstance(field, str) else field[0] if len(field) == 1 else list(field) for field in found]
    if all(isinstance(field, str) for field in found):
        return ",".join(map(str, found))
    return json.dumps(given, ensure_ascii=False)


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
        at = piece.rfind("=", 1, -1)  # of several; which one it is depends on the model, see `input_names.resolve`
        if at < 0 or piece.startswith("="):
            raise ValueError(f"{text!r} is not of the form INPUT=FIELD; write names with = or , as JSON: {FORM}")
        split.append((piece[:at], piece[at + 1 :]))
    return split


def pairs_texts(found: Sequence[tuple[str, str | Path]]) -> list[str]:
    """The texts of pairs, of which `pairs` makes the same ones."""
    plain = [f"{name}={field}" for name, field in found if isinstance(field, str)]
    paths = {name: list(field) for name, field in found if not isinstance(field, str)}
    return [*plain, *([json.dumps(paths, ensure_ascii=False)] if paths else [])]


def values(text: str) -> list[tuple[str, str]]:
    """Values of fields: `FIELD=VALUE`, or a JSON object of them.

    Returns:
        Field and text of the value: as it was given, or JSON that is no string.

    Raises:
        ValueError: It is neither, or may be several pairs.

    >>> values("age=0"), values('{"a=b": 1, "city": "Bern", "x": [0, 1]}')
    ([('age', '0')], [('a=b', '1'), ('city', 'Bern'), ('x', '[0, 1]')])
    """
    if text.startswith("{"):
        return [(name, _value(value, text)) for name, value in members(text)]
    at = text.find("=", 1)
    if at < 0 or text.startswith("=") or ("," in text and text.count("=") > 1):
        raise ValueError(
            f"{text!r} is not one FIELD=VALUE; write several, or names and values with = and , as JSON: "
            """--missing '{"FIELD": 0, "OTHER": "a=b"}'"""
        )
    return [(text[:at], text[at + 1 :])]


def values_text(found: Mapping[str, str]) -> str:
    """The text of values, of which `values` makes the same ones."""
    return json.dumps(dict(found), ensure_ascii=False)


def _value(value: Any, text: str) -> str:
    if value is None or isinstance(value, _Members):
        raise ValueError(f"{text!r} gives a field a value that is none; write a number, a string, a bool or a list")
    spelled = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if "Infinity" in spelled and "Infinity" not in text:
        raise ValueError(f"{text!r} holds a number that is too large")
    return spelled


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


def _path(value: Any, text: str, form: str = FORM) -> Path:
    steps = [value] if isinstance(value, str) else value
    if isinstance(value, _Members) or not isinstance(steps, list) or not steps:
        raise ValueError(f"{text!r} is not of the form {form}")
    if not all(isinstance(step, str) for step in steps):
        raise ValueError(f"{text!r} is not of the form {form}")
    return tuple(steps)
