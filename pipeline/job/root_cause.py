"""Why a run failed: what a step raised, out of what the runner makes of it."""

import contextlib
import re
import traceback
from collections.abc import Iterator

from pipeline.plan import memory
from pipeline.run_folder.names import TRACEBACK
from transforms.errors import RunError
from transforms.storage import files

# Beam reports what a step raised as the text of its traceback, with the step's name after it.
OWN_ERROR = re.compile(r"^(?:transforms\.errors\.)?RunError: (.*?)(?: \[while running .*)?$", re.MULTILINE)
STEP = re.compile(r" \[while running .*$", re.DOTALL)
NO_SUCCESS = "; no _SUCCESS was written"


@contextlib.contextmanager
def as_run_error(output: str) -> Iterator[None]:
    """Turns what a runner raises into one line.

    Args:
        output: Output folder, where the traceback of what was not foreseen is written.

    Raises:
        RunError: Something was raised.
    """
    try:
        yield
    except Exception as error:
        # A step's error reaches us through the runner, in the runner's own type and words.
        raise RunError(f"{_cause(error, output).removesuffix(NO_SUCCESS)}{NO_SUCCESS}") from error


def _cause(error: Exception, output: str) -> str:
    """What a step said; of what was not foreseen also where to find its traceback."""
    if isinstance(error, RunError):
        return STEP.sub("", str(error))
    text = str(error)
    own = OWN_ERROR.findall(text)
    if own:
        return str(own[-1])
    if memory.is_short(error):
        return "the run ran out of memory; lower --chunk_bytes and --wave_bytes, or raise --max_memory if it is given"
    path = files.join(output, TRACEBACK)
    with contextlib.suppress(RunError):  # where nothing can be written, what is said here is all there is
        files.write_whole(path, ["".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace")])
    lines = [line for line in text.splitlines() if line.strip()]
    return f"the run failed: {type(error).__name__}: {lines[-1] if lines else ''}; see {path}"
