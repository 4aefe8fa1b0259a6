"""Completion in real shells: commands, flags in both spellings, and choices. zsh and fish are tested if installed."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli import COMMANDS
from pipeline.commands.completion import SHELLS, script
from pipeline.options.command_options import parsers
from pipeline.options.flag import flags_of
from tests.conftest import Result

COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_keyjoin
printf '%s\\n' "${COMPREPLY[@]}"
"""


# zsh calls a function for bash with these options, see its `bashcompinit`.
ZSH = "autoload -U compinit; compinit -u -D; emulate sh; setopt kshglob noshglob braceexpand nounset"
CALLS = {"bash": ["bash", "--norc", "-c", COMPLETE], "zsh": ["zsh", "-f", "-c", f"{ZSH}\n{COMPLETE}"]}
FISH = "source $argv[1]; complete -C $argv[2]"


def installed(*shells: str) -> list[str]:
    return [shell for shell in shells if shutil.which(shell)]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script of each shell."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        (folder / shell).write_text(script(shell))
    return folder


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
        (["run", "--bad-rows=nu"], {"--bad-rows=null"}),
        (["run", "--model", "data"], {"data.csv"}),
        (["verify", "nothing"], {""}),
    ],
)
@pytest.mark.parametrize("shell", installed(*CALLS))
def test_a_script_completes(scripts: Path, tmp_path: Path, words: list[str], found: set[str], shell: str) -> None:
    (tmp_path / "data.csv").touch()
    command = [*CALLS[shell], shell, str(scripts / shell), "keyjoin", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    # zsh itself chooses those that begin with the word.
    matching = {word for word in done.stdout.splitlines() if shell == "bash" or word.startswith(words[-1].strip("="))}
    assert (matching or {""}, done.stderr) == (found, "")


@pytest.mark.parametrize("shell", installed("fish"))
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("re", {"replay", "report"}),
        ("run --max_b", {"--max_bad_rows"}),
        ("run --max-b", {"--max-bad-rows"}),
        ("verify --dis", {"--discard"}),
        ("run --bad_rows=", {"--bad_rows=apart", "--bad_rows=null"}),
        ("run --bad-rows nu", {"null"}),
        ("completion ", set(SHELLS)),
        ("run --model data", {"data.csv"}),
    ],
)
def test_fish_completes(scripts: Path, tmp_path: Path, words: str, found: set[str], shell: str) -> None:
    (tmp_path / "data.csv").touch()
    command = [shell, "--no-config", "-c", FISH, str(scripts / shell), f"keyjoin {words}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ({line.partition("\t")[0] for line in done.stdout.splitlines()}, done.stderr) == (found, "")


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
