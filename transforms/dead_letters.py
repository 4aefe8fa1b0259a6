"""What is written of a bad row: its dead letter, and in a left join the error beside its null predictions."""

import base64
import json
from collections.abc import Iterator, Sequence

import msgspec

from transforms.formats.base import Block
from transforms.records import BadRow

_TEXT = msgspec.json.Encoder().encode  # a JSON string, as bytes; ten times as fast as `json`


def key(block: Block, row: int) -> str:
    """A row's key: `data/a.jsonl#1024`."""
    return f"{block.source}#{int(block.positions[row])}"


def letters(block: Block, dead: Sequence[BadRow], lines: Sequence[int | None]) -> Iterator[bytes]:
    """The dead letters of rows, each a line without its newline.

    Args:
        block: The rows.
        dead: The bad ones among them.
        lines: The line of its source at which each of these begins; None where that is not known.
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
    """What is wrong with a row, as a JSON object.

    Args:
        bad: The row.
        raw: Its bytes, where its own fields do not stand beside the error; None where they do. Either way
            the object has the same members, so that readers which infer types see one.
    """
    return json.dumps({**_why(bad), **_row(raw)}, ensure_ascii=False).encode()


def _why(bad: BadRow) -> dict[str, str]:
    return {"stage": bad.stage, "reason": bad.reason, "message": bad.message}


def _row(raw: bytes | None) -> dict[str, str | None]:
    if raw is None:
        return {"row": None, "row_encoding": None}
    try:
        return {"row": raw.decode(), "row_encoding": "utf-8"}
    except UnicodeDecodeError:
        return {"row": base64.b64encode(raw).decode(), "row_encoding": "base64"}
