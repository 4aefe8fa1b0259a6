"""Waves: chunks in order, with a limit of size and time. Their number changes no byte, and receipts stay in order."""

import gzip
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.job import waves as module
from pipeline.job.stop_early import Watch
from pipeline.job.waves import waves
from pipeline.options.error_limits import ErrorLimits
from tests.conftest import Result
from tests.support import models
from transforms.errors import RunError
from transforms.records import Chunk, PartReceipt, Source
from transforms.write_receipts import WriteReceipts, read_receipts, write_list


def chunk(number: int, size: int = 1, source: str = "s") -> Chunk:
    return Chunk(source, "", 0, size, number, 1000, f"{source}-{number:05d}")


@given(st.lists(st.integers(0, 20), max_size=30), st.integers(1, 40))
def test_waves_keep_the_order_and_come_near_to_their_size(sizes: list[int], wave_bytes: int) -> None:
    chunks = [chunk(number, size) for number, size in enumerate(sizes)]
    found = list(waves(iter(chunks), wave_bytes))
    assert [c for wave in found for c in wave] == chunks
    assert all(found)
    for wave in found:
        assert len(wave) == 1 or sum(c.end for c in wave) - wave[-1].end / 2 <= wave_bytes
    for wave, after in itertools.pairwise(found):
        assert sum(c.end for c in wave) + after[0].end / 2 > wave_bytes


def test_many_waves_give_the_bytes_of_one(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    rows = [{"x": [n, 0, 1]} if n % 7 else {"x": "bad"} for n in range(60)]
    path = Path(lines(*rows, name="a.jsonl"))
    (path.parent / "b.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    flags = (f"--input={path.parent}", f"--model={model(models.keyed)}", "--chunk_bytes=100", "--max_bad_rows=20")
    one, many = keyjoin("run", *flags), keyjoin("run", *flags, "--wave_bytes=300")
    assert (one.code, many.code) == (0, 0), many.err
    assert [(p.name, p.read_bytes()) for p in many.parts()] == [(p.name, p.read_bytes()) for p in one.parts()]
    assert many.dead() == one.dead()
    assert many.manifest()["totals"] == one.manifest()["totals"]
    for name in ("_keyjoin/parts.jsonl", "_keyjoin/sources.jsonl", "_keyjoin/statistics.json"):
        assert (many.output / name).read_bytes() == (one.output / name).read_bytes()


# A row has 17 bytes; the 4 bytes of its prediction count as 16.
@pytest.mark.parametrize(("wave_bytes", "expected"), [(165, 1), (164, 1), (83, 1), (81, 3), (66, 3)])
def test_less_than_two_waves_are_one(
    wave_bytes: int, expected: int, keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    flags = (f"--input={lines(*[{'x': [1, 2, 3]}] * 5)}", f"--model={model(models.keyed)}", "--chunk_bytes=17")
    with mock.patch("pipeline.job.waves.write_list", wraps=write_list) as written:
        assert keyjoin("run", *flags, f"--wave_bytes={wave_bytes}").complete()
    assert written.call_count == expected


def test_a_waves_memory_is_let_go(keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: Any) -> None:
    """After a wave, its memory and its decompressed copies are released."""
    seen = []
    original = module.build_chunks

    def build(*arguments: Any, **named: Any) -> Any:
        seen.append(len(list((Path(arguments[1].temp) / "spill").glob("*"))))
        return original(*arguments, **named)

    monkeypatch.setattr(module, "build_chunks", build)
    folder = Path(lines({"x": [1, 2, 3]}, name="a.jsonl")).parent
    for name in "abcd":
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(b'{"x": [1, 2, 3]}\n' * 5))
    (folder / "a.jsonl").unlink()
    done = keyjoin("run", f"--input={folder}", f"--model={model(models.keyed)}", "--wave_bytes=1")
    assert done.code == 0, done.err
    assert len(seen) == 4
    assert max(seen) <= 2  # this wave's copy, and that of the next source, split to find the wave's end


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 50)), unique=True, max_size=40))
def test_receipts_of_many_shards_come_back_in_order(chosen: list[tuple[str, int]]) -> None:
    parts = [PartReceipt(chunk(n, source=s), 9, 1, 0, 1, {"x": 1}, 2, 3, 0, 0, 4) for s, n in chosen]
    with tempfile.TemporaryDirectory() as temp:
        step = WriteReceipts(temp)
        shards: dict[int, list[PartReceipt]] = {}
        for shard, part in map(step._with_shard, parts):
            shards.setdefault(shard, []).append(part)
        for shard, found in shards.items():
            step._write(shard, found)
        assert list(read_receipts(temp)) == sorted(parts, key=lambda p: (p.chunk.source, p.chunk.number))


