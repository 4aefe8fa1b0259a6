"""Runs a whole program, from its start to its exit, and says what it and the processes it starts took."""

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

KIB = 1 if sys.platform == "darwin" else 1024  # what the kernel counts memory in
PROC = Path("/proc")
SAMPLE_SECONDS = 0.25
GRACE_SECONDS, END_SECONDS = 10.0, 0.05


class Usage(NamedTuple):
    """What a program took.

    Attributes:
        code: Its exit code.
        seconds: From its start to its exit.
        cpu_seconds: On all cores; what other processes on the machine hardly change.
        peak_bytes: Of memory: what the kernel counted as the most that its processes took. Where several ran at
            once, each had its most at a moment of its own, so that all together never took more.
    """

    code: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def measure(command: Sequence[str], log: Path) -> Usage:
    """Runs a command and waits for it, and for all that it started.

    What others left to be written is on the disk before it starts: a program that waits for the disk
    would wait for that, too, and one that does not would leave it to the next.

    Args:
        command: A command of the benchmark's own.
        log: Where what it prints goes.
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
    """A process at a moment; its number alone may be that of another one later."""

    pid: int
    started: int
    parent: int
    cpu_seconds: float


class Family:
    """A process and all that come from it, looked at now and then; none is left at the end.

    The kernel counts exactly, but only the largest process for memory, and only children that were
    waited for. What this sees is as exact as it looks often. Linux only: elsewhere it sees nothing.

    Attributes:
        peak_bytes: What those took that were there at once, each at its own peak until then; pages that they
            share count once. 0 where there never were several.
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
        """Of all, when they were last seen."""
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
        """Counts, and returns, those that are alive."""
        processes = {process.pid: process for process in _processes()}
        alive = []
        # A parent's number is nearly always below its child's; where it is not, the next look finds the child.
        for process in sorted(processes.values()):
            parent = processes.get(process.parent)
            first = process.pid == self._root and not self._cpu_seconds
            # One whose parent ended is known from before.
            if first or process[:2] in self._cpu_seconds or (parent and parent[:2] in self._cpu_seconds):
                self._cpu_seconds[process[:2]] = process.cpu_seconds
                alive.append(process)
        if len(alive) > 1:  # the peak of one alone is known without
            self.peak_bytes = max(self.peak_bytes, sum(map(self._peak, alive)))
        return alive

    def _peak(self, process: Process) -> int:
        """The most memory of a process until now; of pages that several share, its share."""
        folder, known = PROC / str(process.pid), self._peaks.get(process[:2], (0, 0))
        try:
            most = _sizes(folder / "status")["VmHWM"]
            if most > known[0]:  # what is shared takes the kernel milliseconds, in which the process gets no memory
                sizes = _sizes(folder / "smaps_rollup")
                known = self._peaks[process[:2]] = most, most - sizes["Rss"] + sizes["Pss"]
        except (OSError, KeyError):  # It ended meanwhile: there is no file, or nothing about memory in it.
            return 0
        return known[1]

    def _end(self) -> None:
        """Waits for those that outlive the first, as Ray's do; ends the ones that stay."""
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
            # After the name, which is in brackets and may hold anything; numbered as in proc(5), less 3.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # It ended meanwhile.
            continue
        if fields[0] not in "ZX":  # A zombie has ended.
            spent = int(fields[11]) + int(fields[12])
            yield Process(int(folder.name), int(fields[19]), int(fields[1]), spent / ticks)


def _sizes(path: Path) -> dict[str, int]:
    """The lines of a file of the kernel's that have a size, in bytes."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1:] == ["kB"]}
