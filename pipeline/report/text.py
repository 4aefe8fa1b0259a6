"""Renders a report as text for the terminal."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from pipeline.report.document import Block, Command, Figure, Note, Section, Table, shortened

MOST = 1000  # characters of a cell or a note
NARROWEST = 8  # columns of a cell
PADDED = 60  # columns up to which cells without a terminal are padded: a longer one moves the rest of its row
INDENT, GAP = "  ", "  "


def render(sections: Iterable[Section], width: int | None = None) -> str:
    """Makes the text of a report: the same sections, notes, commands and tables as those of the page.

    Args:
        sections: The sections.
        width: The columns of the terminal: wider cells are wrapped. None: each row of a table is one line.
    """
    lines: list[str] = []
    for section in sections:
        lines += ["", section.title, "=" * len(section.title)]
        for block in section.blocks:
            lines += _block(block, width)
    return "\n".join(lines[1:])


def _block(block: Block, width: int | None) -> Iterator[str]:
    if isinstance(block, Note):
        yield from _wrapped(shortened(block.text, MOST), width)
    elif isinstance(block, Command):
        yield from ("", f"{block.what}:", f"{INDENT}{block.text}")
    elif isinstance(block, Figure):
        marks = "".join(f"  {mark}" for mark in block.marks)
        yield ""
        yield from _wrapped(f"{shortened(block.title, MOST)}{marks}", width)
        yield from _wrapped(shortened(block.summary, MOST), width)
        yield from _table(block.table, width)
    else:
        yield from _table(block, width)


def _wrapped(text: str, width: int | None) -> list[str]:
    return textwrap.wrap(text, max(width, NARROWEST)) if width else [text]


def _table(table: Table, width: int | None) -> Iterator[str]:
    """Yields the lines of a table, with aligned columns."""
    yield ""
    yield from _wrapped(shortened(table.caption, MOST), width)
    rows = [[shortened(cell, MOST) for cell in row] for row in (table.header, *table.rows)]
    needed = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if width is None:
        widths = [min(columns, PADDED) for columns in needed]
    else:
        widths = shared(needed, width - len(INDENT) - len(GAP) * (len(needed) - 1))
    for row in rows:
        cells = [[cell] if width is None else textwrap.wrap(cell, widths[at]) for at, cell in enumerate(row)]
        for line in zip_longest(*cells, fillvalue=""):
            aligned = (
                f"{text:>{widths[at]}}" if at in table.numeric else f"{text:<{widths[at]}}"
                for at, text in enumerate(line)
            )
            yield f"{INDENT}{GAP.join(aligned)}".rstrip()
    if table.left_out:
        yield from _wrapped(f"{INDENT}not shown: {shortened(table.left_out, MOST)}", width)


def shared(needed: Sequence[int], width: int) -> list[int]:
    """Shares a width among columns: a column that needs less than an equal share leaves the rest to the others.

    Args:
        needed: The width that each column needs.
        width: The width for all of them. Each column gets at least `NARROWEST`, or what it needs.

    >>> shared([5, 200, 300], 85)
    [5, 40, 40]
    """
    given = dict[int, int]()
    for count, at in enumerate(sorted(range(len(needed)), key=needed.__getitem__)):
        share = (width - sum(given.values())) // (len(needed) - count)
        given[at] = min(needed[at], max(share, NARROWEST))
    return [given[at] for at in range(len(needed))]
