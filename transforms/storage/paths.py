"""Paths of this machine as its file system has them, not as they look."""

import os


def absolute(path: str) -> str:
    """A path that does not depend on the current folder, without `..`, which behind a link is not what it looks like.

    Links that no `..` follows stay in it: they are names that somebody chose.
    """
    steps = path.split("/")
    if ".." in steps:
        cut = len(steps) - steps[::-1].index("..")
        path = os.path.join(os.path.realpath("/".join(steps[:cut])), *steps[cut:])
    return os.path.abspath(path)
