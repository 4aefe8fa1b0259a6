"""Replays a part: scores its dead letters again, and inserts the rows that now succeed at their places in the part."""

import base64
import binascii
import collections
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

import google_crc32c
import msgspec
import numpy as np

from transforms.dead_letters import dead_letter_lines
from transforms.errors import RunError, UsageError
from transforms.formats.base import Block, Format, Reader
from transforms.mapping import defaults, partitions
from transforms.predict import KeyedChunkHandler, count_features
from transforms.records import Count, Features, Layout, PartReceipt, without
from transforms.saved_model.model import Model
from transforms.storage import files
from transforms.storage.compression import decompressed
from transforms.write_part import count_filled, count_part, dead_letters_name, join_rows, write_files
from transforms.write_receipts import write_receipt

EXAMPLE = '{"key": "data/a.jsonl#1024", "row": "{\\"x\\": 1}"}'
WRITTEN_AGAIN = "remove _SUCCESS and give the run's own command again, which writes it again, then this one"


class DeadLetter(NamedTuple):
    """The fields of a dead letter that are needed to score its row again.

    Attributes:
        key: The row's key.
        position: Where the row begins in its source (in a gzip file, after decompression).
        row: The row's bytes.
        line: The line at which it begins; None if the line is not known.
        stage: The stage that failed.
    """

    key: str
    position: int
    row: bytes
    line: int | None = None
    stage: str = ""


class _Line(msgspec.Struct):
    """A line of a dead letter file or of a `--rows` file. `row` is a text, or the row itself as an object or array."""

    key: str
    row: msgspec.Raw
    position: Count | None = None
    row_encoding: str = "utf-8"
    line: Count | None = None
    stage: str = ""


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


def read_dead_letters(part: PartReceipt, output: str) -> list[DeadLetter]:
    """Reads the dead letters of a part, in the order of their positions.

    Args:
        part: The receipt of the part.
        output: Output folder.

    Raises:
        RunError: The dead letter file is not what the receipt says.
    """
    return _parse_dead_letters(part, _dead_letter_text(part, output)) if part.dead else []


def _dead_letter_text(part: PartReceipt, output: str) -> bytes:
    path = files.below(output, dead_letters_name(part.chunk.part))
    return _as_written(path, part.dead_bytes, part.dead_checksum, " (write fixed rows to another file, for --rows)")


def _parse_dead_letters(part: PartReceipt, text: bytes) -> list[DeadLetter]:
    try:
        lines = [_DECODE(line) for line in text.split(b"\n") if line]
        return [DeadLetter(line.key, line.position or 0, _row(line), line.line, line.stage) for line in lines]
    except (ValueError, binascii.Error, RecursionError) as error:
        name = dead_letters_name(part.chunk.part)
        raise RunError(f"{name} holds a line that is no dead letter: {error}; {WRITTEN_AGAIN}") from error


def _as_written(path: str, size: int, checksum: int, advice: str = "") -> bytes:
    text = files.read_small(path, size)
    if text is None or (len(text), google_crc32c.value(text)) != (size, checksum):
        raise RunError(f"{path} is not what was written there{advice}; {WRITTEN_AGAIN}")
    return text


class Repaired(NamedTuple):
    """Rows that the user repaired.

    Attributes:
        rows: The bytes of each row, by its key.
        sha256: The SHA-256 of the file that the rows were read from; None if there is no file.
    """

    rows: Mapping[str, bytes]
    sha256: str | None


NO_REPAIRS = Repaired({}, None)


