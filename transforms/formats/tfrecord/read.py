"""Reads TFRecord files. A row is a record with its frame, see `split`.

A record is a tf.train.Example, a tf.train.SequenceExample, or bytes of any kind that are one field, see `whole_record`.
"""

import contextlib
import functools
from collections.abc import Collection, Iterator, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa

from transforms import columns
from transforms.errors import RunError
from transforms.formats import blocks, slices
from transforms.formats.base import Cut, RowTraits
from transforms.formats.slices import Found
from transforms.formats.tfrecord import decode, parse, sequence, split, table, whole_record
from transforms.formats.tfrecord.split import FOOTER, HEADER
from transforms.reasons import Reason
from transforms.records import BadRow, Chunk, Feature, Positions, Rows, Unit
from transforms.threads import in_threads

DIFFERS = "the checksum of its data is not the one that was written after it"


class RecordBlock(blocks.ByteBlock):
    """Records with their frames in one buffer, see `transforms.formats.base.Block`.

    Attributes:
        record_field: Name of the field that holds the whole record, see `FormatSpec.record_field`.
    """

    record_field = ""
    traits = RowTraits(flat_lists=True, raw_feeds=True, float_dtype="float32")

    def find(self) -> Rows:
        """Finds the places of the records, each with its frame."""
        return split.rows(self.data)

    @functools.cached_property
    def records(self) -> Rows:
        """The places of the records, each without its frame."""
        return _records(self.rows)

    def inputs(self, features: Sequence[Feature]) -> tuple[pa.RecordBatch, list[BadRow]]:
        """Decodes the features that the model needs.

        If a record gives a name twice, the last one counts, as everywhere in protobuf.
        """

        def read_slice(part: Rows) -> Found:
            return _read_slice(self.data, part, features, self.record_field)

        return slices.read(self.data, self.rows, features, read_slice)

    def take(self, rows: Sequence[int]) -> "RecordBlock":
        """Returns a block of some of the records. It shares the buffer with this block."""
        some = super().take(rows)
        some.record_field = self.record_field
        return some

    def examples(self, rows: Sequence[int] | Positions) -> pa.LargeBinaryArray:
        """Returns the records of some rows as serialized Examples, without their frames."""
        records = columns.gather(self.data, self.records.starts[rows], self.records.ends[rows])
        return whole_record.examples(records, self.record_field)

    def schema(self) -> pa.Schema:
        """Returns the features of these records, by name, see `table`."""
        return table.schema(self._examples())

    def table(self, rows: Sequence[int], schema: pa.Schema) -> tuple[pa.Table, list[BadRow]]:
        """Converts some records to columns, see `transforms.formats.base.Block`."""
        which = np.asarray(rows, np.int64)
        step = slices.row_count(len(self.rows.starts), self.nbytes)
        parts = [which[at : at + step] for at in range(0, len(which), step)]

        def convert(part: Positions) -> tuple[pa.Table, list[BadRow]]:
            starts, ends = self.records.starts[part], self.records.ends[part]
            whole = columns.gather(self.data, starts, ends)
            differing = split.data_checksums(whole) != split.written_checksums(self.data, ends)
            intact = np.flatnonzero(~differing)
            examples = whole_record.examples(columns.pick(whole, intact), self.record_field)
            found, unfit = table.to_columns(examples.to_pylist(), schema)
            bad = [BadRow(int(row), "write", Reason.CORRUPT.value, DIFFERS) for row in part[differing]]
            return found, sorted([*bad, *(BadRow(int(part[intact[at]]), "write", *why) for at, why in unfit.items())])

        made = list(in_threads(convert, parts))
        found = pa.concat_tables([schema.empty_table(), *(found for found, _ in made)])
        return found, [one for _, bad in made for one in bad]

    def values(self) -> list[dict[str, Any]]:
        """Returns the records that are Examples, each as name -> list of values, or None for a feature without a list.

        A feature list of a SequenceExample is a list of lists.
        """
        found = map(fields_of, self._examples())
        return [fields for fields in found if fields is not None]

    def _examples(self) -> list[bytes]:
        return self.examples(range(len(self.rows.starts))).to_pylist()


