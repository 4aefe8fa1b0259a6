"""Splits Parquet files into chunks: whole row groups, or a range of the rows of a large one."""

from collections.abc import Iterator

from transforms.formats.base import Cut
from transforms.formats.parquet.footer import Footer, Group

# Whole row groups are copied to the parts, and ranges are decoded and encoded again. Writers make row groups of 128 MB,
# or of 1,048,576 rows. So a chunk may be this many times as large as asked for.
WHOLE = 2


def cuts(footer: Footer, chunk_bytes: int, chunk_rows: int | None) -> Iterator[Cut]:
    """Yields the end of each chunk.

    A row group that is more than `WHOLE` times as large as a chunk is cut into ranges of as many rows each. Small row
    groups share a chunk.

    Args:
        footer: The footer of the file.
        chunk_bytes: The size of a chunk, encoded and not compressed.
        chunk_rows: The most rows of a chunk; None for no limit.
    """
    end, size, rows = 0, 0, 0
    for group in footer.groups:
        if not group.rows:
            continue
        pieces = _pieces(group, chunk_bytes, chunk_rows)
        if rows and (
            pieces > 1 or size + group.bytes > chunk_bytes or rows + group.rows > (chunk_rows or rows + group.rows)
        ):
            yield Cut(end, size)
            size = rows = 0
        if pieces == 1:
            end, size, rows = group.start + group.rows, size + group.bytes, rows + group.rows
            continue
        for number in range(pieces):
            first, end = (group.rows * at // pieces for at in (number, number + 1))
            bounds = [group.bytes * at // group.rows for at in (first, end)]
            end += group.start
            yield Cut(end, bounds[1] - bounds[0])
    if rows:
        yield Cut(end, size)


def _pieces(group: Group, chunk_bytes: int, chunk_rows: int | None) -> int:
    """Returns into how many ranges a row group is cut."""
    by_rows = -(-group.rows // chunk_rows) if chunk_rows else 1
    by_bytes = -(-group.bytes // max(1, chunk_bytes))
    return min(group.rows, max(by_rows, by_bytes if by_bytes > WHOLE else 1))
