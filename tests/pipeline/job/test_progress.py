"""The figures of a run's progress, without a run: shares, bad rows, rates, stalls and the timeline."""

import contextlib
import queue
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.job import written_parts
from pipeline.job.progress import MOST_POINTS, Phase, Progress, Rate, Waits
from pipeline.run_folder.place import Place, in_place, staged
from tests.conftest import Result
from tests.support import models
from transforms.records import Chunk, PartReceipt, Source
from transforms.write_receipts import receipt_path, write_receipt


class Clock:
    """A clock that advances only when a test advances it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def chunk(number: int, parts: int = 4, source: str = "a") -> Chunk:
    return Chunk(source, source, number * 10, number * 10 + 10, number, parts, f"{source}-{number}")


def receipt(of: Chunk, rows: int = 10, dead: dict[str, int] | None = None) -> PartReceipt:
    bad = dead or {}
    return PartReceipt(of, 0, rows, 0, rows - sum(bad.values()), bad, 1, 0, 0, 0, 0, 0, {})


def begun(clock: Clock, sources: int = 1) -> Progress:
    """The progress of a run that has begun to score sources of 40 bytes."""
    made = Progress(clock=clock)
    made.plan("out", [Source(name, 40, name, "") for name in "abc"[:sources]])
    made.model_seconds = lambda: None
    made.enter(Phase.SCORING)
    return made


def test_shares_are_those_of_sources_by_their_size() -> None:
    made = begun(Clock(), 2)
    assert made.parts() is None
    made.cut([chunk(0), chunk(0, parts=1, source="b")])
    assert made.parts() == 5
    made.found(receipt(chunk(0)))
    made.scored(chunk(1), 10, {"null": 2})
    made.scored(chunk(2), 10, {"null": 1})
    found = made.figures()
    assert (found.scored, found.written, found.rows, found.parts, found.of_parts) == (30 / 80, 10 / 80, 10, 1, 5)
    assert found.dead == {"null": 3}
    made.wrote(receipt(chunk(1), 10, {"null": 2, "collision": 1}))  # the receipt counts rows that cannot be written
    found = made.figures()
    assert (found.scored, found.written, found.rows, found.parts) == (30 / 80, 20 / 80, 20, 2)
    assert found.dead == {"null": 3, "collision": 1}
    assert made.scored_rows == 20  # of this attempt


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=50), st.floats(1, 1e6))
def test_a_steady_rate_is_found_however_often_it_is_read(steps: list[float], rate: float) -> None:
    made, now = Rate(), 7.0
    assert made.update(now, 0.0) is None
    for step in steps:
        now += step
        assert made.update(now, rate * (now - 7.0)) == pytest.approx(rate)


def test_a_rate_follows_a_change() -> None:
    made, total = Rate(), 0.0
    found = []
    for second in range(121):
        found.append(made.update(float(second), total))
        total += 100 if second < 60 else 10
    assert found[60] == pytest.approx(100)
    assert 10 < (found[120] or 0) < 30


def test_the_time_left_is_that_of_the_rows_that_are_not_scored() -> None:
    clock = Clock()
    made = begun(clock)
    made.found(receipt(chunk(0)))
    assert made.figures().left is None
    clock.now += 5
    made.scored(chunk(1), 10, {})
    found = made.figures()
    assert (found.rate, found.left) == (pytest.approx(2), pytest.approx(10))


@pytest.mark.parametrize(
    ("events", "seconds", "waits"),
    [
        ("", None, Waits.SPLITTING),
        ("b", None, Waits.READING),
        ("br", None, Waits.CALL),
        ("br", 20.0, Waits.COMPUTING),
        ("br", 0.0, Waits.MODEL),
        ("bbrrs", 20.0, Waits.COMPUTING),
        ("brs", 20.0, Waits.WRITING),
        ("brsw", 0.0, Waits.SPLITTING),
    ],
)
def test_a_stall_has_a_name(events: str, seconds: float | None, waits: Waits) -> None:
    """Of the events of chunks, `seconds` is the processor time that the model's process uses afterwards."""
    clock = Clock()
    made, used = begun(clock), [1.0]
    made.model_seconds = lambda: None if seconds is None else used[0]
    calls: dict[str, Callable[[], object]] = {
        "b": made.begin,
        "r": made.read,
        "s": lambda: made.scored(chunk(0), 10, {}),
        "w": lambda: made.wrote(receipt(chunk(0))),
    }
    for event in events:
        calls[event]()
    clock.now += 19.9
    assert made.figures().waits_for is None
    clock.now += 20.1
    used[0] += seconds or 0
    found = made.figures()
    assert (found.waits_for, found.idle) == (waits, pytest.approx(40))
    made.enter(Phase.FINISHING)
    clock.now += 100
    assert made.figures().waits_for is None


def test_what_is_read_has_a_share_and_a_time_left() -> None:
    clock = Clock()
    made = Progress(clock=clock)
    made.expect(Phase.READING, 400, 4)
    assert (made.figures().done, made.figures().left) == (0, None)
    for _ in range(3):
        clock.now += 2
        made.add(100, 1)
        found = made.figures()
    assert (found.done, found.parts, found.of_parts, found.scored) == (0.75, 3, 4, None)
    assert found.left == pytest.approx(2)
    made.enter(Phase.LOADING)
    assert made.figures().done is None


