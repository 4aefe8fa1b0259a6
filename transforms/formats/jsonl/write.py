"""Joined JSON lines: the row as it was, with the prediction's fields spliced in before its last brace."""

import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from transforms import columns
from transforms.columns import Fragments
from transforms.formats import slices
from transforms.formats.base import Joined
from transforms.formats.jsonl import encode, null_rows, pick_fields, split
from transforms.formats.jsonl.encode import text
from transforms.records import PREDICTION, BadRow, Chunk, Layout, Positions, Rows, without
from transforms.threads import in_threads


def write(
    chunk: Chunk,
    data: bytes,
    rows: Rows,
    bad: Sequence[BadRow],
    unreadable: Collection[int],
    predictions: pa.RecordBatch,
    layout: Layout,
) -> Joined:
    """Joins predictions to their rows; see `transforms.formats.base.Format`, and for `unreadable` `json_null`."""
    if not data.endswith(b"\n"):
        data += b"\n"  # every output row ends a line, also that of a last line which did not
    numbers = without(len(rows.starts), bad)
    picked, refused = pick_fields.pick(data, rows, numbers, layout)
    if refused:
        kept = ~np.isin(numbers, [b.row for b in refused])
        numbers, predictions = numbers[kept], predictions.filter(pa.array(kept))
    starts, ends = rows.starts[numbers], rows.ends[numbers]
    nulls = {}
    if layout.error:
        nulls = null_rows.lines(chunk, data, rows, sorted([*bad, *refused]), unreadable, layout)
    step = slices.row_count(len(rows.starts), len(data) + predictions.nbytes)

    def write_slice(first: int) -> list[Any]:
        part = slice(*np.searchsorted(numbers, [first, first + step]))
        members = [_member(name, encode.fragments(predictions[part][output])) for output, name in layout.predictions]
        if layout.is_nested:
            members = [_member(PREDICTION, [text("{"), *_comma_joined(members), text("}")])]
        if layout.error:
            members.append(_member(layout.error, [text("null")]))
        if layout.key:
            members.append(_member(layout.key, _keys(chunk, rows.places[numbers[part]])))
        if layout.whole_row:
            blocks = _splice(data, starts[part], ends[part], _comma_joined(members))
        else:
            blocks = _assemble(picked, part, members)
        missing = slices.between(nulls, first, first + step)
        return _merged(blocks, numbers[part], missing) if missing else blocks

    blocks = in_threads(write_slice, range(0, len(rows.starts), step))
    return Joined(itertools.chain.from_iterable(blocks), refused)


def _merged(blocks: list[Any], numbers: Positions, nulls: Mapping[int, bytes]) -> list[Any]:
    """The lines of good rows and of bad ones, in the order of their numbers."""
    whole = b"".join(blocks)
    lines = split.rows(whole, first=False)
    good = columns.gather(whole, lines.starts, lines.ends + 1)
    return [columns.contents(slices.merge(good, numbers, nulls))]


def _member(name: str, value: Fragments) -> Fragments:
    return [text(f"{json.dumps(name, ensure_ascii=False)}: "), *value]


def _keys(chunk: Chunk, places: Positions) -> Fragments:
    prefix = json.dumps(f"{chunk.source}#", ensure_ascii=False)[:-1]
    return [text(prefix), pa.array(places + chunk.start).cast(pa.string()), text('"')]


def _comma_joined(members: Sequence[Fragments]) -> Fragments:
    return [fragment for member in members for fragment in (text(", "), *member)][1:]


def _splice(data: bytes, starts: Positions, ends: Positions, members: Fragments) -> list[Any]:
    """Lines with members put in before their last brace, which no good row is without.

    The bytes from one last brace to the next (the end of a line, the next line's head) are one piece, so
    the result is piece, members, piece, members, … in one buffer, and the rest of the last line:

        {"a": 1}⏎{"a": 2}⏎   ->   {"a": 1 | , "p": 3 | }⏎{"a": 2 | , "p": 4 | }⏎
    """
    lines = columns.gather(data, starts, ends + 1)
    whole = columns.contents(lines)
    heads = np.concatenate([[0], np.cumsum(ends + 1 - starts)])
    braces = heads[:-1] + split.last_not_space(data, starts, ends) - starts
    bounds = np.concatenate([[0], braces])
    pieces = columns.gather(whole, bounds[:-1], bounds[1:])
    return [columns.contents(columns.join([pieces, text(", "), *members])), whole.slice(int(bounds[-1]))]


def _assemble(picked: pick_fields.Picked, part: slice, members: list[Fragments]) -> list[Any]:
    head = text("{") if picked.heads is None else picked.heads[part]
    if picked.keys is not None:
        members = [*members, [picked.keys[part]]]
    return [columns.contents(columns.join([head, *_comma_joined(members), text("}\n")]))]
