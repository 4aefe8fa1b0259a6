"""JSON Lines: one object a line, https://jsonlines.org and RFC 8259.

A line's fate depends on the line alone: what decides is whether `pyarrow.json` reads it, by itself, as
one row. Reading whole blocks is only the fast way to the same answer, see `_parse`.
"""

import json
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.json

from transforms import columns
from transforms.formats import Joined, json_explain, json_lines, json_write
from transforms.records import BadRow, Chunk, Feature, Layout, Mask, Positions, Rows

OPEN, CLOSE = b"{}"
SAMPLE_ROWS = 100
BLOCK_BYTES = 1 << 22
CUT_ROWS = 1024
ALONE_ROWS = 64  # lines of one kind that cannot be parsed are mostly all bad
# RapidJSON, inside pyarrow, reads these words as numbers in any field, which JSON does not have.
NOT_NUMBERS = (b"NaN", b"Inf")


class JsonLines:
    """The format; see `transforms.formats.Format`."""

    name = "jsonl"
    is_example = False

    def split(self, file: IO[bytes], size: int, chunk_bytes: int) -> Iterator[int]:
        """Ends of the chunks: the first newline at or after each multiple of `chunk_bytes`, and the file's end."""
        end = 0
        while end < size:
            end = min(json_lines.after_newline(file, end + chunk_bytes - 1), size)
            yield end

    def rows(self, data: bytes, *, first: bool) -> Rows:
        """Lines that hold more than spaces; a byte order mark before the first one belongs to no row."""
        return json_lines.rows(data, first=first)

    def read(self, data: bytes, rows: Rows, features: Sequence[Feature]) -> tuple[pa.RecordBatch, list[BadRow]]:
        """Parses the fields that the model needs; see `transforms.formats.Format`."""
        suspect = _not_objects(data, rows) | _not_utf8(data, rows) | _not_numbers(data, rows)
        lines = columns.gather(data, rows.starts, np.minimum(rows.ends + 1, len(data)))
        tables, numbers = _parse(lines.filter(pa.array(~suspect)) if suspect.any() else lines, features)
        inputs, unfit = columns.to_inputs(tables, features)
        # Row numbers: of what was not suspect, then of what could be read, then of what fits.
        fitting = np.delete(np.flatnonzero(~suspect)[numbers], unfit)
        if (np.diff(fitting) < 0).any():
            inputs = inputs.take(pa.array(np.argsort(fitting)))
        good = np.zeros(len(rows.starts), np.bool_)
        good[fitting] = True
        explained = [
            BadRow(int(row), "read", *json_explain.explain(data[rows.starts[row] : rows.ends[row]], features))
            for row in np.flatnonzero(~good)
        ]
        return inputs, explained

    def write(
        self,
        chunk: Chunk,
        data: bytes,
        rows: Rows,
        good: Mask,
        predictions: pa.RecordBatch,
        layout: Layout,
    ) -> Joined:
        """Splices predictions into their lines; see `transforms.formats.Format`."""
        return json_write.write(chunk, data, rows, good, predictions, layout)

    def sample(self, data: bytes) -> list[dict[str, Any]]:
        """The objects among the first lines; the last one may be cut off, then it is none."""
        rows = self.rows(data, first=True)
        found = []
        for start, end in zip(rows.starts[:SAMPLE_ROWS], rows.ends[:SAMPLE_ROWS], strict=True):
            try:
                row = json.loads(data[start:end].decode())
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                found.append(row)
        return found


FORMAT = JsonLines()


def _not_objects(data: bytes, rows: Rows) -> Mask:
    """Lines that do not begin with `{` and end with `}`.

    That, and as many rows as lines, makes each line exactly one row: an object that goes on over a line's
    end would need a comma or a string across it, and the next line begins with `{`, so it would not parse.
    """
    octets = np.frombuffer(data, np.uint8)
    first = octets[json_lines.first_not_space(data, rows)]
    last = octets[json_lines.last_not_space(data, rows.starts, rows.ends)]
    mask: Mask = (first != OPEN) | (last != CLOSE)
    return mask


