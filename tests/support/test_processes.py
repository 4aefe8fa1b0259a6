"""A test suite in the background passes, and the report names a test that hangs."""

import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

SUITE = """
import pytest, signal, subprocess, sys

SHOW = "import signal; print([signal.getsignal(n) for n in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)])"


def test_defaults():
    shown = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True).stdout
    assert "SIG_IGN" not in shown and "default_int_handler" in shown
    signal.raise_signal(signal.SIGHUP)  # still ignored here


@pytest.mark.timeout(1, method="signal")
def test_that_hangs():
    with subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"]):
        pass
"""


def ignore() -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def test_a_suite_in_the_background(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]")
    (tmp_path / "test_suite.py").write_text(SUITE)
    suite = ("-c", str(tmp_path / "pytest.ini"), "-p", "tests.support.processes", str(tmp_path))
    command = [sys.executable, "-m", "pytest", *suite]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, preexec_fn=ignore)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "Failed: Timeout" in done.stdout
    assert "test_suite.py::test_that_hangs" in done.stdout
