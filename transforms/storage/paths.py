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


def normal(path: str) -> str:
    """The one spelling of a path that names of sources and keys have.

    Steps that lead nowhere are removed: `.`, double slashes, and a folder with `..` behind it. A link with `..` behind
    it stays: that leads to the folder above the one that the link leads to. A relative path stays relative.

    >>> normal("./data//a.jsonl"), normal("/data/./a.jsonl"), normal("../a.jsonl"), normal("./")
    ('data/a.jsonl', '/data/a.jsonl', '../a.jsonl', '.')
    """
    if not path.startswith("./") and not path.endswith("/") and "//" not in path and "/." not in path:
        return path
    root, kept = "/" * path.startswith("/"), list[str]()
    for step in path.split("/"):
        if step == ".." and kept and kept[-1] != ".." and _is_folder(root + "/".join(kept)):
            kept.pop()
        elif step not in ("", "."):
            kept.append(step)
    return root + "/".join(kept) or "."


def _is_folder(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)
