"""Writes tf.Examples with their predictions: the record's own bytes, followed by the prediction's features.

Protobuf parses concatenated messages as one merged message, so a record keeps its bytes:

    features {a: 1}  |  features {prediction: 2}  |  features {key: "…"}

The features of an Example and the context of a SequenceExample have the same field number, so predictions that follow a
SequenceExample are in its context.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from transforms import columns
from transforms.formats import blocks, slices
from transforms.formats.base import Block, Joined
from transforms.formats.tfrecord import null_rows, split
from transforms.formats.tfrecord.encode import encode, lineage_columns
from transforms.formats.tfrecord.pick_fields import Kept, keep
from transforms.formats.tfrecord.read import RecordBlock
from transforms.formats.tfrecord.table import from_columns
from transforms.formats.tfrecord.wire import Pieces
from transforms.records import BadRow, Layout, Positions
from transforms.threads import in_threads


class TFRecordWriter:
    """Writes TFRecord files, see `transforms.formats.base.Writer`."""

    name = "tfrecord"
    traits = RecordBlock.traits

    def write(self, block: Block, bad: Sequence[BadRow], predictions: pa.RecordBatch, layout: Layout) -> Joined:
        """Joins predictions to their records, see `transforms.formats.base.Writer`."""
        own = blocks.own(block, RecordBlock)
        is_copied = layout.whole_row and not own.record_field
        return join(own, bad, predictions, layout, pieces, null_rows.records, is_copied=is_copied)

    def encode(self, table: pa.Table) -> Joined:
        """Writes one tf.Example for each record, see `transforms.formats.tfrecord.table.from_columns`."""
        made, refused = from_columns(table)
        bad = [BadRow(at, "write", *why) for at, why in sorted(refused.items())]
        count = table.num_rows - len(bad)
        step = slices.row_count(count, table.nbytes)
        steps = range(0, count, step)
        return Joined(in_threads(lambda at: split.framed([piece.slice(at, step) for piece in made]), steps), bad)

    def read_back(self, part: bytes) -> RecordBlock:
        """Makes a block of the records of a part."""
        return RecordBlock("", part)

    def merge(self, parts: Sequence[tuple[bytes, Positions]]) -> Iterable[Any]:
        """Merges the records of several parts into one part, see `transforms.formats.base.Writer`."""
        return blocks.merge(RecordBlock, parts)


def join(
    block: RecordBlock,
    bad: Sequence[BadRow],
    predictions: pa.RecordBatch,
    layout: Layout,
    make: Callable[[RecordBlock, Kept, slice, Layout], Pieces],
    make_nulls: Callable[[RecordBlock, Sequence[BadRow], Layout], Mapping[int, bytes]],
    *,
    is_copied: bool = False,
) -> Joined:
    """Joins predictions to their records slice by slice, in threads, and puts the frames of TFRecord around them.

    Args:
        block: The rows of a chunk.
        bad: The rows without a prediction, in order.
        predictions: One record for each other row, in order.
        layout: The fields of an output row.
        make: Makes the output records of a range of kept rows, as pieces to be joined.
        make_nulls: Makes the output record of each bad row, for a left join: number of the row -> its bytes.
        is_copied: Whether output records begin with whole records of the source. Their checksums were compared with
            their data when they were read, so they are not computed again.
    """
    kept, refused = keep(block, bad, predictions, layout)
    nulls = make_nulls(block, sorted([*bad, *refused]), layout) if layout.error else {}
    count = len(block.rows.starts)
    step = slices.row_count(count, block.nbytes + predictions.nbytes)

    def write_slice(first: int) -> pa.Buffer:
        part = slice(*np.searchsorted(kept.numbers, [first, first + step]))
        made = make(block, kept, part, layout)
        missing = slices.between(nulls, first, first + step)
        known = None
        if missing:
            made = [slices.merge(columns.join(made), kept.numbers[part], missing)]
        elif is_copied:
            known = split.written_checksums(block.data, block.records.ends[kept.numbers[part]])
        return split.framed(made, known)

    return Joined(in_threads(write_slice, range(0, count, step)), refused)


def pieces(block: RecordBlock, kept: Kept, part: slice, layout: Layout) -> list[pa.LargeBinaryArray]:
    """Makes the serialized Examples that are joined to output rows: the row's features, then each field that is added.

    A feature holds a list of 64-bit integers, of byte strings, or of 32-bit floats. So bools become 0 and 1, and
    float64 predictions are rounded to float32. Shapes are flattened, row-major.

    Args:
        block: The rows of a chunk.
        kept: The rows that can be written.
        part: The range of kept rows to write.
        layout: The fields of an output row.

    Returns:
        For each Example of an output row, an array with one record for each row.
    """
    numbers, predictions = kept.numbers[part], kept.predictions[part]
    found = [block.examples(numbers) if kept.heads is None else kept.heads[part]]
    found += [encode(name, predictions[output]) for output, name in layout.predictions]
    if layout.key:
        keys = [f"{block.source}#{position}".encode() for position in block.positions[numbers].tolist()]
        found.append(encode(layout.key, pa.array(keys, pa.binary())))
    return [*found, *(encode(name, values) for name, values in lineage_columns(layout, len(numbers)))]
