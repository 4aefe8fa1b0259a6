"""Defines what a report is made of: sections of notes, commands, tables and figures.

`pipeline.report.page` renders them as HTML, `pipeline.report.text` as text. So both show the same.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pipeline.report.charts import Picture
from pipeline.terminal.amounts import with_noun
from pipeline.terminal.messages import typed, visible

Level = Literal["plain", "good", "warning", "bad"]
NOT_RECORDED = "not recorded"
MOST_COMMAND = 3000  # characters of a command: half of one would be another command
_NUMBER = re.compile(r"-?[\d,.]+(e[+-]\d+)?( %)?|-?infinity|-")
SLACK = len("… 10 more characters")


class Caps(NamedTuple):
    """How much a report shows at most, so that its size has a limit.

    Attributes:
        columns: Features and predictions with a figure, each.
        fields: Fields of a joined row.
        rows: Joined rows.
        reasons: Reasons of dead letters, each with its examples.
        cell: Characters of a value.
    """

    columns: int = 64
    fields: int = 16
    rows: int = 50
    reasons: int = 30
    cell: int = 200


class Table(NamedTuple):
    """A table.

    Attributes:
        caption: What the table shows.
        header: The names of the columns. The first column has the names of the rows.
        rows: The cells, as text.
        left_out: What the table does not show; empty if it shows all.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left_out: str = ""

    @property
    def numeric(self) -> frozenset[int]:
        """The columns that hold only numbers, by their index."""
        cells = enumerate(zip(*self.rows, strict=True))
        return frozenset(at for at, column in cells if at and all(_NUMBER.fullmatch(cell) for cell in column))


class Note(NamedTuple):
    """A sentence.

    Attributes:
        text: The sentence.
        level: How it is marked.
    """

    text: str
    level: Level = "plain"


class Command(NamedTuple):
    """A command that the reader can paste into a shell.

    Attributes:
        what: What the command does.
        text: The command, quoted for a shell.
    """

    what: str
    text: str


def command_block(what: str, words: Sequence[str]) -> Command | Note:
    """Returns a command as a report shows it, or a note if it is too long for a report.

    Args:
        what: What the command does.
        words: The words of the command, from `keyjoin` on.
    """
    text = typed(words)
    if len(text) > MOST_COMMAND:
        return Note(f"{what}: the command has {len(text):,} characters, so the report does not show it.")
    return Command(what, text)


class Figure(NamedTuple):
    """A chart with its table.

    Attributes:
        title: What the chart shows, in a few words.
        summary: What can be seen in the chart, in a sentence.
        chart: The shapes of the chart.
        table: The figures of the chart.
        marks: Short warnings beside the title.
    """

    title: str
    summary: str
    chart: Picture
    table: Table
    marks: Sequence[str] = ()


Block = Note | Command | Table | Figure


class Section(NamedTuple):
    """A section of the report.

    Attributes:
        title: Its heading.
        blocks: Its content, in order.
    """

    title: str
    blocks: Sequence[Block]


def shortened(text: str, most: int) -> str:
    r"""Makes untrusted text visible, and cuts it to a length. The cut states how much it removes.

    Args:
        text: Any text. Control and format characters become escapes, see `pipeline.terminal.messages.visible`.
        most: The most characters of the text to keep, escapes included. A few more are kept if the cut would not make
            the text shorter.

    >>> shortened("a\u202eb", 20), shortened("x" * 1200, 5)
    ('a\\u202eb', 'xxxxx… 1,195 more characters')
    """
    if len(text) <= most + SLACK and text.isprintable():
        return text
    pieces, left = [], most
    for piece in map(visible, text[:most]):
        left -= len(piece)
        if left < 0:
            break
        pieces.append(piece)
    rest = len(text) - len(pieces)
    return "".join(pieces) + (f"… {with_noun(rest, 'more character')}" if rest else "")


def rest(there: int, shown: int, what: str) -> str:
    """Returns how many things a table does not show; empty if it shows all."""
    return with_noun(there - shown, f"more {what}") if there > shown else ""
