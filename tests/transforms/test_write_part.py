"""Dead letters as `WritePart` writes them, and bad rows as they are packed for the join."""

import base64
import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transforms.dead_letters import dead_letter_lines
from transforms.formats.jsonl.read import LinesBlock
from transforms.records import BadRow, Rows, pack_bad, unpack_bad

texts = st.text(st.characters(exclude_categories=["Cs"]))
rows = st.lists(st.binary() | texts.map(str.encode), max_size=5)


@given(lines=rows, source=texts, message=texts, start=st.integers(0, 1 << 50), first=st.none() | st.integers(1))
def test_a_letter_is_the_json_that_python_writes(
    lines: list[bytes], source: str, message: str, start: int, first: int | None
) -> None:
    ends = np.cumsum([0, *map(len, lines)])
    dead = [BadRow(at, "read", "null", message) for at in range(len(lines))]
    numbers = [first and first + at for at in range(len(lines))]
    block = LinesBlock(source, b"".join(lines), start, Rows(ends[:-1], ends[1:]))
    found = list(dead_letter_lines(block, dead, numbers))
    assert len(found) == len(lines)
    for letter, line, number, position in zip(found, lines, numbers, (start + ends).tolist(), strict=False):
        try:
            row, encoding = line.decode(), "utf-8"
        except UnicodeDecodeError:
            row, encoding = base64.b64encode(line).decode(), "base64"
        fields = {
            "key": f"{source}#{position}", "source": source, "position": position, "line": number, "stage": "read",
            "reason": "null", "message": message, "row": row, "row_encoding": encoding,
        }  # fmt: skip
        assert letter == json.dumps(fields, ensure_ascii=False).encode()


@given(st.lists(st.builds(BadRow, st.integers(0, 1 << 60), texts, texts, texts), max_size=5))
def test_bad_rows_come_out_as_they_went_in(bad: list[BadRow]) -> None:
    assert unpack_bad(pack_bad(bad)) == bad
