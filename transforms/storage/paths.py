"""Normalizes local paths by what the file system says, not by their text alone.

A link followed by `..` does not lead back to the folder that holds the link.
"""

import os


def absolute(path: str) -> str:
    """Returns a path that does not depend on the current folder and has no `..`.

    Links before a `..` are resolved, because `..` leads to the folder above the link's target. Links after the last
    `..` stay: they are names that somebody chose.
    """
    steps = path.split("/")
    if ".." in steps:
        cut = len(steps) - steps[::-1].index("..")
        path = os.path.join(os.path.realpath("/".join(steps[:cut])), *steps[cut:])
    return os.path.abspath(path)


def normal(path: str) -> str:
    """Returns the normal form of a path. Names of sources and keys use this form.

    It has no `.`, no double slashes, and no folder followed by `..`. A link followed by `..` stays, because this leads
    to the folder above the link's target. A relative path stays relative.

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
