"""`INPUT=…` is split by the names of the model's inputs; an ambiguous text is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors import UsageError
from transforms.mapping.input_names import resolve
from transforms.saved_model import constants
from transforms.scoring import padding

NAMES = st.lists(st.text("a=b", min_size=1, max_size=4), min_size=1, max_size=5, unique=True)
VALUES = st.text("a=b1", max_size=4)


def ways(text: str, inputs: list[str]) -> list[tuple[str, str]]:
    """Returns all ways to split a text into an input and a value."""
    cuts = (at for at, sign in enumerate(text) if sign == "=")
    return [(text[:at], text[at + 1 :]) for at in cuts if text[:at] in inputs]


@given(inputs=NAMES, value=VALUES, number=st.integers(0, 4), cut=st.integers(0, 8))
def test_a_text_is_read_in_its_only_way_or_refused(inputs: list[str], value: str, number: int, cut: int) -> None:
    text = f"{inputs[number % len(inputs)]}={value}"
    signs = [at for at, sign in enumerate(text) if sign == "="]
    at = signs[cut % len(signs)]  # any `=`, because resolve must not depend on where the flag was split
    possible = ways(text, inputs)
    try:
        found = resolve("--flag", [(text[:at], text[at + 1 :])], inputs)
    except UsageError:
        assert len(possible) > 1
    else:
        assert list(found.items()) == possible


@given(inputs=NAMES, value=VALUES, number=st.integers(0, 4), fields=st.sets(VALUES))
def test_a_field_that_the_rows_have_decides(inputs: list[str], value: str, number: int, fields: set[str]) -> None:
    text = f"{inputs[number % len(inputs)]}={value}"
    possible = [way for way in ways(text, inputs) if way[1]]
    likely = [way for way in possible if way[1] in fields]
    try:
        found = resolve("--flag", [tuple(text.split("=", 1))], inputs, fields)  # type: ignore[list-item]
    except UsageError:
        assert len(possible) != 1
        assert len(likely) != 1
    else:
        assert list(found.items()) == (possible if len(possible) == 1 else likely)


@pytest.mark.parametrize(
    ("flag", "read"),
    [
        ("--pad", lambda texts, inputs: padding.resolve(texts, inputs)),
        ("--constant", lambda texts, inputs: resolve(constants.FLAG, [t.split("=", 1) for t in texts], inputs)),
        ("--input_map", lambda texts, inputs: resolve("--input_map", [t.split("=", 1) for t in texts], inputs, [])),
    ],
)
def test_every_flag_has_the_same_rule(flag: str, read: object) -> None:
    assert read(["a=b=1"], ["a=b", "c"]) == {"a=b": "1"}  # type: ignore[operator]
    for texts, said in (
        (["a=b=1"], f"{flag} a=b=1 can be read in 2 ways, as the model has the inputs"),
        (["b=1"], f"{flag} names b, but the model's inputs are"),
        (["c=1", "c=2"], f"{flag} names the model input c twice"),
    ):
        with pytest.raises(UsageError, match=said):
            read(texts, ["a", "a=b", "c"])  # type: ignore[operator]


def test_what_is_no_text_names_its_input_exactly() -> None:
    assert resolve("--flag", [("a", ("b", "c")), ("a=b", None)], ["a", "a=b"]) == {"a": ("b", "c"), "a=b": None}
