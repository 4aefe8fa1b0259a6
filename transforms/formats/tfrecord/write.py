"""Joined tf.Examples: the record's own bytes, with the prediction's features behind them.

Protobuf messages that stand one behind the other parse as their merge, so a record keeps its bytes:

    features {a: 1}  |  features {prediction: 2}  |  features {key: "…"}
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from transforms import columns
from transforms.formats import blocks, slices
from transforms.formats.base import Block, Joined
from transforms.formats.tfrecord import null_rows, split
from transforms.formats.tfrecord.encode import encode
from transforms.formats.tfrecord.pick_fields import Kept, keep
from transforms.formats.tfrecord.read import RecordBlock
from transforms.records import BadRow, Layout, Positions
from transforms.threads import in_threads


class TFRecordWriter:
    """Writes TFRecord files, see `transforms.formats.base.Writer`."""

    name = "tfrecord"
    traits = RecordBlock.traits

    def write(self, block: Block, bad: Sequence[BadRow], predictions: pa.RecordBatch, layout: Layout) -> Joined:
        """Adds predictions to their records."""
        own = blocks.own(block, RecordBlock)
        kept, refused = keep(own.data, own.records, bad, predictions, layout)
        nulls = null_rows.records(own, sorted([*bad, *refused]), layout) if layout.error else {}
        count = len(own.rows.starts)
        step = slices.row_count(count, own.nbytes + predictions.nbytes)

        def write_slice(first: int) -> pa.Buffer:
            part = slice(*np.searchsorted(kept.numbers, [first, first + step]))
            made = pieces(own, kept, part, layout)
            missing = slices.between(nulls, first, first + step)
            known = None
            if missing:
                made = [slices.merge(columns.join(made), kept.numbers[part], missing)]
            elif layout.whole_row:  # reading has held these to their data, which is not gone through again
                known = split.written_checksums(own.data, own.records.ends[kept.numbers[part]])
            return split.framed(made, known)

        return Joined(in_threads(write_slice, range(0, count, step)), refused)

    def read_back(self, part: bytes) -> RecordBlock:
        """Makes a block of the records of a part."""
        return RecordBlock("", part)

    def merge(self, parts: Sequence[tuple[bytes, Positions]]) -> Iterable[Any]:
        """Puts the records of parts into their order."""
        return blocks.merge(RecordBlock, parts)


def pieces(block: RecordBlock, kept: Kept, part: slice, layout: Layout) -> list[pa.LargeBinaryArray]:
    """Some of the kept rows as serialized Examples, to be joined: the row's features, each prediction, key.

    A feature has a list of 64-bit integers (bools too, as 0 and 1), of bytes, or of 32-bit floats, so
    float64 predictions are rounded. Shapes are flattened, row-major.
    """
    numbers, predictions, records = kept.numbers[part], kept.predictions[part], block.records
    if kept.heads is None:
        found = [columns.gather(block.data, records.starts[numbers], records.ends[numbers])]
    else:
        found = [kept.heads[part]]
    found += [encode(name, predictions[output]) for output, name in layout.predictions]
    if layout.key:
        keys = [f"{block.source}#{position}".encode() for position in block.positions[numbers].tolist()]
        found.append(encode(layout.key, pa.array(keys, pa.binary())))
    return found
