"""Folders without write permission: each command that writes names the folder, the cause and the remedy."""

import errno
import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli
from tests.conftest import Result
from tests.support import models


@pytest.fixture
def finished(keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path) -> list[str]:
    """The flags of a finished run with a dead letter, in the folder `fixed/out`, which becomes read-only."""
    flags = [f"--input={lines({'x': [1, 2, 3]}, {'x': 'bad'})}", f"--model={model(models.plain)}", "--max_bad_rows=1"]
    flags.append(f"--output={tmp_path}/fixed/out")
    done = keyjoin("run", *flags)
    (letter,) = done.dead()
    (tmp_path / "repaired.jsonl").write_text(json.dumps({"key": letter["key"], "row": {"x": [1, 1, 1]}}))
    return flags


@pytest.fixture
def read_only(finished: list[str]) -> Iterator[Path]:
    """Makes the folder `fixed` read-only by its mode, or by a mount if modes do not stop this user (root)."""
    folder, mounted = Path(finished[-1].removeprefix("--output=")).parent, False
    modes = [folder / "out", folder]
    for path in modes:
        path.chmod(0o555)
    if os.access(folder, os.W_OK):
        bind = subprocess.run(["mount", "--bind", folder, folder], capture_output=True, check=False)
        mounted = bind.returncode == 0
        if mounted:
            subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
    try:
        if os.access(folder, os.W_OK):
            pytest.skip("this user can write to every folder, and cannot mount")
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)
        for path in modes:
            path.chmod(0o755)


def test_each_command_that_writes_names_folder_and_remedy(
    keyjoin: Callable[..., Result], finished: list[str], read_only: Path, model: Any
) -> None:
    out = read_only / "out"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    wrapped = ["wrap", f"--model={model(models.plain)}"]
    for words, folder in (
        (["run", *finished, "--overwrite"], out),
        (["check", *finished, "--overwrite"], out),
        (["run", *finished[:-1], f"--output={read_only}/new/out"], read_only),
        (["replay", f"--run={out}"], out),
        ([*wrapped, f"--output={read_only}/keyed"], read_only),
        ([*wrapped, f"--output={read_only}/sub/keyed"], read_only),
    ):
        done = keyjoin(*words)
        assert done.code == 2, (words, done)
        assert f"{folder} cannot be written to; " in done.err, words
    assert keyjoin("run", *finished).code == 0  # the output is complete, so there is nothing to write
    assert keyjoin("verify", f"--run={out}", "--discard").code == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_replay_of_the_copy_that_the_message_makes(
    keyjoin: Callable[..., Result], read_only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = keyjoin("replay", f"--run={read_only}/out", "--rows=repaired.jsonl")
    found = re.search(r"replay a copy, which (cp -r .*) makes: (--run=.*)$", refused.err.strip())
    assert found, refused.err
    subprocess.run(["bash", "-c", found[1]], check=True)
    subprocess.run(["chmod", "-R", "u+w", "out.copy"], check=True)
    done = keyjoin("replay", *shlex.split(found[2]), "--rows=repaired.jsonl")
    assert done.code == 0, done.err
    assert "joined now   1 row\n" in done.out
    assert keyjoin("verify", *shlex.split(found[2]), "--read_data=100%").code == 0


def test_a_run_that_cannot_be_discarded(keyjoin: Callable[..., Result], read_only: Path) -> None:
    (part,) = (read_only / "out").glob("in*")
    altered = read_only.parent / "altered"
    altered.write_bytes(b"x" * part.stat().st_size)
    hidden = subprocess.run(["mount", "--bind", altered, part], capture_output=True, check=False)
    if hidden.returncode:
        pytest.skip("this user cannot mount")
    try:
        done = keyjoin("verify", f"--run={read_only}/out", "--discard", "--read_data=100%")
    finally:
        subprocess.run(["umount", part], check=True)
    assert done.code == 2
    assert "is not what was written: 1 altered" in done.out
    assert "cannot be written to; give yourself the permission, or verify a copy" in done.err


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EROFS, "out/_keyjoin/lock: Read-only file system; choose a folder that can be written to"),
        (errno.ENOSPC, "out/_keyjoin/lock: No space left on device; free space there"),
        (errno.EIO, "out/_keyjoin/lock: Input/output error"),
    ],
)
def test_an_error_of_the_system_has_file_cause_and_remedy(
    number: int, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Any) -> Any:
        raise OSError(number, os.strerror(number), "out/_keyjoin/lock")

    monkeypatch.setitem(cli.COMMANDS, "verify", cli.COMMANDS["verify"]._replace(call=fails))
    assert cli.main(["verify"]) == 1
    assert capsys.readouterr().err == f"keyjoin: error: {words}\n"
