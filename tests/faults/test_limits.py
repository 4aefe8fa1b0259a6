"""Real limits of a machine: no space, too many open files, no permission. The message names the cause.

Once the limit is lifted, the same command succeeds.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.counts import Counts
from tests.faults.jobs import ROWS, Job, make


@pytest.fixture
def job(tmp_path: Path) -> Job:
    data = "\n".join(ROWS * 400).encode()
    return make(tmp_path / "job", {"a.jsonl": data}, "--chunk_bytes=60000", "--max_bad_rows=0.5")


@pytest.fixture
def expected(job: Job, tmp_path: Path) -> dict[str, bytes]:
    clean = job.copy(tmp_path / "clean")
    assert clean.run().code == 0
    return clean.files()


def error_of(said: str) -> str:
    (line,) = (line for line in said.splitlines() if line.startswith("keyjoin: error: "))
    return line


def fails_then_resumes(job: Job, expected: dict[str, bytes], why: str, **how: Any) -> None:
    done = job.run(**how)
    assert (done.code, job.is_complete()) == (1, False), done.said
    assert why in error_of(done.said)
    again = job.run()
    assert again.code == 0, again.said
    assert job.files() == expected


def test_files_that_may_not_be_large(job: Job, expected: dict[str, bytes]) -> None:
    fails_then_resumes(job, expected, "File too large", hook=("limited", ("RLIMIT_FSIZE", 72_000)))


def test_too_many_open_files(job: Job, expected: dict[str, bytes]) -> None:
    fails_then_resumes(job, expected, "Too many open files", hook=("limited", ("RLIMIT_NOFILE", 1)))


def test_no_space_left(job: Job, expected: dict[str, bytes], count: Counts) -> None:
    """Uses a file system of half the size needed, where this user may mount one; else a simulated full disk."""
    output = job.folder / "out"
    output.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", output], capture_output=True, check=False
    )
    try:
        if mounted.returncode == 0:
            done = job.run()
            listed = job.is_complete()
            subprocess.run(["mount", "-o", "remount,size=64m", output], check=True)
        else:
            done, listed = job.run(hook=("full", (60_000,))), job.is_complete()
        assert (done.code, listed) == (1, False), done.said
        assert "No space left on device" in error_of(done.said)
        assert "free space there" in error_of(done.said)
        again = job.run()
        assert again.code == 0, again.said
        assert job.files() == expected
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", output], check=True)
    count("limits of a machine reached", 4)


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that another user can reach; pytest's own folders are open to one user only."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_a_folder_that_may_not_be_written_to(job: Job, expected: dict[str, bytes], reachable: Path) -> None:
    job = job.copy(reachable / "job")
    job.folder.chmod(0o555)
    done = job.run(hook=("nobody", ()))
    assert done.code == 2, done.said
    assert "out: . cannot be written to; choose another place" in error_of(done.said)
    job.folder.chmod(0o755)
    # The output folder is writable, but the files that another user's earlier run left in it are not.
    old = job.folder / "out" / "_keyjoin/temp" / "lists"
    old.mkdir(parents=True)
    (old / "00.jsonl").touch()
    old.chmod(0o555)
    (job.folder / "out").chmod(0o777)
    done = job.run(hook=("nobody", ()))
    assert (done.code, "out/_keyjoin cannot be written to" in error_of(done.said)) == (2, True), done.said
    (job.folder / "out" / "_keyjoin").chmod(0o777)
    done = job.run(hook=("nobody", ()))
    assert (done.code, "Permission denied" in error_of(done.said)) == (1, True), done.said
    old.chmod(0o755)
    again = job.run()
    assert again.code == 0, again.said
    assert job.files() == expected
