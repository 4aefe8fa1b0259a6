"""A million parts: the end of a run reads, lists and writes them exactly, in memory that does not grow.

Real: a million receipts in 64 files, with the bytes that `WriteReceipts` writes, and the code that reads them. Real,
too: the ledger, the lists of the manifest, and the listing of a million parts by Beam and by keyjoin.
Simulated: the objects. Their file system only generates names, so no page of an object store is fetched, and no part
is written. The local file system is tested with 5,000 real files.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import end_phase, scale
from benchmarks.scale_costs import costs
from benchmarks.scale_model import Assumed, estimate, last_end, simulate, workers_for
from tests.conftest import ROOT, Result
from tests.support import models
from transforms.storage import files, lookup
from transforms.write_receipts import WriteReceipts, read_receipts

MILLION = 1_000_000
MEASURED = ROOT / "docs" / "scale.json"
only_linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is counted by Linux")


def end_of_run(what: str, parts: int) -> dict[str, Any]:
    """Runs the end of a run in its own process, so that its peak memory can be measured."""
    command = [sys.executable, "-m", "benchmarks.end_phase", what, str(parts)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@only_linux
def test_the_end_of_a_run_with_a_million_parts_takes_the_memory_of_a_small_one() -> None:
    """Not included: the listing, which is a dictionary of all files, and the plan's sources, one for 1,000 parts."""
    small, large = end_of_run("receipts", MILLION // 100), end_of_run("receipts", MILLION)
    assert (small["problems"], large["problems"]) == (0, 0)
    assert large["totals"] == {
        name: value and value * 100 for name, value in small["totals"].items() if name != "dead"
    } | {"dead": {}}
    assert large["totals"]["parts"] == MILLION
    assert large["totals"]["joined"] == MILLION * end_phase.ROWS
    assert large["parts_list_bytes"] == 100 * small["parts_list_bytes"]
    assert large["peak_bytes_more"] <= 1.3 * small["peak_bytes_more"] + (4 << 20)


@only_linux
def test_a_million_parts_are_listed_with_their_names_and_sizes_and_no_more() -> None:
    found = end_of_run("listing", MILLION)
    assert found["right"]
    assert found["peak_bytes_more"] < 600 * MILLION


def test_made_receipts_are_those_that_a_run_writes(tmp_path: Path) -> None:
    count = 2 * end_phase.CHUNKS + 345
    end_phase.write(tmp_path / "made", count)
    step = WriteReceipts(str(tmp_path / "run"))
    shards: dict[int, list[Any]] = {}
    for shard, part in map(step._with_shard, end_phase.parts(count)):
        shards.setdefault(shard, []).append(part)
    for shard, parts in shards.items():
        step._write(shard, reversed(parts))
    for name, path in ((p.relative_to(tmp_path / "run"), p) for p in (tmp_path / "run").rglob("*.jsonl")):
        assert (tmp_path / "made" / name).read_bytes() == path.read_bytes()
    assert list(read_receipts(str(tmp_path / "made"))) == list(end_phase.parts(count))


def test_a_folder_is_listed_as_it_is(tmp_path: Path) -> None:
    for number in range(5_000):
        if number % 25 == 0:
            (tmp_path / f"{number // 25:03d}").mkdir()
        (tmp_path / f"{number // 25:03d}" / f"part-{number:05d}").touch()
    (tmp_path / "000" / "part-00007").write_text("seven b")
    (tmp_path / "empty").mkdir()
    (tmp_path / "to-folder").symlink_to(tmp_path / "000")
    (tmp_path / "to-nowhere").symlink_to(tmp_path / "nowhere")
    found = files.list_below(str(tmp_path))
    names = {f"{n // 25:03d}/part-{n:05d}" for n in range(5_000)} | {"to-folder", "to-nowhere"}
    assert list(found) == sorted(names)
    assert found["000/part-00007"] == 7
    assert found["to-folder"] == len(str(tmp_path / "000"))
    assert files.list_below(f"{tmp_path}/") == found == files.list_below(os.path.relpath(tmp_path))
    assert files.list_below(str(tmp_path / "nowhere")) == {}


def test_a_run_looks_up_its_input_twice_and_its_output_twice(
    keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once before and once after the run: in an object store, each listing may take minutes."""
    seen: Counter[str] = Counter()
    match, list_below = lookup.match, files.list_below

    def counted_match(pattern: str) -> Any:
        seen["input"] += 1
        return match(pattern)

    def counted_list(folder: str) -> Any:
        seen[Path(folder).name] += 1
        return list_below(folder)

    monkeypatch.setattr(lookup, "match", counted_match)
    monkeypatch.setattr(files, "list_below", counted_list)
    path = lines({"x": [1, 2, 3]}, {"x": [4, 5, 6]})
    done = keyjoin("run", f"--input={path}", f"--model={model(models.keyed)}", "--chunk_bytes=1")
    assert done.code == 0, done.err
    assert len(done.parts()) == 2
    assert '"prediction"' in done.out
    assert (seen["input"], seen[done.output.name]) == (2, 2)


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=8),
    st.lists(st.floats(0, 100), max_size=40),
)
def test_workers_are_never_idle_while_a_chunk_waits(ready: list[float], times: list[float]) -> None:
    end = last_end(np.array(ready), np.array(times))
    slots = len(ready)
    longest = max(times, default=0.0)
    assert end >= min(ready)
    assert end <= max(ready) + sum(times) / slots + longest + 1e-6
    assert sum(max(0.0, end - one) for one in ready) >= sum(times) - 1e-6


def test_a_simulated_run_has_a_barrier_and_pays_for_who_waits() -> None:
    calm = Assumed(spread=0.0, slow_share=0.0, worker_seconds=100.0, vcpus=1, first_workers=4)
    done = simulate(8, (10.0, 5.0), 4, calm)
    assert done.seconds == pytest.approx(100 + 2 * 10 + 2 * 5)
    assert done.worker_seconds == pytest.approx(4 * done.seconds)
    slow = simulate(8, (10.0, 5.0), 4, calm._replace(slow_share=1.0, slow_factor=4.0))
    assert slow.seconds == pytest.approx(100 + 4 * 30)
    ramped = simulate(8, (10.0, 5.0), 4, calm._replace(first_workers=1, doubling_seconds=60.0))
    assert done.seconds < ramped.seconds
    assert ramped.worker_seconds < 4 * ramped.seconds


def test_a_part_of_many_chunks_stands_for_all() -> None:
    assumed = Assumed(first_workers=1_000)
    whole = simulate(100_000, (2.0, 1.0), 100, assumed)
    more = simulate(400_000, (2.0, 1.0), 400, assumed)
    assert more.seconds == pytest.approx(whole.seconds, rel=0.15)


def test_workers_are_as_many_as_the_target_asks_for() -> None:
    assumed = Assumed(vcpus=4, target_seconds=3640.0, worker_seconds=40.0, most_workers=10)
    assert workers_for(14_400, 1.0, assumed) == 1
    assert workers_for(14_401, 1.0, assumed) == 2
    assert workers_for(10**9, 1.0, assumed) == 10
    assert workers_for(5, 10**6, assumed) == 2  # no more workers than chunks


def test_ten_times_the_rows_are_ten_times_the_work() -> None:
    found = costs(json.loads(MEASURED.read_text()))
    one, ten = (estimate(rows, 64 << 20, found, Assumed()) for rows in (10**9, 10**10))
    assert ten.cpu_hours == pytest.approx(10 * one.cpu_hours, rel=0.01)
    assert ten.chunks == pytest.approx(10 * one.chunks, abs=10)
    assert min(found) >= 0


def test_the_pages_are_current() -> None:
    for page, text in scale.tables(json.loads(MEASURED.read_text())).items():
        assert scale.put_in(page.read_text(), text) == page.read_text(), "run python -m benchmarks.scale --write"
