"""The page of a comparison holds exactly the template's own tags, has at most 300 KB, and shows no private value."""

import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report import page
from pipeline.report.comparison import make_page
from tests.support.reports import PAYLOADS, Page, compared_of


def made_of(text: str, **how: Any) -> str:
    return make_page(*compared_of(text, **how), ["keyjoin", "compare", text, text])


@pytest.fixture(scope="module")
def plain() -> Page:
    return Page(made_of("x"))


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_a_payload_in_every_slot_adds_no_tag_and_no_attribute(payload: str, plain: Page) -> None:
    made = made_of(payload)
    found = Page(made)
    too_long = len(payload) > 10_000  # the command cannot be pasted, and a note says so
    assert found.tags + Counter({"pre": 1, "code": 1} if too_long else {}) == plain.tags
    assert found.attributes == plain.attributes
    assert all(re.fullmatch(r"#s\d+", link) for link in found.links)
    assert len(made.encode()) <= page.MOST_BYTES
    assert re.search(r"[^\n\x20-\x7e]", re.sub(r"[\u0300…é]", "", made)) is None, "characters that cannot be seen"


@given(st.text())
@settings(max_examples=30)
def test_any_text_adds_no_tag_and_no_attribute(text: str) -> None:
    found, plain = (Page(made_of(one)) for one in (text, "x"))
    assert found.tags == plain.tags
    assert found.attributes == plain.attributes


@given(st.sampled_from(["x", '"', "\U000e0041", "\u202e"]), st.integers(1, 5000), st.integers(1, 100))
@settings(max_examples=10, deadline=None)
def test_a_page_has_at_most_300_kb(text: str, length: int, many: int) -> None:
    made = made_of(text * length, many=many)
    assert len(made.encode()) <= page.MOST_BYTES
    Page(made)


def test_what_a_page_leaves_out_is_counted() -> None:
    text = Page(made_of("x", many=100)).text
    assert "200, of which 200 differ" in text
    shown = {int(amount) for amount in re.findall(r"Not shown: (\d+) more predictions", text)}
    assert shown == {200 - page.CAPS[0].columns, 100 - page.CAPS[0].columns}  # half of them are vectors


def test_runs_without_report_rows_show_no_value() -> None:
    said, outputs = compared_of("x", report_rows=0)
    for one in said["predictions"]:
        for row in one["worst"]:
            row["values"] = ["SECRET", "SECRET"]
    assert "SECRET" not in make_page(said, outputs, ["keyjoin"])
    shown = compared_of("x")[1]
    assert "SECRET" in make_page(said, shown, ["keyjoin"]), "so the test finds it"
    assert "SECRET" not in make_page(said, (shown[0], outputs[1]), ["keyjoin"])


def test_a_screen_reader_gets_headings_captions_and_a_table_for_each_chart(plain: Page) -> None:
    assert plain.headings[0] == 1
    assert set(plain.headings[1:]) == {2}
    assert plain.tags["caption"] == plain.tags["table"]
    assert plain.tags["svg"] == plain.tags["desc"] == plain.tags["details"] == plain.tags["figure"] == 1
