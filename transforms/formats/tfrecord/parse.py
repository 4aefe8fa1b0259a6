"""Parses single tf.Examples in the same way as tfx_bsl."""

from typing import Any

import numpy.typing as npt
from tfx_bsl.coders.example_coder import ExampleToNumpyDict

# The kinds of lists that a feature may have. A kind is the `kind` of the NumPy dtype to which its values are parsed.
FLOATS, INTS, BYTES = "fiO"
LIST_NAMES = {FLOATS: "float_list", INTS: "int64_list", BYTES: "bytes_list"}
Values = npt.NDArray[Any]


def parse(record: bytes) -> dict[str, Values | None] | None:
    """Parses a record.

    It parses in the same way as `ExamplesToRecordBatchDecoder`. The protobuf package for Python has another parser,
    which ignores a feature if its map entry holds an unknown field.

    Returns:
        Feature -> its values, or None for a feature that has no list. None if the record is not an Example.
    """
    try:
        example: dict[str, Values | None] = ExampleToNumpyDict(record)
    except RuntimeError:
        return None
    return example
