"""Makes the tf.Examples of bad rows for a left join: the record's own features, and the error.

A null prediction is written as no feature, which is how a tf.Example expresses a missing value. In the same way, a good
row has no error feature. The error is a bytes list with one text: the JSON object of `transforms.dead_letters.error`,
the same as in JSON Lines. If a record is damaged, or has a feature with a name that keyjoin adds, that object holds it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from transforms import columns, dead_letters
from transforms.formats.tfrecord.encode import encode, lineage_columns
from transforms.formats.tfrecord.pick_fields import pick
from transforms.formats.tfrecord.read import RecordBlock
from transforms.reasons import Reason
from transforms.records import BadRow, Layout

DAMAGED = (Reason.CORRUPT.value, Reason.NOT_EXAMPLE.value)


class NullRow(NamedTuple):
    """What an output row has of a bad row.

    Attributes:
        head: The Example of the row's own fields; None if it has none.
        error: The text of the error, in UTF-8.
        key: The key, in UTF-8.
    """

    head: bytes | None
    error: bytes
    key: bytes


def null_rows(block: RecordBlock, bad: Sequence[BadRow], layout: Layout) -> Iterator[tuple[int, NullRow]]:
    """Describes the output row of each bad row.

    Args:
        block: The rows of a chunk.
        bad: The bad rows, in order.
        layout: The fields of an output row.

    Yields:
        The number of each bad row, and its output row.
    """
    numbers = [one.row for one in bad]
    both = zip(bad, block.raw(numbers).to_pylist(), block.examples(numbers).to_pylist(), strict=True)
    for one, raw, example in both:
        picked = None if one.reason in DAMAGED else pick(example, layout)
        head = picked if isinstance(picked, bytes) else None
        error = dead_letters.error(one, raw if layout.whole_row and head is None else None)
        yield one.row, NullRow(head, error, dead_letters.key(block, one.row).encode())


def records(block: RecordBlock, bad: Sequence[BadRow], layout: Layout) -> dict[int, bytes]:
    """Makes the output record of each bad row, without its frame, see `null_rows`.

    Returns:
        Number of a bad row -> its serialized Example, in the order of the numbers.
    """
    made = dict(null_rows(block, bad, layout))
    pieces = [
        pa.array([row.head or b"" for row in made.values()], pa.large_binary()),
        encode(layout.error or "", pa.array([row.error for row in made.values()], pa.binary())),
    ]
    if layout.key:
        pieces.append(encode(layout.key, pa.array([row.key for row in made.values()], pa.binary())))
    pieces += [encode(name, values) for name, values in lineage_columns(layout, len(made))]
    return dict(zip(made, columns.join(pieces).to_pylist(), strict=True))
