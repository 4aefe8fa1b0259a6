"""Refuses folders that cannot be written to, before a command writes anything."""

import os

from pipeline.terminal.messages import quoted
from transforms.errors import UsageError
from transforms.reasons import OWN
from transforms.storage import files


def check_writable(output: str) -> None:
    """Refuses an output folder that cannot be written to. A run whose output is already complete skips this check.

    Raises:
        UsageError: It is refused.
    """
    there = _not_writable(output)
    if there is not None:
        raise UsageError(f"--output {output}: {there} cannot be written to; choose another place")


def check_changeable(run: str, verb: str) -> None:
    """Refuses to change a run whose folder cannot be written to.

    Args:
        run: The folder of the run.
        verb: The keyjoin command that changes the run, for the message.

    Raises:
        UsageError: It is refused.
    """
    if _not_writable(run) is not None:
        copy = f"{os.path.basename(os.path.realpath(run))}.copy"
        raise UsageError(
            f"--run {run} cannot be written to; give yourself the permission, or {verb} a copy, which "
            f"{quoted(['cp', '-r', run, copy])} makes: --run={quoted([copy])}"
        )


def _not_writable(output: str) -> str | None:
    """Returns a folder that cannot be written to; None if all that are needed can be.

    Needed are the output and its `_keyjoin`, or the nearest existing folder above each.
    """
    needed = {nearest(folder) for folder in (output, files.join(output, OWN))} if files.is_local(output) else ()
    return next((folder for folder in sorted(needed) if not os.access(folder, os.W_OK | os.X_OK)), None)


def nearest(output: str) -> str:
    """Returns the output if it exists, else the nearest existing folder above it."""
    there = output
    while there and not os.path.lexists(there):
        there = os.path.dirname(there)
    return there or "."
