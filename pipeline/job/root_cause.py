"""Finds the cause of a failed run: the error that a step raised, inside the error that the runner reports."""

import contextlib
import re
import traceback
from collections.abc import Iterator

from pipeline.plan import memory
from pipeline.run_folder.names import TRACEBACK
from transforms.errors import RunError
from transforms.storage import files

# Beam reports an error of a step as the text of its traceback, followed by the name of the step.
OWN_ERROR = re.compile(r"^(?:transforms\.errors\.)?RunError: (.*?)(?: \[while running .*)?$", re.MULTILINE)
STEP = re.compile(r" \[while running .*$", re.DOTALL)
NO_SUCCESS = "; no _SUCCESS was written"


@contextlib.contextmanager
def as_run_error(output: str) -> Iterator[None]:
    """Turns any error in the block into a RunError of one line.

    Args:
        output: The folder for the traceback of an unexpected error.

    Raises:
        RunError: The block raised an error. The text is its cause.
    """
    try:
        yield
    except Exception as error:
        # All errors are caught, because the runner raises an error of its own type for the error of a step.
        raise RunError(f"{_cause(error, output).removesuffix(NO_SUCCESS)}{NO_SUCCESS}") from error


def _cause(error: Exception, output: str) -> str:
    """Returns the message of the step's error. For an unexpected error, it also names the file with the traceback."""
    if isinstance(error, RunError):
        return STEP.sub("", str(error))
    text = str(error)
    own = OWN_ERROR.findall(text)
    if own:
        return str(own[-1])
    if memory.is_short(error):
        return "the run ran out of memory; lower --chunk_bytes and --wave_bytes, or raise --max_memory if it is given"
    path = files.join(output, TRACEBACK)
    with contextlib.suppress(RunError):  # if the file cannot be written, the message is still reported
        files.write_whole(path, ["".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace")])
    lines = [line for line in text.splitlines() if line.strip()]
    return f"the run failed: {type(error).__name__}: {lines[-1] if lines else ''}; see {path}"
