"""Renders a report as text for the terminal."""

from collections.abc import Iterable, Iterator

from pipeline.report.document import Block, Command, Figure, Note, Section, Table, shortened

WIDTH = 130  # characters of a row of a table, about
INDENT = "  "


def render(sections: Iterable[Section]) -> str:
    """Makes the text of a report: the same sections, notes, commands and tables as those of the page.

    Args:
        sections: The sections.
    """
    lines: list[str] = []
    for section in sections:
        lines += ["", section.title, "=" * len(section.title)]
        for block in section.blocks:
            lines += _block(block)
    return "\n".join(lines[1:])


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Note):
        yield shortened(block.text, 2 * WIDTH)
    elif isinstance(block, Command):
        yield from ("", f"{block.what}:", f"{INDENT}{block.text}")
    elif isinstance(block, Figure):
        marks = "".join(f"  {mark}" for mark in block.marks)
        yield from ("", f"{shortened(block.title, WIDTH)}{marks}", shortened(block.summary, 2 * WIDTH))
        yield from _table(block.table)
    else:
        yield from _table(block)


def _table(table: Table) -> Iterator[str]:
    """Yields the lines of a table, with aligned columns."""
    yield from ("", shortened(table.caption, 2 * WIDTH))
    most = max(WIDTH // len(table.header), 24)
    caps = [most] * (len(table.header) - 1) + [WIDTH]  # nothing is to the right of the last column
    rows = [[*map(shortened, row, caps)] for row in (table.header, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numeric = table.numeric
    for row in rows:
        cells = [f"{cell:>{widths[at]}}" if at in numeric else f"{cell:<{widths[at]}}" for at, cell in enumerate(row)]
        yield f"{INDENT}{'  '.join(cells)}".rstrip()
    if table.left_out:
        yield f"{INDENT}not shown: {shortened(table.left_out, WIDTH)}"
