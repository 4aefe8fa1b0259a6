"""Finds the cells of records, as the places of their first and last bytes."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms import columns
from transforms.formats.csv.dialect import Dialect
from transforms.formats.csv.scan import scan
from transforms.formats.csv.split import after, content_ends
from transforms.records import Mask, Positions, Rows

Octets = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.int64]


class Cells(NamedTuple):
    """The cells of some records.

    Attributes:
        text: The records with their line ends, side by side.
        starts: The place of each cell in the text. int64, (records with all cells, columns).
        ends: One past its last byte. int64, (records with all cells, columns).
        counts: The number of cells of each record; 0 for a malformed record. int64, (records,).
        whole: Marks the records with all cells. bool, (records,).
    """

    text: bytes
    starts: Matrix
    ends: Matrix
    counts: Positions
    whole: Mask

    def column(self, number: int, which: Mask | slice = slice(None)) -> pa.LargeBinaryArray:
        """Returns the cells of a column, as spelled, of some of the records with all cells."""
        return columns.gather(self.text, self.starts[which, number], self.ends[which, number])

    def records(self, which: Mask) -> pa.LargeBinaryArray:
        """Returns some of the records with all cells, with their line ends."""
        ends = self.ends[which, -1]
        return columns.gather(self.text, self.starts[which, 0], after(self.text, ends))


def find(data: bytes, rows: Rows, width: int, dialect: Dialect) -> Cells:
    """Finds the cells of records.

    Args:
        data: The text.
        rows: The places of the records.
        width: How many columns there are. A record with another number of cells has no cells in the result.
        dialect: The dialect of the text.
    """
    gathered = columns.gather(data, rows.starts, after(data, rows.ends))
    bounds = np.concatenate([[0], np.cumsum(columns.sizes(gathered))]).astype(np.int64)
    text = columns.contents(gathered).to_pybytes()
    found = scan(text, dialect, cells=True)
    starts = bounds[:-1]
    newlines = found.newlines if len(found.newlines) == len(starts) else np.append(found.newlines, len(text))
    firsts = np.searchsorted(found.delimiters, np.append(starts, len(text)))
    counts = np.diff(firsts) + 1
    counts[np.searchsorted(newlines, found.malformed)] = 0
    whole = counts == width
    delimiters = found.delimiters
    if not whole.all():
        delimiters = delimiters[np.repeat(whole, np.diff(firsts))]
    delimiters = delimiters.reshape(int(whole.sum()), max(0, width - 1))
    ends = content_ends(text, starts, newlines)
    return Cells(
        text,
        np.column_stack([starts[whole], delimiters + 1]),
        np.column_stack([delimiters, ends[whole]]),
        counts,
        whole,
    )
