"""Lists and pairs of names on a command line: every name can be written, and no text is misread."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.mapping import name_lists

names = st.text(min_size=1, max_size=6) | st.text("a,=. []{}\"'\\", min_size=1, max_size=6)


@given(st.lists(names, min_size=1))
def test_any_list_of_names_can_be_written(found: list[str]) -> None:
    assert name_lists.names(name_lists.names_text(found)) == tuple(found)


@given(st.lists(st.lists(names, min_size=1).map(tuple), min_size=1).map(tuple))
def test_any_fields_can_be_written(found: tuple[name_lists.Path, ...]) -> None:
    assert name_lists.fields(name_lists.fields_text(found)) == found


@given(st.text(max_size=8) | st.text("a,=. []{}\"'\\", max_size=8))
def test_a_text_of_fields_is_written_again_or_refused(text: str) -> None:
    try:
        found = name_lists.fields(text)
    except ValueError:
        return
    assert name_lists.fields(name_lists.fields_text(found)) == found


@given(st.dictionaries(names, st.lists(names, min_size=1).map(tuple), min_size=1))
def test_any_pairs_can_be_written(found: dict[str, name_lists.Path]) -> None:
    (text,) = name_lists.pairs_texts(list(found.items()))
    assert dict(name_lists.pairs(text)) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a=x", [("a", "x")]),
        ("a=x,b=y", [("a", "x"), ("b", "y")]),
        ("a=x, b=y,c=z", [("a", "x"), ("b", "y"), ("c", "z")]),
        ("a=b=x", [("a=b", "x")]),
        ("a=x,y", [("a", "x,y")]),
        ('{"a": "x", "b": ["y", "z.1"]}', [("a", ("x",)), ("b", ("y", "z.1"))]),
    ],
)
def test_pairs_are_read(text: str, found: list[tuple[str, str | name_lists.Path]]) -> None:
    assert name_lists.pairs(text) == found


@pytest.mark.parametrize(
    "text",
    ["a", "=x", "a=", "a=x,,b=y", "a=x=1,b", "{", "{}", '{"a": 1}', '{"a": []}', '{"a": {"b": "c"}}', '{"": "a"}', '["a"]'],
)  # fmt: skip
def test_what_is_no_pair_or_may_be_several_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        name_lists.pairs(text)


@pytest.mark.parametrize("text", ["", ",", "a,,b", "[", "[]", "[1]", '[""]', '["a"'])
@pytest.mark.parametrize("read", [name_lists.names, name_lists.fields])
def test_what_is_no_list_of_names_is_refused(text: str, read: Callable[[str], Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(text)


@pytest.mark.parametrize("text", ['[["a", 1]]', "[[]]", '[["a", ""]]', '[{"a": "b"}]', '["a", null]'])
def test_what_is_no_field_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        name_lists.fields(text)
