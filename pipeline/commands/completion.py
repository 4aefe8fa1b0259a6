"""Implements `keyjoin completion`, which prints a script that completes commands, flags and choices in a shell.

The script has all names in it: completing a word starts no Python.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.options.command_options import parsers
from pipeline.options.flag import SWITCH, Flag, flags_of
from pipeline.options.parser import OptionsParser, Parser
from pipeline.terminal.exit_codes import Exit
from pipeline.terminal.messages import show

SHELLS = ("bash", "zsh", "fish")

BASH = """\
_keyjoin() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" flags="" kept=""
  # bash splits --flag=value into three words, and zsh does not.
  if [ "$word" = "=" ]; then word=""; elif [ "$before" = "=" ]; then before="${{COMP_WORDS[COMP_CWORD-2]}}"; fi
  case "$word" in
    --*=*) before="${{word%%=*}}"; kept="$before="; word="${{word#*=}}";;
  esac
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ] || [ "${{COMP_WORDS[1]}}" = help ]; then
    COMPREPLY=($(compgen -W "{commands}" -- "$word"))
    return
  fi
  case "${{COMP_WORDS[1]}} ${{before//-/_}}" in
{choices}
  esac
  case "${{COMP_WORDS[1]}}" in
{flags}
  esac
  case "$word" in
    --*-*) COMPREPLY=($(compgen -W "${{flags//_/-}}" -- "$word"));;
    -*) COMPREPLY=($(compgen -W "$flags" -- "$word"));;
    *) local IFS=$'\\n'; COMPREPLY=($(compgen -P "$kept" -f -- "$word"));;
  esac
}}
complete -o filenames -F _keyjoin keyjoin"""

# fish lists flags with hyphens if the word, or the flag before it, has a hyphen behind its first two.
HYPHENS = 'string match -q -- "--*-*" (commandline -ct) (commandline -opc)[-1]; and __fish_seen_subcommand_from'


def parser() -> Parser:
    """Returns the parser of `completion`."""
    made = Parser("keyjoin completion", description="Prints a script that completes commands and flags in a shell.")
    made.add_argument("shell", choices=SHELLS, help="the shell that reads the script")
    return made


def main(argv: Sequence[str]) -> Exit:
    """Runs the command.

    Args:
        argv: The arguments after the command's name.

    Returns:
        `Exit.COMPLETE`.

    Raises:
        UsageError: No known shell is named.
    """
    shell = parser().parse_args(argv).shell
    show(script(shell), is_result=True)
    return Exit.COMPLETE


def script(shell: str) -> str:
    """Returns the script for a shell, one of `SHELLS`."""
    flags = {name: _flags(found) for name, found in parsers().items()}
    if shell == "fish":
        return "\n".join(_fish(flags))
    names = " ".join([*flags, "completion", "help"])
    choices = [
        _choices(f'"{command} {name.replace("-", "_")}"', flag.kind.choices)
        for command, found in flags.items()
        for name, flag in found.items()
        if flag.kind.choices
    ]
    choices.append(_choices("completion*", SHELLS))
    listed = [f'    {command}) flags="{" ".join([*found, "--help"])}";;' for command, found in flags.items()]
    made = BASH.format(commands=names, choices="\n".join(choices), flags="\n".join(listed))
    return f"autoload -U +X bashcompinit && bashcompinit\n{made}" if shell == "zsh" else made


def _choices(pattern: str, choices: Sequence[str]) -> str:
    """Returns a branch of the script for bash that completes one of these words."""
    return f'    {pattern}) COMPREPLY=($(compgen -P "$kept" -W "{" ".join(choices)}" -- "$word")); return;;'


def _flags(parser: OptionsParser[Any]) -> dict[str, Flag]:
    """Returns the flags of a command, with their dashes."""
    groups = (parser.options, *parser.also)
    return {f"--{name}": flag for group in groups for name, flag in flags_of(group).items()}


def _fish(flags: Mapping[str, Mapping[str, Flag]]) -> Iterator[str]:
    names = " ".join([*flags, "completion", "help"])
    yield f"complete -c keyjoin -n __fish_use_subcommand -f -a {shlex.quote(names)}"
    yield f"complete -c keyjoin -n '__fish_seen_subcommand_from completion' -f -a {shlex.quote(' '.join(SHELLS))}"
    for command, found in flags.items():
        for name, flag in found.items():
            rest = "" if flag.kind is SWITCH else " -r"
            rest = f" -x -a {shlex.quote(' '.join(flag.kind.choices))}" if flag.kind.choices else rest
            rest += f" -d {shlex.quote(flag.brief or flag.help_text)}"
            yield f"complete -c keyjoin -n '__fish_seen_subcommand_from {command}' -l {name[2:]}{rest}"
            if "_" in name:
                yield f"complete -c keyjoin -n '{HYPHENS} {command}' -l {name[2:].replace('_', '-')}{rest}"
