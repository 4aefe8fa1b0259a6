"""The fuzz targets: functions that take any bytes and raise if keyjoin breaks a promise about them.

The promises: every error is a RunError with a message of one line. Each row is exactly once good or bad, and each line
is a row or blank. The output is each row with its prediction.
"""

import functools
import gzip
import io
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.blocks import block_of, chunks, cut, joined_bytes, raws
from transforms import formats, split_into_chunks
from transforms.errors import RunError
from transforms.formats import jsonl, tfrecord
from transforms.formats.base import Block, Format
from transforms.formats.jsonl.split import BOM
from transforms.formats.tfrecord import same_layout
from transforms.formats.tfrecord import split as framing
from transforms.records import Feature, Layout, Source
from transforms.storage import compression

FEATURES = (
    Feature("x", "float32", (2,), ("x",)),
    Feature("n", "int64", (), ("n",)),
    Feature("s", "string", (), ("s",)),
)
for _name in formats.FORMATS:
    formats.load(_name)  # so that libFuzzer sees the code of each format
Y = ("y", 'a "name" ☃')
LAYOUTS = (
    Layout(True, (), (), None, None, (Y,)),
    Layout(True, (), (), "key", None, (Y,)),
    Layout(True, ("n", "s"), (), None, None, (Y,)),
    Layout(True, (), ("x",), "key", None, (Y,)),
    Layout(False, (), (), None, "s", (Y,)),
)


class Scored(NamedTuple):
    """A file that was read and written without a model.

    Attributes:
        good: Position and bytes of each joined row.
        bad: Position and bytes of each other row.
        blank: The number of blank lines.
        out: The output.
    """

    good: list[tuple[int, bytes]]
    bad: list[tuple[int, bytes]]
    blank: int
    out: bytes


def score(fmt: Format, data: bytes, chunk_bytes: int, features: tuple[Feature, ...], layout: Layout) -> Scored:
    """Reads a file, predicts for each good row its number among the good ones, and writes it.

    Raises:
        RunError: The framing of the file is damaged.
    """
    found = Scored([], [], 0, b"")
    ends = cut(fmt, data, chunk_bytes)
    assert ends[-1] == len(data)
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        assert start < end or not data
        found = _add_chunk(found, fmt, data[start:end], start, features, layout)
    return found


def _add_chunk(
    found: Scored, fmt: Format, piece: bytes, start: int, features: tuple[Feature, ...], layout: Layout
) -> Scored:
    block = block_of(fmt, piece, start)
    inputs, unread = block.inputs(features)
    good = np.ones(len(block.positions), np.bool_)
    for bad in unread:
        assert good[bad.row], "bad twice"
        good[bad.row] = False
    assert inputs.num_rows == good.sum()
    numbers = np.arange(inputs.num_rows, dtype=np.float32) + len(found.good)
    predictions = pa.RecordBatch.from_arrays([pa.array(numbers)], ["y"])
    joined = fmt.writer.write(block, unread, predictions, layout)
    for bad in joined.bad:
        assert good[bad.row], "bad twice"
        good[bad.row] = False
    refused = [*unread, *joined.bad]
    assert all(bad.reason and bad.message for bad in refused)
    text = list(zip(block.positions.tolist(), raws(block), strict=True))
    return Scored(
        found.good + [text[row] for row in np.flatnonzero(good)],
        found.bad + [text[row] for row in np.flatnonzero(~good)],
        found.blank + block.blank,
        found.out + b"".join(bytes(memoryview(block)) for block in joined.blocks),
    )


def _settings(data: bytes) -> tuple[int, Layout, bytes]:
    """Reads the chunk size and the layout from the first two bytes."""
    head = data[:2].ljust(2, b"\0")
    return 1 + head[0] * 4, LAYOUTS[head[1] % len(LAYOUTS)], data[2:]


def json_lines(data: bytes) -> None:
    """Fuzzes reading and splicing of JSON Lines."""
    chunk_bytes, layout, data = _settings(data)
    done = score(jsonl.FORMAT, data, chunk_bytes, FEATURES, layout)
    lines = data.removeprefix(BOM).split(b"\n")
    lines = lines if lines[-1] else lines[:-1]
    rows = [line for line in lines if line.strip(b" \t\r")]
    assert [text for _, text in sorted(done.good + done.bad)] == rows
    # A file that holds only a byte order mark has one line, which is blank.
    assert done.blank in (len(lines) - len(rows), len(lines) - len(rows) + 1)
    assert all(data[at : at + len(text)] == text for at, text in done.good + done.bad)
    out = done.out.split(b"\n")
    assert out.pop() == b""
    assert len(out) == len(done.good)
    numbers = iter(_predicted(out, done, layout))
    for (at, before), after in zip(done.good, out, strict=True):
        _check_line(before, after, next(numbers), f"s#{at}", layout)


