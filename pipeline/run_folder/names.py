"""Defines the names of a run's files, relative to its output folder.

All files except the parts and `_SUCCESS` are in one folder, `_keyjoin`, so that readers of the parts skip them. A plain
glob such as `out/*.jsonl` does not look into folders. Spark, Hive and Beam skip names with a leading underscore.
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
STATISTICS = f"{OWN}/statistics.json"
TRACEBACK = f"{OWN}/error.txt"
REPORT = f"{OWN}/report.html"  # not a part of the result: a run without it is complete

# Folders in TEMP. PLANNED has the lists of planned sources, each named by its sha256. The modules of receipts and of
# chunks, `transforms.write_receipts` and `transforms.split_into_chunks`, name their own folders.
PLANNED = "sources"
CLAIMS = "claims"  # which job executes a run, by the run's id
NEXT = "next"  # a new result that will replace a complete output, see `pipeline.run_folder.replace`
MODEL = "model"  # a copy of the model, for workers that cannot read the given one

# In TEMP/NEXT: the file that is written last, as SUCCESS is in the output.
READY = f"{OWN}/ready"

FILES = (SUCCESS, LOCK, JOB, MANIFEST, PARTS, SOURCES, STATISTICS, TRACEBACK, REPORT, READY)
# Files that mark an output of keyjoin up to version 0.1, which kept its own files beside the parts.
OLDER = ("_job.json", "_manifest.json")
PART = re.compile(r"-\d{5,}-of-\d{5,}((?:\.\w+)+)$")
# Temporary names: `transforms.storage.files.write_whole` writes to one before the file gets its final name.
UNFINISHED = re.compile(r"(^|/)_[^/]+\.[0-9a-f]{32}\.tmp$")
# Files that a run may write before the first file that marks the folder as its own.
BEFORE_ALL = re.compile(rf"^{LOCK}$|^{TEMP}/({PLANNED}|receipts|lists|spill)/")


def is_ours(name: str) -> bool:
    """Returns whether a run writes files of the given name, relative to the output folder.

    >>> is_ours("sub/a-00000-of-00001.jsonl.gz"), is_ours("_keyjoin/temp/x"), is_ours("_keyjoin/dead_letters/x")
    (True, True, False)
    """
    return is_part(name) or is_unfinished(name) or name in FILES or is_temporary(name)


def is_temporary(name: str) -> bool:
    """Returns whether a file is in the temporary folder, which is removed after the run."""
    return name.startswith(f"{TEMP}/")


def is_part(name: str) -> bool:
    """Returns whether a file has the name of a part, or of a part's dead letters."""
    return PART.search(name) is not None


def whole_name(name: str) -> str:
    """Returns the final name that an unfinished file was meant for; for every other file its own name.

    >>> whole_name("sub/_a-00000-of-00001.jsonl.0123456789abcdef0123456789abcdef.tmp")
    'sub/a-00000-of-00001.jsonl'
    """
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base[1:-37]}".lstrip("/") if is_unfinished(name) else name


def without_number(name: str) -> str:
    """Removes the chunk's number from the name of a part, receipt or dead letter file.

    The result is the same for all chunks of a source.

    >>> without_number("sub/a-00000-of-00001.jsonl.gz")
    'sub/a.jsonl.gz'
    """
    return PART.sub(r"\1", name)


def is_inside(name: str) -> bool:
    """Returns whether a name from a list of parts can only be one of the run's own parts.

    Such a name does not lead out of the output folder, nor into `_keyjoin`.

    >>> [is_inside(f"{folder}a-00000-of-00001.jsonl") for folder in ("", "sub/", "../", "/", "sub/../../", "_keyjoin/")]
    [True, True, False, False, False, False]
    """
    steps = name.split("/")
    return is_part(name) and not {"", ".", ".."} & set(steps) and "\0" not in name and steps[0] not in (OWN, SUCCESS)


def is_unfinished(name: str) -> bool:
    """Returns whether a file has a temporary name: its writer was killed before the file got its final name."""
    return UNFINISHED.search(name) is not None


def is_nothing(name: str) -> bool:
    """Returns whether a file can be left by a run that was killed before it had begun."""
    return BEFORE_ALL.search(name) is not None or is_unfinished(name)
