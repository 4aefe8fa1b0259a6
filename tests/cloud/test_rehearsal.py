"""The rehearsal: what is staged for Dataflow, run to its end, leaves the same output as a run on this machine."""

import json
import urllib.parse
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from apache_beam.portability import common_urns

from pipeline.terminal.amounts import with_noun
from tests.cloud import staged, twice
from tests.cloud.rehearsal import Rehearsal
from tests.cloud.rehearsed import CLOUD_FLAGS, PARTS, ROWS, Completed, Place, command, copy, kept, left, ready
from tests.faults.counts import Counts
from tests.support import houses
from tests.support.store import LOST, REFUSED, Request

pytestmark = ready
# The steps that write files.
JOIN = "JoinPredictions/CoGroupByKey/CoGroupByKeyImpl/GroupByKey"
WRITERS = ("SplitIntoChunks/SplitSource", "WritePart/WritePart", "WriteReceipts/WriteShard", "CommitRun/Commit")


def run(rehearsal: Rehearsal, place: Place, *flags: str) -> Completed:
    """Runs the command as a user types it."""
    return command("run", *place.flags(place.there), *rehearsal.cloud.flags, *CLOUD_FLAGS, *flags)


def written(request: Request) -> str:
    """The name of the object that a request begins to write; empty for other requests."""
    return urllib.parse.unquote(request.name) if request.kind == "begin" else ""


def check_complete(done: Completed, rehearsal: Rehearsal, place: Place, expected: dict[str, bytes]) -> None:
    assert done.code == 0, done.err
    there = left(rehearsal.cloud, place)
    assert kept(there) == expected
    assert set(there) - set(expected) == {
        "_keyjoin/manifest.json",
        "_keyjoin/report.html",
        "_SUCCESS",
    }  # so `_keyjoin/temp`, `_keyjoin/lock` and `_keyjoin/job.json` are gone


def test_what_is_staged_leaves_what_a_local_run_leaves(
    rehearsal: Rehearsal, place: Place, expected: dict[str, bytes]
) -> None:
    pipelines: list[Any] = []
    rehearsal.change = pipelines.append
    check_complete(run(rehearsal, place), rehearsal, place, expected)
    (outcome,) = rehearsal.outcomes
    step = staged.steps(pipelines[0], common_urns.primitives.GROUP_BY_KEY.urn)[JOIN]
    there = left(rehearsal.cloud, place)
    document = json.loads(there["_keyjoin/manifest.json"])
    assert b"Cost of the job, as estimated before it" in there["_keyjoin/report.html"]
    cost = document["cost"]
    machines = f"{with_noun(cost['workers'], 'worker')} of {cost['machine_type']}"
    assert f"with {machines}".encode() in there["_keyjoin/report.html"]
    totals = document["totals"]
    counted = outcome.counters("ledger")
    assert counted == {
        "rows_read": totals["rows"],
        "rows_joined": totals["joined"],
        "rows_dead_lettered": sum(totals["dead"].values()),
        "bytes_joined": totals["read_bytes"],
        **{f"dead_letters_{reason}": count for reason, count in totals["dead"].items()},
    }
    assert totals["parts"] == PARTS
    # A prediction has 4 bytes, and a row 36 that must not cross the join. The rest is the cost of a chunk.
    (joined,) = step.inputs.values()
    assert 4 < outcome.bytes_of(joined) / totals["rows"] < 8


def test_a_canary_that_fails_submits_no_job(rehearsal: Rehearsal, place: Place) -> None:
    count = len(ROWS) - 1  # the last line is blank
    strict = [flag for flag in place.flags(place.there) if not flag.startswith("--max_bad_rows")]
    flags = *rehearsal.cloud.flags, *CLOUD_FLAGS, f"--canary={count}", "--max_bad_rows=2"
    refused = command("run", *strict, *flags)
    assert (refused.code, "3 of the first 3,003 rows are bad" in refused.err) == (1, True), refused.err
    assert f"{place.there}/in/a.jsonl#" in refused.err
    assert (left(rehearsal.cloud, place), rehearsal.cloud.api.jobs) == ({}, {})


