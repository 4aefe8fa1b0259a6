"""Picks the row's own fields that are written, and finds rows that already have a field that keyjoin would add."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from transforms import columns
from transforms.formats import slices
from transforms.formats.jsonl import diagnose
from transforms.mapping.name_lists import repeated
from transforms.reasons import Reason
from transforms.records import BadRow, Layout, Positions, Rows
from transforms.threads import in_threads

RAW = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Picked(NamedTuple):
    """The text taken from the good rows, if not the whole row is written.

    Attributes:
        heads: For each row, `{` and the fields to write, each with a comma after it. None if no fields are written, or
            the whole row is.
        keys: For each row, the member that is its own key. None if the row's own key is not written.
        own: If the layout has an order: for each field, the member of each row, null if the row does not have it.
    """

    heads: pa.Array | None
    keys: pa.Array | None
    own: dict[str, pa.Array] | None = None


def pick(data: bytes, rows: Rows, numbers: Positions, layout: Layout) -> tuple[Picked, list[BadRow]]:
    """Picks the fields to write from the good rows, and finds the rows that cannot be written.

    Args:
        data: The chunk's bytes.
        rows: The places of its rows.
        numbers: The numbers of the good rows, ascending.
        layout: The fields of an output row.

    Returns:
        The text of the rows that can be written; and the rows that cannot, for example because a name would be in the
        output row twice.
    """
    if layout.whole_row:
        return Picked(None, None), list(_collisions(data, rows, numbers, layout))
    if not layout.row and not layout.key_field:
        return Picked(None, None), []
    heads, keys, bad = [], [], []
    ordered: dict[str, list[bytes | None]] = {name: [] for name in layout.order if name not in layout.added}
    wanted = _wanted(layout)
    for number in numbers:
        line = data[rows.starts[number] : rows.ends[number]]
        found = _refuse(line, wanted, layout)
        if found:
            bad.append(BadRow(int(number), "write", found[0].value, found[1]))
            continue
        fields = {_name(name): raw for name, raw in RAW.decode(line).items() if wanted(name)}
        for name, members in ordered.items():
            raw = fields.get(_name(name))
            members.append(None if raw is None else b"%b: %b" % (_name(name), raw))
        if layout.key_field:
            keys.append(b"%b: %b" % (_name(layout.key_field), fields[_name(layout.key_field)]))
        if layout.row:
            heads.append(b"{" + b"".join(b"%b: %b, " % member for member in fields.items()))
    return Picked(
        pa.array(heads, pa.large_binary()) if layout.row else None,
        pa.array(keys, pa.large_binary()) if layout.key_field else None,
        {name: pa.array(members, pa.large_binary()) for name, members in ordered.items()} if layout.order else None,
    ), bad


def members(line: bytes, names: Sequence[str], layout: Layout) -> dict[str, bytes]:
    """Returns the members of a bad row to write, name -> JSON text. The same fields are excluded as from good rows.

    Args:
        line: The row, which is an object.
        names: The names in that object.
        layout: The fields of an output row.

    Returns:
        The members; none if a name is ambiguous, or a stricter parser refuses the line.
    """
    wanted = _wanted(layout)
    selected = [name for name in names if wanted(name)]
    if _twice(selected, () if layout.key_field else layout.added):
        return {}
    try:
        return {name: bytes(raw) for name, raw in RAW.decode(line).items() if name in selected}
    except msgspec.MsgspecError:  # msgspec is stricter than pyarrow
        return {}


def _name(name: str) -> bytes:
    return json.dumps(name, ensure_ascii=False).encode()


def _wanted(layout: Layout) -> Callable[[str], bool]:
    if not layout.row:
        return lambda name: name == layout.key_field
    if layout.include:
        return lambda name: name in layout.include
    return lambda name: name not in layout.exclude


def _refuse(line: bytes, wanted: Callable[[str], bool], layout: Layout) -> tuple[Reason, str] | None:
    """Returns why the fields to write cannot be picked from a row; None if they can."""
    try:
        names = [name for name, _ in diagnose.parse(line) if wanted(name)]
    except ValueError as error:
        return Reason.NOT_JSON, str(error)
    if layout.key_field and layout.key_field not in names:
        return Reason.MISSING, f"field {layout.key_field}: not in the row"
    return _twice(names, () if layout.key_field else layout.added)


def _twice(names: Sequence[str], added: Sequence[str]) -> tuple[Reason, str] | None:
    for name in names:
        if name in added:
            return Reason.COLLISION, f"the row already has a field {name}"
    twice = repeated(names)
    return (Reason.DUPLICATE_NAME, f"field {twice}: given twice") if twice is not None else None


def _collisions(data: bytes, rows: Rows, numbers: Positions, layout: Layout) -> Iterator[BadRow]:
    """Finds the rows that already have a field with a name that keyjoin adds.

    It parses only the rows in which the quoted name occurs, plain or with escapes. These are few.
    """
    names = layout.added
    if b"\\" not in data and not any(data.find(json.dumps(n, ensure_ascii=False).encode()) >= 0 for n in names):
        return
    pattern = "|".join(_spellings(name) for name in names)
    step = slices.row_count(len(rows.starts), len(data))

    def match(first: int) -> pa.Array:
        part = numbers[first : first + step]
        return pc.match_substring_regex(columns.gather(data, rows.starts[part], rows.ends[part] + 1), pattern)

    found_in = in_threads(match, range(0, len(numbers), step))
    suspects = pa.chunked_array(list(found_in), pa.bool_()).to_numpy()
    for number in numbers[suspects]:
        line = data[rows.starts[number] : rows.ends[number]]
        try:
            found = [name for name, _ in diagnose.parse(line) if name in names]
        except ValueError as error:
            yield BadRow(int(number), "write", Reason.NOT_JSON.value, str(error))
            continue
        if found:
            message = f"the row already has a field {found[0]}"
            yield BadRow(int(number), "write", Reason.COLLISION.value, message)


def _spellings(name: str) -> str:
    """Makes an RE2 pattern for a name in quotes. It matches each character as itself or as an escape."""
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
