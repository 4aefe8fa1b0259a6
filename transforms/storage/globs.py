"""Expands globs on this machine. They match what Beam's globs match, but a folder that cannot be listed is an error.

Beam's local file system walks through all folders below a glob's fixed folder and ignores errors. Rows could be lost
without a warning. This module lists only the folders that can hold a match, and fails if one cannot be listed.
"""

import os
import posixpath
import re
import warnings
from collections.abc import Callable, Iterator

from apache_beam.io.filesystem import FileSystem

WILDCARDS = "*?["
SLASHES = ("/", "?", "]")  # these can match a slash in Beam's globs, and so can end the path of a folder


def is_glob(pattern: str) -> bool:
    """Returns whether a pattern has wildcards."""
    return any(c in pattern for c in WILDCARDS)


def fixed_folder(glob: str) -> str:
    """Returns the folder of a glob before its first wildcard.

    >>> fixed_folder("data/2024-*/x.jsonl"), fixed_folder("gs://bucket/a/*.jsonl"), fixed_folder("*.jsonl")
    ('data', 'gs://bucket/a', '')
    """
    return posixpath.dirname(glob[: min(glob.find(c) for c in WILDCARDS if c in glob)])


def expand(glob: str, refuse: Callable[[OSError], None]) -> Iterator[str]:
    """Yields the paths that a glob matches, in no order: files, and links to folders or to nothing.

    Links are not followed. A link to a folder is included if a match could be behind it, so that the caller can report
    it. Folders themselves are never matches.

    Args:
        glob: A pattern with a folder before its first wildcard, such as `./*.jsonl`.
        refuse: Called with the error if a folder cannot be listed; it raises.

    Raises:
        re.error: The glob has an invalid range, such as `[z-a]`.
    """
    glob += "*" * glob.endswith(("/", "\\"))  # Beam does the same
    folder = fixed_folder(glob)
    match, leads = regex(glob), _leads(glob, folder)
    for at, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if leads(os.path.join(at, name, ""))]
        yield from (path for path in (os.path.join(at, name) for name in folders) if os.path.islink(path))
        for path in (os.path.join(at, name) for name in names):
            if match(path) or (leads(f"{path}/") and _leads_nowhere(path)):
                yield path


def _leads(glob: str, folder: str) -> Callable[[str], bool]:
    """Makes a function that returns whether a folder can hold a match, from the folder's path with a final slash.

    A folder can hold a match if a prefix of the glob matches the path. A prefix that ends inside a bracket is a
    different glob, which matches almost nothing and does no harm.
    """
    beginnings = (glob[:end] for end in range(len(folder) + 1, len(glob) + 1))
    ways = [regex(way) for way in beginnings if way.endswith("**") or (way != glob and way.endswith(SLASHES))]
    return lambda path: any(way(path) for way in ways)


def _leads_nowhere(path: str) -> bool:
    return os.path.islink(path) and not os.path.exists(path)


def regex(glob: str) -> Callable[[str], object]:
    """Makes a function that returns whether a path matches a glob by Beam's rules.

    Raises:
        re.error: The glob has an invalid range, such as `[z-a]`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Python warns that `[[` may get another meaning
        return re.compile(FileSystem.translate_pattern(glob)).match