def _predicted(out: list[bytes], done: Scored, layout: Layout) -> list[float]:
    """Returns each line's prediction. They increase, with gaps where a row could not be written."""
    found = [float(dict(_pairs(line))[Y[1]]) for line in out]
    assert found == sorted(set(found)), "predictions are not those of the rows"
    assert not found or found[-1] < len(done.good) + len(done.bad)
    if not done.bad:
        assert found == list(range(len(found)))
    assert layout.predictions == (Y,)
    return found


def _check_line(before: bytes, after: bytes, number: float, key: str, layout: Layout) -> None:
    """Compares the output's fields with the row as Python's json module reads it; numbers are compared as text."""
    try:
        row = _pairs(before)
    except (ValueError, RecursionError):
        return  # Python's json module is stricter
    kept = [pair for pair in row if layout.row and _is_kept(pair[0], layout)]
    given = _pairs(after)
    assert given[: len(kept)] == kept
    added = dict(given[len(kept) :])
    assert float(added.pop(Y[1])) == number
    if layout.key:
        assert added.pop(layout.key) == key
    if layout.key_field:
        assert added.pop(layout.key_field) == dict(row)[layout.key_field]
    assert not added


def _is_kept(name: str, layout: Layout) -> bool:
    return name in layout.include if layout.include else name not in layout.exclude


def _pairs(line: bytes) -> list[tuple[str, Any]]:
    text = line.removeprefix(BOM).decode("utf-8", "surrogatepass")
    made: Any = json.loads(text, object_pairs_hook=list, parse_int=str, parse_float=str, parse_constant=str)
    assert isinstance(made, list)
    return made


def records(data: bytes) -> None:
    """Fuzzes TFRecord: a file of any bytes, or records of any bytes, some of them with a wrong checksum."""
    chunk_bytes, layout, data = _settings(data)
    whole = chunk_bytes % 8 == 1  # true if the first byte is even
    data = data if whole else _framed(data)
    layout = layout if layout.whole_row else LAYOUTS[0]  # other layouts need TensorFlow
    done = _or_error(lambda: score(tfrecord.FORMAT, data, chunk_bytes, FEATURES, layout))
    if isinstance(done, RunError):
        assert whole, "records are framed well"
        return
    both = sorted(done.good + done.bad)
    assert b"".join(frame for _, frame in both) == data
    _check_alike(data)
    for (_, before), after in zip(done.good, raws(block_of(tfrecord.FORMAT, done.out)), strict=True):
        assert after[12:-4].startswith(before[12:-4])


def _check_alike(data: bytes) -> None:
    """Records of the same layout are read as the parser reads them, however few and short they are."""
    read = []
    for misses in (0, 9):
        with mock.patch.multiple(same_layout, LEAST_RECORDS=1, LEAST_BYTES=0, MISSES=misses):
            inputs, bad = block_of(tfrecord.FORMAT, data).inputs(FEATURES)
        read.append((repr(inputs.to_pylist()), bad))
    assert read[0] == read[1]


def _or_error(function: Callable[[], Any]) -> Any:
    """Returns the result of a function, or its error for a damaged file, whose message has one line."""
    try:
        return function()
    except RunError as error:
        return error if "\n" not in str(error) else AssertionError(str(error))


def _framed(data: bytes) -> bytes:
    """Frames the data as records whose lengths it contains; a length's highest bit breaks the checksum behind it."""
    found = []
    while data:
        length, data = data[0], data[1:]
        record, data = data[: length & 0x7F], data[length & 0x7F :]
        frame = framing.framed([pa.array([record], pa.large_binary())]).to_pybytes()
        found.append(frame[:-1] + bytes([frame[-1] ^ 1]) if length & 0x80 else frame)
    return b"".join(found)


