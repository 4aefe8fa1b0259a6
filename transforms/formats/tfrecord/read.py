"""Reads TFRecord files whose records are a tf.train.Example. A row is a record with its frame, see `split`."""

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
from transforms.formats.tfrecord import decode, parse, split
from transforms.formats.tfrecord.split import FOOTER, HEADER
from transforms.reasons import Reason
from transforms.records import BadRow, Chunk, Feature, Rows, Unit

DIFFERS = "the checksum of its data is not the one that was written after it"


class RecordBlock(blocks.ByteBlock):
    """Records with their frames in one buffer, see `transforms.formats.base.Block`."""

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
        return slices.read(self.data, self.rows, features, lambda part: _read_slice(self.data, part, features))

    def values(self) -> list[dict[str, Any]]:
        """Returns the records that are Examples, each as feature -> list of values, or None for one without a list."""
        records = self.records
        bounds = zip(records.starts.tolist(), records.ends.tolist(), strict=True)
        examples = [parse.parse(self.data[start:end]) for start, end in bounds]
        return [
            {field: None if values is None else values.tolist() for field, values in sorted(example.items())}
            for example in examples
            if example is not None
        ]


class TFRecordReader:
    """Reads TFRecord files, see `transforms.formats.base.Reader`."""

    name = "tfrecord"
    unit: Unit = "byte"
    traits = RecordBlock.traits
    header = ""

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
        return RecordBlock(chunk.source, blocks.read_bytes(file, chunk), chunk.start)

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
        return RecordBlock("", data[:end], 0)

    def parse(
        self,
        raws: Sequence[bytes],
        positions: Sequence[int],
        source: str = "",
        header: str | None = None,  # noqa: ARG002
    ) -> RecordBlock:
        """Makes a block of records, which are given with their frames."""
        return blocks.parse(RecordBlock, self.name, raws, positions, source)

    def least_bytes(self, features: Sequence[Feature]) -> int:
        """Returns a lower bound: the bytes of a frame, of the features' names, and one byte for each value."""
        counts = {field: decode.value_count(feature) for feature in features for field in feature.fields}
        return HEADER + FOOTER + sum(len(field.encode()) + count for field, count in counts.items())


def _read_slice(data: bytes, rows: Rows, features: Sequence[Feature]) -> Found:
    """Reads the rows of a slice.

    Args:
        data: The chunk's bytes.
        rows: The places of the slice's rows, which follow each other.
        features: The model's inputs, and the fields that feed them.

    Returns:
        The inputs of the good rows, and the number and reason of each bad row.
    """
    records = _records(rows)
    examples = columns.gather(data, records.starts, records.ends)
    differing = np.flatnonzero(split.data_checksums(examples) != split.written_checksums(data, records.ends))
    intact = np.delete(np.arange(len(rows.starts)), differing)
    inputs, refused = decode.decode(columns.pick(examples, intact), features)
    bad = dict.fromkeys(differing.tolist(), (Reason.CORRUPT.value, DIFFERS))
    bad.update((int(intact[at]), why) for at, why in refused.items())
    return inputs, sorted(bad.items())


def _records(rows: Rows) -> Rows:
    return Rows(rows.starts + HEADER, rows.ends - FOOTER)
