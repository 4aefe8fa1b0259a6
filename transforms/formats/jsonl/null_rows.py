"""Makes the JSON lines of bad rows for a left join: the row's own fields, null predictions, and the error.

    {"a": 1, "x": "text"}   ->   {"a": 1, "x": "text", "prediction": null, "error": {"stage": "read", …}}

A line keeps its own fields if it can be parsed as an object and has none of the names that keyjoin adds. So every line
of a part is JSON, and keyjoin never makes a name appear twice. The error holds any other line as text:
`{"prediction": null, "error": {…, "row": "[1, 2", "row_encoding": "utf-8"}}`.
"""

import json
from collections.abc import Collection, Mapping, Sequence

from transforms import dead_letters
from transforms.formats.jsonl import diagnose, instances, pick_fields
from transforms.formats.jsonl.read import LinesBlock
from transforms.records import BadRow, Layout


def unreadable(block: LinesBlock, bad: Sequence[BadRow], layout: Layout) -> frozenset[int]:
    """Returns the numbers of the bad rows that the reader cannot parse as one object, whatever its fields.

    If rows are values without fields, it returns those that are not one JSON value.

    Args:
        block: The rows of a chunk.
        bad: The bad rows, in order.
        layout: The fields of an output row.
    """
    numbers = [one.row for one in bad]
    if layout.instance:
        raws = zip(numbers, block.raw(numbers).to_pylist(), strict=True)
        return frozenset(number for number, raw in raws if diagnose.syntax(raw) is not None)
    _, refused = block.take(numbers).inputs(())
    return frozenset(numbers[one.row] for one in refused)


def lines(block: LinesBlock, bad: Sequence[BadRow], unreadable: Collection[int], layout: Layout) -> dict[int, bytes]:
    """Makes the output line of each bad row.

    Args:
        block: The rows of a chunk. If rows are values without fields, the rows of `LinesBlock.wrapped`.
        bad: The bad rows, in order.
        unreadable: The numbers that `unreadable` returned.
        layout: The fields of an output row.

    Returns:
        Number of a bad row -> its output line, in the order of the numbers.
    """
    return {one.row: _line(block, one, layout, is_object=one.row not in unreadable) for one in bad}


def _line(block: LinesBlock, bad: BadRow, layout: Layout, *, is_object: bool) -> bytes:
    raw = block.data[block.rows.starts[bad.row] : block.rows.ends[bad.row]]
    names = _names(raw) if is_object else None
    stays = layout.whole_row and names is not None and not set(names) & set(layout.added)
    added = dict.fromkeys(layout.predicted, b"null")
    row = instances.inner(raw) if layout.instance else raw
    added[layout.error or ""] = dead_letters.error(bad, None if stays or not layout.whole_row else row)
    if layout.key:
        added[layout.key] = json.dumps(dead_letters.key(block, bad.row), ensure_ascii=False).encode()
    added |= {name: json.dumps(value, ensure_ascii=False).encode() for name, value in layout.lineage}
    if stays:
        brace = raw.rindex(b"}")
        return raw[:brace] + (b", " if names else b"") + _joined(added) + raw[brace:] + b"\n"
    picked = {} if layout.whole_row or names is None else pick_fields.members(raw, names, layout)
    if layout.key_field:
        added[layout.key_field] = picked.pop(layout.key_field, b"null")
    members = picked | added
    return b"{" + _joined({name: members[name] for name in layout.order or members if name in members}) + b"}\n"


def _names(line: bytes) -> list[str] | None:
    """Returns the names in an object; None if Python's parser refuses a line that pyarrow accepts."""
    try:
        return [name for name, _ in diagnose.parse(line)]
    except ValueError:
        return None


def _joined(members: Mapping[str, bytes]) -> bytes:
    named = (b"%b: %b" % (json.dumps(name, ensure_ascii=False).encode(), value) for name, value in members.items())
    return b", ".join(named)
