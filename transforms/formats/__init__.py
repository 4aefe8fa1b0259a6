"""Lists the file formats that keyjoin reads and writes, and detects the format of a file.

Each format is a folder here with a reader and a writer, see `transforms.formats.base`. To add a format, add a folder
whose `make(spec)` makes a `Format`, its name in `FORMATS`, and its suffixes in `SUFFIXES`. Nothing else changes.
This module holds only the names of the formats, because the command line is parsed before any large import.
"""

import contextlib
import importlib
import io
from typing import TYPE_CHECKING

from transforms.errors import RunError
from transforms.formats import foreign
from transforms.formats.spec import FormatSpec
from transforms.storage.compression import plain_name, split_codec

if TYPE_CHECKING:
    from transforms.formats.base import Format

COMPRESSED = ("parquet", "avro")  # formats that compress their own content
FORMATS = {
    "jsonl": "transforms.formats.jsonl",
    "csv": "transforms.formats.csv",
    "tsv": "transforms.formats.csv",
    "tfrecord": "transforms.formats.tfrecord",
    "avro": "transforms.formats.avro",
    "parquet": "transforms.formats.parquet",
}


DELIMITERS = {"csv": ",", "tsv": "\t"}  # of the formats of delimited text
OTHER_DELIMITERS = {";": "';'", "\t": "tab", "|": "'|'", ",": "','"}  # each as a shell takes it


def known(name: str) -> str:
    """Checks that keyjoin has a format of this name, and returns the name.

    Raises:
        ValueError: keyjoin has no such format.
    """
    if name in FORMATS:
        return name
    kind, file = foreign.by_name(f"FILE.{name}"), f"FILE.{name}"
    convert = f": {foreign.command(kind, file)}" if kind else ""
    raise ValueError(f"keyjoin does not read {name}, it reads {', '.join(FORMATS)}; convert the files first{convert}")


def load(spec: FormatSpec | str) -> "Format":
    """Makes the reader and the writer of a run. Their libraries are imported by this call, not earlier.

    Args:
        spec: What the plan decided, or only the name of a format.
    """
    spec = FormatSpec(spec) if isinstance(spec, str) else spec
    read: Format = importlib.import_module(FORMATS[spec.name]).make(spec)
    if not spec.output:
        return read
    from transforms.formats import schemas

    schema = schemas.from_text(spec.schema) if spec.schema else None
    return read._replace(writer=load(spec.of_parts).writer, schema=schema)


def may_be_binary(first: bytes) -> bool:
    """Returns whether a file may be binary, by some of its first bytes."""
    return foreign.by_bytes(first) is not None or _may_be_examples(first)


def _may_be_examples(first: bytes) -> bool:
    """Returns whether a file may be TFRecord: the upper half of the first length is 0, as other files may have it."""
    return first[4:8] == bytes(4)


def binary_kind(data: bytes) -> foreign.Kind | None:
    """Returns the kind of a binary file; None for text, and for a binary file of an unknown kind.

    Args:
        data: The first bytes of the file. A TFRecord file is recognized only if they hold a whole record.
    """
    kind = foreign.by_bytes(data)
    if _may_be_examples(data):
        with contextlib.suppress(RunError):
            records = load("tfrecord").reader.sample(io.BytesIO(data), len(data))
            return foreign.EXAMPLES if len(records.positions) else kind
    return kind


def by_content(head: bytes, *, whole: bool) -> foreign.Kind | None:
    """Returns the kind of a file by its first bytes; None if they do not tell.

    Args:
        head: The first bytes of the file, decompressed.
        whole: Whether these are all of its bytes.
    """
    return binary_kind(head) or foreign.of_rows(head, whole=whole)


SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
    ".avro": "avro",
    ".parquet": "parquet",
    ".pq": "parquet",
}


def split_suffix(path: str) -> tuple[str, str]:
    """Splits a path into the name and the suffix of a known format, with the suffix of a codec if it has one.

    The suffix is returned in lower case.

    >>> split_suffix("a/b.jsonl.gz")
    ('a/b', '.jsonl.gz')
    >>> split_suffix("part-0001"), split_suffix("part-0001.gz")
    (('part-0001', ''), ('part-0001', '.gz'))
    >>> split_suffix("A.JSONL.GZ")
    ('A', '.jsonl.gz')
    """
    plain, codec = split_codec(path)
    lower, codec = plain.lower(), codec.lower()
    for suffix in SUFFIXES:
        if lower.endswith(suffix):
            return plain[: -len(suffix)], suffix + codec
    return plain, codec


def full_suffix(own: str, default: str) -> str:
    """Returns the suffix of a source's parts, from the source's own suffix and the default suffix of its format.

    >>> full_suffix(".ndjson", ".jsonl"), full_suffix("", ".jsonl"), full_suffix(".gz", ".tfrecord")
    ('.ndjson', '.jsonl', '.tfrecord.gz')
    """
    return own if plain_name(own) else default + own


def part_suffix(own: str, output: str) -> str:
    """Returns the suffix of parts of another format than their source.

    Parts keep the codec of the source, unless their format compresses its own content.

    Args:
        own: The suffix of the source, with that of its codec.
        output: Name of the parts' format.

    >>> part_suffix(".tfrecord.gz", "jsonl"), part_suffix(".jsonl", "tfrecord")
    ('.jsonl.gz', '.tfrecord')
    """
    return default_suffix(output) + ("" if output in COMPRESSED else split_codec(own)[1])


def by_name(path: str) -> str | None:
    """Returns the format that a file has by its name; None if the name does not tell.

    >>> by_name("A.NDJSON.ZST"), by_name("part-00000.gz")
    ('jsonl', None)
    """
    return SUFFIXES.get(plain_name(split_suffix(path)[1]))


def default_suffix(name: str) -> str:
    """Returns the suffix for the parts of a source that has no known suffix itself.

    >>> default_suffix("jsonl")
    '.jsonl'
    """
    return next(suffix for suffix, fmt in SUFFIXES.items() if fmt == name)
