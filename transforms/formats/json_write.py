"""Joined JSON lines: the row as it was, with the prediction's fields spliced in before its last brace."""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms import columns
from transforms.formats import Joined, json_explain, json_lines, json_text
from transforms.formats.json_text import Fragments, text
from transforms.reasons import Reason
from transforms.records import BadRow, Chunk, Layout, Mask, Positions, Rows
from transforms.threads import in_threads

SLICE_ROWS, SLICE_BYTES = 16_384, 1 << 22  # at most, of each: enough slices for every thread, small beside the chunk
RAW = msgspec.json.Decoder(dict[str, msgspec.Raw])


def write(chunk: Chunk, data: bytes, rows: Rows, good: Mask, predictions: pa.RecordBatch, layout: Layout) -> Joined:
    """Joins predictions to their rows; see `transforms.formats.Format`."""
    if not data.endswith(b"\n"):
        data += b"\n"  # every output row ends a line, also that of a last line which did not
    numbers = np.flatnonzero(good)
    picked, bad = _pick(data, rows, numbers, layout)
    if bad:
        kept = ~np.isin(numbers, [b.row for b in bad])
        numbers, predictions = numbers[kept], predictions.filter(pa.array(kept))
    starts, ends = rows.starts[numbers], rows.ends[numbers]
    step = slice_rows(len(rows.starts), len(data))

    def write_slice(first: int) -> list[Any]:
        part = slice(first, first + step)
        members = [_member(name, json_text.fragments(predictions[part][output])) for output, name in layout.predictions]
        if layout.key:
            members.append(_member(layout.key, _keys(chunk, starts[part])))
        if layout.whole_row:
            return _splice(data, starts[part], ends[part], _comma_joined(members))
        return _assemble(picked, part, members)

    slices = in_threads(write_slice, range(0, len(numbers), step))
    return Joined(itertools.chain.from_iterable(slices), bad)


