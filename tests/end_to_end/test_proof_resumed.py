"""`--audit`, `--dedup`, `--lineage` and `--baseline` with a run that is resumed, on this machine and on Prism."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Result
from tests.support import models
from tests.support.interrupted_run import content
from tests.support.paused_run import held

ROWS = [{"x": [n % 4, 0, 1]} if n % 9 else {"x": "bad"} for n in range(60)]
PROOF = ("--audit=20", "--dedup", "--lineage", "--max_bad_rows=0.5", "--chunk_bytes=250")


def flags(path: str, model: Callable[..., str]) -> list[str]:
    return [f"--input={path}", f"--model={model(models.keyed)}", *PROOF]


def test_a_killed_run_is_resumed_to_the_bytes_of_an_uninterrupted_one(
    keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path
) -> None:
    given, output = [*flags(lines(*ROWS), model), "--wave_bytes=500"], tmp_path / "out"
    with held("transforms.write_part.write_receipt", 4, "run", *given, f"--output={output}") as (process, _):
        process.kill()
    assert list(output.glob("*-of-*"))
    resumed = keyjoin("run", *given, f"--output={output}")
    whole = keyjoin("run", *given, f"--output={tmp_path / 'one'}")
    assert (resumed.code, whole.code) == (0, 0), resumed.err
    assert resumed.out.startswith("resumes ")
    assert content(resumed.output) == content(whole.output)
    for name in ("audit", "totals", "lineage"):
        assert resumed.manifest()[name] == whole.manifest()[name]
    assert resumed.manifest()["audit"]["equal"] == 20


@pytest.mark.skipif("KEYJOIN_PRISM" not in os.environ, reason="tests/run.sh builds Prism and says so where it cannot")
def test_a_run_on_prism_has_the_rows_of_a_run_on_this_machine(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    prism = ("--runner=PrismRunner", f"--prism_location={os.environ['KEYJOIN_PRISM']}", "--environment_type=LOOPBACK")
    given = flags(lines(*ROWS), model)
    here = keyjoin("run", *given)
    there = keyjoin("run", *given, *prism, f"--baseline={here.output}")
    assert there.code == 0, there.err
    assert there.rows() == here.rows()
    assert there.manifest()["lineage"] == here.manifest()["lineage"]
    assert there.manifest()["audit"] == {"rows": 20, "equal": 20, "close": 0, "largest_difference": 0.0}
    assert there.manifest()["totals"]["saved"] == here.manifest()["totals"]["saved"] > 0
    verdicts = {one["verdict"] for one in there.manifest()["drift"]}
    assert "same" in verdicts
    assert "moved" not in verdicts
