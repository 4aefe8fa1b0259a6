"""Reads the first rows of sources, and refuses a source that is of another format by its first bytes."""

import contextlib
import io
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from transforms import formats
from transforms.errors import RunError, UsageError
from transforms.formats import GZIP, foreign
from transforms.formats.base import Format
from transforms.formats.foreign import Kind
from transforms.records import Source
from transforms.storage import files
from transforms.storage.compression import open_gzip

SIZES = (1 << 20, 1 << 26)  # bytes; a row may be longer than the first of them
SOURCES = 16
MAGIC_BYTES = 16


class Head(NamedTuple):
    """The first rows of a source.

    Attributes:
        source: The source.
        data: Some whole rows.
        rows: Some of them, readable, each as field -> value.
    """

    source: Source
    data: bytes
    rows: list[dict[str, Any]]


def read_heads(sources: Sequence[Source], fmt: Format) -> Iterator[Head]:
    """The first rows of the first sources that are not empty, each as soon as it is asked for.

    Raises:
        UsageError: A source cannot be read, or is of another format.
    """
    filled = [source for source in sources if source.size]
    for source in filled[:SOURCES]:
        for size in SIZES:
            data = _first_bytes(source, size)
            rows = _rows(source, fmt, data)
            if rows or len(data) < size:
                break
        yield Head(source, data if fmt.traits.line_end and len(data) < size else data[: _whole(fmt, data)], rows)


def _rows(source: Source, fmt: Format, data: bytes) -> list[dict[str, Any]]:
    try:
        kind = _not_lines(data) if fmt.traits.line_end else None
        rows = [] if kind else fmt.sample(data)
    except RunError as error:
        kind = foreign.by_bytes(data) or (foreign.LINES if data.lstrip().startswith(b"{") else None)
        if kind is None:
            raise UsageError(f"{source.path}: {error}") from error
    if kind is not None:
        raise _refused(source, kind, packed=source.suffix.endswith(GZIP))
    return rows


def _refused(source: Source, kind: Kind, *, packed: bool) -> UsageError:
    return UsageError(f"{source.path}: {foreign.refusal(kind, source.path, packed=packed)}")


def _not_lines(data: bytes) -> Kind | None:
    """The kind of a file that is no text; None if it is text."""
    kind = foreign.by_bytes(data)
    # The upper half of a TFRecord's length is 0, and so may be bytes of other kinds.
    if data[4:8] == bytes(4):
        with contextlib.suppress(RunError):
            return foreign.EXAMPLES if formats.load("tfrecord").sample(data) else kind
    return kind


def _whole(fmt: Format, data: bytes) -> int:
    """Where the last whole row of a file's first bytes ends."""
    if fmt.traits.line_end:
        return data.rfind(fmt.traits.line_end) + 1
    ends = [0]
    with contextlib.suppress(RunError):
        ends.extend(fmt.split(io.BytesIO(data), len(data), 1))
    return ends[-1]


def _first_bytes(source: Source, size: int) -> bytes:
    """The first bytes of a source, decompressed."""
    try:
        with files.open_raw(source.path) as stored:
            if not source.suffix.endswith(GZIP):
                return stored.read(size)
            magic = stored.read(MAGIC_BYTES)
            if foreign.by_bytes(magic) is not foreign.PACKED:
                kind = foreign.by_bytes(magic) or foreign.PLAIN
                raise _refused(source, kind, packed=False)
            stored.seek(0)
            with open_gzip(stored) as file:
                return file.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{source.path} cannot be read: {error}; mend the file, or leave it out") from error
