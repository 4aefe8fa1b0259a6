"""TFRecord files of tf.train.Example, https://www.tensorflow.org/tutorials/load_data/tfrecord.

A record is framed as

    length: 8 bytes | its masked crc32c: 4 | data: length bytes | its masked crc32c: 4

Little-endian throughout. Where a length is wrong, nothing after it can be found: the run fails. Where data
is wrong, that row alone is bad. A row is the whole frame; its fate depends on its own bytes alone.
"""

import contextlib
import functools
import itertools
import struct
from collections.abc import Iterator, Sequence
from typing import IO, Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms import columns
from transforms.errors import RunError
from transforms.formats import slices
from transforms.formats.base import Joined, RowTraits
from transforms.formats.slices import Found
from transforms.formats.tfrecord import null_rows, parse, read, write
from transforms.reasons import Reason
from transforms.records import BadRow, Chunk, Feature, Layout, Positions, Rows
from transforms.storage.compression import GZIP, MAGIC
from transforms.threads import in_threads

HEADER, FOOTER = 12, 4
MASK_DELTA = np.uint32(0xA282EAD8)
LENGTH = struct.Struct("<Q")
BLOCK_BYTES = 1 << 22
STREAK = 8  # records of one length, before more of it are looked for
DIFFERS = "the checksum of its data is not the one that was written after it"
REMEDY = "copy the file again from where it was written"
Checksums = npt.NDArray[np.uint32]


class TFRecord:
    """The format; see `transforms.formats.base.Format`."""

    name = "tfrecord"
    traits = RowTraits(flat_lists=True, raw_feeds=True, float_dtype="float32")
    held_bytes = 5.0  # a record may be a Python object

    def split(self, file: IO[bytes], size: int, chunk_bytes: int, chunk_rows: int | None = None) -> Iterator[int]:
        """Ends of the chunks: of the record that makes a chunk `chunk_bytes` or `chunk_rows` long, and the file's end.

        Raises:
            RunError: A header does not match its checksum, or the file ends inside a record.
        """
        start = end = rows = 0
        most_rows = chunk_rows or size  # a record has more than a byte
        while end < size:
            # From the start of a record: back over a header that was cut, on over data not read yet.
            file.seek(end)
            block, first = file.read(min(BLOCK_BYTES, size - end)), end
            for end in _ends(block, first, size):
                rows += 1
                if (end - start >= chunk_bytes or rows == most_rows) and end < size:
                    yield end
                    start, rows = end, 0
            if end == first:
                raise _ends_inside(end, size)
        yield size

    def rows(self, data: bytes, *, first: bool) -> Rows:  # noqa: ARG002  every record begins alike
        """Whole records, each with its frame.

        Raises:
            RunError: The data is not what was split.
        """
        ends = np.fromiter(_ends(data, 0, len(data)), np.int64)
        bounds = np.concatenate([[0], ends]).astype(np.int64)
        if bounds[-1] != len(data):
            raise _ends_inside(int(bounds[-1]), len(data))
        return Rows(bounds[:-1], bounds[1:], 0)

    def read(self, data: bytes, rows: Rows, features: Sequence[Feature]) -> tuple[pa.RecordBatch, list[BadRow]]:
        """Decodes the features that the model needs; see `transforms.formats.base.Format`.

        Of a name given twice the last one counts, as everywhere in protobuf.
        """
        return slices.read(data, rows, features, lambda part: _read_slice(data, part, features))

    def least_bytes(self, features: Sequence[Feature]) -> int:
        """A frame, the names of the features, and a byte for each of their values; see `Format`."""
        counts = {field: read.value_count(feature) for feature in features for field in feature.fields}
        return HEADER + FOOTER + sum(len(field.encode()) + count for field, count in counts.items())

    def write(
        self,
        chunk: Chunk,
        data: bytes,
        rows: Rows,
        bad: Sequence[BadRow],
        predictions: pa.RecordBatch,
        layout: Layout,
    ) -> Joined:
        """Adds predictions to their records; see `transforms.formats.base.Format`."""
        records = _records(rows)
        kept, refused = write.keep(data, records, bad, predictions, layout)
        nulls = {}
        if layout.error:
            nulls = null_rows.records(chunk, data, rows, records, sorted([*bad, *refused]), layout)
        step = slices.row_count(len(rows.starts), len(data) + predictions.nbytes)

        def write_slice(first: int) -> pa.Buffer:
            part = slice(*np.searchsorted(kept.numbers, [first, first + step]))
            pieces = write.pieces(chunk, data, records, kept, part, layout)
            missing = slices.between(nulls, first, first + step)
            known = None
            if missing:
                pieces = [slices.merge(columns.join(pieces), kept.numbers[part], missing)]
            elif layout.whole_row:  # reading has held these to their data, which is not gone through again
                known = _written(data, records.ends[kept.numbers[part]])
            return _framed(pieces, known)

        return Joined(in_threads(write_slice, range(0, len(rows.starts), step)), refused)

    def sample(self, data: bytes) -> list[dict[str, Any]]:
        """The records that are whole, as feature -> list of values; None for a feature of no kind.

        Raises:
            RunError: The file does not begin with a record.
        """
        if len(data) >= HEADER and _length(data[:HEADER]) is None:
            list(_ends(data, 0, len(data)))
        start, examples = 0, []
        with contextlib.suppress(RunError):
            for end in _ends(data, 0, len(data)):
                examples.append(parse.parse(data[start + HEADER : end - FOOTER]))
                start = end
        return [
            {field: None if values is None else values.tolist() for field, values in sorted(example.items())}
            for example in examples
            if example is not None
        ]