class Clock:
    """A clock that advances only when a test advances it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def begun(watch: Watch, clock: Clock, chunks: list[Chunk], seconds: float) -> int:
    """Runs a wave in which each chunk takes `seconds`; returns the number of chunks that it started."""
    watch.begin_wave()
    count = 0
    for each in chunks:
        if not watch.may_start(each):
            break
        count += 1
        clock.now += seconds
    watch.end_wave()
    return count


@pytest.mark.parametrize(
    ("seconds", "first", "then"), [(0.0, 100, 100), (1.0, 30, 30), (29.0, 2, 2), (31.0, 1, 1), (4e3, 1, 1)]
)
def test_no_chunk_is_begun_once_a_wave_has_taken_its_time(seconds: float, first: int, then: int) -> None:
    clock = Clock()
    watch = Watch(ErrorLimits.parse([]), [Source("s", 1000, "s", "")], 10, b"", clock)
    chunks = [chunk(number) for number in range(100)]
    assert begun(watch, clock, chunks, seconds) == first
    assert begun(watch, clock, chunks, seconds) == then


def test_chunks_that_are_read_ahead_count_by_what_the_wave_before_took() -> None:
    clock = Clock()
    watch = Watch(ErrorLimits.parse([]), [Source("s", 1000, "s", "")], 10, b"", clock)
    chunks = [chunk(number) for number in range(100)]
    watch.begin_wave()
    assert [watch.may_start(each) for each in chunks[:2]] == [True, True]  # no time has passed between the two
    clock.now += 80
    watch.end_wave()
    watch.begin_wave()
    assert [watch.may_start(each) for each in chunks[2:4]] == [True, False]


def test_waves_that_are_bounded_by_time_give_the_bytes_of_one(
    keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(lines(*[{"x": [n, 0, 1]} for n in range(40)], name="a.jsonl"))
    (path.parent / "b.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    flags = (f"--input={path.parent}", f"--model={model(models.keyed)}", "--chunk_bytes=100")
    one = keyjoin("run", *flags)
    monkeypatch.setattr("pipeline.job.stop_early.WAVE_SECONDS", 0.0)
    with mock.patch("pipeline.job.waves.write_list", wraps=write_list) as written:
        many = keyjoin("run", *flags)
    assert many.complete(), many.err
    assert written.call_count == len(many.parts()) > 10
    assert [(p.name, p.read_bytes()) for p in many.parts()] == [(p.name, p.read_bytes()) for p in one.parts()]
    for name in ("_keyjoin/parts.jsonl", "_keyjoin/sources.jsonl", "_keyjoin/statistics.json"):
        assert (many.output / name).read_bytes() == (one.output / name).read_bytes()


@pytest.mark.parametrize("seconds", [0.0, 30.0])
def test_parts_that_are_rebuilt_between_others_change_no_byte(
    seconds: float, keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finished parts of a wave are known before those between them, of which a slow wave writes one at a time."""
    path = Path(lines(*[{"x": [n, 0, 1]} for n in range(40)], name="a.jsonl"))
    (path.parent / "b.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    flags = (f"--input={path.parent}", f"--model={model(models.keyed)}", "--chunk_bytes=100")
    done = keyjoin("run", *flags)
    names = ("_keyjoin/parts.jsonl", "_keyjoin/sources.jsonl", "_keyjoin/statistics.json")
    before = {path: path.read_bytes() for path in [*done.parts(), *(done.output / name for name in names)]}
    for missing in done.parts()[1:12:3]:
        missing.unlink()
    assert keyjoin("verify", f"--run={done.output}", "--discard").code != 0
    monkeypatch.setattr("pipeline.job.stop_early.WAVE_SECONDS", seconds)
    again = keyjoin("run", *flags, f"--output={done.output}")
    assert again.complete(), again.err
    assert {path: path.read_bytes() for path in before} == before


def test_what_was_scored_for_long_is_on_disk_before_more_is(
    keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a slow model, each wave is written before the next: after a failure in the third wave, two waves remain."""
    path = lines(*[{"x": [n, 0, 1]} for n in range(40)])
    monkeypatch.setattr("pipeline.job.stop_early.WAVE_SECONDS", 0.0)
    original, runs = module.build_chunks, []

    def build(*arguments: Any, **named: Any) -> Any:
        runs.append(arguments)
        if len(runs) == 3:
            raise RunError("the power is gone")
        return original(*arguments, **named)

    monkeypatch.setattr(module, "build_chunks", build)
    done = keyjoin("run", f"--input={path}", f"--model={model(models.keyed)}", "--chunk_bytes=100")
    assert (done.code, len(done.parts())) == (1, 2)
