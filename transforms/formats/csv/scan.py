"""Finds the records and the cells of delimited text.

The grammar is that of RFC 4180, https://www.rfc-editor.org/rfc/rfc4180, and says what other bytes mean:

- A record ends with LF or CR LF. A cell begins after a delimiter or a record's end.
- A cell whose first byte is a quote ends with the next quote that is not doubled. It may hold delimiters and line ends.
- In any other cell a quote is a byte like others: `5" pipe` is one cell.
- A record in which bytes follow the closing quote of a cell is malformed. It ends with its line. If one of its cells
  holds a line end, then a quote is missing, and the records around it cannot be told apart: the run fails.

A state machine over bytes would take a second for 20 MB. Instead, NumPy finds all quotes, and takes every other quote
as an opening one, which is right until a quote stands in another place. The state machine decides about that quote
only, see `_toggling`. So any text has exactly one division into records, and it is the same from any record on.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transforms.errors import RunError
from transforms.formats.csv.dialect import NEWLINE, RETURN, Dialect
from transforms.records import Mask, Positions

Octets = npt.NDArray[np.uint8]
STEP = 1 << 18  # bytes searched at once: a mask of a whole chunk takes longer to allocate than to fill
REMEDY = "look at the quotes there and in the lines before, or name the file's own with --quote"


class Scan(NamedTuple):
    """What a text holds that begins with a record.

    Attributes:
        newlines: The place of each newline that ends a record. int64.
        delimiters: The place of each delimiter between two cells; empty if they were not asked for. int64.
        malformed: The place of each closing quote that other bytes of its cell follow. int64.
    """

    newlines: Positions
    delimiters: Positions
    malformed: Positions


def scan(data: bytes, dialect: Dialect, *, first: int = 0, base: int = 0, cells: bool, whole: bool = True) -> Scan:
    """Finds the ends of records and cells.

    Args:
        data: The text.
        dialect: The dialect of the text.
        first: The place in `data` at which the first record begins.
        base: The position of the text in its source, for messages.
        cells: Whether to find the delimiters.
        whole: Whether the text ends with a record. Otherwise what follows the last newline is not checked.

    Raises:
        RunError: A quoted cell does not end, or a malformed record has a line end in a cell.
    """
    octets = np.frombuffer(data, np.uint8)
    none = np.zeros(0, np.int64)
    if dialect.quote is None or data.find(dialect.quote, first) < 0:
        delimiters = _places(octets, first, (dialect.delimiter,)) if cells else none
        return Scan(_places(octets, first, (NEWLINE,)), delimiters, none)
    marks = _places(octets, first, (dialect.quote, NEWLINE, *((dialect.delimiter,) if cells else ())))
    kinds = octets[marks]
    is_quote = kinds == dialect.quote
    quotes = marks[is_quote]
    toggling, malformed = _toggling(octets, quotes, first, dialect)
    toggles = np.zeros(len(marks), np.bool_)
    toggles[is_quote] = toggling
    inside = np.logical_xor.accumulate(toggles)
    is_newline = kinds == NEWLINE
    newlines = marks[is_newline & ~inside]
    if whole and inside[-1]:
        at = base + int(quotes[toggling][-1])
        raise RunError(f"the quote at byte {at} begins a cell that does not end; {REMEDY}")
    _check_malformed(malformed, newlines, marks[is_newline & inside], base, whole=whole)
    return Scan(newlines, marks[~(is_quote | is_newline) & ~inside], malformed)


def _places(octets: Octets, first: int, values: tuple[int, ...]) -> Positions:
    """Finds the places of some byte values, from `first` on."""
    found = [np.zeros(0, np.int64)]
    for at in range(first, len(octets), STEP):
        piece = octets[at : at + STEP]
        mask = piece == values[0]
        for value in values[1:]:
            mask |= piece == value
        found.append(np.flatnonzero(mask) + at)
    return np.concatenate(found)


def _toggling(octets: Octets, quotes: Positions, first: int, dialect: Dialect) -> tuple[Mask, Positions]:
    """Finds which quotes begin or end the quoted part of a cell. The quotes of a doubled quote do both, one each.

    Args:
        octets: The text.
        quotes: The places of its quotes. There is one at least.
        first: The place at which the first record begins.
        dialect: The dialect.

    Returns:
        A mark for each quote that begins or ends, and the places of the ending quotes that other bytes follow.
    """
    may_open, may_close = _roles(octets, quotes, first, dialect)
    even = np.arange(len(quotes)) % 2 == 0
    # By the parity of the number of an opening quote: the quotes that stand in the wrong place, if every other quote
    # opens from there on.
    wrong = [np.flatnonzero(np.where(even == (parity == 0), ~may_open, ~may_close)) for parity in (0, 1)]
    toggling, malformed, at, parity = np.ones(len(quotes), np.bool_), [], 0, 0
    while (next_ := int(np.searchsorted(wrong[parity], at))) < len(wrong[parity]):
        found = int(wrong[parity][next_])
        at = found + 1
        if found % 2 != parity:
            malformed.append(int(quotes[found]))  # it ends its cell, and the next quote may begin one
            continue
        toggling[found] = False
        while at < len(quotes) and quotes[at] == quotes[at - 1] + 1:  # no doubled quotes, since the cell has no quotes
            toggling[at] = False
            at += 1
        parity = at % 2
    return toggling, np.array(malformed, np.int64)


def _roles(octets: Octets, quotes: Positions, first: int, dialect: Dialect) -> tuple[Mask, Mask]:
    """Marks the quotes that may begin a quoted part, and those that may end one, by the bytes beside them."""
    touching = np.diff(quotes) == 1
    before = octets[np.maximum(quotes - 1, 0)]
    may_open = (quotes == first) | (before == dialect.delimiter) | (before == NEWLINE)
    may_open[1:] |= touching
    last = len(octets) - 1
    after, second = octets[np.minimum(quotes + 1, last)], octets[np.minimum(quotes + 2, last)]
    may_close = (quotes == last) | (after == dialect.delimiter) | (after == NEWLINE)
    may_close |= (after == RETURN) & (second == NEWLINE) & (quotes + 2 <= last)
    may_close[:-1] |= touching
    return may_open, may_close


def _check_malformed(malformed: Positions, newlines: Positions, inner: Positions, base: int, *, whole: bool) -> None:
    """Refuses malformed records that have a line end inside of a cell.

    Raises:
        RunError: There is such a record.
    """
    for quote in malformed.tolist() if len(inner) else ():
        number = int(np.searchsorted(newlines, quote))
        start = int(newlines[number - 1]) + 1 if number else 0
        if number < len(newlines):
            end = int(newlines[number])
        elif whole:
            end = int(inner[-1]) + 1
        else:
            return
        if np.searchsorted(inner, start) < np.searchsorted(inner, end):
            raise RunError(
                f"the quote at byte {base + quote} ends a cell, but other bytes follow it, and the record from byte "
                f"{base + start} goes over several lines; {REMEDY}"
            )
