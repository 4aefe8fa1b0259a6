"""The dialect of delimited text, and the columns of the files of a run."""

import csv
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.options.groups import InputOptions
from pipeline.plan.input_format import format_of
from tests.conftest import Result
from tests.support import models
from transforms.errors import UsageError


@given(
    st.lists(
        st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\n"), min_size=1),
        min_size=1,
        unique=True,
    )
)
def test_the_names_of_columns_make_the_header_that_the_files_lack(names: list[str]) -> None:
    spec = format_of(InputOptions(columns=tuple(names), delimiter=";", quote="'"), "csv")
    assert not spec.has_header
    assert next(csv.reader([spec.header], delimiter=";", quotechar="'", strict=True)) == names


@pytest.mark.parametrize(
    ("name", "given_options", "message"),
    [
        ("jsonl", {"delimiter": ";"}, "--delimiter is for csv and tsv, and the input is jsonl"),
        ("tfrecord", {"columns": ("a",)}, "--columns is for csv and tsv"),
        ("csv", {"quote": ","}, "--delimiter and --quote are both ,"),
        ("tsv", {"columns": ("a", "b", "a")}, "--columns names a twice"),
        ("tsv", {"columns": ("a\nb",)}, "--columns has a line end in the name"),
        ("tsv", {"columns": ("a\tb",), "quote": "none"}, "--quote=none leaves no way to write it"),
    ],
)
def test_flags_that_do_not_fit_the_format_are_refused(name: str, given_options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        format_of(InputOptions(**given_options), name)


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--delimiter=,,", "',,' is not one ASCII character"), ("--quote=\n", "is not one ASCII character"),
     ("--delimiter=é", "is not one ASCII character"), ("--delimiter=tab", "--delimiter is for csv and tsv")],
)  # fmt: skip
def test_a_character_that_no_dialect_has_is_refused(
    keyjoin: Callable[..., Result], lines: Any, model: Any, flag: str, message: str
) -> None:
    refused = keyjoin("check", f"--input={lines({'x': [1, 2, 3]})}", f"--model={model(models.plain)}", flag)
    assert refused.code == 2
    assert message in refused.err