def packed(data: bytes) -> None:
    """Fuzzes gzip sources: any bytes are either unpacked exactly as Python's gzip module does it, or an error."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.jsonl.gz")
        path.write_bytes(data)
        try:
            expected = gzip.decompress(data) if data else None  # no bytes are no gzip member, as for `gzip -t`
        except (OSError, EOFError, zlib.error):
            expected = None
        source = Source(str(path), len(data), "a", ".jsonl.gz")
        spilled = _or_error(lambda: split_into_chunks.spill(source, compression.GZIP, f"{folder}/spill"))
        if isinstance(spilled, RunError):
            assert expected is None, spilled
            assert not list(Path(folder).glob("spill/*")), "half a file"
            return
        place, size = spilled
        assert expected == Path(place).read_bytes()
        assert size == len(expected)
        shutil.rmtree(f"{folder}/spill")


def _score_file(name: str, data: bytes, chunk_bytes: int, layout: Layout) -> list[Block]:
    """Reads all chunks of a file of a format and writes their parts, in which a prediction is the row's position.

    Returns:
        The chunks.

    Raises:
        RunError: The file is damaged.
    """
    fmt, found = formats.load(name), []
    for chunk in chunks(fmt, data, chunk_bytes):
        block = fmt.reader.load(io.BytesIO(data), chunk)
        _, unread = block.inputs(FEATURES[1:])
        good = np.delete(np.arange(len(block.positions)), [bad.row for bad in unread])
        assert len(good) + len(unread) == len(block.positions), "bad twice"
        predictions = pa.RecordBatch.from_arrays([pa.array(block.positions[good].astype(np.float64))], ["y"])
        joined = fmt.writer.write(block, unread, predictions, layout)
        lost = {bad.row for bad in joined.bad}
        assert all(bad.reason and bad.message for bad in (*unread, *joined.bad))
        kept = [int(block.positions[row]) for row in good if row not in lost]
        part = fmt.writer.read_back(joined_bytes(joined.blocks))
        assert [float(row["prediction"]) for row in part.values()] == kept[: len(part.values())]
        assert len(part.positions) == len(kept)
        found.append(block)
    return found


def _whole_file(name: str, data: bytes) -> bytes | None:
    """Checks a file of any bytes, or a good one with some changed bytes; returns it if it is read as a whole."""
    chunk_bytes, layout, data = _settings(data)
    if chunk_bytes % 8 != 1:  # if the first byte is odd
        data = _changed(SEEDS[name](), data)
    # The file may have other fields, and Avro has no names as that of the other targets.
    layout = layout._replace(include=(), exclude=(), key_field=None, predictions=(("y", "prediction"),))
    blocks = _or_error(lambda: _score_file(name, data, chunk_bytes, layout))
    if isinstance(blocks, RunError):
        return None
    positions = [int(at) for block in blocks for at in block.positions]
    assert positions == sorted(set(positions)), "a row is there twice"
    if formats.load(name).reader.unit == "row":
        assert positions == list(range(len(positions)))
    return data


def _changed(good: bytes, edits: bytes) -> bytes:
    """Changes bytes of a file: each edit is a place, in two bytes, and what it is combined with."""
    made = bytearray(good)
    for at in range(0, len(edits) - 2, 3):
        made[int.from_bytes(edits[at : at + 2], "little") % len(made)] ^= edits[at + 2]
    return bytes(made)


ROWS = [{"n": number, "s": f"row {number}"} for number in range(8)]


@functools.cache
def _avro_file() -> bytes:
    fields = [{"name": "n", "type": ["null", "long"]}, {"name": "s", "type": "string"}]
    file = io.BytesIO()
    schema = {"type": "record", "name": "r", "fields": fields}
    fastavro.writer(file, schema, ROWS, "deflate", sync_interval=20, sync_marker=bytes(range(16)))
    return file.getvalue()


@functools.cache
def _parquet_file() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), file, row_group_size=3)
    return file.getvalue()


def _csv_file() -> bytes:
    return b'n,s\n1,a\n2,"b\n""c"""\r\n3,\n4,"d,e"\n'


SEEDS: dict[str, Callable[[], bytes]] = {"avro": _avro_file, "parquet": _parquet_file, "csv": _csv_file}


def avro_file(data: bytes) -> None:
    """Fuzzes Avro: a file of any bytes, or a good file with changed bytes."""
    _whole_file("avro", data)


def parquet_file(data: bytes) -> None:
    """Fuzzes Parquet: a file of any bytes, or a good file with changed bytes."""
    _whole_file("parquet", data)


def csv_file(data: bytes) -> None:
    """Fuzzes CSV: a file of any bytes, or a good file with changed bytes."""
    _whole_file("csv", data)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "json_lines": json_lines,
    "records": records,
    "packed": packed,
    "avro": avro_file,
    "parquet": parquet_file,
    "csv": csv_file,
}
