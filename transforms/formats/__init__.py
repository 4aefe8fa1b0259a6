"""File formats: one file each, behind one protocol.

A new format is a module here with an object that has the members of `Format`, and its name in
`FORMATS`; nothing else changes.
"""

import importlib
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, NamedTuple, Protocol

import pyarrow as pa

from transforms.errors import UsageError
from transforms.records import BadRow, Chunk, Feature, Layout, Rows


class Joined(NamedTuple):
    """The rows of one part.

    Attributes:
        blocks: The part's bytes, as buffers in order; they are made ahead while one is written.
        bad: Rows that had a prediction and could not be joined to it; `row` counts the chunk's rows.
    """

    blocks: Iterable[Any]
    bad: list[BadRow]


class Format(Protocol):
    """What keyjoin needs to know of a file format. Objects of it are pickled to workers."""

    name: str
    # Whether rows are tf.Examples: values are flat lists, and a row's bytes may feed a model by themselves.
    is_example: bool
    # What follows each row: a newline, or nothing.
    row_end: bytes

    def split(self, file: IO[bytes], size: int, chunk_bytes: int) -> Iterator[int]:
        """Ends of the chunks of a file: increasing offsets, the last one `size`, each the end of a row.

        Raises:
            RunError: The file's framing is damaged.
        """

    def rows(self, data: bytes, *, first: bool) -> Rows:
        """Where the rows of a chunk lie.

        Args:
            data: The chunk's bytes.
            first: Whether the chunk is the first of its source.
        """

    def read(self, data: bytes, rows: Rows, features: Sequence[Feature]) -> tuple[pa.RecordBatch, list[BadRow]]:
        """The model's inputs of a chunk's good rows, a column a feature, and the bad rows, in order.

        What becomes of a row depends on that row alone, never on its neighbours or on the chunk.
        """

    def least_bytes(self, features: Sequence[Feature]) -> int:
        """What a good row takes at least, the end of its line included; a lower bound is enough."""

    def write(
        self,
        chunk: Chunk,
        data: bytes,
        rows: Rows,
        bad: Sequence[BadRow],
        predictions: pa.RecordBatch,
        layout: Layout,
    ) -> Joined:
        """Joins predictions to their rows; with `layout.error`, bad rows are written too, each in its place.

        Args:
            chunk: The chunk.
            data: Its bytes.
            rows: Where its rows lie.
            bad: Rows without a prediction, in order.
            predictions: One record for each other row, in order.
            layout: What stands in an output row.
        """

    def sample(self, data: bytes) -> list[dict[str, Any]]:
        """Some readable rows among the first bytes of a source, each as field -> value."""


FORMATS = {"jsonl": "transforms.formats.jsonl", "tfrecord": "transforms.formats.tfrecord"}


def load(name: str) -> Format:
    """The format of that name; its libraries are imported only now."""
    made: Format = importlib.import_module(FORMATS[name]).FORMAT
    return made


SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
}
GZIP = ".gz"


def split_suffix(path: str) -> tuple[str, str]:
    """Cuts a known suffix off a name.

    >>> split_suffix("a/b.jsonl.gz")
    ('a/b', '.jsonl.gz')
    >>> split_suffix("part-0001")
    ('part-0001', '')
    """
    plain, gzip = (path[: -len(GZIP)], GZIP) if path.endswith(GZIP) else (path, "")
    for suffix in SUFFIXES:
        if plain.endswith(suffix):
            return plain[: -len(suffix)], suffix + gzip
    return path, ""


def name_of(paths: Sequence[str]) -> str:
    """The one format that all these files have, by their names.

    Raises:
        UsageError: A name tells no format, or two tell different ones.
    """
    seen: dict[str, str] = {}
    for path in paths:
        suffix = split_suffix(path)[1].removesuffix(GZIP)
        if not suffix:
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
