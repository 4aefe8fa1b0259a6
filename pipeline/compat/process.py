"""Ends this process by a private function of Python's `atexit`; see `pipeline.compat`."""

import atexit
import os
import sys
from typing import NoReturn

from transforms import compat


def leave(code: int) -> NoReturn:
    """Ends the process without waiting for its threads, after the functions that are registered with `atexit`.

    These end, among others, the model process and those that Beam has started. `sys.exit` first waits for every
    thread, which may take as long as a chunk; it is what is left with KEYJOIN_COMPAT=off.
    """
    if not compat.is_on():
        sys.exit(code)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
