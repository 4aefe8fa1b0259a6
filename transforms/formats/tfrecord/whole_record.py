"""Makes tf.Examples of records of any bytes: each has one feature, whose only value is the record."""

import pyarrow as pa

from transforms import columns
from transforms.formats.tfrecord.wire import delimited, field, repeated


def examples(records: pa.LargeBinaryArray, name: str) -> pa.LargeBinaryArray:
    """Makes a serialized Example of each record.

    Messages and field numbers are those of core/example/example.proto and feature.proto of TensorFlow: Example, its
    Features, an entry of their map (key 1, value 2), Feature, and its BytesList.

    Args:
        records: The records.
        name: Name of the feature; empty if the records are Examples themselves.
    """
    if not name:
        return records
    feature = field(1, field(1, [records]))
    entry = [repeated(delimited(1, name.encode()), len(records)), *field(2, feature)]
    return columns.join(field(1, field(1, entry)))
