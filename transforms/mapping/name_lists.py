"""Parses lists and pairs of names from the texts of flags, writes them back as texts, and finds repeated names.

A flag may give names as JSON, so that names can contain commas, equals signs and dots.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Path = tuple[str, ...]  # a field of a row, then the fields inside it that lead to a value
FORM = """--input_map '{"INPUT": "FIELD", "OTHER": ["FIELD", "FIELD INSIDE OF IT"]}'"""


def repeated(found: Iterable[str]) -> str | None:
    """Returns the first name that comes more than once; None if there is none.

    >>> repeated(["a", "b", "c", "b", "a"]), repeated(["a", "b"])
    ('a', None)
    """
    return next((name for name, count in Counter(found).items() if count > 1), None)


def names(text: str) -> tuple[str, ...]:
    """Parses a list of names: names separated by commas, or a JSON array of strings.

    Raises:
        ValueError: A name is empty, or the text is not a JSON array of strings.

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
    """Writes a list of names as a text. `names` parses the text to the same list.

    >>> names_text(["a", "b"]), names_text(["a,b", " c"])
    ('a,b', '["a,b", " c"]')
    """
    text = ",".join(found)
    plain = not text.startswith("[") and all(name and name == name.strip() and "," not in name for name in found)
    return text if plain else json.dumps(list(found), ensure_ascii=False)


def fields(text: str) -> tuple[str | Path, ...]:
    """Parses a list of fields: names separated by commas, or a JSON array.

    Returns:
        For names separated by commas, the names as given. A name with dots may lead into objects. For a JSON array,
        one path for each element. A string is the field of exactly that name. An array of strings is the path to a
        value inside objects.

    Raises:
        ValueError: A name is empty, or the text is not a JSON array of strings and arrays of strings.

    >>> fields("a, b.c"), fields('["a.b", ["b", "c"]]')
    (('a', 'b.c'), (('a.b',), ('b', 'c')))
    """
    if not text.lstrip().startswith("["):  # a first name that begins with [ would be written as the text of an array
        return names(text)
    found = _json(text)
    if not isinstance(found, list) or isinstance(found, _Members) or not found:
        raise ValueError(f'{text!r} is no JSON array of fields such as ["a.b", ["b", "c"]]')
    paths = [_path(field, text, '["FIELD", ["FIELD", "FIELD INSIDE OF IT"]]') for field in found]
    if not all(all(path) for path in paths):
        raise ValueError(f"{text!r} has an empty name; give each field its name")
    return tuple(paths)


def fields_text(found: Sequence[str | Path]) -> str:
    """Writes fields as a text. `fields` parses the text to the same fields."""
    given = [field if isinstance(field, str) else field[0] if len(field) == 1 else list(field) for field in found]
    if all(isinstance(field, str) for field in found):
        return ",".join(map(str, found))
    return json.dumps(given, ensure_ascii=False)


def pairs(text: str) -> list[tuple[str, str | Path]]:
    """Parses the fields that feed inputs: `INPUT=FIELD`, several such pairs separated by commas, or a JSON object.

    Returns:
        Pairs of input and field. A field is a text as given; if the text is JSON, it is a path.

    Raises:
        ValueError: The text has none of these forms.

    >>> pairs("x=a.b"), pairs("a=x,b=y"), pairs('{"x": ["a", "b.c"], "y": "d"}')
    ([('x', 'a.b')], [('a', 'x'), ('b', 'y')], [('x', ('a', 'b.c')), ('y', ('d',))])
    """
    if text.startswith("{"):
        return [(name, _path(value, text)) for name, value in members(text)]
    pieces = [piece.strip() for piece in text.split(",")] if text.count("=") > 1 and "," in text else [text]
    split: list[tuple[str, str | Path]] = []
    for piece in pieces:
        # With several equals signs any one will do: `input_names.resolve` finds the right one by the model's inputs.
        at = piece.rfind("=", 1, -1)
        if at < 0 or piece.startswith("="):
            raise ValueError(f"{text!r} is not of the form INPUT=FIELD; write names with = or , as JSON: {FORM}")
        split.append((piece[:at], piece[at + 1 :]))
    return split


def pairs_texts(found: Sequence[tuple[str, str | Path]]) -> list[str]:
    """Writes pairs as texts. `pairs` parses the texts to the same pairs."""
    plain = [f"{name}={field}" for name, field in found if isinstance(field, str)]
    paths = {name: list(field) for name, field in found if not isinstance(field, str)}
    return [*plain, *([json.dumps(paths, ensure_ascii=False)] if paths else [])]


def values(text: str) -> list[tuple[str, str]]:
    """Parses values of fields: `FIELD=VALUE`, or a JSON object of fields and values.

    Returns:
        Pairs of field and text of the value. A string is the text itself; another JSON value is written as JSON.

    Raises:
        ValueError: The text has neither form, or could be several pairs.

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
    """Writes values as a text. `values` parses the text to the same values."""
    return json.dumps(dict(found), ensure_ascii=False)


def _value(value: Any, text: str) -> str:
    if value is None or isinstance(value, _Members):
        raise ValueError(f"{text!r} gives a field a value that is none; write a number, a string, a bool or a list")
    spelled = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if "Infinity" in spelled and "Infinity" not in text:
        raise ValueError(f"{text!r} holds a number that is too large")
    return spelled


def members(text: str) -> list[tuple[str, Any]]:
    """Parses the members of a JSON object, in order. A name that occurs twice is returned twice.

    Raises:
        ValueError: The text is not a JSON object, the object is empty, or a name is empty.
    """
    found = _json(text)
    if not isinstance(found, _Members) or not found or not all(name for name, _ in found):
        raise ValueError(f"{text!r} is no JSON object with names")
    return list(found)


class _Members(list[tuple[str, Any]]):
    """The members of a JSON object, as a type that differs from the list of a JSON array."""


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
