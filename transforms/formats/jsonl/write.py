"""Writes JSON lines with their predictions.

A whole row keeps its bytes: the prediction's fields are spliced in before its last brace. A row of which only some
fields are written is put together anew.
"""

import itertools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms import columns
from transforms.columns import Fragments
from transforms.errors import UsageError
from transforms.formats import blocks, slices
from transforms.formats.added_columns import scalar, without_refused
from transforms.formats.base import Block, Joined
from transforms.formats.jsonl import encode, null_rows, pick_fields, split
from transforms.formats.jsonl.encode import text
from transforms.formats.jsonl.read import LinesBlock
from transforms.records import PREDICTION, BadRow, Layout, Positions, without
from transforms.threads import in_threads


class JsonLinesWriter:
    """Writes JSON Lines, see `transforms.formats.base.Writer`."""

    name = "jsonl"
    traits = LinesBlock.traits

    def write(self, block: Block, bad: Sequence[BadRow], predictions: pa.RecordBatch, layout: Layout) -> Joined:
        """Joins predictions to their lines, see `transforms.formats.base.Writer`."""
        own = blocks.own(block, LinesBlock)
        unreadable = null_rows.unreadable(own, bad, layout) if layout.error else frozenset()
        return _write(own.wrapped() if layout.instance else own, bad, unreadable, predictions, layout)

    def encode(self, table: pa.Table) -> Joined:
        """Writes one object a line, see `transforms.formats.jsonl.encode` for the spelling of each type."""
        unknown = next((field for field in table.schema if not encode.can_encode(field.type)), None)
        if unknown is not None:
            raise UsageError(
                f"field {unknown.name}: JSON Lines has no spelling for {unknown.type}; leave the field out with "
                f"--exclude_fields={unknown.name}"
            )
        step = slices.row_count(table.num_rows, table.nbytes)

        def encode_slice(first: int) -> pa.Buffer:
            members = [
                _member(name, [encode.encode(columns.one(column))])
                for name, column in zip(table.column_names, table.slice(first, step).itercolumns(), strict=True)
            ]
            return columns.contents(columns.join([text("{"), *_comma_joined(members), text("}\n")]))

        return Joined(in_threads(encode_slice, range(0, table.num_rows, step)), [])

    def read_back(self, part: bytes) -> LinesBlock:
        """Makes a block of the lines of a part."""
        return LinesBlock("", part)

    def merge(self, parts: Sequence[tuple[bytes, Positions]]) -> Iterable[Any]:
        """Merges the lines of several parts into one part, see `transforms.formats.base.Writer`."""
        return blocks.merge(LinesBlock, parts)


def _write(
    block: LinesBlock, bad: Sequence[BadRow], unreadable: Collection[int], predictions: pa.RecordBatch, layout: Layout
) -> Joined:
    """Joins predictions to their rows. `unreadable` is the result of `null_rows.unreadable`."""
    data, rows = block.data, block.rows
    if not data.endswith(b"\n"):
        data += b"\n"  # the last line of a source may lack its newline, but every output row has one
    numbers = without(len(rows.starts), bad)
    picked, refused = pick_fields.pick(data, rows, numbers, layout)
    numbers, predictions = without_refused(numbers, predictions, refused)
    starts, ends = rows.starts[numbers], rows.ends[numbers]
    nulls = null_rows.lines(block, sorted([*bad, *refused]), unreadable, layout) if layout.error else {}
    step = slices.row_count(len(rows.starts), len(data) + predictions.nbytes)

    def write_slice(first: int) -> list[Any]:
        part = slice(*np.searchsorted(numbers, [first, first + step]))
        some = predictions[part]
        members = {name: _member(name, _value(some[output], layout)) for output, name in layout.predictions}
        if layout.is_nested:
            members = {PREDICTION: _member(PREDICTION, [text("{"), *_comma_joined(members.values()), text("}")])}
        if layout.error:
            members[layout.error] = _member(layout.error, [text("null")])
        if layout.key:
            members[layout.key] = _member(layout.key, _keys(block.source, block.positions[numbers[part]]))
        members |= {name: _member(name, [text(_quoted(value))]) for name, value in layout.lineage}
        if layout.order:
            made = _ordered(picked, part, members, layout)
        elif layout.whole_row:
            made = _splice(data, starts[part], ends[part], _comma_joined(members.values()))
        else:
            made = _assemble(picked, part, list(members.values()))
        missing = slices.between(nulls, first, first + step)
        return _merged(made, numbers[part], missing) if missing else made

    made = in_threads(write_slice, range(0, len(rows.starts), step))
    return Joined(itertools.chain.from_iterable(made), refused)


def _value(column: pa.Array, layout: Layout) -> Fragments:
    return encode.fragments(scalar(column) if layout.scalars else column)


def _merged(blocks: list[Any], numbers: Positions, nulls: Mapping[int, bytes]) -> list[Any]:
    """Merges the output lines of good and bad rows, in the order of their numbers.

    Args:
        blocks: The output lines of good rows, as buffers in order.
        numbers: The numbers of these rows.
        nulls: Number of a bad row -> its output line.
    """
    whole = b"".join(blocks)
    lines = split.rows(whole, first=False)
    good = columns.gather(whole, lines.starts, lines.ends + 1)
    return [columns.contents(slices.merge(good, numbers, nulls))]


def _member(name: str, value: Fragments) -> Fragments:
    return [text(f"{_quoted(name)}: "), *value]


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _keys(source: str, positions: Positions) -> Fragments:
    prefix = _quoted(f"{source}#")[:-1]
    return [text(prefix), pa.array(positions).cast(pa.string()), text('"')]


def _comma_joined(members: Iterable[Fragments]) -> Fragments:
    return [fragment for member in members for fragment in (text(", "), *member)][1:]


def _splice(data: bytes, starts: Positions, ends: Positions, members: Fragments) -> list[Any]:
    """Inserts members before the last brace of each line. Every good row has that brace.

    The bytes from the last brace of a line to the last brace of the next line are one piece. So the result is piece,
    members, piece, members, … in one buffer, and then the rest of the last line:

        {"a": 1}⏎{"a": 2}⏎   ->   {"a": 1 | , "p": 3 | }⏎{"a": 2 | , "p": 4 | }⏎
    """
    lines = columns.gather(data, starts, ends + 1)
    whole = columns.contents(lines)
    heads = np.concatenate([[0], np.cumsum(ends + 1 - starts)])
    braces = heads[:-1] + split.last_not_space(data, starts, ends) - starts
    bounds = np.concatenate([[0], braces])
    pieces = columns.gather(whole, bounds[:-1], bounds[1:])
    return [columns.contents(columns.join([pieces, text(", "), *members])), whole.slice(int(bounds[-1]))]


def _ordered(picked: pick_fields.Picked, part: slice, members: Mapping[str, Fragments], layout: Layout) -> list[Any]:
    """Makes lines whose members have the order of the layout. A field that a row does not have is no member."""
    made = {name: column[part] for name, column in (picked.own or {}).items()}
    made |= {name: columns.join(member) for name, member in members.items()}
    joined = pc.binary_join_element_wise(
        *(made[name] for name in layout.order), pa.scalar(b", ", pa.large_binary()), null_handling="skip"
    )
    return [columns.contents(columns.join([text("{"), joined, text("}\n")]))]


def _assemble(picked: pick_fields.Picked, part: slice, members: list[Fragments]) -> list[Any]:
    head = text("{") if picked.heads is None else picked.heads[part]
    if picked.keys is not None:
        members = [*members, [picked.keys[part]]]
    return [columns.contents(columns.join([head, *_comma_joined(members), text("}\n")]))]
