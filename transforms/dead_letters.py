"""Formats bad rows as dead letters, and in a left join as the error field beside their null predictions."""

import base64
import json
from collections.abc import Iterator, Sequence

import msgspec

from transforms.formats.base import Block
from transforms.records import BadRow

_TEXT = msgspec.json.Encoder().encode  # a JSON string, as bytes; ten times as fast as `json`


def key(block: Block, row: int) -> str:
    """Returns a row's key, such as `data/a.jsonl#1024`."""
    return f"{block.source}#{int(block.positions[row])}"


def dead_letter_lines(block: Block, dead: Sequence[BadRow], lines: Sequence[int | None]) -> Iterator[bytes]:
    """Makes the dead letters of bad rows, each a JSON line without its newline.

    Args:
        block: The rows.
        dead: The bad rows among them.
        lines: For each bad row the line of the source at which it begins; None where the line is not known.
    """
    numbers = [bad.row for bad in dead]
    source = _TEXT(block.source)
    rows = zip(dead, lines, block.positions[numbers].tolist(), block.raw(numbers), strict=True)
    for bad, line, position, raw in rows:
        row = _row(raw.as_py())
        yield (
            b'{"key": %b#%d", "source": %b, "position": %d, "line": %b, "stage": %b, "reason": %b, "message": %b, '
            b'"row": %b, "row_encoding": %b}'
            % (
                source[:-1],
                position,
                source,
                position,
                b"null" if line is None else b"%d" % line,
                _TEXT(bad.stage),
                _TEXT(bad.reason),
                _TEXT(bad.message),
                _TEXT(row["row"]),
                _TEXT(row["row_encoding"]),
            )
        )


def error(bad: BadRow, raw: bytes | None) -> bytes:
    """Makes the JSON object that says what is wrong with a row.

    Args:
        bad: The row.
        raw: The row's bytes if the output row does not hold the row's own fields, else None. The object has the same
            members in both cases, so that readers which infer types infer one type.
    """
    return json.dumps(error_members(bad, raw), ensure_ascii=False).encode()


def error_members(bad: BadRow, raw: bytes | None) -> dict[str, str | None]:
    """Returns the members of the object that `error` makes, by name."""
    return {"stage": bad.stage, "reason": bad.reason, "message": bad.message, **_row(raw)}


def _row(raw: bytes | None) -> dict[str, str | None]:
    if raw is None:
        return {"row": None, "row_encoding": None}
    try:
        return {"row": raw.decode(), "row_encoding": "utf-8"}
    except UnicodeDecodeError:
        return {"row": base64.b64encode(raw).decode(), "row_encoding": "base64"}
