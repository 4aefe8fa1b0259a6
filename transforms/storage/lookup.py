"""Looks up files by path, glob or folder. A look-up finds every file, or it fails."""

import contextlib
import os
import re
import stat
from collections.abc import Iterator

from transforms.errors import RunError, UsageError
from transforms.storage import files, globs, objects, stdin, versions
from transforms.storage.objects import Stored


def match(pattern: str) -> list[Stored]:
    """Looks up the files that a path or glob names, sorted by path.

    A local path to an existing file is not treated as a glob, even if it has wildcards.

    Raises:
        UsageError: A glob matches a link to a folder, or a look-up failed.
    """
    if not files.is_local(pattern):
        with _as_usage():
            found = files.stored(objects.look_up, pattern)
            if not found:  # the bucket may not exist, which `probe` reports
                files.stored(objects.probe, objects.WILDCARDS.split(pattern)[0])
    elif not globs.is_glob(pattern) or os.path.isfile(pattern):
        place = stdin.place(pattern)
        found = [_metadata(pattern)] if os.path.exists(place) and not os.path.isdir(place) else []
    else:
        found = [_metadata(path) for path in _expand(pattern)]
    return sorted(found, key=lambda file: file.path)


def check_reachable(path: str) -> None:
    """Refuses a path whose file system cannot be reached. The path itself need not exist.

    Raises:
        UsageError: There is no such file system or bucket, no permission, or no network.
    """
    if not files.is_local(path):
        with _as_usage():
            files.stored(objects.probe, path)


def match_below(folder: str) -> list[Stored]:
    """Looks up the files in a folder and below, sorted by path. A folder that does not exist has none.

    Raises:
        UsageError: The folder holds a link to another folder, or a look-up failed.
    """
    with _as_usage():
        if not files.is_local(folder):
            return sorted(files.stored(objects.below, folder), key=lambda file: file.path)
        names = files.list_below(folder)
    return [_metadata(os.path.join(folder, name)) for name in names]


def _expand(pattern: str) -> list[str]:
    """Expands a local glob. A glob without a folder is looked up in the current folder."""
    here = "" if globs.fixed_folder(pattern) else "./"
    try:
        with _as_usage():
            return [path[len(here) :] for path in globs.expand(here + pattern, files.refuse)]
    except re.error as error:
        raise UsageError(f"cannot look up {pattern}: {error}; correct the text in its brackets") from error


def _metadata(path: str) -> Stored:
    try:
        found = os.stat(stdin.place(path))
    except FileNotFoundError:
        return Stored(path, 0)  # a dangling link counts as a file, so that reading it fails and is reported
    except OSError as error:
        raise UsageError(f"{path} cannot be looked up: {error}; {files.remedy(error)}, or leave it out") from error
    if stat.S_ISDIR(found.st_mode):
        raise UsageError(f"{path} is a link to a folder; give that folder as an --input of its own")
    version = versions.version_of(found)
    # The inode alone is not enough: some network file systems give two files the same inode.
    return Stored(path, found.st_size, found.st_mtime, version, (found.st_dev, version, found.st_size))


@contextlib.contextmanager
def _as_usage() -> Iterator[None]:
    try:
        yield
    except RunError as error:
        raise UsageError(f"{error}") from error
    except OSError as error:  # the user may list the folder but not look up its files
        raise UsageError(f"{error.filename} cannot be looked up: {error}; {files.remedy(error)}") from error
