"""Formats the help of a command: its flags by topic, in lines of at most 80 columns."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.options.flag import SWITCH, Flag, flags_of, topics_of
from pipeline.options.kinds import SIZES

WIDTH, INDENT = 80, 28


def usage(prog: str, options: type[Any]) -> str:
    """Returns the line with the flags that a user must give.

    >>> from pipeline.options.groups import FolderOptions
    >>> usage("keyjoin run", FolderOptions)
    'usage: keyjoin run --input GLOB --output DIR [flags]'
    """
    needed = [(name, one) for name, one in flags_of(options).items() if one.required]
    words = [str(one.metavar) if one.positional else f"--{name} {one.metavar or name.upper()}" for name, one in needed]
    return " ".join(["usage:", prog, *words, "[flags]"])


def help_text(prog: str, description: str, options: Sequence[type[Any]], epilog: str = "", *, everything: bool) -> str:
    """Returns the help of a command, without its usage.

    Args:
        prog: The name of the command.
        description: What the command does.
        options: The classes of the command's options, first its own, then those that it shares with others.
        epilog: Lines that follow the flags.
        everything: Whether to describe all flags in full. Otherwise the help has one line for each flag that has a
            `brief` text, or describes all flags if none of the command's own has one.
    """
    flags = [flag for group in options for flag in flags_of(group).values()]
    is_short = not everything and any(one.brief for one in flags_of(options[0]).values())
    lines = textwrap.wrap(description, WIDTH)
    for topic, found in (pair for group in options for pair in topics_of(group).items()):
        shown = {name: one for name, one in found.items() if one.brief or not is_short}
        if shown:
            lines += ["", f"{topic}:", *(line for name, one in shown.items() for line in _lines(name, one, is_short))]
    if is_short:
        lines += ["", f"{prog} --help all describes all {len(flags)} flags in full."]
    else:
        lines += ["", "Hyphens and underscores are alike in the names of flags."]
        if any("config" in flags_of(group) for group in options):
            lines += ["A flag without a value may have one: --FLAG=false beats the file of --config."]
        lines += [f"Sizes: {SIZES}"] if any(one.kind.note == SIZES for one in flags) else []
    return "\n".join([*lines, *(["", epilog] if epilog else [])])


def _lines(name: str, flag: Flag, is_short: bool) -> Iterator[str]:
    """Yields the lines of one flag: its spelling, then its help from column `INDENT` on."""
    choices = ",".join(flag.kind.choices)
    value = "" if flag.kind is SWITCH else f" {flag.metavar or (choices and f'{{{choices}}}') or name.upper()}"
    spelling = f"  {f'{flag.short}, ' if flag.short else ''}--{name}{value}"
    text = flag.brief if is_short else flag.help_text
    lines = textwrap.wrap(text, WIDTH - INDENT, break_long_words=False, break_on_hyphens=False)
    if len(spelling) > INDENT - 2:
        yield spelling
        spelling = ""
    yield f"{spelling:<{INDENT}}{lines[0]}"
    yield from (" " * INDENT + line for line in lines[1:])
