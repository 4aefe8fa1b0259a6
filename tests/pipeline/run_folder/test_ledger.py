"""The ledger detects every inconsistency between sources, receipts and written files."""

import re

import pytest

from pipeline.run_folder.ledger import Totals, problems, total
from transforms.records import Chunk, PartReceipt, Source


def part(number: int, start: int, end: int, count: int = 2, **changes: object) -> PartReceipt:
    chunk = Chunk("a.jsonl", "a.jsonl", start, end, number, count, f"a-{number}")
    made = PartReceipt(chunk, 9, 3, 1, 2, {"null": 1}, 50, 0, 20, 5, 8)
    return made._replace(**changes)


GOOD = [part(0, 0, 10), part(1, 10, 30, replayed=1)]
SOURCES = [Source("a.jsonl", 30, "a", ".jsonl")]
NOW = {"a.jsonl": SOURCES[0]}
WRITTEN = {"a-0": 50, "a-1": 50, "_keyjoin/dead_letters/a-0.jsonl": 20, "_keyjoin/dead_letters/a-1.jsonl": 20}


def test_a_ledger_that_adds_up() -> None:
    assert list(problems(SOURCES, NOW, GOOD, WRITTEN, "byte")) == []
    assert total(GOOD) == Totals(6, 4, {"null": 2}, 2, 30, 100, 2, 16, 1, {})
    filled = [GOOD[0]._replace(filled={"x": 2}), GOOD[1]._replace(filled={"a": 1, "x": 1})]
    assert list(total(filled).filled.items()) == [("a", 1), ("x", 3)]
    assert total(GOOD).bad == 2


@pytest.mark.parametrize(
    ("parts", "now", "written", "message"),
    [
        ([], NOW, WRITTEN, "a.jsonl was not read at all"),
        (GOOD[:1], NOW, WRITTEN, r"a.jsonl: chunks \[0\] of 2 were written"),
        (GOOD[1:], NOW, WRITTEN, r"a.jsonl: chunks \[1\] of 2 were written"),
        ([*GOOD, GOOD[0]], NOW, WRITTEN, r"a.jsonl: chunks \[0, 0, 1\] of 2 were written"),
        ([GOOD[0], part(1, 11, 30)], NOW, WRITTEN, "a.jsonl: bytes 10 to 11 were read by no chunk"),
        ([GOOD[0], part(1, 9, 30)], NOW, WRITTEN, "a.jsonl: bytes 10 to 9 were read by no chunk, or by two"),
        ([GOOD[0], part(1, 10, 29)], NOW, WRITTEN, "a.jsonl changed during the run: 29 bytes were read, it has 30 now"),
        (
            GOOD,
            {"a.jsonl": SOURCES[0]._replace(size=31)},
            WRITTEN,
            "changed during the run: 30 bytes were read, it has 31",
        ),
        (
            GOOD,
            {"a.jsonl": SOURCES[0]._replace(version="2")},
            WRITTEN,
            "a.jsonl changed during the run: it was written",
        ),
        (
            GOOD,
            {"a.jsonl": SOURCES[0]._replace(updated=1.0)},
            WRITTEN,
            "a.jsonl changed during the run: it was written",
        ),
        (GOOD, {}, WRITTEN, "a.jsonl disappeared"),
        ([GOOD[0], part(1, 10, 30, rows=4)], NOW, WRITTEN, "a-1: 4 rows read, 2 joined"),
        (GOOD, NOW, {**WRITTEN, "a-1": 49}, "a-1 has 49 bytes, 50 were written"),
        (GOOD, NOW, {k: v for k, v in WRITTEN.items() if k != "a-0"}, "a-0 has no bytes, 50 were written"),
        (
            GOOD,
            NOW,
            {**WRITTEN, "_keyjoin/dead_letters/a-1.jsonl": 0},
            "_keyjoin/dead_letters/a-1.jsonl has 0 bytes, 20 were written",
        ),
    ],
)
def test_what_does_not_add_up_is_found(parts: list, now: dict, written: dict, message: str) -> None:
    found = list(problems(SOURCES, now, parts, written, "byte"))
    assert any(re.search(message, text) for text in found), found
