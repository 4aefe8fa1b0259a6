"""A run has succeeded once `_SUCCESS` is written: a later failure is reported, but is no error."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.run_folder import manifest
from pipeline.terminal import report
from tests.conftest import ROOT, Result
from tests.support import models
from transforms.errors import RunError
from transforms.storage import files

FAILS = OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def flags(lines: Any, model: Any, tmp_path: Path) -> list[str]:
    path = lines({"x": [1, 2, 3]}, {"x": "bad"})
    return [f"--input={path}", f"--model={model(models.keyed)}", f"--output={tmp_path / 'out'}", "--max_bad_rows=1"]


def failing(original: Any, error: BaseException, name: str) -> Callable[..., Any]:
    """Wraps a function so that it raises if its path ends with this name."""

    def call(path: Any, *rest: Any, **named: Any) -> Any:
        if f"/{path}".endswith(f"/{name}"):
            raise error
        return original(path, *rest, **named)

    return call


@pytest.mark.parametrize(
    ("module", "function", "name", "error", "said"),
    [
        (report, "_first_rows", "out", FAILS, "out is written, and could not be shown: [Errno 5]"),
        (report, "_first_rows", "out", RunError("cut"), "out is written, and could not be shown: cut"),
        (report, "_first_rows", "out", KeyboardInterrupt(), "out is written, and could not be shown: KeyboardI"),
        (
            files,
            "delete_tree",
            "_keyjoin/job.json",
            FAILS,
            "out keeps _keyjoin/job.json or _keyjoin/temp, which the same command removes: [",
        ),
        (
            files,
            "delete_tree",
            "_keyjoin/temp",
            RunError("x"),
            "out keeps _keyjoin/job.json or _keyjoin/temp, which the same command removes: x",
        ),
        (os, "unlink", "_keyjoin/lock", FAILS, "out/_keyjoin/lock stays, and is in nobody's way: [Errno 5]"),
    ],
)
def test_an_error_after_success_is_a_warning(
    keyjoin: Callable[..., Result], flags: list[str], module: Any, function: str, name: str, error: Any, said: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if name == "_keyjoin/temp":  # each attempt removes this folder at its start, too
            clear = manifest.clear
            patch.setattr(
                manifest,
                "clear",
                lambda output: (
                    patch.setattr(module, function, failing(files.delete_tree, error, name)),
                    clear(output),
                ),
            )
        else:
            patch.setattr(module, function, failing(getattr(module, function), error, name))
        done = keyjoin("run", *flags)
    assert (done.code, done.complete()) == (0, True), done.err
    assert done.err.startswith("keyjoin: warning: ")
    assert said in done.err
    assert done.err.count("\n") == 1
    again = keyjoin("run", *flags)
    assert (again.code, again.err, "nothing to do" in again.out) == (0, "", True)
    assert not {p.name for p in (done.output / "_keyjoin").iterdir()} & {"job.json", "temp", "lock"}


def test_what_cannot_be_cleaned_up_later_is_a_warning_too(
    keyjoin: Callable[..., Result], flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = keyjoin("run", *flags)
    (done.output / "_keyjoin/job.json").touch()
    monkeypatch.setattr(files, "delete_tree", failing(files.delete_tree, FAILS, "_keyjoin/job.json"))
    again = keyjoin("run", *flags)
    assert (again.code, "out is complete, and could not be cleaned up" in again.err) == (0, True)


def test_bad_rows_that_cannot_be_shown_do_not_hide_why_a_run_failed(
    keyjoin: Callable[..., Result], flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_dead_letters", failing(report._dead_letters, FAILS, "out"))
    done = keyjoin("run", *flags[:-1])
    assert (done.code, done.complete()) == (1, False)
    assert "warning: no bad rows can be shown: [Errno 5]" in done.err
    assert "see " in done.err.splitlines()[-1]


def test_a_reader_that_goes_away_does_not_turn_a_result_into_a_failure(flags: list[str]) -> None:
    """A full standard output after the commit, like `keyjoin run … | head`, does not change the exit code.

    The process must end without Python's own flush of the stream, which would fail a second time.
    """
    code = (
        "import sys; from pipeline import cli; from pipeline.run_folder import manifest; commit = manifest.commit\n"
        "def full(*args, **named):\n commit(*args, **named); sys.stdout = open('/dev/full', 'w')\n"
        "manifest.commit = full; sys.argv[1:] = sys.argv[2:]; cli.entry()"
    )
    command = [sys.executable, "-c", code, "--", "run", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].endswith("could not be shown: [Errno 28] No space left on device")
    assert "Exception ignored" not in done.stderr


def test_what_cannot_be_printed_otherwise_is_an_error() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "pipeline", "--help"]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "keyjoin: error: No space left on device; free space there\n")
