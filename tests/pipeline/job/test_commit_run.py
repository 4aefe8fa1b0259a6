"""CommitRun: the graph commits its run once, however often the step is executed."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from pipeline.job.commit_run import CommitRun, commit_folder
from pipeline.job.graph import build
from pipeline.options.run_options import parse_run
from pipeline.plan.preflight import find_inputs, prepare
from pipeline.run_folder import resume
from pipeline.run_folder.place import Place, in_place, staged
from tests.conftest import Result
from tests.support import models
from tests.support.started_run import RUN, begin
from transforms.errors import RunError

GOOD = [{"x": [n, 1, 2]} for n in range(30)]


@pytest.fixture
def left(lines: Any, model: Any, tmp_path: Path) -> Callable[..., tuple[Path, int]]:
    """Runs a job up to its commit; returns its output folder, and the number of its lists of receipts."""

    def make(*rows: Any, limits: str = "1") -> tuple[Path, int]:
        output = tmp_path / "out"
        argv = [f"--input={lines(*rows)}", f"--model={model(models.keyed)}", f"--output={output}", "--chunk_bytes=100"]
        options, _ = parse_run([*argv, f"--max_bad_rows={limits}"], "keyjoin run")
        with prepare(options, find_inputs(options), local=False) as plan, beam.Pipeline("FnApiRunner") as root:
            build(root, plan.job, begin(plan))
        return output, len(list(output.glob("_keyjoin/temp/lists/*/*")))

    return make


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_attempt_writes_the_same_bytes(left: Callable[..., tuple[Path, int]]) -> None:
    output, lists = left(*GOOD, b"bad")
    commit_folder(in_place(str(output)), RUN, lists, 7.5)
    once = content(output)
    assert json.loads(once["_keyjoin/manifest.json"])["seconds"] == 7.5
    for lost in (
        ["_SUCCESS"],
        ["_SUCCESS", "_keyjoin/manifest.json"],
        ["_SUCCESS", "_keyjoin/manifest.json", "_keyjoin/parts.jsonl"],
        [],
    ):
        for name in lost:
            (output / name).unlink()
        commit_folder(in_place(str(output)), RUN, lists, 7.5)
        assert content(output) == once


def test_one_that_comes_after_all_is_cleared_does_nothing(left: Callable[..., tuple[Path, int]]) -> None:
    output, lists = left(*GOOD)
    commit_folder(in_place(str(output)), RUN, lists, 1.0)
    shutil.rmtree(output / "_keyjoin/temp")
    (output / "_keyjoin/job.json").unlink()
    before = content(output)
    commit_folder(in_place(str(output)), RUN, lists, 2.0)
    assert content(output) == before


@pytest.mark.parametrize("started", [0.0, 1e11], ids=["started", "started by a clock that is ahead of the worker's"])
def test_the_steps_commit_and_clear(
    left: Callable[..., tuple[Path, int]], keyjoin: Callable[..., Result], started: float
) -> None:
    output, _ = left(*GOOD)
    with beam.Pipeline("FnApiRunner") as root:
        lists = root | beam.Create([str(path) for path in output.glob("_keyjoin/temp/lists/*/*")])
        lists | CommitRun(in_place(str(output)), RUN, started)
    assert sorted(name for name in content(output) if name.startswith("_")) == [
        "_SUCCESS", "_keyjoin/manifest.json", "_keyjoin/parts.jsonl", "_keyjoin/sources.jsonl", "_keyjoin/statistics.json"
    ]  # fmt: skip
    assert keyjoin("verify", f"--run={output}", "--read_data=100%").code == 0


def test_too_many_bad_rows_fail_it_and_leave_what_is_needed_to_resume(left: Callable[..., tuple[Path, int]]) -> None:
    output, lists = left(*GOOD, b"bad", limits="0")
    for _ in range(2):
        with pytest.raises(RunError, match="1 of 31 rows is bad, more than --max_bad_rows=0 allows"):
            commit_folder(in_place(str(output)), RUN, lists, 1.0)
    assert json.loads((output / "_keyjoin/manifest.json").read_text())["status"] == "over the error limit"
    assert not (output / "_SUCCESS").exists()
    assert (output / "_keyjoin/job.json").exists()


def test_a_missing_part_fails_it(left: Callable[..., tuple[Path, int]]) -> None:
    output, lists = left(*GOOD)
    next(output.glob("*-of-*")).unlink()
    with pytest.raises(RunError, match="the ledger does not add up"):
        commit_folder(in_place(str(output)), RUN, lists, 1.0)
    assert not (output / "_SUCCESS").exists()


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("_keyjoin/temp/lists", "0 of 1 lists"),
        ("_keyjoin/temp/sources", "no sources"),
        ("_keyjoin/job.json", "has no _keyjoin/job.json"),
    ],
)
def test_what_somebody_else_removed_fails_it(left: Callable[..., tuple[Path, int]], lost: str, said: str) -> None:
    output, lists = left({"x": [1, 2, 3]})
    path = output / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(RunError, match=said):
        commit_folder(in_place(str(output)), RUN, lists, 1.0)
    assert not (output / "_keyjoin/manifest.json").exists()


class TestReplacing:
    """A graph that replaces a complete output."""

    @pytest.fixture
    def job(self, keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path) -> Callable[..., Any]:
        """A graph up to its commit: it has written all of its parts beside a complete output of other rows."""
        output = tmp_path / "out"

        def make(limits: str = "1") -> tuple[Place, int]:
            argv = [f"--model={model(models.keyed)}", f"--output={output}", "--chunk_bytes=100"]
            former, new = lines(*GOOD, name="in-1/a.jsonl"), lines(*GOOD[:9], b"bad", name="in-2/a.jsonl")
            assert keyjoin("run", f"--input={former}", *argv).code == 0
            again = [f"--input={new}", *argv, f"--max_bad_rows={limits}", "--overwrite"]
            options, _ = parse_run(again, "keyjoin run")
            inputs = find_inputs(options)
            place, earlier, _ = resume.start(options, inputs)
            assert (place, earlier) == (staged(str(output)), None)
            with (
                prepare(options, inputs, local=False, place=place) as plan,
                beam.Pipeline("FnApiRunner") as root,
            ):
                build(root, plan.job, begin(plan, overwrite=True))
            return place, len(list(Path(place.work).glob("_keyjoin/temp/lists/*/*")))

        return make

    def test_one_after_another_and_at_once(self, job: Callable[..., Any], keyjoin: Callable[..., Result]) -> None:
        place, lists = job()
        output = Path(place.output)
        former = {name: text for name, text in content(output).items() if not name.startswith("_keyjoin/temp/")}
        assert json.loads(former["_keyjoin/manifest.json"])["totals"]["rows"] == len(GOOD)
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: commit_folder(place, RUN, lists, 7.5), range(8)))
        once = {name: text for name, text in content(output).items() if not name.startswith("_keyjoin/temp/")}
        assert json.loads(once["_keyjoin/manifest.json"])["totals"]["rows"] == 10
        commit_folder(place, RUN, lists, 7.5)
        assert CommitRun(place, RUN, 0.0)._clear(lists) == place.output
        assert content(output) == once
        assert keyjoin("verify", f"--run={output}", "--read_data=100%").code == 0

    def test_with_too_many_bad_rows_the_former_stays(self, job: Callable[..., Any]) -> None:
        place, lists = job("0")
        output = Path(place.output)
        former = {name: text for name, text in content(output).items() if not name.startswith("_keyjoin/temp/")}
        for _ in range(2):
            with pytest.raises(RunError, match="is still the complete output that it was before"):
                commit_folder(place, RUN, lists, 1.0)
        assert {name: text for name, text in content(output).items() if not name.startswith("_keyjoin/temp/")} == former
