"""Reads JSON Lines: each line is one object, or one other JSON value; see https://jsonlines.org and RFC 8259.

The result for a line depends on that line alone: it is good only if `pyarrow.json` reads it, by itself, as one row.
Many lines are parsed in one call only because that is faster. The result is the same, see `_parse`.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.json

from transforms import columns
from transforms.dtypes import STRING
from transforms.formats import blocks, slices
from transforms.formats.base import Cut, RowTraits
from transforms.formats.jsonl import convert, diagnose, instances, parse_lines, split, table, value_types
from transforms.formats.jsonl.convert import Spelling
from transforms.formats.slices import Found, Why
from transforms.mapping import sparse
from transforms.records import BadRow, Chunk, Feature, Positions, Rows, Unit

SAMPLE_ROWS = 100
CUT_ROWS = 1024


class LinesBlock(blocks.ByteBlock):
    """Lines of JSON in one buffer, see `transforms.formats.base.Block`."""

    traits = RowTraits(whole_values=True, line_end=b"\n")

    def find(self) -> Rows:
        """Finds the lines that are not blank. A byte order mark at the start of a source belongs to no row."""
        return split.rows(self.data, first=self.start == 0)

    def inputs(self, features: Sequence[Feature]) -> tuple[pa.RecordBatch, list[BadRow]]:
        """Parses the fields that the model needs. A line that is a value feeds the model's only input as a whole."""
        if all(feature.fields for feature in features):
            return slices.read(self.data, self.rows, features, lambda part: _read_slice(self.data, part, features))
        block, named = self.wrapped(), instances.named(features)
        data, rows = block.data, block.rows
        inputs, bad = slices.read(data, rows, named, lambda part: _read_slice(data, part, named, exact=True))
        return inputs, [instances.explain(data[rows.starts[b.row] : rows.ends[b.row]], b) for b in bad]

    def wrapped(self) -> "LinesBlock":
        """Returns the same rows with each value as the field `instance` of an object, see `instances`."""
        data, rows = instances.wrapped(self.data, self.rows)
        return LinesBlock(self.source, data, rows=rows, positions=self.positions)

    def schema(self) -> pa.Schema:
        """Returns the fields of these rows in the order of their first appearance, with types of JSON, see `table`."""
        return table.schema(self.data, self.rows)

    def table(self, rows: Sequence[int], schema: pa.Schema) -> tuple[pa.Table, list[BadRow]]:
        """Converts some rows to columns, see `transforms.formats.base.Block`."""
        return table.table(self.data, self.rows, np.asarray(rows, np.int64), schema)

    def values(self) -> list[dict[str, Any]]:
        """Returns the objects in the first `SAMPLE_ROWS` lines; or the values without fields, if most lines are values.

        A last line that does not parse counts for neither, because the sample may end in the middle of it.
        """
        found, values, others = [], [], 0
        for start, end in zip(self.rows.starts[:SAMPLE_ROWS], self.rows.ends[:SAMPLE_ROWS], strict=True):
            try:
                row = diagnose.plain(self.data[start:end])
            except ValueError:
                others += end < len(self.data)
                continue
            if isinstance(row, dict):
                found.append(row)
            elif instances.is_value(row):
                values.append(row)
        return instances.instances(values) if len(values) > len(found) + others else found


