"""Each file operation fails in turn, in each way: the output is correct or not complete, and the run can be resumed."""

import functools
import hashlib
import re
import shutil
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.faults.counts import Counts
from tests.faults.disk import ALWAYS, APPLIED, CHANGES, KILL, ONCE, Fault
from tests.faults.forks import side_by_side
from tests.faults.jobs import LEFT_BEHIND, Job, adding, avro, delimited, overwriting, parquet, replaying, small

RANDOM = re.compile(r"[0-9a-f]{32}\.tmp")


class Trial:
    """Attempts at one job, each with one fault and in a folder of its own."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job, self.folder = job, folder
        clean = job.copy(folder / "clean")
        self.before = clean.files()
        done = clean.run(at_once=1)
        assert done.code == 0, done.said
        self.expected = clean.files()
        self.trace = done.store if job.stored else done.disk
        self.resumed = 0
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def faults(self, how: str) -> Iterable[Fault]:
        for number, (name, _) in enumerate(self.trace, 1):
            if how in (ONCE, ALWAYS) or name in CHANGES:
                yield Fault(number, how)

    def try_out(self, fault: Fault) -> None:
        """Runs an attempt with a fault, then resumes it, unless an earlier attempt left the same files."""
        job = self.job.copy(self.folder / f"{fault.number}-{fault.how.replace(' ', '-')}")
        done = job.fail(fault)
        said = f"{fault}, {self.trace[fault.number - 1]}, exit {done.code}: {done.said}"
        left = job.files()
        if done.code == 0:
            assert "_SUCCESS" in left, said
        if fault.how != KILL:
            assert "keyjoin: error: " in done.said or done.code == 0, said
        there = {name: text for name, text in left.items() if not LEFT_BEHIND.search(name)}
        # If `_SUCCESS` cannot be read back, nobody knows whether it was written.
        unknown = fault.how in (KILL, ALWAYS) or "_SUCCESS cannot be read" in done.said
        assert done.code == 0 or unknown or there != self.expected, said
        if "_SUCCESS" in left:
            # In the object store, `_SUCCESS` counts even if its write failed midway: what matters is that it exists.
            there["_SUCCESS"] = self.expected["_SUCCESS"]
            # A failed run that replaces a complete output leaves either the old output or the new one.
            kept = job.replays or job.replaces
            assert there == self.expected or (kept and done.code != 0 and there == self.before), said
        if self._is_new(left):
            self.resumed += 1
            again = job.run()
            assert again.code == 0, said + again.said
            assert job.files() == self.expected, said + again.said
        shutil.rmtree(job.folder)

    def _is_new(self, left: dict[str, bytes]) -> bool:
        state = hashlib.sha256(
            repr(sorted((RANDOM.sub("", name), text) for name, text in left.items())).encode()
        ).hexdigest()
        with self._lock:
            new = state not in self._seen
            self._seen.add(state)
        return new


Make = Callable[..., Job]


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Make, bool], Trial]:
    @functools.cache
    def made(make: Make, stored: bool) -> Trial:
        folder = tmp_path_factory.mktemp("store" if stored else "disk")
        return Trial(make(folder / "job", stored=stored), folder)

    return made


# Which faults are tried without a soak: every n-th one. A soak tries all.
STEPS = {
    small: {ONCE: 2, ALWAYS: 6, APPLIED: 2, KILL: 1},
    replaying: {ONCE: 24, ALWAYS: 72, APPLIED: 12, KILL: 8},
    overwriting: {ONCE: 60, ALWAYS: 180, APPLIED: 20, KILL: 12},
    adding: {ONCE: 60, ALWAYS: 180, APPLIED: 20, KILL: 12},
    delimited: {ONCE: 150, ALWAYS: 450, APPLIED: 60, KILL: 40},
    parquet: {ONCE: 150, ALWAYS: 450, APPLIED: 60, KILL: 40},
    avro: {ONCE: 300, ALWAYS: 900, APPLIED: 120, KILL: 80},
}
WHAT = {
    small: "an operation",
    replaying: "an operation of a replay",
    overwriting: "an operation of a run that overwrites another",
    adding: "an operation of a run that adds to another",
    delimited: "an operation of a run on CSV",
    parquet: "an operation of a run on Parquet",
    avro: "an operation of a run on Avro",
}


@pytest.mark.parametrize("how", [ONCE, ALWAYS, APPLIED, KILL])
@pytest.mark.parametrize("stored", [False, True], ids=["disk", "store"])
@pytest.mark.parametrize("make", WHAT, ids=["run", "replay", "overwrite", "incremental", "csv", "parquet", "avro"])
def test_no_operation_can_cost_a_row(
    trial: Callable[[Make, bool], Trial], count: Counts, make: Make, stored: bool, how: str
) -> None:
    tried = trial(make, stored)
    faults = list(tried.faults(how))[:: 1 if count.soak else STEPS[make][how]]
    side_by_side(tried.try_out, faults)
    where = "the store" if stored else "the disk"
    count(f"{WHAT[make]} on {where} {how}", len(faults))
    assert tried.resumed  # every distinct set of files left behind is resumed once, maybe by a test before this one