FORMAT = TFRecord()


def _read_slice(data: bytes, rows: Rows, features: Sequence[Feature]) -> Found:
    """The inputs of the good ones among some rows that follow each other; which ones are bad, and why."""
    records = _records(rows)
    examples = columns.gather(data, records.starts, records.ends)
    differing = np.flatnonzero(_checksums(examples) != _written(data, records.ends))
    intact = np.delete(np.arange(len(rows.starts)), differing)
    inputs, refused = read.decode(columns.pick(examples, intact), features)
    bad = dict.fromkeys(differing.tolist(), (Reason.CORRUPT.value, DIFFERS))
    bad.update((int(intact[at]), why) for at, why in refused.items())
    return inputs, sorted(bad.items())


def _ends(data: bytes, first: int, size: int) -> Iterator[int]:
    """Ends of the records whose headers are in a part of a file.

    Args:
        data: The part: it begins with a header, and may end anywhere, also inside a header.
        first: Where in the file it begins.
        size: Where the file ends.

    Raises:
        RunError: A header is wrong, or the last record goes on past the file's end.
    """
    at, before, streak = 0, b"", 0
    while at + HEADER <= len(data):
        header = data[at : at + HEADER]
        length = _length(header)
        if length is None:
            packed = first == at == 0 and data.startswith(MAGIC)
            remedy = f"it is gzip: let its name end in {GZIP}" if packed else REMEDY
            raise RunError(f"not a TFRecord header at byte {first + at}: its checksum differs; {remedy}")
        frame = HEADER + length + FOOTER
        if first + at + frame > size:
            raise _ends_inside(first + at, size)
        streak = streak + 1 if header == before else 0
        at, before = at + frame, header
        yield first + at
        if streak == STREAK:
            streak, repeated = 0, _repeats(data, at, frame)
            yield from range(first + at + frame, first + at + repeated * frame + 1, frame)
            at += repeated * frame


def _repeats(data: bytes, at: int, frame: int) -> int:
    """How many whole records follow that have the header of the one before, which is so many bytes long."""
    octets = np.frombuffer(data, np.uint8)
    header = octets[at - frame :][:HEADER]
    most = max(0, len(data) - at) // frame
    found, tried = 0, STREAK
    while tried := min(2 * tried, most - found):
        start = at + found * frame
        same = (octets[start : start + tried * frame].reshape(tried, frame)[:, :HEADER] == header).all(axis=1)
        if not same.all():
            return found + int(np.argmin(same))
        found += tried
    return found


def _ends_inside(start: int, size: int) -> RunError:
    return RunError(f"the file ends at byte {size}, inside the record that starts at byte {start}; {REMEDY}")


# Records of one file have few lengths, so their headers are mostly looked up.
@functools.lru_cache(4096)
def _header(length: int) -> bytes:
    packed = LENGTH.pack(length)
    return packed + _masked(np.array([google_crc32c.value(packed)], np.uint32)).tobytes()


@functools.lru_cache(4096)
def _length(header: bytes) -> int | None:
    """The length of a record's data; None where the header's checksum differs."""
    (length,) = LENGTH.unpack_from(header)
    return length if header == _header(length) else None


def _masked(checksums: Checksums) -> npt.NDArray[np.uint8]:
    """Checksums as they are written, 4 bytes each.

    https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/lib/hash/crc32c.h
    """
    return ((checksums >> 15 | checksums << 17) + MASK_DELTA).astype("<u4").view(np.uint8).reshape(-1, FOOTER)


def _written(data: bytes, ends: Positions) -> Checksums:
    """The checksums that are written behind records which end there; undoes `_masked`."""
    written = np.frombuffer(data, np.uint8)[ends[:, None] + np.arange(FOOTER)]
    rotated: Checksums = written.view("<u4").reshape(-1).astype(np.uint32) - MASK_DELTA
    return (rotated >> 17 | rotated << 15).astype(np.uint32)


def _records(rows: Rows) -> Rows:
    """Where the data of each row lies, without its frame."""
    return Rows(rows.starts + HEADER, rows.ends - FOOTER, moved_from=rows.places)


def _checksums(pieces: pa.LargeBinaryArray, before: Checksums | None = None) -> Checksums:
    """The crc32c of each piece, or of what has that of `before` and of the piece behind it."""
    known = itertools.repeat(0) if before is None else before.tolist()
    return np.fromiter(map(google_crc32c.extend, known, pieces.to_pylist()), np.uint32)


def _framed(pieces: list[pa.LargeBinaryArray], first: Checksums | None = None) -> pa.Buffer:
    """Records side by side, each in its frame.

    Args:
        pieces: Of each record, to be joined.
        first: The checksums of the first of these, if they are known.
    """
    sizes = np.sum([columns.sizes(piece) for piece in pieces], axis=0)
    coded = pa.array(sizes).dictionary_encode()
    headers = pa.array([_header(size) for size in coded.dictionary.to_pylist()], pa.large_binary()).take(coded.indices)
    footers = _masked(_checksums(columns.join(pieces if first is None else pieces[1:]), first))
    ends = np.arange(len(sizes)) * FOOTER
    checksums = columns.gather(pa.py_buffer(footers), ends, ends + FOOTER)
    return columns.contents(columns.join([headers, *pieces, checksums]))
