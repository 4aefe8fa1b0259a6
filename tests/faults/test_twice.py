"""Faults of distributed runners: a chunk delivered twice, a late write by a dead worker, a step that fails once."""

import random
from pathlib import Path

import pytest

from tests.faults.counts import Counts
from tests.faults.forks import side_by_side
from tests.faults.jobs import ROWS, Job, make

SEEDS = range(6)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    data = "\n".join(ROWS * 2).encode()
    return make(tmp_path / "job", {"a.jsonl": data, "b.jsonl": data}, "--chunk_bytes=300", "--max_bad_rows=0.5")


@pytest.fixture
def expected(job: Job, tmp_path: Path) -> dict[str, bytes]:
    clean = job.copy(tmp_path / "clean")
    assert clean.run().code == 0
    return clean.files()


def test_a_chunk_that_is_written_twice_at_once(job: Job, expected: dict[str, bytes], count: Counts) -> None:
    done = job.run(hook=("twice", ()))
    assert done.code == 0, done.said
    assert job.files() == expected
    count("chunks written twice at once", done.hook["written twice"])


def test_a_zombie_that_writes_after_the_commit(job: Job, expected: dict[str, bytes], count: Counts) -> None:
    done = job.run(hook=("zombie", ()))
    assert done.code == 0, done.said
    left = job.files()
    assert {name: left[name] for name in expected} == expected
    assert {name.rpartition("/")[0][:13] for name in left.keys() - expected.keys()} == {"_keyjoin/temp"}
    again = job.run()
    assert (again.code, "nothing to do" in again.said) == (0, True), again.said
    assert job.files() == expected
    count("chunks written again after the commit", done.hook["written after the commit"])


def test_a_step_that_fails_once(job: Job, expected: dict[str, bytes], tmp_path: Path, count: Counts) -> None:
    def one(seed: int) -> int:
        failing = job.copy(tmp_path / f"flaky-{seed}")
        done = failing.run(hook=("flaky", (seed,)))
        assert (done.code, failing.is_complete()) == (1, False)
        assert "a worker is gone" in done.said
        again = failing.run(shuffle=random.Random(seed).randrange(100))
        assert again.code == 0, again.said
        assert failing.files() == expected
        return 1

    count("steps that failed once", sum(side_by_side(one, SEEDS)))
