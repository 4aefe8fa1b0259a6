"""File formats: one file each, behind one protocol, `transforms.formats.base.Format`.

A new format is a module here with an object that has the members of `Format`, and its name in
`FORMATS`; nothing else changes. This module knows names alone: the command line is read before anything large
is imported.
"""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from transforms.errors import UsageError

if TYPE_CHECKING:
    from transforms.formats.base import Format

FORMATS = {"jsonl": "transforms.formats.jsonl", "tfrecord": "transforms.formats.tfrecord"}


def load(name: str) -> "Format":
    """The format of that name; its libraries are imported only now."""
    made: Format = importlib.import_module(FORMATS[name]).FORMAT
    return made


SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
}
GZIP = ".gz"


def split_suffix(path: str) -> tuple[str, str]:
    """Cuts a known suffix off a name.

    >>> split_suffix("a/b.jsonl.gz")
    ('a/b', '.jsonl.gz')
    >>> split_suffix("part-0001")
    ('part-0001', '')
    """
    plain, gzip = (path[: -len(GZIP)], GZIP) if path.endswith(GZIP) else (path, "")
    for suffix in SUFFIXES:
        if plain.endswith(suffix):
            return plain[: -len(suffix)], suffix + gzip
    return path, ""


def name_of(paths: Sequence[str]) -> str:
    """The one format that all these files have, by their names.

    Raises:
        UsageError: A name tells no format, or two tell different ones.
    """
    seen: dict[str, str] = {}
    for path in paths:
        suffix = split_suffix(path)[1].removesuffix(GZIP)
        if not suffix:
            raise UsageError(
                f"{path}: the name does not tell the format (known: {' '.join(SUFFIXES)}, each also with .gz); "
                "name it with --format"
            )
        seen.setdefault(SUFFIXES[suffix], path)
    if len(seen) > 1:
        raise UsageError(f"inputs of several formats: {', '.join(seen.values())}; run one format at a time")
    return next(iter(seen))


def default_suffix(name: str) -> str:
    """What the parts of a source without a known suffix are called.

    >>> default_suffix("jsonl")
    '.jsonl'
    """
    return next(suffix for suffix, fmt in SUFFIXES.items() if fmt == name)
