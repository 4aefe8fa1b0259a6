"""Modules import each other in one direction: no circles, and `transforms` needs nothing of `pipeline`."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("keyjoin", "pipeline", "transforms")


def modules() -> dict[str, Path]:
    """All modules by name. The face of a package, its `__init__.py`, has the package's name."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imported(path: Path) -> Iterator[str]:
    """The names that a module imports anywhere, in functions and for type checks as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Each module -> the modules that it imports. The face of a package is left out: it may import what is inside."""
    known = modules()
    inside = {name: path for name, path in known.items() if path.name != "__init__.py"}
    return {name: {other for other in imported(path) if other in inside} for name, path in inside.items()}


def test_no_modules_import_each_other_in_a_circle(imports: dict[str, set[str]]) -> None:
    assert sum(map(len, imports.values())) > len(imports)
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"{' <- '.join(error.args[1])}; move what two of them need below both")


def test_transforms_need_nothing_of_the_pipeline(imports: dict[str, set[str]]) -> None:
    upwards = {
        (name, other)
        for name, others in imports.items()
        for other in others
        if name.startswith("transforms.") and not other.startswith("transforms.")
    }
    assert upwards == set()
