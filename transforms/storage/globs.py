"""Globs on this machine: they match what they match for Beam, but a folder that cannot be listed is no empty one.

Beam's local file system walks through all below a glob's fixed folder, and keeps errors to itself: rows would be gone
without a word. Here every folder that a match can lie in has to be listed, and no other is looked into.
"""

import os
import posixpath
import re
import warnings
from collections.abc import Callable, Iterator

from apache_beam.io.filesystem import FileSystem

WILDCARDS = "*?["
SLASHES = ("/", "?", "]")  # what may stand for a slash in Beam's globs, and so may end the path of a folder


def is_glob(pattern: str) -> bool:
    """Whether a pattern has wildcards."""
    return any(c in pattern for c in WILDCARDS)


def fixed_folder(glob: str) -> str:
    """The folder of a glob, before its first wildcard.

    >>> fixed_folder("data/2024-*/x.jsonl"), fixed_folder("gs://bucket/a/*.jsonl"), fixed_folder("*.jsonl")
    ('data', 'gs://bucket/a', '')
    """
    return posixpath.dirname(glob[: min(glob.find(c) for c in WILDCARDS if c in glob)])


def expand(glob: str, refuse: Callable[[OSError], None]) -> Iterator[str]:
    """Paths that a glob matches, in no order: those of files, and of links that lead to a folder or nowhere.

    Links are not followed. Those that lead to a folder are here if a match could lie behind them, so that they can be
    told; folders themselves match nothing.

    Args:
        glob: A pattern with a folder before its first wildcard: `./*.jsonl`.
        refuse: Called with the error where a folder cannot be listed; raises.

    Raises:
        re.error: The glob has a range that is none: `[z-a]`.
    """
    glob += "*" * glob.endswith(("/", "\\"))  # as Beam has it
    folder = fixed_folder(glob)
    match, leads = regex(glob), _leads(glob, folder)
    for at, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if leads(os.path.join(at, name, ""))]
        yield from (path for path in (os.path.join(at, name) for name in folders) if os.path.islink(path))
        for path in (os.path.join(at, name) for name in names):
            if match(path) or (leads(f"{path}/") and _leads_nowhere(path)):
                yield path


def _leads(glob: str, folder: str) -> Callable[[str], bool]:
    """Tells whether a match can lie in a folder, by its path with a slash: whether a beginning of the glob matches it.

    A beginning that ends within a bracket is a glob of its own that matches next to nothing: that does no harm.
    """
    beginnings = (glob[:end] for end in range(len(folder) + 1, len(glob) + 1))
    ways = [regex(way) for way in beginnings if way.endswith("**") or (way != glob and way.endswith(SLASHES))]
    return lambda path: any(way(path) for way in ways)


def _leads_nowhere(path: str) -> bool:
    return os.path.islink(path) and not os.path.exists(path)


def regex(glob: str) -> Callable[[str], object]:
    """Tells whether a path matches a glob, as Beam has it.

    Raises:
        re.error: The glob has a range that is none: `[z-a]`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # `[[` may come to mean something else in regular expressions
        return re.compile(FileSystem.translate_pattern(glob)).match
