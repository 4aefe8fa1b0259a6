"""Completion in a real bash: commands, flags in both spellings, and choices."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli import COMMANDS
from pipeline.commands.completion import SHELLS, parsers, script
from pipeline.options.flag import flags_of
from tests.conftest import Result

COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_keyjoin
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "keyjoin.bash"
    path.write_text(script("bash"))
    return path


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["re"], {"replay", "report"}),
        (["help", "ver"], {"verify"}),
        (["run", "--max_b"], {"--max_bad_rows"}),
        (["run", "--max-b"], {"--max-bad-rows"}),
        (["run", "--conf"], {"--config"}),
        (["verify", "--dis"], {"--discard"}),
        (["run", "--bad_rows", "nu"], {"null"}),
        (["run", "--bad_rows", "=", "nu"], {"null"}),
        (["run", "--bad-rows", "="], {"apart", "null"}),
        (["completion", ""], set(SHELLS)),
        (["run", "--model", "data"], {"data.csv"}),
        (["verify", "nothing"], {""}),
    ],
)
def test_bash_completes(bash: Path, tmp_path: Path, words: list[str], found: set[str]) -> None:
    (tmp_path / "data.csv").touch()
    command = ["bash", "--norc", "-c", COMPLETE, "bash", str(bash), "keyjoin", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (set(done.stdout.splitlines()), done.stderr) == (found, "")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_has_every_command_and_flag(keyjoin: Callable[..., Result], shell: str) -> None:
    done = keyjoin("completion", shell)
    assert done.code == 0
    assert done.out.strip() == script(shell)
    assert {*parsers(), "completion"} == set(COMMANDS)
    for command, parser in parsers().items():
        assert command in done.out
        for name in flags_of(parser.options):
            assert name in done.out
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=done.out, text=True, check=True)


def test_an_unknown_shell_is_refused(keyjoin: Callable[..., Result]) -> None:
    done = keyjoin("completion", "tcsh")
    assert (done.code, "choose from" in done.err) == (2, True)
