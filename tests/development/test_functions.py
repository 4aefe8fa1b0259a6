"""Tests that a function has at most 40 lines, or a reason in `REASONS`. Ruff limits branches (C901, PLR0915)."""

import ast
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

SCREEN, MOST = 40, 60  # lines without the docstring
REASONS = {
    "pipeline/plan/preflight.py prepare": "the order of the checks of a plan, each of which needs the ones before it",
    "transforms/keyed_predict.py __init__": "one check for each argument, and the signature has one line for each",
    "transforms/mapping/feature_mapping.py map_inputs": "the rules of mapping in their order: the first that fits decides",
    "transforms/replay_part.py replay_part": "a part is read, scored and written: all but the receipt is needed to the end",
}


def functions() -> Iterator[tuple[str, int]]:
    """Yields the functions of the product, with their number of lines."""
    for package in ("keyjoin", "pipeline", "transforms"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef):
                    yield f"{path.relative_to(ROOT)} {node.name}", lines(node)


def lines(node: ast.FunctionDef) -> int:
    first = node.body[0]
    documented = (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(node) is not None else 0
    return (node.end_lineno or 0) - node.lineno + 1 - documented


def test_a_function_fits_on_a_screen_or_says_why() -> None:
    long = {name: size for name, size in functions() if size > SCREEN}
    assert long.keys() <= REASONS.keys(), "split these by meaning, or give a reason"
    assert max(long.values(), default=0) <= MOST


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f():\n    pass", 2),
        ('def f():\n    """One.\n\n    Two.\n    """\n    return 1', 2),
        ("def f(a,\n      b): ...", 2),
    ],
)
def test_the_docstring_does_not_count(text: str, expected: int) -> None:
    (node,) = ast.parse(text).body
    assert isinstance(node, ast.FunctionDef)
    assert lines(node) == expected
