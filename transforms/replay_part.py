"""Replay: scores the dead letters of a part again, and puts the rows that succeed now into their places in it."""

import base64
import binascii
import collections
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import google_crc32c
import msgspec
import numpy as np
import pyarrow as pa

from transforms import columns
from transforms.dead_letters import letters
from transforms.errors import RunError, UsageError
from transforms.formats.base import Format
from transforms.mapping import defaults
from transforms.predict import KeyedChunkHandler
from transforms.records import Chunk, Count, Features, Layout, PartReceipt, Rows, without
from transforms.saved_model.model import Model
from transforms.storage import files
from transforms.storage.compression import decompressed
from transforms.write_part import count_filled, join_rows, letters_name, write_files
from transforms.write_receipts import write_receipt

EXAMPLE = '{"key": "data/a.jsonl#1024", "row": "{\\"x\\": 1}"}'
WRITTEN_AGAIN = "remove _SUCCESS and give the run's own command again, which writes it again, then replay"


class Letter(NamedTuple):
    """A dead letter, as far as it is needed to score its row again.

    Attributes:
        key: The row's key.
        position: Where the row begins in its source (of a gzip file, after decompression).
        row: Its bytes.
        line: The line at which it begins; None where that is not known.
    """

    key: str
    position: int
    row: bytes
    line: int | None = None


class _Line(msgspec.Struct):
    """A line of a dead letter file, or one that stands for it: `row` is a text, or an object or array as spelled."""

    key: str
    row: msgspec.Raw
    position: Count | None = None
    row_encoding: str = "utf-8"
    line: Count | None = None


_DECODE = msgspec.json.Decoder(_Line).decode


def _row(line: _Line) -> bytes:
    spelled = bytes(line.row)
    if spelled.startswith((b"{", b"[")):
        return spelled
    text = msgspec.json.decode(spelled, type=str)
    if line.row_encoding == "utf-8":
        return text.encode()
    if line.row_encoding == "base64":
        return base64.b64decode(text, validate=True)
    raise ValueError(f"row_encoding {line.row_encoding!r} is neither utf-8 nor base64")


def read_letters(part: PartReceipt, output: str) -> list[Letter]:
    """The dead letters of a part, by position.

    Args:
        part: What was written.
        output: Output folder.

    Raises:
        RunError: They are not what was written.
    """
    return _letters(part, _letter_lines(part, output)) if part.dead else []


def _letter_lines(part: PartReceipt, output: str) -> bytes:
    return _as_written(files.below(output, letters_name(part.chunk.part)), part.dead_bytes, part.dead_checksum)


def _letters(part: PartReceipt, text: bytes) -> list[Letter]:
    try:
        lines = [_DECODE(line) for line in text.split(b"\n") if line]
        return [Letter(line.key, line.position or 0, _row(line), line.line) for line in lines]
    except (ValueError, binascii.Error, RecursionError) as error:
        name = letters_name(part.chunk.part)
        raise RunError(f"{name} holds a line that is no dead letter: {error}; {WRITTEN_AGAIN}") from error


def _as_written(path: str, size: int, checksum: int) -> bytes:
    text = files.read_small(path, size)
    if text is None or (len(text), google_crc32c.value(text)) != (size, checksum):
        raise RunError(
            f"{path} is not what was written there (write fixed rows to another file, for --rows); {WRITTEN_AGAIN}"
        )
    return text


class Mended(NamedTuple):
    """Rows that were mended.

    Attributes:
        rows: Their bytes, by key.
        sha256: Of the file that they were read from; None if there is none.
    """

    rows: Mapping[str, bytes]
    sha256: str | None


NOTHING_MENDED = Mended({}, None)


def read_rows(path: str, fmt: Format) -> Mended:
    """Mended rows by key, from lines like those of dead letter files; all but key, row and row_encoding is ignored.

    Args:
        path: The file.
        fmt: The format of the rows.

    Raises:
        UsageError: A line is none, a row is not exactly one, or a key comes twice; says which.
    """
    rows: dict[str, bytes] = {}
    try:
        with files.open_raw(path) as file:
            content = file.read()
    except OSError as error:
        raise UsageError(f"--rows {path} cannot be read: {error}; give a file of lines like {EXAMPLE}") from error
    for number, text in enumerate(content.split(b"\n"), 1):
        if not text.strip():
            continue
        try:
            line = _DECODE(text)
            row = _row(line)
        except (ValueError, binascii.Error, RecursionError) as error:
            raise UsageError(f"--rows {path}, line {number}: {error}; write lines like {EXAMPLE}") from error
        if line.key in rows:
            raise UsageError(f"--rows {path}, line {number}: the key {line.key} comes twice; give each row once")
        if not _is_one(row, fmt):
            raise UsageError(f"--rows {path}, line {number}: row is not exactly one row of {fmt.name}; fix it")
        rows[line.key] = row
    return Mended(rows, hashlib.sha256(content).hexdigest())


def _is_one(row: bytes, fmt: Format) -> bool:
    try:
        found = fmt.rows(row, first=False)
    except RunError:
        return False
    return (found.starts.tolist(), found.ends.tolist()) == ([0], [len(row)])


