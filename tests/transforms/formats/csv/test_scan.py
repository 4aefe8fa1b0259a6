"""The division of text into records and cells, compared with a state machine that reads byte by byte."""

import io
import itertools
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors import RunError
from transforms.formats.csv import cells, split
from transforms.formats.csv.dialect import Dialect

PLAIN = Dialect(ord(","), ord('"'), has_header=False)
WIDTH = 3


class Record(NamedTuple):
    start: int
    end: int
    cells: list[bytes] | None  # None if bytes follow a closing quote


def reference(data: bytes) -> list[Record] | None:
    """Reads records byte by byte; None if a quote is missing, so that the records cannot be told apart."""
    found, at = [], 0
    while at < len(data):
        start, spelled, malformed, lines = at, [], False, 0
        while True:
            first = at
            if data[at : at + 1] == b'"':
                at += 1
                while data[at : at + 1] != b'"' or data[at : at + 2] == b'""':
                    if at >= len(data):
                        return None
                    lines += data[at : at + 1] == b"\n"
                    at += 1 + (data[at : at + 2] == b'""')
                at += 1
                malformed |= not (at == len(data) or data[at : at + 1] in b",\n" or data[at : at + 2] == b"\r\n")
            while at < len(data) and data[at : at + 1] not in (b",", b"\n"):
                at += 1
            if data[at : at + 1] != b",":
                break
            spelled.append(data[first:at])
            at += 1
        end = at - (at < len(data) and data[start:at].endswith(b"\r"))
        spelled.append(data[first:end])
        if malformed and lines:
            return None
        if end > start:
            found.append(Record(start, end, None if malformed else spelled))
        at += 1
    return found


hostile = st.text('ab,,""\n\n\r', max_size=30).map(str.encode)
known = pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'1,2"3\n4,5', [[b"1", b'2"3'], [b"4", b"5"]]),
        (b'a,b",c\nd', [[b"a", b'b"', b"c"], [b"d"]]),
        (b'a""b,c\n"d""",\r\n', [[b'a""b', b"c"], [b'"d"""', b""]]),
        (b'"a\nb\r\n",c\r\r\nd\re\n', [[b'"a\nb\r\n"', b"c\r"], [b"d\re"]]),
        (b'"a"b,c\nd\n', [None, [b"d"]]),
        (b'\n\r\n""\n', [[b'""']]),
    ],
)


@known
def test_a_quote_is_a_byte_like_others_except_at_the_start_of_a_cell(
    data: bytes, expected: list[list[bytes] | None]
) -> None:
    assert [record.cells for record in reference(data) or ()] == expected
    check(data)


def check(data: bytes) -> list[Record] | None:
    """Compares the division of a text with that of the reference, and returns the latter."""
    expected = reference(data)
    if expected is None:
        with pytest.raises(RunError, match=r"at byte \d+"):
            split.rows(data, PLAIN)
        return None
    rows = split.rows(data, PLAIN)
    assert list(zip(rows.starts, rows.ends, strict=True)) == [(record.start, record.end) for record in expected]
    found = cells.find(data, rows, WIDTH, PLAIN)
    assert found.counts.tolist() == [len(record.cells or ()) for record in expected]
    matrix = zip(found.starts.tolist(), found.ends.tolist(), strict=True)
    spelled = [[found.text[start:end] for start, end in zip(*row, strict=True)] for row in matrix]
    assert spelled == [record.cells for record in expected if len(record.cells or ()) == WIDTH]
    return expected


@given(data=hostile)
def test_any_text_has_the_records_of_the_reference(data: bytes) -> None:
    check(data)


@given(data=hostile, chunk_bytes=st.integers(1, 9), chunk_rows=st.none() | st.integers(1, 3), block=st.integers(1, 9))
def test_chunks_together_have_the_records_of_the_file(
    data: bytes, chunk_bytes: int, chunk_rows: int | None, block: int
) -> None:
    expected = reference(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "BLOCK_BYTES", block)
        cuts = split.cuts(io.BytesIO(data), len(data), chunk_bytes, chunk_rows, PLAIN)
        if expected is None:
            with pytest.raises(RunError, match=r"at byte \d+"):
                list(cuts)
            return
        ends = [0, *(cut.end for cut in cuts)]
    found = []
    for start, end in itertools.pairwise(ends):
        rows = split.rows(data[start:end], PLAIN, base=start)
        found += [(start + one, start + other) for one, other in zip(rows.starts, rows.ends, strict=True)]
        assert chunk_rows is None or len(rows.starts) + rows.blank <= chunk_rows
    assert found == [(record.start, record.end) for record in expected]


@given(data=hostile)
def test_without_a_quote_each_line_is_a_record(data: bytes) -> None:
    rows = split.rows(data, PLAIN._replace(quote=None))
    expected = [line.removesuffix(b"\r") if more else line for line, more in lines(data)]
    assert [data[start:end] for start, end in zip(rows.starts, rows.ends, strict=True)] == [x for x in expected if x]


def lines(data: bytes) -> list[tuple[bytes, bool]]:
    *whole, last = data.split(b"\n")
    return [*((line, True) for line in whole), (last, False)]


def test_a_long_record_is_refused_with_its_position() -> None:
    dialect = PLAIN._replace(row_bytes=8)
    for data in (b'1,2\n"3\n4,5,6\n",8\n', b"1,2\n3,4567890\n5,6\n"):
        with pytest.raises(RunError, match="the record at byte 4 is longer than 8 bytes"):
            list(split.cuts(io.BytesIO(data), len(data), 100, None, dialect))