def read_rows(path: str, reader: Reader) -> Repaired:
    """Reads repaired rows from lines like those of dead letter files. Only key, row and row_encoding are used.

    Args:
        path: The file.
        reader: The reader of the rows' format.

    Raises:
        UsageError: The file cannot be read, a line is not valid, a row is not exactly one row, or a key comes twice.
            The message names the line.
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
        try:
            reader.parse([row], [0])
        except RunError as error:
            wrong = f"row is not exactly one row of {reader.name}; fix it"
            raise UsageError(f"--rows {path}, line {number}: {wrong}") from error
        rows[line.key] = row
    return Repaired(rows, hashlib.sha256(content).hexdigest())


def load_scored(file: IO[bytes], part: PartReceipt, reader: Reader) -> Block:
    """Loads the rows from which a part was made.

    Args:
        file: Their source, decompressed.
        part: The receipt of the part.
        reader: The reader of their format.

    Raises:
        RunError: The rows in the source are not the rows that were scored.
    """
    chunk, error = part.chunk, None
    try:
        block = reader.load(file, chunk)
        if block.checksum == part.input_checksum:
            return block
    except RunError as raised:
        error = raised
    raise RunError(
        f"{chunk.source} has other {reader.unit}s now, from {chunk.start} to {chunk.end}, than were scored; put it "
        "back, or run again with --overwrite"
    ) from error


def replay_part(
    part: PartReceipt,
    block: Block,
    repaired: Mapping[str, bytes],
    fmt: Format,
    handler: KeyedChunkHandler,
    model: Model,
    layout: Layout,
    output: str,
    staged: str,
    temp: str,
) -> PartReceipt | None:
    """Scores the dead letters of a part again, and writes the new part, its new dead letters and its new receipt.

    Rows with predictions stay as they are in the part, byte for byte. The files in the output folder are not changed.

    Args:
        part: The receipt of a part that has dead letters.
        block: The rows of its chunk.
        repaired: Repaired rows by key, which replace the rows in the dead letters.
        fmt: The source's format.
        handler: The handler that feeds the model.
        model: The model.
        layout: The fields of an output row.
        output: Output folder.
        staged: Folder for the new part and dead letters, under the same names as in the output folder.
        temp: Folder for the receipt.

    Returns:
        The new receipt. None if the dead letters stay the same; nothing is written then.

    Raises:
        RunError: The part or its dead letters are not what the receipt says, or a file cannot be written.
    """
    chunk = part.chunk
    before = _dead_letter_text(part, output)
    again = _parse_dead_letters(part, before)
    positions = _positions(again, part, block)
    raws = [repaired.get(letter.key, letter.row) for letter in again]
    tried = fmt.reader.parse(raws, positions, chunk.source, block.header)
    inputs, unread = partitions.inputs(tried, handler.features)
    scored: Any = next(iter(handler.run_inference([Features(chunk.key, inputs)], model)))
    joined = join_rows(tried, unread, scored.inference, fmt, layout)
    made = b"".join(bytes(memoryview(some)) for some in joined.blocks)
    lines = list(dead_letter_lines(tried, joined.bad, [again[one.row].line for one in joined.bad]))
    if b"".join(files.in_blocks(lines)) == before:
        return None

    dead = np.searchsorted(block.positions, positions)
    everyone = np.arange(len(block.positions))
    old, new = everyone, dead  # in a left join the part has all rows
    if not layout.error:
        old, new = np.delete(everyone, dead), dead[without(len(dead), joined.bad)]
    # A row that failed when it was written had been scored, so its inputs are counted already.
    known = [at for at, row in enumerate(without(len(again), unread)) if again[row].stage == "write"]
    counted = count_features(inputs, scored.inference, handler.features, known)
    merged = fmt.writer.merge([(part_bytes(part, output), old), (made, new)])
    written, dead_written = write_files(staged, chunk, merged, lines, dead=bool(joined.bad))
    filled = count_filled(defaults.pack(inputs, handler.features), len(again), unread, joined.bad)
    receipt = part._replace(
        joined=part.rows - len(joined.bad),
        dead=dict(collections.Counter(one.reason for one in joined.bad)),
        bytes=written.bytes,
        checksum=written.checksum,
        dead_bytes=dead_written.bytes,
        dead_checksum=dead_written.checksum,
        replayed=part.replayed + len(again) - len(joined.bad),
        filled=dict(collections.Counter(part.filled) + collections.Counter(filled)),
        statistics=part.statistics + count_part(counted, len(again), unread, joined.bad, layout),
    )
    write_receipt(temp, receipt)
    return receipt


def _positions(again: Sequence[DeadLetter], part: PartReceipt, block: Block) -> list[int]:
    """Returns the positions of the dead letters' rows.

    Raises:
        RunError: A dead letter belongs to no row of the chunk, or the positions do not ascend.
    """
    positions = [letter.position for letter in again]
    if not set(positions) <= set(block.positions.tolist()) or sorted(set(positions)) != positions:
        raise RunError(f"{dead_letters_name(part.chunk.part)} holds dead letters of other rows; {WRITTEN_AGAIN}")
    return positions


def part_bytes(part: PartReceipt, output: str) -> bytes:
    """Reads a part, decompressed.

    Args:
        part: The receipt of the part.
        output: Output folder.

    Raises:
        RunError: The part is not what the receipt says.
    """
    text = _as_written(files.below(output, part.chunk.part), part.bytes, part.checksum)
    return decompressed(part.chunk.part, text)


def keys(parts: Iterable[PartReceipt], output: str) -> Iterator[str]:
    """Yields the keys of all dead letters of some parts."""
    for part in parts:
        yield from (letter.key for letter in read_dead_letters(part, output))