def replay_part(
    part: PartReceipt,
    data: bytes,
    mended: Mapping[str, bytes],
    fmt: Format,
    handler: KeyedChunkHandler,
    model: Model,
    layout: Layout,
    output: str,
    staged: str,
    temp: str,
) -> PartReceipt | None:
    """Scores the dead letters of a part again, and writes what the part, its dead letters and receipt are to be.

    Rows that are in the part stay byte for byte. What is in the output folder is not touched.

    Args:
        part: What was written, with dead letters.
        data: The bytes of its chunk.
        mended: Rows by key, instead of those in the dead letters.
        fmt: The source's format.
        handler: What feeds the model.
        model: The model.
        layout: What stands in an output row.
        output: Output folder.
        staged: Folder to write a part and dead letters to, under the names that they are to have.
        temp: Folder to write the receipt to.

    Returns:
        The receipt of what was written; None if all would be as it is, then nothing is.

    Raises:
        RunError: The source, the part or its dead letters are not what they were, or a file cannot be written.
    """
    chunk = part.chunk
    if google_crc32c.value(data) != part.input_checksum:
        raise RunError(
            f"{chunk.source} has other bytes now, from {chunk.start} to {chunk.end}, than were scored; put it back, "
            "or run again with --overwrite"
        )
    rows = fmt.rows(data, first=chunk.start == 0)
    before = _letter_lines(part, output)
    again = _letters(part, before)
    dead = np.searchsorted(rows.starts, _places(again, chunk, rows))
    tried, text = _laid_out([mended.get(letter.key, letter.row) for letter in again], rows.starts[dead], fmt)
    inputs, unread = fmt.read(text, tried, handler.features)
    scored: Any = next(iter(handler.run_inference([Features(chunk.key, inputs)], model)))
    joined = join_rows(chunk, text, tried, unread, scored.inference, fmt, layout)
    made = b"".join(bytes(memoryview(block)) for block in joined.blocks)
    lines = list(letters(chunk, text, tried, joined.bad, [again[one.row].line for one in joined.bad]))
    if b"".join(files.in_blocks(lines)) == before:
        return None

    everyone = np.arange(len(rows.starts))
    good = np.delete(everyone, dead)
    old, new = _Numbered(everyone, fmt), _Numbered(dead, fmt)
    if not layout.error:
        old, new = _Numbered(good, fmt), _Numbered(dead[without(len(dead), joined.bad)], fmt)
    kept = old.lines(_part_bytes(part, output)).filter(pa.array(np.isin(old.numbers, good)))
    both = pa.concat_arrays([kept, new.lines(made)])
    order = np.argsort(np.concatenate([good, new.numbers]))
    blocks = [columns.contents(both.take(pa.array(order)))]
    written, lettered = write_files(staged, chunk, blocks, lines, dead=bool(joined.bad))
    filled = count_filled(defaults.pack(inputs, handler.features), len(again), unread, joined.bad)
    receipt = part._replace(
        joined=part.rows - len(joined.bad),
        dead=dict(collections.Counter(one.reason for one in joined.bad)),
        bytes=written.bytes,
        checksum=written.checksum,
        dead_bytes=lettered.bytes,
        dead_checksum=lettered.checksum,
        replayed=part.replayed + len(again) - len(joined.bad),
        filled=dict(collections.Counter(part.filled) + collections.Counter(filled)),
    )
    write_receipt(temp, receipt)
    return receipt


def _places(again: Sequence[Letter], chunk: Chunk, rows: Rows) -> Any:
    """Where the rows of dead letters begin in their chunk.

    Raises:
        RunError: A dead letter is of no row of the chunk.
    """
    inside = [letter.position - chunk.start for letter in again]
    if not set(inside) <= set(rows.starts.tolist()) or sorted(set(inside)) != inside:
        raise RunError(f"{letters_name(chunk.part)} holds dead letters of other rows; {WRITTEN_AGAIN}")
    return np.array(inside, np.int64)


def _laid_out(raws: Sequence[bytes], places: Any, fmt: Format) -> tuple[Rows, bytes]:
    """Rows put one behind the other, and where they lie; they are those that began at these places of their chunk."""
    text = b"".join(raw + fmt.traits.line_end for raw in raws)
    sizes = np.array([len(raw) for raw in raws], np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes + len(fmt.traits.line_end))[:-1]]).astype(np.int64)
    return Rows(starts, starts + sizes, moved_from=places), text


class _Numbered(NamedTuple):
    """Which of a chunk's rows some written bytes hold, in order."""

    numbers: Any
    format: Format

    def lines(self, text: bytes) -> pa.LargeBinaryArray:
        """The bytes of each row, its end included.

        Raises:
            RunError: They hold another number of rows.
        """
        found = self.format.rows(text, first=False)
        if len(found.starts) != len(self.numbers):
            raise RunError(f"{len(found.starts)} rows are written where {len(self.numbers)} were expected; run again")
        return columns.gather(text, found.starts, found.ends + len(self.format.traits.line_end))


def _part_bytes(part: PartReceipt, output: str) -> bytes:
    text = _as_written(files.below(output, part.chunk.part), part.bytes, part.checksum)
    return decompressed(part.chunk.part, text)


def keys(parts: Iterable[PartReceipt], output: str) -> Iterator[str]:
    """The keys of all dead letters of some parts."""
    for part in parts:
        yield from (letter.key for letter in read_letters(part, output))
