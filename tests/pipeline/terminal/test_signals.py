"""A signal ends a command, whichever thread the system delivers it to."""

import subprocess
import sys

from tests.conftest import ROOT

DELIVERED_TO_ANOTHER_THREAD = """
import os, signal, threading
from pipeline.terminal.signals import Stopped, in_the_background, stopping

def work():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait()

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
try:
    with stopping():
        in_the_background(work)
except Stopped as stopped:
    print(stopped, flush=True)
os._exit(0)
"""


def test_a_signal_that_another_thread_receives_stops_the_main_one() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", DELIVERED_TO_ANOTHER_THREAD], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ended.stdout == "SIGTERM\n", ended.stderr
