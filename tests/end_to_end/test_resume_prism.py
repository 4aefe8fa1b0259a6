"""A run on Prism that was killed and lost files is resumed on Prism, and gives the bytes of an undisturbed run."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.job import remote
from tests.conftest import ROOT, Result
from tests.support import models
from tests.support.interrupted_run import content
from tests.support.paused_run import held
from transforms.storage import files
from transforms.write_receipts import receipt_path


@pytest.mark.skipif("KEYJOIN_PRISM" not in os.environ, reason="tests/run.sh builds Prism and says so where it cannot")
def test_a_run_on_prism_resumes_there_to_the_bytes_of_an_uninterrupted_one(flags: list[str], tmp_path: Path) -> None:
    prism = ("--runner=PrismRunner", f"--prism_location={os.environ['KEYJOIN_PRISM']}", "--environment_type=LOOPBACK")
    output = tmp_path / "out"
    command = ["run", *flags, *prism, f"--output={output}"]
    # Both paths have the same length: paths cross the join, and receipts count the bytes that cross it.
    alone = [*command[:-1], f"--output={tmp_path / 'one'}"]
    with held("transforms.write_part.write_receipt", 5, *command) as (process, _):
        process.terminate()
        _, said = process.communicate()
    assert process.returncode == 143, said
    assert not (output / "_SUCCESS").exists()
    proven = sorted(name.removesuffix(".json") for name in files.list_below(f"{output}/_keyjoin/temp/receipts"))
    lost, unproven, *kept = proven
    (output / lost).unlink()
    Path(receipt_path(f"{output}/_keyjoin/temp", unproven)).unlink()
    before = {name: (output / name).stat().st_mtime_ns for name in proven if name != lost}
    for given in (command, alone):
        again = subprocess.run(
            [sys.executable, "-m", "pipeline", *given], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert again.returncode == 0, again.stderr
        assert again.stdout.startswith("resumes ") == (given is command)
    assert (output / "_SUCCESS").exists()
    assert content(output) == content(tmp_path / "one")
    rewritten = {name for name, written in before.items() if (output / name).stat().st_mtime_ns != written}
    assert rewritten == {unproven}
    assert kept


@pytest.mark.skipif("KEYJOIN_PRISM" not in os.environ, reason="tests/run.sh builds Prism and says so where it cannot")
def test_a_file_that_comes_after_the_plan_is_no_part_of_a_run_on_prism(
    lines: Any, model: Any, keyjoin: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Path(lines(*({"x": [n, 1, 2]} for n in range(9)), name="in/a.jsonl")).parent
    start = remote._start

    def late(*given: Any) -> Any:
        (there / "b.jsonl").write_bytes((there / "a.jsonl").read_bytes())
        return start(*given)

    monkeypatch.setattr(remote, "_start", late)
    prism = ("--runner=PrismRunner", f"--prism_location={os.environ['KEYJOIN_PRISM']}", "--environment_type=LOOPBACK")
    done = keyjoin("run", f"--input={there}/*.jsonl", f"--model={model(models.keyed)}", *prism)
    assert done.code == 0, done.err
    assert (done.manifest()["totals"]["rows"], len(done.parts())) == (9, 1)
