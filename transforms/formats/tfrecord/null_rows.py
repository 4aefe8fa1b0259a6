"""Makes the tf.Examples of bad rows for a left join: the record's own features, and the error.

A null prediction is written as no feature, which is how a tf.Example expresses a missing value. In the same way, a good
row has no error feature. The error is a bytes list with one text: the JSON object of `transforms.dead_letters.error`,
the same as in JSON Lines. If a record is damaged, or has a feature with a name that keyjoin adds, that object holds it.
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


def records(block: RecordBlock, examples: RecordBlock, bad: Sequence[BadRow], layout: Layout) -> dict[int, bytes]:
    """Makes the output record of each bad row, without its frame.

    Args:
        block: The rows of a chunk.
        examples: The same rows as Examples, see `RecordBlock.as_examples`.
        bad: The bad rows, in order.
        layout: The fields of an output row.

    Returns:
        Number of a bad row -> its serialized Example, in the order of the numbers.
    """
    heads, errors = [], []
    numbers = [one.row for one in bad]
    both = zip(bad, block.raw(numbers).to_pylist(), examples.raw(numbers).to_pylist(), strict=True)
    for one, raw, example in both:
        picked = None if one.reason in DAMAGED else pick(example[HEADER:-FOOTER], layout)
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
    return dict(zip(numbers, columns.join(pieces).to_pylist(), strict=True))
