"""What a run calls its own files in the output folder; leading underscores hide them from other readers."""

import re

from transforms.write import DEAD_LETTERS

TEMP = "_temp"
JOB = "_job.json"
MANIFEST = "_manifest.json"
PARTS = "_parts.jsonl"
SOURCES = "_sources.jsonl"
SUCCESS = "_SUCCESS"
TRACEBACK = "_error.txt"

RESERVED = (TEMP, DEAD_LETTERS, JOB, MANIFEST, PARTS, SOURCES, SUCCESS, TRACEBACK)
PART = re.compile(r"-\d{5,}-of-\d{5,}(\.\w+)+$|/?_[^/]*\.tmp$")


def is_ours(name: str) -> bool:
    """Whether a run writes files of such a name, relative to the output folder.

    >>> is_ours("sub/a-00000-of-00001.jsonl.gz"), is_ours("_dead_letter/x"), is_ours("notes.txt")
    (True, True, False)
    """
    return name.split("/")[0] in RESERVED or PART.search(name) is not None
