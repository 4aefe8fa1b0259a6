"""File formats: a folder each with a reader and a writer, see `transforms.formats.base`.

A new format is a folder here whose `FORMAT` is a `Format`, and its name in `FORMATS`; nothing else changes.
This module knows names alone: the command line is read before anything large is imported.
"""

import contextlib
import importlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from transforms.errors import RunError, UsageError
from transforms.formats import foreign
from transforms.storage.compression import GZIP, is_gzip, plain_name

if TYPE_CHECKING:
    from transforms.formats.base import Format

FORMATS = {"jsonl": "transforms.formats.jsonl", "tfrecord": "transforms.formats.tfrecord"}


def known(name: str) -> str:
    """Gives back the name of a format that there is.

    Raises:
        ValueError: There is no such format.
    """
    if name in FORMATS:
        return name
    kind, file = foreign.by_name(f"FILE.{name}"), f"FILE.{name}"
    convert = f": {foreign.command(kind, file, packed=False)}" if kind else ""
    raise ValueError(
        f"keyjoin does not read {name}, it reads {' and '.join(FORMATS)}; convert the files first{convert}"
    )


def load(name: str) -> "Format":
    """The format of that name; its libraries are imported only now."""
    made: Format = importlib.import_module(FORMATS[name]).FORMAT
    return made


def may_be_binary(first: bytes) -> bool:
    """Whether a file may be no text, by some of its first bytes."""
    return foreign.by_bytes(first) is not None or _may_be_examples(first)


def _may_be_examples(first: bytes) -> bool:
    """Whether the upper half of a TFRecord's length is 0; so may be bytes of other kinds."""
    return first[4:8] == bytes(4)


def binary_kind(data: bytes) -> foreign.Kind | None:
    """The kind of a file that is no text; None if it is text.

    Args:
        data: Its first bytes; to be known as TFRecord, it has to have a whole record in them.
    """
    kind = foreign.by_bytes(data)
    if _may_be_examples(data):
        with contextlib.suppress(RunError):
            records = load("tfrecord").reader.sample(io.BytesIO(data), len(data))
            return foreign.EXAMPLES if records.values() else kind
    return kind


SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
}


def split_suffix(path: str) -> tuple[str, str]:
    """Cuts the suffix of a known format, and that of gzip, off a name. The suffix is in lower case.

    >>> split_suffix("a/b.jsonl.gz")
    ('a/b', '.jsonl.gz')
    >>> split_suffix("part-0001"), split_suffix("part-0001.gz")
    (('part-0001', ''), ('part-0001', '.gz'))
    >>> split_suffix("A.JSONL.GZ")
    ('A', '.jsonl.gz')
    """
    plain, gzip = plain_name(path), GZIP if is_gzip(path) else ""
    for suffix in SUFFIXES:
        if plain.lower().endswith(suffix):
            return plain[: -len(suffix)], suffix + gzip
    return plain, gzip


def full_suffix(own: str, default: str) -> str:
    """What the parts of a source are called, by its own suffix and that of its format.

    >>> full_suffix(".ndjson", ".jsonl"), full_suffix("", ".jsonl"), full_suffix(".gz", ".tfrecord")
    ('.ndjson', '.jsonl', '.tfrecord.gz')
    """
    return own if plain_name(own) else default + own


def name_of(paths: Sequence[str]) -> str:
    """The one format that all these files have, by their names.

    Raises:
        UsageError: A name tells no format, or two tell different ones.
    """
    seen: dict[str, str] = {}
    for path in paths:
        suffix = plain_name(split_suffix(path)[1])
        if not suffix:
            kind = foreign.by_name(path)
            if kind is not None:
                raise UsageError(f"{path}: {foreign.refusal(kind, path, packed=is_gzip(path))}")
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