def _not_utf8(data: bytes, rows: Rows) -> Mask:
    mask = np.zeros(len(rows.starts), np.bool_)
    offsets = np.array([0, len(data)], np.int64)
    whole = pa.LargeStringArray.from_buffers(1, pa.py_buffer(offsets), pa.py_buffer(data))
    try:
        whole.validate(full=True)
    except pa.ArrowInvalid:
        for row, (start, end) in enumerate(zip(rows.starts, rows.ends, strict=True)):
            try:
                data[start:end].decode()
            except UnicodeDecodeError:
                mask[row] = True
    return mask


def _not_numbers(data: bytes, rows: Rows) -> Mask:
    """Lines with a word that pyarrow would take for a number; words inside of strings are none."""
    mask = np.zeros(len(rows.starts), np.bool_)
    for word in NOT_NUMBERS:
        # One letter is searched for ten times as fast as a word, and most files have none of it.
        at = data.find(word) if word[:1] in data else -1
        while at >= 0:
            row = int(np.searchsorted(rows.starts, at, "right")) - 1
            mask[row] = mask[row] or json_explain.syntax(data[rows.starts[row] : rows.ends[row]]) is not None
            at = data.find(word, int(rows.ends[row]))
    return mask


class _Run(NamedTuple):
    """Some lines of a chunk, to be parsed.

    Attributes:
        numbers: Which ones they are.
        lines: Their text.
    """

    numbers: Positions
    lines: pa.LargeBinaryArray


def _parse(lines: pa.LargeBinaryArray, features: Sequence[Feature]) -> tuple[list[pa.Table], Positions]:
    """Parses lines that look like objects, cutting what does not parse down to the guilty lines.

    Returns:
        The rows that were read, as tables (their schemas may differ: a value may be spelled in several ways,
        see `json_explain.spelling`), and of each row the number of its line.
    """
    tables, numbers, todo = [], [np.zeros(0, np.int64)], [_Run(np.arange(len(lines)), lines)]
    while todo:
        run = todo.pop()
        table = _read_json(run.lines, features) if len(run.lines) else None
        if table is not None and table.num_rows == len(run.lines):
            tables.append(table)
            numbers.append(run.numbers)
        elif len(run.lines) > 1:
            todo += _cut(run, features)
    return tables, np.concatenate(numbers)


def _cut(run: _Run, features: Sequence[Feature]) -> list[_Run]:
    """Cuts a run that does not parse: a long one into blocks, a block into lines that belong together.

    Which lines those are is a guess that only saves time: each is parsed again, in the end alone.
    """
    if len(run.lines) > CUT_ROWS:
        starts = range(0, len(run.lines), CUT_ROWS)
        return [_Run(run.numbers[at : at + CUT_ROWS], run.lines[at : at + CUT_ROWS]) for at in starts]
    groups: dict[Any, list[int]] = {}
    for at, line in enumerate(run.lines.to_pylist()):
        groups.setdefault(json_explain.kinds(line, features) or at, []).append(at)
    if len(groups) == 1:
        step = len(run.lines) // 2 if len(run.lines) > ALONE_ROWS else 1
        groups = {at: list(range(at, min(at + step, len(run.lines)))) for at in range(0, len(run.lines), step)}
    return [_Run(run.numbers[group], run.lines.take(pa.array(group))) for group in groups.values()]


def _read_json(lines: pa.LargeBinaryArray, features: Sequence[Feature]) -> pa.Table | None:
    """Reads lines as the first of them is spelled; None if one of them cannot be read so."""
    schema = columns.schema(features, json_explain.spelling(lines[0].as_py(), features))
    try:
        return pyarrow.json.read_json(
            pa.BufferReader(columns.contents(lines)),
            # A block has to hold the longest line.
            pyarrow.json.ReadOptions(
                use_threads=len(lines) > CUT_ROWS, block_size=max(BLOCK_BYTES, columns.longest(lines) + 1)
            ),
            pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeDecodeError):
        return None
