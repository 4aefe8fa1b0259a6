"""Waves: chunks in order, bounded in size; the same bytes whatever their number; receipts that stay in order."""

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

from pipeline.waves import waves
from tests import models
from tests.conftest import Result
from transforms.receipts import WriteReceipts, read_receipts, write_list
from transforms.records import Chunk, PartReceipt


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
    for name in ("_parts.jsonl", "_sources.jsonl"):
        assert (many.output / name).read_bytes() == (one.output / name).read_bytes()


@pytest.mark.parametrize(("wave_bytes", "expected"), [(85, 1), (84, 1), (43, 1), (42, 3), (34, 3)])
def test_less_than_two_waves_are_one(
    wave_bytes: int, expected: int, keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    flags = (f"--input={lines(*[{'x': [1, 2, 3]}] * 5)}", f"--model={model(models.keyed)}", "--chunk_bytes=17")
    with mock.patch("pipeline.waves.write_list", wraps=write_list) as written:
        assert keyjoin("run", *flags, f"--wave_bytes={wave_bytes}").complete()
    assert written.call_count == expected


def test_a_waves_memory_is_let_go(keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: Any) -> None:
    """What crosses the join at a time is a wave, and a decompressed copy stays only until it is read."""
    from pipeline import waves as module

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
    assert max(seen) <= 2  # one wave's, and the source that had to be split to see that it is the next one's


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
