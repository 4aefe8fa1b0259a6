"""Writes docs/reference.md from the enums and parsers that it describes; a test checks that it is current."""

from pathlib import Path
from typing import Any

from pipeline.cli import COMMANDS
from pipeline.options.command_options import parsers
from pipeline.options.flag import flags_of
from pipeline.options.parser import OptionsParser
from pipeline.options.run_options import CheckOptions, RunOptions
from pipeline.terminal.events import EVENTS
from pipeline.terminal.exit_codes import Exit
from transforms.reasons import Reason

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"


def page() -> str:
    """Returns the text of the page."""
    lines = ["# Dead letters, exit codes and flags", "", "Made by `python -m scripts.make_reference`.", ""]
    lines += ["## Reasons of dead letters", "", "| reason | cause | what to do |", "|---|---|---|"]
    lines += [f"| `{r.value}` | {r.sentence} | {r.remedy} |" for r in Reason]
    lines += ["", "## Exit codes", "", "| code | name | when | what to do |", "|---|---|---|---|"]
    lines += [f"| {e.value} | {e.title} | {e.sentence} | {e.remedy} |" for e in Exit]
    lines += ["", "## Events of `--progress json`", "", *_events()]
    # config has the flags of run.
    found = {name: made for name, made in parsers().items() if name != "config"}
    for name, command in COMMANDS.items():
        lines += ["", f"## `keyjoin {name}`", "", f"{command.summary[0].upper()}{command.summary[1:]}."]
        if name in found:
            lines += ["", *_flags(found[name])]
    return "\n".join(lines) + "\n"


def _events() -> list[str]:
    lines = ["| event | field | meaning |", "|---|---|---|"]
    for event in EVENTS:
        title, _, attributes = (event.__doc__ or "").partition("\n\n    Attributes:\n")
        lines.append(f"| `{event.__struct_config__.tag}` | | {title} |")
        # A description may go on in further lines, which are indented deeper.
        fields = (
            line.partition(": ") for line in attributes.replace("\n            ", " ").split("\n") if line.strip()
        )
        lines += [f"| | `{name.strip()}` | {text} |" for name, _, text in fields]
    return lines


def _flags(parser: OptionsParser[Any]) -> list[str]:
    lines = ["| flag | effect |", "|---|---|"]
    shared: set[str] = set()
    if parser.options is CheckOptions:
        shared = {name for group in (RunOptions, *parser.also) for name in flags_of(group)}
    if shared:
        lines = ["It has the flags of `keyjoin run`, and:", "", *lines]
    flags = [pair for group in (parser.options, *parser.also) for pair in flags_of(group).items()]
    for name, flag in flags:
        if name in shared:
            continue
        lines.append(f"| `--{name}` | {flag.help_text.replace('|', chr(92) + '|')} |")
    return lines


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