@pytest.mark.parametrize("fmt", ["csv", "parquet"])
def test_files_with_a_header_or_schema_leave_what_a_local_run_leaves_after_a_canary(
    fmt: str, rehearsal: Rehearsal, place: Place, tmp_path: Path
) -> None:
    """The run also proves and compares: an audit, rows scored once, a baseline and, in text, lineage."""
    lineage = fmt == "csv"
    path = houses.write(tmp_path, fmt)
    flags = ["--features=CRIM,ZN,INDUS", "--chunk_bytes=2000", "--batch_size=96", "--dedup", "--audit=20"]
    flags += ["--lineage"] * lineage
    local = command("run", f"--input={path}", f"--output={tmp_path}/out", f"--model={place.here}/model", *flags)
    copy(rehearsal.cloud, [path], tmp_path, f"{place.there}/rows")
    copy(rehearsal.cloud, (tmp_path / "out").rglob("*"), tmp_path / "out", f"{place.there}/yesterday")
    done = command(
        "run", f"--input={place.there}/rows/", f"--output={place.there}/out", f"--model={place.there}/model", *flags,
        *rehearsal.cloud.flags, *CLOUD_FLAGS, "--canary=100", f"--baseline={place.there}/yesterday",
    )  # fmt: skip
    assert (local.code, done.code) == (0, 0), done.err
    assert "canary       100 rows scored, 0 of them bad; the run continues\n" in done.out
    there = left(rehearsal.cloud, place)
    run = json.loads(there["_keyjoin/manifest.json"])
    before = json.loads((tmp_path / "out/_keyjoin/manifest.json").read_bytes())
    parts = {part.name: part.read_bytes() for part in (tmp_path / "out").glob(f"*.{fmt}")}
    assert len(parts) > 1
    if lineage:
        moved = (str(tmp_path), f"{place.there}/rows"), (before["lineage"][0], run["lineage"][0])
        for old, new in moved:
            assert all(old.encode() in text for text in parts.values())
            parts = {name: text.replace(old.encode(), new.encode()) for name, text in parts.items()}
    assert {name: text for name, text in there.items() if name.endswith(f".{fmt}")} == parts
    assert run["audit"] == before["audit"] == {"rows": 20, "equal": 20, "close": 0, "largest_difference": 0.0}
    assert {column["name"]: column["psi"] for column in run["drift"]} == dict.fromkeys(
        ("CRIM", "ZN", "INDUS", "prediction"), 0.0
    )
    for text in (
        "of 20 random rows, scored alone, 20 get the same prediction",
        f"Compared with {place.there}/yesterday",
    ):
        assert text.encode() in there["_keyjoin/report.html"]


def test_a_worker_dies_and_the_same_command_resumes(
    rehearsal: Rehearsal, place: Place, expected: dict[str, bytes], count: Counts
) -> None:
    done: list[str] = []
    killed: list[int] = []

    def kill(request: Request, _: int) -> None:
        if "/receipts/" in written(request):
            done.append(written(request))
            if len(done) == 4 and rehearsal.workers:
                killed.append(rehearsal.workers.kill())

    rehearsal.cloud.store.inject(kill)
    failed = run(rehearsal, place)
    assert (failed.code, failed.err.count("\n")) == (1, 1), failed.err
    assert killed[0] >= 2  # Beam's boot and the worker
    there = left(rehearsal.cloud, place)
    assert "_SUCCESS" not in there
    assert 2 <= len(there.keys() & expected.keys()) < len(expected)

    again: list[str] = []
    rehearsal.cloud.store.inject(lambda request, _: again.append(written(request)))
    check_complete(run(rehearsal, place), rehearsal, place, expected)
    assert any("/receipts/" in name for name in again)
    assert not set(again) & set(done[:2])  # their chunks were finished before the kill
    count("machines of Dataflow workers killed", len(killed))


def test_bundles_that_come_again_change_nothing(
    rehearsal: Rehearsal, place: Place, expected: dict[str, bytes], count: Counts
) -> None:
    twice.send_along()
    rehearsal.change = lambda pipeline: staged.replace_functions(pipeline, WRITERS, twice.Again)
    again: Counter[str] = Counter()
    rehearsal.cloud.store.inject(lambda request, _: again.update([written(request)]))
    # With an accelerator there are two kinds of workers: those that predict, and the others.
    check_complete(run(rehearsal, place, "--accelerator=type:nvidia-l4;count:1"), rehearsal, place, expected)
    assert rehearsal.workers
    assert rehearsal.workers.started == 2
    receipts = [name for name in again if "/receipts/" in name]
    assert {again[name] for name in receipts} == {3}
    count("chunks that Dataflow workers wrote three times", len(receipts))


def test_a_store_that_misbehaves(rehearsal: Rehearsal, place: Place, expected: dict[str, bytes], count: Counts) -> None:
    to_come = {(fault, kind) for fault in (*REFUSED, LOST) for kind in ("upload", "read")}
    to_come |= {("503", kind) for kind in ("begin", "list", "look", "batch")}

    def each_once(request: Request, before: int) -> str | None:
        if before or rehearsal.workers is None:
            return None  # tests/transforms/storage/test_object_store.py covers requests before the job runs
        fault = next((fault for fault, kind in sorted(to_come) if kind == request.kind), None)
        to_come.discard((fault or "", request.kind))
        return fault

    rehearsal.cloud.store.inject(each_once)
    check_complete(run(rehearsal, place), rehearsal, place, expected)
    assert not to_come
    count("requests of Dataflow workers that met a fault", rehearsal.cloud.store.faults.total())