def slice_rows(rows: int, size: int) -> int:
    """How many of a chunk's rows, which take so many bytes, a thread works on at a time."""
    return max(1, min(SLICE_ROWS, SLICE_BYTES * rows // max(1, size)))


def _member(name: str, value: Fragments) -> Fragments:
    return [text(f"{json.dumps(name, ensure_ascii=False)}: "), *value]


def _keys(chunk: Chunk, starts: Positions) -> Fragments:
    prefix = json.dumps(f"{chunk.source}#", ensure_ascii=False)[:-1]
    return [text(prefix), pa.array(starts + chunk.start).cast(pa.string()), text('"')]


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
    braces = heads[:-1] + json_lines.last_not_space(data, starts, ends) - starts
    bounds = np.concatenate([[0], braces])
    pieces = columns.gather(whole, bounds[:-1], bounds[1:])
    return [columns.contents(json_text.join([pieces, text(", "), *members])), whole.slice(int(bounds[-1]))]


class _Picked(NamedTuple):
    """Text from the rows where not all of a row is written.

    Attributes:
        heads: `{` and the fields that are kept, each with a comma after it; None where none are.
        keys: The member that is the row's own key; None where it is not asked for.
    """

    heads: pa.Array | None
    keys: pa.Array | None


def _assemble(picked: _Picked, part: slice, members: list[Fragments]) -> list[Any]:
    head = text("{") if picked.heads is None else picked.heads[part]
    if picked.keys is not None:
        members = [*members, [picked.keys[part]]]
    return [columns.contents(json_text.join([head, *_comma_joined(members), text("}\n")]))]


def _pick(data: bytes, rows: Rows, numbers: Positions, layout: Layout) -> tuple[_Picked, list[BadRow]]:
    """Picks the fields to write from the good rows, and finds the rows where a name would stand twice."""
    if layout.whole_row:
        return _Picked(None, None), list(_collisions(data, rows, numbers, layout))
    if not layout.row and not layout.key_field:
        return _Picked(None, None), []
    heads, keys, bad = [], [], []
    wanted = _wanted(layout)
    for number in numbers:
        line = data[rows.starts[number] : rows.ends[number]]
        found = _refuse(line, wanted, layout)
        if found:
            bad.append(BadRow(int(number), "write", found[0].value, found[1]))
            continue
        fields = {_name(name): raw for name, raw in RAW.decode(line).items() if wanted(name)}
        if layout.key_field:
            keys.append(b"%b: %b" % (_name(layout.key_field), fields[_name(layout.key_field)]))
        if layout.row:
            heads.append(b"{" + b"".join(b"%b: %b, " % member for member in fields.items()))
    return _Picked(
        pa.array(heads, pa.large_binary()) if layout.row else None,
        pa.array(keys, pa.large_binary()) if layout.key_field else None,
    ), bad


def _name(name: str) -> bytes:
    return json.dumps(name, ensure_ascii=False).encode()


def _wanted(layout: Layout) -> Callable[[str], bool]:
    if not layout.row:
        return lambda name: name == layout.key_field
    if layout.include:
        return lambda name: name in layout.include
    return lambda name: name not in layout.exclude


def _refuse(line: bytes, wanted: Callable[[str], bool], layout: Layout) -> tuple[Reason, str] | None:
    """Why the fields to write cannot be picked from a row, or None."""
    try:
        names = [name for name, _ in json_explain.parse(line) if wanted(name)]
    except ValueError as error:
        return Reason.NOT_JSON, str(error)
    if layout.key_field and layout.key_field not in names:
        return Reason.MISSING, f"field {layout.key_field}: not in the row"
    return _twice(names, () if layout.key_field else layout.added)


def _twice(names: Sequence[str], added: Sequence[str]) -> tuple[Reason, str] | None:
    for name in names:
        if name in added:
            return Reason.COLLISION, f"the row already has a field {name}"
    repeated = next((name for name in names if names.count(name) > 1), None)
    return (Reason.DUPLICATE_NAME, f"field {repeated}: given twice") if repeated is not None else None


def _collisions(data: bytes, rows: Rows, numbers: Positions, layout: Layout) -> Iterator[BadRow]:
    """Rows that have a field of a name which is added.

    Few rows hold the name at all, be it as text or spelled with escapes: only those are parsed.
    """
    names = layout.added
    if b"\\" not in data and not any(data.find(json.dumps(n, ensure_ascii=False).encode()) >= 0 for n in names):
        return
    pattern = "|".join(_spellings(name) for name in names)
    step = slice_rows(len(rows.starts), len(data))

    def match(first: int) -> pa.Array:
        part = numbers[first : first + step]
        return pc.match_substring_regex(columns.gather(data, rows.starts[part], rows.ends[part] + 1), pattern)

    found_in = in_threads(match, range(0, len(numbers), step))
    suspects = pa.chunked_array(list(found_in), pa.bool_()).to_numpy()
    for number in numbers[suspects]:
        line = data[rows.starts[number] : rows.ends[number]]
        try:
            found = [name for name, _ in json_explain.parse(line) if name in names]
        except ValueError as error:
            yield BadRow(int(number), "write", Reason.NOT_JSON.value, str(error))
            continue
        if found:
            message = f"the row already has a field {found[0]}"
            yield BadRow(int(number), "write", Reason.COLLISION.value, message)


def _spellings(name: str) -> str:
    """A pattern (RE2) for a name in quotes, each of its characters as itself or escaped."""
    return '"' + "".join(_spelled(character) for character in name) + '"'


def _spelled(character: str) -> str:
    units = character.encode("utf-16-be")
    escapes = "".join(rf"\\u(?i:{units[i : i + 2].hex()})" for i in range(0, len(units), 2))
    short = {
        '"': r"\\\"",
        "\\": r"\\\\",
        "/": r"\\/",
        "\b": r"\\b",
        "\f": r"\\f",
        "\n": r"\\n",
        "\r": r"\\r",
        "\t": r"\\t",
    }
    return f"(?:{re.escape(character)}|{short.get(character, escapes)}|{escapes})"
