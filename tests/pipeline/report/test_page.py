"""The page holds exactly the template's own tags whatever the values are, and has at most 300 KB."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report import page
from pipeline.report.content import make_page
from pipeline.report.document import SLACK, shortened
from tests.support.reports import PAYLOADS, Page, facts_of, statistics_of


@pytest.fixture(scope="module")
def plain() -> Page:
    return Page(make_page(facts_of("x")))


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_a_payload_in_every_slot_adds_no_tag_and_no_attribute(payload: str, plain: Page) -> None:
    made = make_page(facts_of(payload))
    found = Page(made)
    commands = Counter({"pre": 3, "code": 3} if len(payload) > 10_000 else {})  # too long to be pasted
    assert found.tags + commands == plain.tags
    assert found.attributes == plain.attributes
    assert all(re.fullmatch(r"#s\d+", link) for link in found.links)
    assert len(made.encode()) <= page.MOST_BYTES
    assert re.search(r"[^\n\x20-\x7e]", re.sub(r"[\u0300…é]", "", made)) is None, "characters that cannot be seen"


@given(st.text(), st.integers(0, 60))
@settings(max_examples=40)
def test_any_text_adds_no_tag_and_no_attribute(text: str, report_rows: int) -> None:
    found, plain = (Page(make_page(facts_of(one, report_rows=report_rows))) for one in (text, "x"))
    assert found.tags == plain.tags
    assert found.attributes == plain.attributes


@given(
    st.sampled_from(["x", '"', "&\"'<", "\U000e0041", "\U0001f600", "\u202e"]),
    st.integers(1, 5000),
    st.integers(1, 600),
)
@settings(max_examples=20)
def test_a_page_has_at_most_300_kb(text: str, length: int, many: int) -> None:
    made = make_page(facts_of(text * length, many=many, report_rows=many))
    assert len(made.encode()) <= page.MOST_BYTES
    Page(made)


def test_what_a_page_leaves_out_is_counted() -> None:
    made = Page(make_page(facts_of("x", many=200, report_rows=200))).text
    assert "Not shown: 160 more inputs." in made
    assert "Not shown: 184 more fields, 150 more rows." in made


def test_a_cut_value_states_how_much_is_missing() -> None:
    made = Page(make_page(facts_of("x" * 1_048_576))).text
    assert "x" * 200 + "… 1,048,376 more characters" in made


@given(st.text(), st.integers(1, 30))
def test_a_cut_counts_the_characters_that_it_removes(text: str, most: int) -> None:
    kept, _, rest = shortened(text, most).partition("… ")
    if rest.endswith(("more character", "more characters")) and "…" not in text:
        removed = int(rest.split()[0].replace(",", ""))
        assert shortened(text[: len(text) - removed], most) == kept
    else:
        assert len(kept) <= most + SLACK


def test_no_value_of_a_row_is_in_a_page_without_rows() -> None:
    facts = facts_of("x", report_rows=0)
    secret = facts._replace(
        rows=[{"x": "SECRET"}],
        dead_letters={
            reason: [letter._replace(message="SECRET", row="SECRET") for letter in letters]
            for reason, letters in facts.dead_letters.items()
        },
    )
    counted = secret._replace(statistics=statistics_of("SECRET", 3))
    names = re.compile(r"SECRET\d")  # names of columns are shown
    assert "SECRET" not in make_page(secret)
    assert "SECRET" not in names.sub("", make_page(counted))
    assert "SECRET" in names.sub("", make_page(counted._replace(rows=[], dead_letters={}, report_rows=1)))
    assert "SECRET" in make_page(secret._replace(report_rows=1)), "so the test finds it"


def test_a_page_can_load_nothing_and_run_nothing(plain: Page) -> None:
    made = make_page(facts_of("x"))
    style = re.search(r"<style>(.*)</style>", made, re.DOTALL)
    assert style is not None
    policy = f"default-src 'none'; style-src '{page._hash(style[1])}'; base-uri 'none'; form-action 'none'"
    assert f'content="{policy}"' in made.replace("&#39;", "'")
    assert not {"script", "link", "img", "iframe", "object", "base", "form", "input"} & plain.tags.keys()
    assert not {name for name in plain.attributes if name.startswith("on")} | ({"style"} & plain.attributes)
    assert "url(" not in made
    assert "@import" not in made


def test_a_screen_reader_gets_headings_captions_and_a_table_for_each_chart(plain: Page) -> None:
    assert plain.headings[0] == 1
    assert set(plain.headings[1:]) == {2}
    assert plain.tags["caption"] == plain.tags["table"]
    assert plain.tags["svg"] == plain.tags["desc"] == plain.tags["details"] == plain.tags["figure"]
    assert {"lang", "scope", "aria-labelledby", "role"} <= plain.attributes
