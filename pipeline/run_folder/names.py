"""The names of a run's files, relative to its output folder.

All that is not a part and not `_SUCCESS` lies in one folder, `_keyjoin`: a plain glob such as `out/*.jsonl` does not
look into folders, and Spark, Hive and Beam readers skip names with a leading underscore.
"""

import re

from transforms.reasons import OWN

SUCCESS = "_SUCCESS"
TEMP = f"{OWN}/temp"
LOCK = f"{OWN}/lock"
JOB = f"{OWN}/job.json"
MANIFEST = f"{OWN}/manifest.json"
PARTS = f"{OWN}/parts.jsonl"
SOURCES = f"{OWN}/sources.jsonl"
TRACEBACK = f"{OWN}/error.txt"

# In TEMP: the planned sources, named by their sha256; what receipts and chunks call their folders is theirs.
PLANNED = "sources"
CLAIMS = "claims"  # which job does a run, by the run's id
NEXT = "next"  # a new result of a complete output, see `pipeline.run_folder.replace`
MODEL = "model"  # a model for workers that cannot read the one that was given

# In TEMP/NEXT: written last, as SUCCESS is in the output.
READY = f"{OWN}/ready"

FILES = (SUCCESS, LOCK, JOB, MANIFEST, PARTS, SOURCES, TRACEBACK, READY)
# What marks a folder as an output of keyjoin up to version 0.1, which kept its files beside the parts.
OLDER = ("_job.json", "_manifest.json")
PART = re.compile(r"-\d{5,}-of-\d{5,}((?:\.\w+)+)$")
# What `transforms.storage.files.write_whole` writes to before a file gets its name.
UNFINISHED = re.compile(r"(^|/)_[^/]+\.[0-9a-f]{32}\.tmp$")
# What is there before a run has written anything that would mark the folder as its own.
BEFORE_ALL = re.compile(rf"^{LOCK}$|^{TEMP}/({PLANNED}|receipts|lists|spill)/")


def is_ours(name: str) -> bool:
    """Whether a run writes files of such a name, relative to the output folder.

    >>> is_ours("sub/a-00000-of-00001.jsonl.gz"), is_ours("_keyjoin/temp/x"), is_ours("_keyjoin/dead_letters/x")
    (True, True, False)
    """
    return is_part(name) or is_unfinished(name) or name in FILES or is_temporary(name)


def is_temporary(name: str) -> bool:
    """Whether a file lies in the folder for what is gone after the run."""
    return name.startswith(f"{TEMP}/")


def is_part(name: str) -> bool:
    """Whether a file has the name of a part, or of a part's dead letters."""
    return PART.search(name) is not None


def whole_name(name: str) -> str:
    """What the file of an unfinished write was to be called; of every other file its own name.

    >>> whole_name("sub/_a-00000-of-00001.jsonl.0123456789abcdef0123456789abcdef.tmp")
    'sub/a-00000-of-00001.jsonl'
    """
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base[1:-37]}".lstrip("/") if is_unfinished(name) else name


def without_number(name: str) -> str:
    """The name of a part, receipt or dead letter file without the number of its chunk: the same for a whole source.

    >>> without_number("sub/a-00000-of-00001.jsonl.gz")
    'sub/a.jsonl.gz'
    """
    return PART.sub(r"\1", name)


def is_inside(name: str) -> bool:
    """Whether the name of a part, as a list of parts has it, leads to nowhere but the run's own parts.

    >>> [is_inside(f"{folder}a-00000-of-00001.jsonl") for folder in ("", "sub/", "../", "/", "sub/../../", "_keyjoin/")]
    [True, True, False, False, False, False]
    """
    steps = name.split("/")
    return is_part(name) and not {"", ".", ".."} & set(steps) and "\0" not in name and steps[0] not in (OWN, SUCCESS)


def is_unfinished(name: str) -> bool:
    """Whether a file has the name of one whose writer was killed: it never got the name that it was meant for."""
    return UNFINISHED.search(name) is not None


def is_nothing(name: str) -> bool:
    """Whether a file is of a run that was killed before it had begun."""
    return BEFORE_ALL.search(name) is not None or is_unfinished(name)
