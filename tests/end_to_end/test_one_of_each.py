"""Counts agree with their nouns and verbs: what keyjoin prints for one row is English, too."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Result
from tests.support import models

GOOD, BAD = {"x": [1, 2, 3]}, {"x": [1]}
NOUNS = (
    "rows|files|parts|letters|values|columns|bytes|predictions|sources|lines|outputs|inputs|workers|steps|texts|chunks"
)
WRONG = [
    re.compile(rf"(?<![\d.,:/-])1 (?:(?!with)[a-z]+ ){{0,2}}?(?:{NOUNS})\b(?!/s)"),  # 1 rows, all 1 sampled rows
    re.compile(r"(?<![\d.,])1 of [\d,a-z ]+? (?:are|have)\b"),  # 1 of the first 3 rows are
    re.compile(r"\b1 (?:row|file|part|dead letter|value|column) (?:are|have)\b"),
    re.compile(
        r"(?<![\d.,])(?:[02-9]|\d\d+) (?:of (?:the first )?\d+ )?(?:row|file|part|value|column)\b(?! group| a call)"
    ),
]


def printed(keyjoin: Callable[..., Result], folder: Path, model: str, source: str) -> list[str]:
    """Returns what the commands print about a source with few rows, from before the run until after it."""
    given = [f"--input={source}", f"--model={model}"]
    strict, all_bad, null = ["--max_bad_rows=0"], ["--max_bad_rows=1.0"], ["--max_bad_rows=1.0", "--bad_rows=null"]
    outputs = [f"{folder}/{name}" for name in ("a", "b", "c", "d")]
    calls = [
        ["check", *given, f"--output={outputs[0]}"],
        ["run", *given, *strict, f"--output={outputs[0]}"],
        ["run", *given, *strict, "--canary=5", f"--output={outputs[1]}"],
        ["run", *given, *all_bad, "--canary=5", "--dedup", f"--output={outputs[2]}"],
        ["run", *given, *all_bad, "--limit=1", f"--output={outputs[3]}"],
        ["check", *given, *all_bad, f"--output={outputs[2]}"],
        ["run", *given, *null, f"--baseline={outputs[2]}", f"--output={folder}/e"],
        ["verify", outputs[2], "--read_data=100%", "--rescore=1", f"--model={model}"],
        ["compare", outputs[2], f"{folder}/e"],
        ["report", outputs[2]],
        ["replay", outputs[2]],
    ]
    return [f"{' '.join(call)}\n{done.out}\n{done.err}" for call in calls for done in [keyjoin(*call)]]


@pytest.mark.parametrize("rows", [[GOOD], [BAD], [GOOD, GOOD], [GOOD, BAD], [GOOD, BAD, BAD], [BAD, BAD], []])
def test_counts_agree_with_their_nouns_and_verbs(
    keyjoin: Callable[..., Result],
    lines: Callable[..., str],
    model: Callable[..., str],
    tmp_path: Path,
    rows: list[dict[str, Any]],
) -> None:
    texts = printed(keyjoin, tmp_path, model(models.plain), lines(*rows))
    wrong = [(found[0], text.split("\n")[0]) for text in texts for one in WRONG for found in one.finditer(text)]
    assert wrong == [], json.dumps(wrong, indent=1)
