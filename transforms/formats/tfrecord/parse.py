"""One tf.Example, as tfx_bsl reads it."""

from typing import Any

import numpy.typing as npt
from tfx_bsl.coders.example_coder import ExampleToNumpyDict

# A feature's lists, by the kind of NumPy dtype that they become.
FLOATS, INTS, BYTES = "fiO"
LIST_NAMES = {FLOATS: "float_list", INTS: "int64_list", BYTES: "bytes_list"}
Values = npt.NDArray[Any]


def parse(record: bytes) -> dict[str, Values | None] | None:
    """A record's features, None where one is of no kind; None if it is not an Example.

    This parses as `ExamplesToRecordBatchDecoder` does. Python's own protobuf is another parser: it has no
    feature where a map's entry holds an unknown field.
    """
    try:
        example: dict[str, Values | None] = ExampleToNumpyDict(record)
    except RuntimeError:
        return None
    return example
