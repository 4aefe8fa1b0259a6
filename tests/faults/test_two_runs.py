"""Two runs in one folder: the second is refused and names the first; the lock of a dead run is taken over."""

import os
import signal
import time
from pathlib import Path

from tests.faults.attempt import Attempt, run
from tests.faults.counts import Counts
from tests.faults.forks import CONTEXT
from tests.faults.jobs import ROWS, make


def test_only_one_run_at_a_time(tmp_path: Path, count: Counts) -> None:
    data = "\n".join(ROWS * 2).encode()
    job = make(tmp_path / "job", {"a.jsonl": data}, "--chunk_bytes=300", "--max_bad_rows=0.5")
    clean = job.copy(tmp_path / "clean")
    assert clean.run().code == 0
    there = tmp_path / "there"
    hook = ("held", (2, str(there)))
    first = CONTEXT.Process(target=run, args=(Attempt(job.argv(), str(job.folder), f"{job.folder}.first", hook=hook),))
    first.start()
    try:
        while not there.exists():
            assert first.is_alive()
            time.sleep(0.01)
        for flags in ((), ("--overwrite",), ("--incremental",)):
            second = job._replace(flags=(*job.flags, *flags)).run()
            assert second.code == 2, second.said
            assert f"out is in use by another run: process {first.pid} on {os.uname().nodename}" in second.said
        assert (job.folder / "out" / "_keyjoin/lock").exists()
    finally:
        os.kill(first.pid or 0, signal.SIGKILL)
        first.join()
    assert (job.folder / "out" / "_keyjoin/lock").exists()
    third = job.run()
    assert third.code == 0, third.said
    assert job.files() == clean.files()
    count("second runs refused", 3)
