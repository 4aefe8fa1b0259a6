"""Ends this process with a private function of Python's `atexit`, see `pipeline.compat`."""

import atexit
import os
import sys
from typing import NoReturn

from transforms import compat


def exit_now(code: int) -> NoReturn:
    """Calls the functions that are registered with `atexit`, and ends the process without waiting for its threads.

    These functions end the model process and the processes that Beam has started. `sys.exit` would first wait for
    every thread, which can take as long as a chunk. With KEYJOIN_COMPAT=off this function calls `sys.exit`.

    Args:
        code: The exit code.
    """
    if not compat.is_on():
        sys.exit(code)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