def fields_of(record: bytes) -> dict[str, Any] | None:
    """Returns the values of an Example or SequenceExample by name, see `RecordBlock.values`; None if it is neither."""
    example = parse.parse(record)
    if example is None:
        return None
    lists: dict[str, Any] = dict(sequence.values_of(record))
    return lists | {name: None if values is None else values.tolist() for name, values in sorted(example.items())}


class TFRecordReader:
    """Reads TFRecord files, see `transforms.formats.base.Reader`."""

    name = "tfrecord"
    unit: Unit = "byte"
    header = ""

    def __init__(self, record_field: str = "", kind: type[RecordBlock] = RecordBlock) -> None:
        """Keeps the name of the field that holds the whole record, see `FormatSpec`, and the class of the blocks."""
        self.record_field, self.kind = record_field, kind
        self.traits = RecordBlock.traits._replace(raw_feeds=not record_field)

    def _read(self, block: RecordBlock) -> RecordBlock:
        block.record_field = self.record_field
        return block

    def read_header(self, file: IO[bytes], size: int) -> str:  # noqa: ARG002
        """Returns no header: each row says what it holds."""
        return ""

    def split(self, file: IO[bytes], size: int, chunk_bytes: int, chunk_rows: int | None = None) -> Iterator[Cut]:
        """Splits a file into chunks that end with a record.

        Raises:
            RunError: A header is damaged, or the file ends inside a record.
        """
        return split.cuts(file, size, chunk_bytes, chunk_rows)

    def load(self, file: IO[bytes], chunk: Chunk, fields: Collection[str] | None = None) -> RecordBlock:  # noqa: ARG002
        """Reads the records of a chunk. All of their fields are loaded, whatever `fields` is."""
        return self._read(self.kind(chunk.source, blocks.read_bytes(file, chunk), chunk.start))

    def sample(self, file: IO[bytes], size: int) -> RecordBlock:
        """Reads the first whole records.

        Raises:
            RunError: The file does not begin with a record.
        """
        data, end = file.read(size), 0
        if len(data) >= HEADER and split.data_length(data[:HEADER]) is None:
            list(split.record_ends(data, 0, len(data)))  # raises an error that says what is wrong
        with contextlib.suppress(RunError):
            for end in split.record_ends(data, 0, len(data)):  # noqa: B007  the last one counts
                pass
        return self._read(self.kind("", data[:end], 0))

    def parse(
        self,
        raws: Sequence[bytes],
        positions: Sequence[int],
        source: str = "",
        header: str | None = None,  # noqa: ARG002
    ) -> RecordBlock:
        """Makes a block of records, which are given with their frames."""
        return self._read(blocks.parse(self.kind, self.name, raws, positions, source))

    def least_bytes(self, features: Sequence[Feature]) -> int:
        """Returns a lower bound: the bytes of a frame, of the features' names, and one byte for each value."""
        if self.record_field:
            return HEADER + FOOTER
        counts = {field: decode.value_count(feature) for feature in features for field in feature.fields}
        return HEADER + FOOTER + sum(len(field.encode()) + count for field, count in counts.items())


def _read_slice(data: bytes, rows: Rows, features: Sequence[Feature], record_field: str) -> Found:
    """Reads the rows of a slice.

    Args:
        data: The chunk's bytes.
        rows: The places of the slice's rows, which follow each other.
        features: The model's inputs, and the fields that feed them.
        record_field: Name of the field that holds the whole record; empty if records are Examples.

    Returns:
        The inputs of the good rows, and the number and reason of each bad row.
    """
    records = _records(rows)
    whole = columns.gather(data, records.starts, records.ends)
    differing = np.flatnonzero(split.data_checksums(whole) != split.written_checksums(data, records.ends))
    intact = np.delete(np.arange(len(rows.starts)), differing)
    examples = whole_record.examples(columns.pick(whole, intact), record_field)
    inputs, refused = decode.decode(examples, features)
    bad = dict.fromkeys(differing.tolist(), (Reason.CORRUPT.value, DIFFERS))
    bad.update((int(intact[at]), why) for at, why in refused.items())
    return inputs, sorted(bad.items())


def _records(rows: Rows) -> Rows:
    return Rows(rows.starts + HEADER, rows.ends - FOOTER)