def test_a_job_on_a_remote_runner_counts_what_it_has_written() -> None:
    clock = Clock()
    made = Progress(clock=clock)
    made.plan("out", [Source(name, 40, name, "") for name in "ab"])
    made.enter(Phase.RUNNING)
    made.found(receipt(chunk(0)))
    assert (made.figures().phase, made.figures().parts, made.figures().scored) == (Phase.RUNNING, 1, None)
    clock.now += 119
    assert made.figures().waits_for is None
    clock.now += 1
    assert made.figures().waits_for is Waits.JOB
    made.followed(receipt(chunk(1), 10, {"null": 2}))
    found = made.figures()
    assert (found.phase, found.parts, found.of_parts, found.rows) == (Phase.SCORING, 2, None, 20)
    assert (found.scored, found.written, found.dead, found.waits_for) == (20 / 80, 20 / 80, {"null": 2}, None)
    made.followed(receipt(chunk(0, parts=1, source="b")))
    assert (made.figures().of_parts, made.figures().written) == (5, 60 / 80)
    clock.now += 120
    assert made.figures().waits_for is Waits.JOB


def test_counters_of_a_job_that_grow_are_no_stall() -> None:
    clock = Clock()
    made = Progress(clock=clock)
    made.enter(Phase.RUNNING)
    for rows in (10, 20, 20):
        clock.now += 80
        made.counted(rows, rows, {})
    assert (made.figures().idle, made.figures().waits_for) == (80, None)
    clock.now += 80
    made.counted(20, 20, {})
    assert made.figures().waits_for is Waits.JOB


@pytest.mark.parametrize("place", [in_place, staged])
def test_parts_of_a_job_count_once_their_files_are_there(
    tmp_path: Path, place: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = place(str(tmp_path))

    class Counting(Progress):
        def found(self, part: PartReceipt) -> None:
            earlier.put(part.chunk.number)

        def followed(self, part: PartReceipt) -> None:
            later.put(part.chunk.number)

    earlier, later = queue.Queue[int](), queue.Queue[int]()

    def write(number: int, folder: str, content: bytes = b"12345") -> None:
        made = chunk(number)
        write_receipt(where.temp, receipt(made)._replace(bytes=5))
        (Path(folder) / made.part).parent.mkdir(parents=True, exist_ok=True)
        (Path(folder) / made.part).write_bytes(content)

    monkeypatch.setattr(written_parts, "PAUSE_SECONDS", 0.001)
    with contextlib.suppress(RuntimeError), written_parts.followed(where, Progress()):
        raise RuntimeError  # a folder that is not there yet holds no part
    write(0, where.work)
    write(1, where.work, b"123")  # the file is not whole
    if where.is_staged:
        write(2, where.output)  # a part of the output that stays, with --incremental
    (Path(where.temp) / "receipts/damaged.json").write_text("{")
    shutil.copy(receipt_path(where.temp, chunk(0).part), f"{where.temp}/receipts/_a-0.json.{'0' * 32}.tmp")
    with written_parts.followed(where, Counting()):
        assert {earlier.get(timeout=60) for _ in range(1 + where.is_staged)} == ({0, 2} if where.is_staged else {0})
        write(3, where.work)
        assert later.get(timeout=60) == 3
        write(1, where.work)
        assert later.get(timeout=60) == 1
        assert later.empty()
        assert earlier.empty()


@given(st.integers(0, 2_000))
def test_a_timeline_is_short_and_ends_with_all_rows(chunks: int) -> None:
    clock = Clock()
    made = begun(clock)
    for number in range(chunks):
        clock.now += 1
        made.scored(chunk(number, parts=chunks), 3, {})
    found = made.timeline()
    assert len(found) <= MOST_POINTS
    assert found[0] == (0, 0, 0)
    assert found[-1][:2] == (chunks, 3 * chunks)
    assert list(found) == sorted(set(found))


def test_a_run_records_what_it_measured(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    path = lines(*[{"x": [n, 0, 1]} for n in range(40)])
    done = keyjoin("run", f"--input={path}", f"--model={model(models.keyed)}", "--chunk_bytes=100")
    found = done.manifest()["measured"]
    assert 0 < found["startup_seconds"] < done.manifest()["seconds"]
    assert found["timeline"][-1][1:] == [40, Path(path).stat().st_size]
    assert found["peak_memory"] is None or found["peak_memory"] > 100_000_000
    assert "without the start-up" in done.out


def test_written_parts_are_those_with_receipts(
    keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lines(*[{"x": [n, 0, 1]} for n in range(40)])
    output = Path(path).parents[1] / "out-1"
    seen, wrote = [], Progress.wrote

    def looking(progress: Progress, part: PartReceipt) -> None:
        wrote(progress, part)
        receipts = sum(1 for path in output.glob("_keyjoin/temp/receipts/**/*") if path.is_file())
        seen.append((progress.figures().parts, receipts))

    monkeypatch.setattr(Progress, "wrote", looking)
    assert keyjoin("run", f"--input={path}", f"--model={model(models.keyed)}", "--chunk_bytes=100").code == 0
    assert len(seen) > 4
    assert all(0 < shown <= receipts for shown, receipts in seen), seen
