"""Reads the first rows of sources, and refuses a source that is of another format by its first bytes."""

import contextlib
import io
import itertools
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from transforms import formats
from transforms.errors import RunError, UsageError
from transforms.formats import foreign
from transforms.formats.base import Format
from transforms.formats.foreign import Kind
from transforms.records import Source
from transforms.split_into_chunks import open_plain, other_kind
from transforms.storage import files

SIZES = (1 << 20, 1 << 26)  # bytes; a row may be longer than the first of them
SOURCES = 16
CHECKED = 1_000  # files, which takes milliseconds


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


def check_kinds(sources: Sequence[Source], fmt: Format) -> None:
    """Refuses files of other formats by their first bytes, on this machine and up to `CHECKED`.

    Any other one is refused by the worker that reads it.

    Raises:
        UsageError: There is one.
    """
    here = (source for source in sources if source.size and files.is_local(source.path))
    for source in itertools.islice(here, CHECKED):
        first = _first_bytes(source, foreign.FIRST_BYTES)
        if fmt.traits.line_end and formats.may_be_binary(first):
            kind = formats.binary_kind(_first_bytes(source, SIZES[0]))
            if kind is not None:
                raise _refused(source, kind)


def _refused(source: Source, kind: Kind) -> UsageError:
    return UsageError(f"{source.path}: {foreign.refusal(kind, source.path, packed=source.is_gzip)}")


def _rows(source: Source, fmt: Format, data: bytes) -> list[dict[str, Any]]:
    try:
        kind = formats.binary_kind(data) if fmt.traits.line_end else None
        rows = [] if kind else fmt.sample(data)
    except RunError as error:
        kind = foreign.by_bytes(data) or (foreign.LINES if data.lstrip().startswith(b"{") else None)
        if kind is None:
            raise UsageError(f"{source.path}: {error}") from error
    if kind is not None:
        raise _refused(source, kind)
    return rows


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
        with open_plain(source) as file:
            return file.read(size)
    except RunError as error:
        raise UsageError(str(error)) from error
    except (OSError, EOFError, zlib.error) as error:
        cannot = f"{source.path} cannot be read: {error}; repair the file, or exclude it"
        raise UsageError(other_kind(source) or cannot) from error
