"""tf.Examples of rows without a prediction, for a left join: the record as it was, and the error.

A null prediction is no feature at all, as a missing value is in a tf.Example; so is the error of a good row.
The error is a list of one text, the JSON object that stands in a JSON line (`transforms.dead_letters.error`). A
record that is no intact Example, or has a feature of a name that is added, is held by that object.
"""

from collections.abc import Sequence

import pyarrow as pa

from transforms import columns, dead_letters
from transforms.formats.tfrecord.encode import encode
from transforms.formats.tfrecord.pick_fields import pick
from transforms.formats.tfrecord.read import RecordBlock
from transforms.formats.tfrecord.split import FOOTER, HEADER
from transforms.reasons import Reason
from transforms.records import BadRow, Layout

DAMAGED = (Reason.CORRUPT.value, Reason.NOT_EXAMPLE.value)


def records(block: RecordBlock, bad: Sequence[BadRow], layout: Layout) -> dict[int, bytes]:
    """A serialized Example for each bad row, by its number and in order.

    Args:
        block: The rows of a chunk.
        bad: The bad ones, in order.
        layout: What stands in an output row.
    """
    heads, errors = [], []
    for one, raw in zip(bad, block.raw([one.row for one in bad]).to_pylist(), strict=True):
        picked = None if one.reason in DAMAGED else pick(raw[HEADER:-FOOTER], layout)
        head = picked if isinstance(picked, bytes) else None
        hidden = layout.whole_row and head is None
        heads.append(head or b"")
        errors.append(dead_letters.error(one, raw if hidden else None))
    pieces = [
        pa.array(heads, pa.large_binary()),
        encode(layout.error or "", pa.array(errors, pa.binary())),
    ]
    if layout.key:
        keys = [dead_letters.key(block, one.row).encode() for one in bad]
        pieces.append(encode(layout.key, pa.array(keys, pa.binary())))
    return dict(zip([one.row for one in bad], columns.join(pieces).to_pylist(), strict=True))
