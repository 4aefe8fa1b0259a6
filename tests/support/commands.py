"""Runs commands one after another in another process, for effects that a process cannot undo, such as an import."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]  # not from conftest, which imports TensorFlow


class Said(NamedTuple):
    """The result of a command.

    Attributes:
        code: Its exit code.
        out: Its standard output.
        err: Its standard error.
    """

    code: int
    out: str
    err: str


def run(*commands: list[str], **environment: str) -> list[Said]:
    """Runs commands in one new process.

    Args:
        commands: The arguments of each command, without the program's name.
        environment: Variables to add to this process's environment.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.commands", json.dumps(commands)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [Said(*each) for each in json.loads(done.stdout.splitlines()[-1])]


def _call(words: list[str]) -> tuple[int, str, str]:
    from pipeline.cli import main
    from pipeline.plan import check_sample, score_sample
    from pipeline.terminal import progress

    progress.TICK_SECONDS = score_sample.SECONDS = check_sample.SECONDS = 1e6  # as in tests/conftest.py
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code: Any = main(words)
    return int(code), *(stream.buffer.getvalue().decode() for stream in (out, err))


if __name__ == "__main__":
    from pipeline.compat import startup

    startup.begin()
    print(json.dumps([_call(words) for words in json.loads(sys.argv[1])]))
