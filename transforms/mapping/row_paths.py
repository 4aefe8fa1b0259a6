"""Finds fields inside objects: which field of the rows a name such as `a.b.c` means."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transforms.errors import UsageError
from transforms.mapping.name_lists import Path

Rows = Sequence[Mapping[str, Any]]
MOST_DOTS = 8  # a name with more steps is tried in two readings only: the number of readings doubles with each dot


def at(row: Any, path: Path) -> Any:
    """Returns the value at a path in a row; None if the row has no such field.

    >>> at({"a": {"b": 1}}, ("a", "b")), at({"a": 1}, ("a", "b"))
    (1, None)
    """
    for name in path:
        if not isinstance(row, Mapping) or name not in row:
            return None
        row = row[name]
    return row


def leads(row: Any, path: Path) -> bool:
    """Whether a row has a field at a path. The value may be null."""
    held = at(row, path[:-1])
    return isinstance(held, Mapping) and path[-1] in held


def find(name: str, field: str | Path, sample: Rows) -> Path:
    """Finds the path of the field that feeds an input. A name with dots is one field, or a field inside objects.

    Args:
        name: The model's input.
        field: A name, whose dots may separate the steps of a path; or a path, which is returned unchanged.
        sample: Sampled rows. If none has such a field, the name is taken as one field.

    Raises:
        UsageError: The name could mean several fields of the rows.

    >>> find("x", "a.b", [{"a": {"b": 1}}]), find("x", "a.b", [{"a.b": 1}]), find("x", "a.b", [])
    (('a', 'b'), ('a.b',), ('a.b',))
    """
    paths = _meant(field, sample)
    if len(paths) > 1:
        flags = " or ".join(f"--input_map={shlex.quote(json.dumps({name: list(path)}))}" for path in paths)
        raise UsageError(f"--input_map {name}={field} may mean {len(paths)} fields of the rows; write {flags}")
    return paths[0]


def find_all(fields: Sequence[str | Path], sample: Rows) -> tuple[Path, ...]:
    """Finds the paths of the fields in `--features`, each as in `find`.

    Args:
        fields: Names or paths.
        sample: Sampled rows.

    Raises:
        UsageError: A name could mean several fields of the rows.

    >>> find_all(["a.b", "c.d"], [{"a": {"b": 1}, "c.d": 2}])
    (('a', 'b'), ('c.d',))
    """
    meant = [_meant(field, sample) for field in fields]
    for at, paths in enumerate(meant):
        if len(paths) > 1:
            lists = ([list(other[0]) for other in (*meant[:at], [path], *meant[at + 1 :])] for path in paths)
            flags = " or ".join(f"--features={shlex.quote(json.dumps(one))}" for one in lists)
            raise UsageError(f"--features: {fields[at]} may mean {len(paths)} fields of the rows; write {flags}")
    return tuple(paths[0] for paths in meant)


def _meant(field: str | Path, sample: Rows) -> list[Path]:
    """Returns the paths in the rows that a name could mean; only the name itself if the rows have none of them."""
    if not isinstance(field, str):
        return [field]
    return [way for way in _ways(field) if any(leads(row, way) for row in sample)] or [(field,)]


def _ways(field: str) -> Iterator[Path]:
    """Yields the ways to split a name at its dots into a path."""
    steps = field.split(".")
    if len(steps) > MOST_DOTS:
        yield from ((field,), tuple(steps))
        return
    for cuts in range(1 << (len(steps) - 1)):
        way = [steps[0]]
        for number, step in enumerate(steps[1:]):
            if cuts >> number & 1:
                way.append(step)
            else:
                way[-1] += f".{step}"
        yield tuple(way)