class JsonLinesReader:
    """Reads JSON Lines, see `transforms.formats.base.Reader`."""

    name = "jsonl"
    unit: Unit = "byte"
    traits = LinesBlock.traits
    header = ""

    def read_header(self, file: IO[bytes], size: int) -> str:  # noqa: ARG002
        """Returns no header: each row says what it holds."""
        return ""

    def split(self, file: IO[bytes], size: int, chunk_bytes: int, chunk_rows: int | None = None) -> Iterator[Cut]:
        """Splits a file into chunks that end with a newline. Blank lines count as rows here."""
        return split.cuts(file, size, chunk_bytes, chunk_rows)

    def load(self, file: IO[bytes], chunk: Chunk, fields: Collection[str] | None = None) -> LinesBlock:  # noqa: ARG002
        """Reads the lines of a chunk. All of their fields are loaded, whatever `fields` is."""
        return LinesBlock(chunk.source, blocks.read_bytes(file, chunk), chunk.start)

    def sample(self, file: IO[bytes], size: int) -> LinesBlock:
        """Reads the first whole lines. The last line of a file is whole even if no newline ends it."""
        data = file.read(size)
        return LinesBlock("", data if len(data) < size else data[: data.rfind(b"\n") + 1], 0)

    def parse(
        self,
        raws: Sequence[bytes],
        positions: Sequence[int],
        source: str = "",
        header: str | None = None,  # noqa: ARG002
    ) -> LinesBlock:
        """Makes a block of lines, which are given without their newlines."""
        return blocks.parse(LinesBlock, self.name, raws, positions, source)

    def least_bytes(self, features: Sequence[Feature]) -> int:
        """Returns the size of a line that holds only what the model needs, in its shortest spelling."""
        if not all(feature.fields for feature in features):
            return sum(map(_least_value, features)) + len("\n")
        members = {field: _least_value(feature) for feature in features for field in feature.fields}
        named = [len(json.dumps(field, ensure_ascii=False).encode()) + len(":") + n for field, n in members.items()]
        return len("{}\n") + sum(named) + len(",") * max(0, len(named) - 1)


def _least_value(feature: Feature) -> int:
    """Returns how many bytes the shortest value of each field of a feature takes."""
    if feature.is_sparse:
        return sparse.LEAST
    size = {"bool": len("true"), STRING: len('""')}.get(feature.dtype, 1)
    if len(feature.fields) == 1 and feature.shape != (1,):  # one value may be spelled without a list
        for count in reversed(feature.shape):
            known = count or 0  # a list of an open size may be empty
            size = len("[]") + known * size + len(",") * max(0, known - 1)
    return size


def _read_slice(data: bytes, rows: Rows, features: Sequence[Feature], *, exact: bool = False) -> Found:
    """Reads the rows of a slice.

    Args:
        data: The chunk's bytes.
        rows: The places of the slice's rows, which follow each other.
        features: The model's inputs, and the fields that feed them.
        exact: Whether a row with any other field is bad.

    Returns:
        The inputs of the good rows, and the number and reason of each bad row.
    """
    suspect = parse_lines.suspect(data, rows)
    # `tried` has the numbers of the rows to parse, `parsed.numbers` has indices into `tried`, and `fitting` has the
    # numbers of the good rows.
    tried = np.flatnonzero(~suspect)
    lines = columns.gather(data, rows.starts[tried], np.minimum(rows.ends[tried] + 1, len(data)))
    parsed = _parse(lines, features, exact=exact)
    inputs, unfit = convert.to_inputs(parsed.tables, features)
    fitting = np.delete(tried[parsed.numbers], unfit)
    if (np.diff(fitting) < 0).any():
        inputs = inputs.take(pa.array(np.argsort(fitting)))
    known = {int(tried[number]): why for number, why in parsed.refused.items()}
    bad = np.delete(np.arange(len(rows.starts)), fitting).tolist()
    return inputs, [
        (row, known.get(row) or diagnose.explain(data[rows.starts[row] : rows.ends[row]], features)) for row in bad
    ]


class _Run(NamedTuple):
    """Some lines of a slice, to parse in one call.

    Attributes:
        numbers: Their numbers among the lines that were given to `_parse`. int64, (lines,).
        lines: Their text, with their newlines.
    """

    numbers: Positions
    lines: pa.LargeBinaryArray


class _Parsed(NamedTuple):
    """The result of parsing lines.

    Attributes:
        tables: The rows that were read. The schemas of the tables may differ, because a value may be spelled in several
            ways, see `value_types.spelling`.
        numbers: The number of each row's line, in the order of the tables. int64, (rows,).
        refused: Number of a line -> why it is bad. It has only the bad lines whose reason is known by now.
    """

    tables: list[pa.Table]
    numbers: Positions
    refused: dict[int, Why]


def _parse(lines: pa.LargeBinaryArray, features: Sequence[Feature], *, exact: bool) -> _Parsed:
    """Parses lines that look like objects. It splits a run that does not parse, until each bad line is alone."""
    tables, numbers, pending = [], [np.zeros(0, np.int64)], [_Run(np.arange(len(lines)), lines)]
    refused: dict[int, Why] = {}
    while pending:
        run = pending.pop()
        table = _read_json(run.lines, features, exact=exact) if len(run.lines) else None
        if table is not None and table.num_rows == len(run.lines):
            tables.append(table)
            numbers.append(run.numbers)
        elif len(run.lines) > 1:
            pending += _cut(run, features, refused)
    return _Parsed(tables, np.concatenate(numbers), refused)


