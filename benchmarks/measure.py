"""Runs a whole program from start to exit, and measures it together with the processes that it starts."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.programs import ROOT

KIB = 1 if sys.platform == "darwin" else 1024  # the unit of the kernel's memory counts
PROC = Path("/proc")
SAMPLE_SECONDS = 0.25
GRACE_SECONDS, END_SECONDS = 10.0, 0.05


class Usage(NamedTuple):
    """The resources that a program used.

    Attributes:
        code: Its exit code.
        seconds: Wall-clock time from its start to its exit.
        cpu_seconds: Processor time on all cores. Other processes on the machine hardly change it.
        peak_bytes: Peak memory, from the kernel's peak of each process. If several processes ran at once, it is the sum
            of their peaks: an upper bound, because they may peak at different moments.
    """

    code: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def measure(command: Sequence[str], log: Path) -> Usage:
    """Runs a command and waits until it and all processes that it started have ended.

    First it flushes pending writes of other programs to the disk, because a program that waits for the disk would
    also wait for these. A program that does not wait leaves its own writes to the next program.

    Args:
        command: A command of the benchmark's own.
        log: The file that gets the command's output.
    """
    os.sync()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with log.open("wb") as said:
        started = time.monotonic()
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)  # noqa: S603
        with Family(process.pid) as family:
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu_seconds = max(used.ru_utime + used.ru_stime, family.cpu_seconds)
    return Usage(process.returncode, seconds, cpu_seconds, max(used.ru_maxrss * KIB, family.peak_bytes))


class Process(NamedTuple):
    """A process at one moment. The kernel reuses process ids, so the start time identifies the process, too."""

    pid: int
    started: int
    parent: int
    cpu_seconds: float


class Family:
    """Samples a process and all its descendants, and ends those that are still running at the end.

    The kernel's own counts are exact, but cover only the memory of the largest process, and only children that were
    waited for. The samples cover all, but are only as exact as their interval. Linux only: elsewhere it sees nothing.

    Attributes:
        peak_bytes: The largest sum over processes that ran at once, each with its own peak so far. Shared pages count
            once. 0 if several processes never ran at once.
    """

    def __init__(self, root: int) -> None:
        self.peak_bytes = 0
        self._root = root
        self._cpu_seconds: dict[tuple[int, int], float] = {}
        self._peaks: dict[tuple[int, int], tuple[int, int]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    @property
    def cpu_seconds(self) -> float:
        """The processor time of all processes, as last sampled."""
        return sum(self._cpu_seconds.values())

    def __enter__(self) -> "Family":
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._end()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self._look()

    def _look(self) -> list[Process]:
        """Samples the processes, and returns those that are alive."""
        processes = {process.pid: process for process in _processes()}
        alive = []
        # A parent's id is nearly always below its child's. If it is not, the next sample finds the child.
        for process in sorted(processes.values()):
            parent = processes.get(process.parent)
            first = process.pid == self._root and not self._cpu_seconds
            # A process whose parent has ended is known from an earlier sample.
            if first or process[:2] in self._cpu_seconds or (parent and parent[:2] in self._cpu_seconds):
                self._cpu_seconds[process[:2]] = process.cpu_seconds
                alive.append(process)
        if len(alive) > 1:  # the kernel's count covers a single process
            self.peak_bytes = max(self.peak_bytes, sum(map(self._peak, alive)))
        return alive

    def _peak(self, process: Process) -> int:
        """The peak memory of a process so far; of shared pages it counts only the process's share."""
        folder, known = PROC / str(process.pid), self._peaks.get(process[:2], (0, 0))
        try:
            most = _sizes(folder / "status")["VmHWM"]
            if most > known[0]:  # reading smaps_rollup takes milliseconds, in which the process cannot allocate
                sizes = _sizes(folder / "smaps_rollup")
                known = self._peaks[process[:2]] = most, most - sizes["Rss"] + sizes["Pss"]
        except (OSError, KeyError):  # the process has ended: its file is gone, or has no memory lines
            return 0
        return known[1]

    def _end(self) -> None:
        """Waits for processes that outlive the first one, as Ray's do, and kills those that stay."""
        deadline = time.monotonic() + GRACE_SECONDS
        while left := self._look():
            for process in left if time.monotonic() > deadline else ():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            time.sleep(END_SECONDS)


def _processes() -> Iterator[Process]:
    ticks = os.sysconf("SC_CLK_TCK")
    for folder in PROC.glob("[0-9]*"):
        try:
            # The fields follow the name, which is in brackets and may hold any character. Index = number in proc(5),
            # less 3.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # the process has ended
            continue
        if fields[0] not in "ZX":  # a zombie has ended
            spent = int(fields[11]) + int(fields[12])
            yield Process(int(folder.name), int(fields[19]), int(fields[1]), spent / ticks)


def _sizes(path: Path) -> dict[str, int]:
    """Returns the lines of a /proc file that have a size, in bytes."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1:] == ["kB"]}
