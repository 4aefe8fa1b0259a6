"""The manifest counts the rows that got a default of `--missing`: once a row, by field.

The count does not depend on the format, the runner, a resume or a replay.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.run_folder import manifest
from tests.conftest import Result
from tests.support import examples, models
from tests.support.blocks import read
from transforms.formats import jsonl, tfrecord
from transforms.mapping import defaults
from transforms.records import Feature

A, B = Feature("x", "float32", (2,), ("a", "b"), missing=("-1", None)), Feature("y", "int64", (), ("a",))
ALSO = Feature("z", "float32", (), ("a",), missing=("5",))
VALUES: dict[str, Any] = {"number": 7, "text": "8", "null": None, "wrong": [1]}
LISTS = {"number": [7], "null": [], "wrong": [1, 2]}
RAISES = "[666, 0, 0]"  # `models.raising` raises for this row


def counted(fmt: Any, data: bytes, *features: Feature) -> dict[str, int]:
    inputs, _ = read(fmt, data, features)
    return defaults.count(defaults.pack(inputs, features), np.ones(inputs.num_rows, np.bool_))


@given(st.lists(st.tuples(st.sampled_from([*VALUES, "absent"]), st.sampled_from([*VALUES, "absent"])), max_size=9))
def test_of_lines_the_good_ones_that_lack_the_field_are_counted(kinds: list[tuple[str, str]]) -> None:
    rows = [{n: VALUES[kind] for n, kind in zip("ab", pair, strict=True) if kind in VALUES} for pair in kinds]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    lacking = sum(a in ("null", "absent") and b in ("number", "text") for a, b in kinds)
    assert counted(jsonl.FORMAT, data, A) == ({"a": lacking} if lacking else {})
    assert counted(jsonl.FORMAT, data, A, ALSO) == ({"a": lacking} if lacking else {})
    assert counted(jsonl.FORMAT, data, B) == {}


@given(st.lists(st.tuples(st.sampled_from([*LISTS, "absent"]), st.sampled_from([*LISTS, "absent"])), max_size=9))
def test_of_examples_too(kinds: list[tuple[str, str]]) -> None:
    rows = [{n: LISTS[kind] for n, kind in zip("ab", pair, strict=True) if kind in LISTS} for pair in kinds]
    data = examples.written([examples.example(**{n: examples.floats(*v) for n, v in row.items()}) for row in rows])
    lacking = sum(a in ("null", "absent") and b == "number" for a, b in kinds)
    assert counted(tfrecord.FORMAT, data, A, ALSO) == ({"a": lacking} if lacking else {})


def rows_of(count: int) -> list[dict[str, Any]]:
    return [{"x": [n, 0, 1]} if n % 3 else {"x": None} if n % 2 else {} for n in range(count)]


@pytest.fixture
def flags(lines: Any, model: Any) -> list[str]:
    path = lines(*rows_of(30), {"x": "bad"}, name="in.jsonl")
    return [f"--input={path}", f"--model={model(models.raising)}", "--chunk_bytes=150", "--max_bad_rows=1.0"]


def filled(done: Result) -> dict[str, int]:
    found: dict[str, int] = done.manifest()["totals"]["filled"]
    listed = (done.output / "_keyjoin/sources.jsonl").read_text().splitlines()
    assert found.get("x", 0) == sum(json.loads(line)["filled"].get("x", 0) for line in listed)
    return found


def test_a_run_counts_them_in_its_manifest_and_prints_them(keyjoin: Callable[..., Result], flags: list[str]) -> None:
    done = keyjoin("run", *flags, "--missing", "x=[1, 2, 3]")
    assert (done.code, filled(done)) == (0, {"x": 10}), done.err
    assert "  x               10  filled in by --missing\n" in done.out
    assert keyjoin("verify", f"--run={done.output}", "--read_data=100%").code == 0
    none = keyjoin("run", *flags)
    assert (filled(none), "--missing" in none.out) == ({}, False)


def test_a_run_that_is_resumed_counts_all_of_them(keyjoin: Callable[..., Result], flags: list[str]) -> None:
    flags += ["--missing", "x=[1, 2, 3]"]
    done = keyjoin("run", *flags)
    before = filled(done)
    done.parts()[1].unlink()
    again = keyjoin("run", *flags, f"--output={done.output}")
    assert (again.code, filled(done)) == (0, before), again.err


def test_a_dead_letter_counts_once_a_replay_joins_it(
    keyjoin: Callable[..., Result], flags: list[str], model: Any, tmp_path: Path
) -> None:
    done = keyjoin("run", *flags, "--missing", f"x={RAISES}")
    assert (done.code, len(done.dead()), filled(done)) == (0, 11, {}), done.err
    repaired = tmp_path / "repaired.jsonl"
    letter = done.dead()[-1]
    repaired.write_text(json.dumps({"key": letter["key"], "row": {"x": [1, 1, 1]}}))
    replayed = keyjoin("replay", f"--run={done.output}", f"--model={model(models.plain)}", f"--rows={repaired}")
    assert (replayed.code, len(done.dead()), filled(done)) == (0, 0, {"x": 10}), replayed.err
    assert keyjoin("verify", f"--run={done.output}", "--read_data=100%").code == 0


def test_rows_that_lacked_nothing_in_the_run_may_lack_it_in_a_replay(
    keyjoin: Callable[..., Result], flags: list[str]
) -> None:
    done = keyjoin("run", *flags)
    assert (len(done.dead()), filled(done)) == (11, {})
    replayed = keyjoin("replay", f"--run={done.output}", "--missing", "x=[1, 2, 3]")
    assert (replayed.code, len(done.dead()), filled(done)) == (0, 1, {"x": 10}), replayed.err


def test_a_count_that_was_altered_is_reported(keyjoin: Callable[..., Result], flags: list[str]) -> None:
    done = keyjoin("run", *flags, "--missing", "x=[1, 2, 3]")
    document = done.manifest()
    document["totals"]["filled"] = {"x": 9}
    text = json.dumps(document).encode()
    (done.output / "_keyjoin/manifest.json").write_bytes(text)
    (done.output / "_SUCCESS").write_bytes(manifest.success_of(text))
    verified = keyjoin("verify", f"--run={done.output}")
    assert verified.code == 4
    assert "the totals of all parts" in verified.out


@pytest.mark.skipif("KEYJOIN_PRISM" not in os.environ, reason="tests/run.sh builds Prism and says so where it cannot")
def test_a_run_on_prism_counts_the_same(keyjoin: Callable[..., Result], flags: list[str]) -> None:
    flags += ["--missing", "x=[1, 2, 3]"]
    here = keyjoin("run", *flags)
    prism = ("--runner=PrismRunner", f"--prism_location={os.environ['KEYJOIN_PRISM']}", "--environment_type=LOOPBACK")
    there = keyjoin("run", *flags, *prism)
    assert (there.code, filled(there)) == (0, filled(here)), there.err
    assert "10  filled in by --missing" in there.out
