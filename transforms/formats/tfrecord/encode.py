"""Encodes columns as serialized tf.Examples that have one feature each."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

from transforms import columns
from transforms.formats.tfrecord import same_layout
from transforms.records import Layout


def encode(name: str, column: pa.Array) -> pa.LargeBinaryArray:
    """Encodes each record of a column as a serialized Example with one feature.

    It has only one, because the encoder writes several features in an order that differs from process to process.

    Args:
        name: Name of the feature.
        column: The values, with any nesting.
    """
    flat = columns.flat_values(column)
    if pa.types.is_floating(flat.type):
        flat = pc.cast(flat, pa.float32(), safe=False)
    elif not pa.types.is_binary(flat.type):
        flat = flat.cast(pa.int64())
    bounds = columns.value_bounds(column)
    lists = pa.LargeListArray.from_arrays(pa.array(bounds), flat)
    if flat.type == pa.float32() and len(lists) and (np.diff(bounds) == bounds[1]).all():
        alike = same_layout.with_floats(_encode(name, lists[:1])[0], name, lists)
        if alike is not None:
            return alike
    return pa.array(_encode(name, lists), pa.large_binary())


def lineage_columns(layout: Layout, count: int) -> list[tuple[str, pa.BinaryArray]]:
    """Returns name and values of the fields with the lineage of some rows."""
    return [(name, pa.array([value.encode()] * count, pa.binary())) for name, value in layout.lineage]


def _encode(name: str, lists: pa.LargeListArray) -> list[bytes]:
    texts: list[bytes] = RecordBatchToExamplesEncoder().encode(pa.RecordBatch.from_arrays([lists], [name]))
    return texts
