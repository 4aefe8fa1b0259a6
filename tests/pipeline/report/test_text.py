"""The report as text: its tables fit a terminal of any width, and nothing of a cell is lost."""

import doctest
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipeline.report import text
from pipeline.report.document import Section, Table

WORDS = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=30)
CELLS = st.lists(WORDS, max_size=12).map(" ".join)
MESSAGE = " ".join(f"word{n}" for n in range(60))


def test_doctests() -> None:
    assert doctest.testmod(text).failed == 0


@given(st.lists(st.integers(0, 500), min_size=1, max_size=9), st.integers(1, 300))
def test_columns_share_the_width(needed: list[int], width: int) -> None:
    found = text.shared(needed, width)
    assert all(min(need, text.NARROWEST) <= got <= need for need, got in zip(needed, found, strict=True))
    if width >= text.NARROWEST * len(needed):
        assert sum(found) <= width
        assert found == needed or width - sum(found) < len(needed)  # nothing is unused while a column needs it


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=4), st.integers(40, 200))
def test_a_table_fits_and_keeps_every_character(rows: list[tuple[str, str, str]], width: int) -> None:
    table = Table("caption", ("row", "message", "bytes"), rows)
    lines = text.render([Section("Dead letters", [table])], width).split("\n")
    assert all(len(line) <= width for line in lines)
    counted = Counter("".join(lines))
    assert all(count <= counted[one] for one, count in Counter("".join(map("".join, rows)).replace(" ", "")).items())


def test_without_a_terminal_a_message_is_whole_and_on_one_line() -> None:
    table = Table("caption", ("row", "message", "bytes"), [("a.jsonl#0", MESSAGE, '{"x": 1}')])
    (line,) = [one for one in text.render([Section("Dead letters", [table])]).split("\n") if "word1" in one]
    assert MESSAGE in line
    assert line.endswith('{"x": 1}')
    at_80 = text.render([Section("Dead letters", [table])], 80)
    assert all(word in at_80 for word in MESSAGE.split())
