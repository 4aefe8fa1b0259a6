"""Results come in order, with only a few made ahead; after an error or a close, no further item starts."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT
from transforms.threads import AHEAD, in_threads, processors


@given(st.lists(st.integers(), max_size=40))
def test_results_come_in_the_order_of_their_items(items: list[int]) -> None:
    assert list(in_threads(lambda item: item * 2, iter(items))) == [item * 2 for item in items]


def test_only_a_few_are_made_ahead_of_who_takes_them() -> None:
    begun = []
    results = in_threads(lambda item: begun.append(item) or item, range(1000))
    for taken, result in enumerate(results):
        assert result == taken
        assert len(begun) <= taken + 1 + AHEAD
    assert sorted(begun) == list(range(1000))


def test_one_alone_needs_no_thread() -> None:
    assert list(in_threads(lambda _: threading.current_thread(), [1])) == [threading.current_thread()]
    assert threading.current_thread() not in in_threads(lambda _: threading.current_thread(), [1, 2])


def test_an_error_comes_out_in_its_turn_and_nothing_is_begun_after_it() -> None:
    begun = []

    def invert(item: int) -> float:
        begun.append(item)
        return 1 / (3 - item)

    results = in_threads(invert, range(1000))
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert len(begun) <= 3 + 1 + AHEAD


def test_who_takes_no_more_ends_the_work() -> None:
    begun = []
    results = in_threads(begun.append, range(1000))
    next(results)
    results.close()  # type: ignore[attr-defined]
    # All threads share one queue, so everything that was started has ended.
    list(in_threads(lambda _: None, range(2 * AHEAD)))
    assert len(begun) <= 1 + AHEAD


COUNTS = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from pipeline.compat import startup
startup.import_arrow()
import pyarrow
from transforms import threads
print(threads.THREADS, threads._pool()._max_workers, pyarrow.cpu_count())
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_process_that_may_use_one_processor_has_one_thread() -> None:
    done = subprocess.run([sys.executable, "-c", COUNTS], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "1 1 1\n"


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 64 processors, all of which this process may use."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ("0::/a/b", {"a/cpu.max": "800000 100000", "a/b/cpu.max": "150000 100000"}, 2),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, 64),
        ("0::/", {"cpu.max": "a limit of another kind"}, 64),
        ("0::/", {"cpu.max": "9900000 100000"}, 64),
        ("0::/", {}, 64),
        ("4:cpu,cpuacct:/a\n3:memory:/", {"cpu,cpuacct/a/cpu.cfs_quota_us": "400000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"}, 4),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("1:cpu:/\n0::/", {"cpu/cpu.cfs_quota_us": "500000", "cpu/cpu.cfs_period_us": "100000"}, 5),
        ("", {}, 64),
    ],
)  # fmt: skip
def test_a_control_group_limits_the_processors(
    cgroup: str, files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    for name, text in {"proc/self/cgroup": cgroup, **{f"sys/fs/cgroup/{n}": t for n, t in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert processors(tmp_path) == expected


@pytest.mark.usefixtures("many")
def test_a_system_without_control_groups_has_no_limit(tmp_path: Path) -> None:
    assert processors(tmp_path) == 64
