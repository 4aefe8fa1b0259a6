"""Reads the first rows of sources, and detects a source of another format by its first bytes."""

import contextlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

from transforms import formats
from transforms.errors import PlaceError, RunError, UsageError
from transforms.formats import foreign
from transforms.formats.base import Block, Reader
from transforms.formats.foreign import Kind
from transforms.records import Chunk, Source
from transforms.split_into_chunks import open_plain, other_kind
from transforms.storage import files

SIZES = (1 << 20, 1 << 26)  # bytes to read; the second is for a source whose first row is longer than the first
SOURCES = 16  # most sources whose first rows are read
LINE_BYTES = 1 << 16  # so many bytes at the start of a text have a line end, as a rule
CHECKED = 1_000  # most files whose first bytes are checked, which takes milliseconds


class Head(NamedTuple):
    """The first rows of a source.

    Attributes:
        source: The source.
        text: Its first bytes, decompressed.
        block: Its first rows.
        rows: The readable rows among the first of the block, each as field -> value.
    """

    source: Source
    text: bytes
    block: Block
    rows: list[dict[str, Any]]


class SomeRows(NamedTuple):
    """Rows of a source that follow each other, which are read before the run.

    Attributes:
        source: The source.
        block: The rows.
        chunk: Where the block is in the source; None for the beginning of a compressed source.
        end: The position after the rows, if they are the last ones that were asked for and the source may have more;
            else None.
    """

    source: Source
    block: Block
    chunk: Chunk | None
    end: int | None = None


def read_heads(sources: Sequence[Source], reader: Reader) -> Iterator[Head]:
    """Reads the first rows of the first `SOURCES` sources that are not empty. It reads a source only when needed.

    Args:
        sources: The input files.
        reader: The reader of the input's format.

    Yields:
        The first rows of each source.

    Raises:
        UsageError: A source cannot be read, or has another format.
    """
    filled = [source for source in sources if source.size]
    for source in filled[:SOURCES]:
        yield read_head(source, reader)


def read_head(source: Source, reader: Reader, sizes: Sequence[int] = SIZES) -> Head:
    """Reads the first rows of a source.

    Args:
        source: The source. It is not empty.
        reader: The reader of its format.
        sizes: How many bytes to read; each but the first only if there is no readable row in fewer.

    Raises:
        UsageError: The source cannot be read, or has another format.
    """
    for size in sizes:
        head = _read_head(source, reader, size)
        if head.rows or len(head.text) < size:
            break
    return head


def _read_head(source: Source, reader: Reader, size: int) -> Head:
    with opened(source) as file:
        text = file.read(size)
        kind = (formats.binary_kind(text) or foreign.by_line_ends(text)) if reader.traits.line_end else None
        if kind is not None:
            raise _refused(source, kind)
        file.seek(0)
        try:
            block = reader.sample(file, size)
            values = block.values()
        except PlaceError as error:
            line = text.count(reader.traits.line_end, 0, error.position) + 1
            raise UsageError(f"{source.path}: line {line:,}, {error}") from error
        except RunError as error:
            raise _wrong_format(source, reader, text, error) from error
        block.source = source.path
        return Head(source, text, block, values)


def read_header(source: Source, reader: Reader) -> str:
    """Reads the header of a source, see `Reader.header`. Of a compressed source it decompresses no more than needed.

    Args:
        source: The source.
        reader: The reader of its format.

    Raises:
        UsageError: The source cannot be read, has another format, or its header is damaged.
    """
    with opened(source) as file:
        first = file.read(LINE_BYTES)
        kind = foreign.by_bytes(first) or foreign.by_line_ends(first)
        if kind is not None and reader.traits.line_end:
            raise _refused(source, kind)
        file.seek(0)
        try:
            return reader.read_header(file, source.extent("byte") or sys.maxsize)
        except RunError as error:
            raise _wrong_format(source, reader, first, error) from error


def _wrong_format(source: Source, reader: Reader, first: bytes, error: RunError) -> UsageError:
    kind = foreign.by_bytes(first) or (foreign.LINES if first.lstrip().startswith(b"{") else None)
    if kind is None or kind.format == reader.name:  # a damaged file of this format
        return UsageError(f"{source.path}: {error}")
    return _refused(source, kind)


def check_kinds(sources: Sequence[Source], reader: Reader) -> None:
    """Refuses files of other formats, by their first bytes. It checks the first `CHECKED` files that are local.

    A worker checks each of the other files when it reads it.

    Args:
        sources: The input files.
        reader: The reader of the input's format.

    Raises:
        UsageError: A file has another format.
    """
    here = (source for source in sources if source.size and files.is_local(source.path))
    for source in itertools.islice(here, CHECKED):
        first = first_bytes(source, foreign.FIRST_BYTES)
        if reader.traits.line_end and formats.may_be_binary(first):
            kind = formats.binary_kind(first_bytes(source, SIZES[0]))
            if kind is not None:
                raise _refused(source, kind)


def _refused(source: Source, kind: Kind) -> UsageError:
    return UsageError(f"{source.path}: {foreign.refusal(kind, source.path, source.codec)}")


@contextlib.contextmanager
def opened(source: Source) -> Iterator[IO[bytes]]:
    """Opens a source, and decompresses it.

    Raises:
        UsageError: The source cannot be read.
    """
    try:
        with open_plain(source) as file:
            yield file
    except RunError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        cannot = f"{source.path} cannot be read: {error}; repair the file, or exclude it"
        raise UsageError(other_kind(source) or cannot) from error


def first_bytes(source: Source, size: int) -> bytes:
    """Reads the first bytes of a source, decompressed.

    Raises:
        UsageError: The source cannot be read.
    """
    with opened(source) as file:
        return file.read(size)
