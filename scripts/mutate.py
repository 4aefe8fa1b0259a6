"""Runs mutation tests: changes one place of a module at a time, and prints the changes that no test detects.

    python -m scripts.mutate transforms/scoring/align.py tests/transforms/scoring/test_align.py [--every N]

The script imports the large libraries once, and tests each change in a fork of its process. It prints each change that
survives, with its line. See docs/development/testing.md.
"""

import argparse
import ast
import copy
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

HEAVY = ("tensorflow", "apache_beam", "apache_beam.io.filesystems", "pyarrow.compute", "pyarrow.json", "hypothesis")
SECONDS = 60  # a change that makes a test wait for ever counts as detected after this time
COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
DELETED = (ast.Expr, ast.Assign, ast.AugAssign, ast.Raise, ast.If, ast.For, ast.Delete, ast.Continue, ast.Break)


def changes_of(node: ast.AST) -> Iterator[Any]:
    """Yields each mutation of a node: another node to put in its place."""
    other: Any = copy.deepcopy(node)
    match node:
        case ast.Compare(ops=[op, *_]) if type(op) in COMPARED:
            other.ops[0] = COMPARED[type(op)]()
            yield other
        case ast.BinOp(op=op) if type(op) in COMPUTED:
            other.op = COMPUTED[type(op)]()
            yield other
        case ast.BoolOp(op=op):
            other.op = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield other
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield ast.Constant(value + 1)
        case ast.Return(value=value) if value is not None and ast.unparse(value) != "None":
            yield ast.Return(ast.Constant(None))
        case ast.IfExp(body=body, orelse=orelse):
            yield body
            yield orelse
        case _ if isinstance(node, DELETED) and not _is_text(node):
            yield ast.Pass()


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def mutants(tree: ast.Module) -> Iterator[tuple[str, ast.Module]]:
    """Yields changed trees, each with a text that describes its change.

    Type annotations and f-strings are not changed: types have no effect at run time, and f-strings are messages.
    """
    skipped = {id(inner) for node in ast.walk(tree) for part in _apart(node) for inner in ast.walk(part)}
    numbered = list(ast.walk(tree))
    for number, node in enumerate(numbered):
        if id(node) in skipped or not hasattr(node, "lineno"):
            continue
        for other in changes_of(node):
            changed = copy.deepcopy(tree)
            _replace(changed, list(ast.walk(changed))[number], ast.copy_location(other, node))
            said = f"{node.lineno}: {ast.unparse(node)[:70]!r} -> {ast.unparse(other)[:70]!r}"
            yield said, ast.fix_missing_locations(changed)


def _apart(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.AnnAssign(annotation=annotation) | ast.arg(annotation=annotation) if annotation is not None:
            yield annotation
        case ast.FunctionDef(returns=returns) if returns is not None:
            yield returns
        case ast.JoinedStr():
            yield node
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            yield node


def _replace(tree: ast.AST, old: ast.AST, new: Any) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
            elif isinstance(value, list) and any(item is old for item in value):
                value[[item is old for item in value].index(True)] = new


def survives(path: Path, tree: ast.Module, tests: list[str]) -> bool:
    """Returns whether the tests pass with the changed module; then no test detects the change."""
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.alarm(SECONDS)
        original = SourceFileLoader.get_code

        def get_code(self: SourceFileLoader, fullname: str) -> Any:
            mine = Path(self.get_filename(fullname)).resolve() == path
            return compile(tree, str(path), "exec") if mine else original(self, fullname)

        SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        import pytest

        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def main() -> None:
    """Reads the command line, and tests the changes of a module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--every", type=int, default=1, help="try only each so-manieth change")
    parser.add_argument("-k", help="as pytest has it")
    given = parser.parse_args()
    for name in HEAVY:
        importlib.import_module(name)
    tests = [*given.tests, *(["-k", given.k] if given.k else [])]
    tree = ast.parse(given.module.read_text())
    if not survives(given.module.resolve(), tree, tests):
        sys.exit("the tests fail without any change")
    tried = left = 0
    for said, changed in list(mutants(tree))[:: given.every]:
        tried += 1
        if survives(given.module.resolve(), changed, tests):
            left += 1
            print(f"{given.module}:{said}", flush=True)
    print(f"{given.module}: {tried} changes, {left} survived", flush=True)


if __name__ == "__main__":
    main()
