"""What is written of a bad row: its dead letter, and in a left join the error beside its null predictions."""

import base64
import json
from typing import Any

from transforms.records import BadRow, Chunk, Rows


def key(chunk: Chunk, rows: Rows, row: int) -> str:
    """A row's key: `data/a.jsonl#1024`."""
    return f"{chunk.source}#{chunk.start + int(rows.starts[row])}"


def letter(chunk: Chunk, data: bytes, rows: Rows, bad: BadRow) -> bytes:
    """A line of a dead letter file."""
    return _line(
        {
            "key": key(chunk, rows, bad.row),
            "source": chunk.source,
            "position": chunk.start + int(rows.starts[bad.row]),
            **_why(bad),
            **_row(data[rows.starts[bad.row] : rows.ends[bad.row]]),
        }
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


def _line(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"
