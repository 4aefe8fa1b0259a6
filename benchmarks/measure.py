"""Runs a whole process, from its start to its exit, and says what it took."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.programs import ROOT

KIB = 1 if sys.platform == "darwin" else 1024  # what the kernel counts memory in


class Usage(NamedTuple):
    """What a process took.

    Attributes:
        code: Its exit code.
        seconds: From its start to its exit.
        cpu_seconds: On all cores; what other processes on the machine hardly change.
        peak_bytes: Of memory: the resident set of the largest of its processes.
    """

    code: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def measure(command: Sequence[str], log: Path) -> Usage:
    """Runs a command and waits for it.

    Args:
        command: A command of the benchmark's own.
        log: Where what it prints goes.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with log.open("wb") as said:
        started = time.monotonic()
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)  # noqa: S603
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    return Usage(process.returncode, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * KIB)
