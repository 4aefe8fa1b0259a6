"""`--baseline` measures how far a run moved from an earlier one, prints it and records it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.job import dataflow
from pipeline.options.run_options import parse_run
from pipeline.run_folder.names import STATISTICS
from tests.conftest import Result
from tests.support import models
from transforms.errors import UsageError

Run = Callable[..., Result]


def source(path: Path, *, shift: float, also: float = 0) -> str:
    """Writes 2,000 rows whose first value is shifted, and the other two also."""
    random = np.random.default_rng(7)
    rows = random.normal(size=(2000, 3)) + np.array([shift, also, also])
    path.write_text("".join(json.dumps({"x": row}) + "\n" for row in rows.tolist()))
    return f"--input={path}"


@pytest.fixture
def base(keyjoin: Run, model: Callable[..., str], tmp_path: Path) -> tuple[str, Path]:
    """The flag of the model, and the output of the baseline."""
    flag = f"--model={model(models.plain)}"
    done = keyjoin("run", flag, source(tmp_path / "base.jsonl", shift=0))
    assert done.code == 0
    return flag, done.output


def drift_of(done: Result) -> dict[str, Any]:
    """The verdict of each column in the manifest."""
    return {one["name"]: one["verdict"] for one in done.manifest()["drift"]}


def test_what_moved_is_printed_and_recorded(keyjoin: Run, base: Any, tmp_path: Path) -> None:
    model, output = base
    done = keyjoin("run", model, source(tmp_path / "moved.jsonl", shift=5), f"--baseline={output}")
    assert done.code == 0, done.err
    assert drift_of(done) == {"x[0]": "moved", "x[1]": "same", "x[2]": "same", "prediction": "moved"}
    assert f"4 columns against {output}: 2 moved, 2 same" in done.out
    moved = next(line for line in done.out.splitlines() if line.startswith("  x[0]"))
    assert "PSI " in moved
    assert "by chance" in moved
    same = keyjoin("run", model, source(tmp_path / "same.jsonl", shift=0), f"--baseline={output}")
    assert set(drift_of(same).values()) == {"same"}
    assert all(one["psi"] == 0 and one["n"] == one["m"] == 2000 for one in same.manifest()["drift"])


def test_columns_that_moved_and_are_not_shown_are_counted(keyjoin: Run, base: Any, tmp_path: Path) -> None:
    model, output = base
    done = keyjoin("run", model, source(tmp_path / "moved.jsonl", shift=5, also=9), f"--baseline={output}")
    assert set(drift_of(done).values()) == {"moved"}
    assert (done.out.count(" by chance; "), done.out.count("and 1 more, in the report\n")) == (3, 1)


def test_the_report_compares_finished_runs(keyjoin: Run, base: Any, tmp_path: Path) -> None:
    model, output = base
    moved = keyjoin("run", model, source(tmp_path / "moved.jsonl", shift=5))
    done = keyjoin("report", str(moved.output), f"--baseline={output}")
    assert done.code == 0, done.err
    assert f"Compared with {output}. 2 columns moved: x[0], prediction." in done.out
    assert "2 columns moved: x[0], prediction." in (moved.output / "_keyjoin/report.html").read_text()
    assert "Drift" not in keyjoin("report", str(moved.output)).out
    refused = keyjoin("report", str(moved.output), f"--baseline={tmp_path}/none")
    assert (refused.code, "holds no finished run" in refused.err) == (2, True)


def test_a_run_may_be_its_own_baseline(keyjoin: Run, base: Any, tmp_path: Path) -> None:
    """With --overwrite the new result is compared with the one that it replaces."""
    model, output = base
    rows = source(tmp_path / "moved.jsonl", shift=5)
    done = keyjoin("run", model, rows, f"--output={output}", f"--baseline={output}", "--overwrite")
    assert done.code == 0, done.err
    assert drift_of(done)["x[0]"] == "moved"


def test_what_is_no_finished_run_is_refused_before_the_run(keyjoin: Run, base: Any, tmp_path: Path) -> None:
    model, output = base
    rows = source(tmp_path / "rows.jsonl", shift=0)
    refused = keyjoin("check", model, rows, f"--baseline={tmp_path}/none")
    assert (refused.code, f"--baseline {tmp_path}/none holds no finished run" in refused.err) == (2, True)
    whole = (output / STATISTICS).read_bytes()
    (output / STATISTICS).write_text("{")
    refused = keyjoin("check", model, rows, f"--baseline={output}")
    assert (refused.code, f"--baseline {output}/{STATISTICS} is damaged" in refused.err) == (2, True)
    assert f"give the command of {output} again with --overwrite" in refused.err
    (output / STATISTICS).write_bytes(whole)
    (output / "_SUCCESS").unlink()
    refused = keyjoin("run", model, rows, f"--baseline={output}")
    assert (refused.code, refused.output.exists()) == (2, False)


def test_a_baseline_that_disappears_costs_only_the_drift(
    keyjoin: Run, base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result of the run is final by then."""
    from pipeline.commands import run

    execute = run._execute

    def execute_without(*given: Any) -> Any:
        shutil.rmtree(base[1])
        return execute(*given)

    monkeypatch.setattr(run, "_execute", execute_without)
    done = keyjoin("run", base[0], source(tmp_path / "rows.jsonl", shift=0), f"--baseline={base[1]}")
    assert (done.code, f"drift from {base[1]} is not measured" in done.err) == (0, True)
    assert "drift" not in done.manifest()


def test_workers_must_reach_the_baseline(tmp_path: Path) -> None:
    """The last step of a job on Dataflow reads it."""
    argv = ["--model=m", "--input=gs://b/in", "--output=gs://b/out", f"--baseline={tmp_path}"]
    beam = ["--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://b/temp"]
    options, _ = parse_run(argv, "keyjoin run")
    with pytest.raises(UsageError, match=f"--baseline {tmp_path} is on this machine"):
        dataflow.check_options(options, PipelineOptions(beam))
