"""A command killed at any moment (SIGKILL) leaves either a complete output or one that can be resumed."""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import BOSTON, ROOT
from tests.faults.counts import Counts
from tests.faults.forks import side_by_side
from tests.faults.jobs import (
    LEFT_BEHIND,
    ROWS,
    Job,
    avro,
    delimited,
    make,
    overwriting,
    parquet,
    replaying,
    without_times,
)

RUNS, SOAK_RUNS = 60, 200
REPLAYS, SOAK_REPLAYS = 40, 200
OVERWRITES = 20
FORMATS = 2
PROCESSES, SOAK_PROCESSES = 3, 100


def killed(job: Job, folder: Path, times: int) -> int:
    """Kills a command once or twice, then resumes it; repeats this `times` times, each in a copy of its own."""
    before, clean = job.files(), job.copy(folder / "clean")
    started = time.monotonic()
    assert clean.run().code == 0
    seconds, expected = time.monotonic() - started, clean.files()

    def one(seed: int) -> int:
        chosen = random.Random(seed)
        tried: Job = job.copy(folder / str(seed))
        for _ in range(chosen.randrange(1, 3)):
            tried.run(kill_after=chosen.uniform(0, 1.2 * seconds))
            left = tried.files()
            if "_SUCCESS" in left:
                kept = {name: left[name] for name in left if not LEFT_BEHIND.search(name)}
                assert kept in (before, expected)
        done = tried.run()
        assert done.code == 0, (seed, done.said)
        assert tried.files() == expected, seed
        shutil.rmtree(tried.folder)
        return 1

    return sum(side_by_side(one, range(times)))


def test_a_kill_at_any_moment(tmp_path: Path, count: Counts) -> None:
    data = "\n".join(ROWS * 5).encode()
    sources = {"a.jsonl": data, "b.jsonl": data}
    job = make(tmp_path / "job", sources, "--chunk_bytes=500", "--wave_bytes=900", "--max_bad_rows=0.5")
    count("forked runs killed", killed(job, tmp_path, SOAK_RUNS if count.soak else RUNS))


def test_a_kill_of_a_replay_at_any_moment(tmp_path: Path, count: Counts) -> None:
    job = replaying(tmp_path / "job", chunk_bytes=60)
    count("forked replays killed", killed(job, tmp_path, SOAK_REPLAYS if count.soak else REPLAYS))


def test_a_kill_of_a_run_that_overwrites_another(tmp_path: Path, count: Counts) -> None:
    job = overwriting(tmp_path / "job", chunk_bytes=100)
    count(
        "forked runs that overwrite another killed", killed(job, tmp_path, SOAK_REPLAYS if count.soak else OVERWRITES)
    )


@pytest.mark.parametrize("make_job", [delimited, parquet, avro])
def test_a_kill_of_a_run_on_another_format(make_job: Callable[[Path], Job], tmp_path: Path, count: Counts) -> None:
    job = make_job(tmp_path / "job")
    job = job._replace(flags=(*job.flags, "--wave_bytes=150"))
    kills = SOAK_REPLAYS if count.soak else FORMATS
    count(f"forked runs on {make_job.__name__} killed", killed(job, tmp_path, kills))


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    return [
        sys.executable, "-m", "pipeline", "run", f"--input={BOSTON}/data", f"--model={BOSTON}/model",
        "--chunk_bytes=20000", "--wave_bytes=40000", f"--output={tmp_path}/out",
    ]  # fmt: skip


def content(output: Path) -> dict[str, bytes]:
    read = {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}
    return without_times(read)


def test_a_kill_of_the_whole_program(tmp_path: Path, command: list[str], count: Counts) -> None:
    output = tmp_path / "out"
    started = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    seconds, expected = time.monotonic() - started, content(output)
    kills = SOAK_PROCESSES if count.soak else PROCESSES
    for seed in range(kills):
        shutil.rmtree(output)
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(random.Random(seed).uniform(0.3, 1) * seconds)  # the first 30% of the time goes to imports
            process.send_signal(signal.SIGKILL)
        again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
        assert content(output) == expected, seed
    count("whole programs killed", kills)