def _cut(run: _Run, features: Sequence[Feature], refused: dict[int, Why]) -> list[_Run]:
    """Splits a run that does not parse into runs of similar lines, and adds lines that are surely bad to `refused`.

    Which lines are similar is a guess. A wrong guess costs time but changes no result: `_parse` parses each of the runs
    again, down to single lines if it has to.
    """
    likely = value_types.likely(run.lines, features)
    if 0 < likely.sum() < len(likely):
        return [_pick(run, np.flatnonzero(likely)), _pick(run, np.flatnonzero(~likely))]
    if len(likely) > CUT_ROWS:
        return [_pick(run, np.arange(at, min(at + CUT_ROWS, len(likely)))) for at in range(0, len(likely), CUT_ROWS)]
    lines = run.lines.to_pylist()
    # Likely lines are mostly good and do not parse together because their spelling differs: group them first. The other
    # lines are mostly bad: diagnose them first.
    if likely.all() and len(groups := _group(lines, features)) > 1:
        return [_pick(run, group) for group in groups]
    found = {at: why for at, line in enumerate(lines) if (why := diagnose.find(line, features))}
    refused.update((int(run.numbers[at]), why) for at, why in found.items())
    if found:
        return [_pick(run, [at for at in range(len(lines)) if at not in found])]
    if len(groups := _group(lines, features)) > 1:
        return [_pick(run, group) for group in groups]
    middle = len(lines) // 2
    return [_pick(run, np.arange(middle)), _pick(run, np.arange(middle, len(lines)))]


def _group(lines: Sequence[bytes], features: Sequence[Feature]) -> list[list[int]]:
    """Groups the numbers of lines whose values are spelled in the same way."""
    groups: dict[Any, list[int]] = {}
    for at, line in enumerate(lines):
        groups.setdefault(value_types.kinds(line, features), []).append(at)
    return list(groups.values())


def _pick(run: _Run, which: Any) -> _Run:
    which = np.asarray(which, np.int64)
    return _Run(run.numbers[which], columns.pick(run.lines, which))


def _read_json(lines: pa.LargeBinaryArray, features: Sequence[Feature], *, exact: bool) -> pa.Table | None:
    """Reads lines by the schema that fits how the first lines spell their values.

    Returns:
        The rows; None if a line cannot be read by that schema.
    """
    spelling = value_types.spelling(lines[0].as_py(), features)
    table = parse_lines.read_by_schema(lines, convert.schema(features, spelling), exact=exact)
    if table is not None:
        return table
    firsts = lines[:SAMPLE_ROWS].to_pylist()
    spelled = value_types.number_spelling(firsts, features)
    if spelled is None:
        return _read_as_text(lines, features, spelling, exact=exact)
    if not spelled:
        return None
    schema = convert.schema(features, spelling | spelled)
    if any(kind == convert.WHOLE for _, kind in spelled):
        # pyarrow reads a string as a decimal even if it does not hold a JSON number, but reads no string as a float.
        # So lines that cannot be read with floats are refused first.
        floats = pa.schema([field.with_type(convert.as_floats(field.type)) for field in schema])
        if parse_lines.read_by_schema(lines, floats, exact=exact) is None:
            return None
    return parse_lines.read_by_schema(lines, schema, exact=exact)


def _read_as_text(
    lines: pa.LargeBinaryArray, features: Sequence[Feature], spelling: Spelling, *, exact: bool
) -> pa.Table | None:
    """Reads lines in which numbers are spelled in several ways, by writing them as strings first; None if it cannot."""
    try:
        text, spelled = value_types.as_text(lines.to_pylist(), features)
    except (ValueError, RecursionError):
        return None
    rows = split.rows(text, first=False)
    rewritten = columns.gather(text, rows.starts, rows.ends + 1)
    return parse_lines.read_by_schema(rewritten, convert.schema(features, spelling | spelled), exact=exact)
