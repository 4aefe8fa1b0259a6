"""The dialect of delimited text, and the columns of the files of a run."""

import csv
import gzip
from collections.abc import Callable
from pathlib import Path
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


ROWS = [["1.5", "2", "7.0", "a;b"], ["2.5", "3", "1e1", "it's"]]
DIALECTS = [
    ("csv", {}, ()),
    ("csv", {"delimiter": ";"}, ("--delimiter=;",)),
    ("csv", {"delimiter": "\t", "quotechar": "'"}, ("--delimiter=tab", "--quote='")),
    ("tsv", {"delimiter": "\t"}, ()),
    ("tsv", {"delimiter": "|", "quoting": csv.QUOTE_NONE}, ("--delimiter=|", "--quote=none")),
]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(("suffix", "dialect", "flags"), DIALECTS)
def test_flags_describe_the_dialect_of_a_file(
    keyjoin: Callable[..., Result], tmp_path: Path, model: Any, named: bool, suffix: str, dialect: Any, flags: Any
) -> None:
    path = tmp_path / f"rows.{suffix}.gz"
    with gzip.open(path, "wt", newline="") as file:
        csv.writer(file, **dialect).writerows([["x", "y", "z", "s"], *ROWS] if named else ROWS)
    fixed = (f"--input={path}", f"--model={model(models.plain)}", "--features=x,y,z")
    given = fixed if named else (*fixed, "--columns=x,y,z,s")
    done = keyjoin("run", *given, *flags)
    assert done.code == 0, done.err
    assert f"columns      4, named by {'the first record of each file' if named else '--columns'}, with " in done.out
    assert f"with {dialect.get('delimiter', ',')!r} between cells" in done.out
    (part,) = done.parts()
    with gzip.open(part, "rt", newline="") as file:
        read = list(csv.reader(file, **dialect))
    assert [row[:4] for row in read] == [["x", "y", "z", "s"], *ROWS]
    same = keyjoin("run", *given, *flags, f"--output={done.output}")
    assert "there is nothing to do" in same.out
    verified = keyjoin("verify", f"--run={done.output}", fixed[1], "--rescore=2")
    assert verified.code == 0, verified.out


def test_a_record_beyond_the_limit_fails_the_run_by_its_position(
    keyjoin: Callable[..., Result], tmp_path: Path, model: Any
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"x,y,z,s\n1,2,3,a\n3,4,5,{'b' * 200}\n")
    flags = (f"--input={path}", f"--model={model(models.plain)}", "--features=x,y,z")
    assert keyjoin("run", *flags, "--max_row_bytes=300").code == 0
    failed = keyjoin("run", *flags, "--max_row_bytes=100")
    assert failed.code != 0
    assert "16" in failed.err
    assert "--max_row_bytes" in failed.err
