"""Writes each row as a PredictionLog, as BulkInferrer of TFX does, and reads such parts back.

    predict_log { request { model_spec  inputs { INPUT: record } }  response { outputs { NAME: value }  model_spec } }

The values have the shape [1, …] and the dtype of the model's outputs. The key and the error are outputs, too. Messages
and numbers of fields are those of tensorflow_serving/apis/{prediction_log,predict,model}.proto of TensorFlow Serving,
and of core/framework/{tensor,tensor_shape,types}.proto of TensorFlow.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from transforms import columns
from transforms.formats import blocks
from transforms.formats.base import Block, Joined
from transforms.formats.tfrecord import wire
from transforms.formats.tfrecord.encode import lineage_columns
from transforms.formats.tfrecord.null_rows import null_rows
from transforms.formats.tfrecord.pick_fields import Kept, has_own_fields
from transforms.formats.tfrecord.read import RecordBlock, fields_of
from transforms.formats.tfrecord.split import FOOTER, HEADER
from transforms.formats.tfrecord.wire import Pieces, delimited, field, repeated
from transforms.formats.tfrecord.write import join
from transforms.records import BadRow, Layout, LogNames, Positions

# Numbers of fields of PredictionLog, PredictLog, PredictRequest, PredictResponse, ModelSpec, the entry of a map, and
# TensorProto.
PREDICT_LOG = 6
REQUEST, RESPONSE = 1, 2
REQUEST_SPEC, INPUTS = 1, 2
OUTPUTS, RESPONSE_SPEC = 1, 2
SIGNATURE_NAME = 3
NAME, VALUE = 1, 2
DTYPE, SHAPE, CONTENT, STRINGS = 1, 2, 4, 8
DIM = 2  # of TensorShapeProto; its own field 1 is the size
NUMBERS = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    9: "int64",
    10: "bool",
    17: "uint16",
    22: "uint32",
    23: "uint64",
}
DTYPES = {pa.from_numpy_dtype(name): number for number, name in NUMBERS.items()}
DTYPES |= dict.fromkeys((pa.binary(), pa.large_binary()), 7)


class PredictionLogWriter:
    """Writes TFRecord files of PredictionLogs, see `transforms.formats.base.Writer`.

    Attributes:
        record_field: Name of the field that holds the whole record, see `FormatSpec.record_field`.
    """

    name = "tfrecord"
    traits = RecordBlock.traits

    def __init__(self, record_field: str) -> None:
        """Keeps the name."""
        self.record_field = record_field

    def write(self, block: Block, bad: Sequence[BadRow], predictions: pa.RecordBatch, layout: Layout) -> Joined:
        """Joins predictions to their records, see `transforms.formats.base.Writer`."""
        return join(blocks.own(block, RecordBlock), bad, predictions, layout, _logs, _null_logs)

    def encode(self, table: pa.Table) -> Joined:
        """Refuses rows of another format: a request holds a record of TFRecord.

        Raises:
            TypeError: Always. The plan refuses such a run.
        """
        raise TypeError(f"{table.num_columns} columns are no TFRecord record")

    def read_back(self, part: bytes) -> "LogBlock":
        """Makes a block of the PredictionLogs of a part."""
        block = LogBlock("", part)
        block.record_field = self.record_field
        return block

    def merge(self, parts: Sequence[tuple[bytes, Positions]]) -> Iterable[Any]:
        """Merges the rows of several parts into one part, see `transforms.formats.base.Writer`."""
        return blocks.merge(RecordBlock, parts)


def _logs(block: RecordBlock, kept: Kept, part: slice, layout: Layout) -> Pieces:
    """Makes the PredictionLogs of rows with a prediction.

    Args:
        block: The rows of a chunk.
        kept: The rows that can be written.
        part: The range of kept rows to write.
        layout: The fields of an output row.
    """
    numbers, predictions, records = kept.numbers[part], kept.predictions[part], block.records
    requests = None
    if has_own_fields(block, layout) and kept.heads is not None:
        requests = kept.heads[part]
    elif has_own_fields(block, layout):
        requests = columns.gather(block.data, records.starts[numbers], records.ends[numbers])
    outputs = [(name, predictions[output]) for output, name in layout.predictions]
    if layout.key:
        keys = [f"{block.source}#{position}".encode() for position in block.positions[numbers].tolist()]
        outputs.append((layout.key, pa.array(keys, pa.binary())))
    outputs += lineage_columns(layout, len(numbers))
    return encode_logs(requests, outputs, layout.log, len(numbers))


def _null_logs(block: RecordBlock, bad: Sequence[BadRow], layout: Layout) -> dict[int, bytes]:
    """Makes the PredictionLog of each bad row: number of the row -> its bytes, without a frame."""
    found = {}
    for number, row in null_rows(block, bad, layout):
        head = (
            block.raw([number])[0].as_py()[HEADER:-FOOTER] if block.record_field and row.head is not None else row.head
        )
        requests = pa.array([head], pa.large_binary()) if head is not None and has_own_fields(block, layout) else None
        outputs = [(str(layout.error), pa.array([row.error], pa.binary()))]
        if layout.key:
            outputs.append((layout.key, pa.array([row.key], pa.binary())))
        outputs += lineage_columns(layout, 1)
        (found[number],) = columns.join(encode_logs(requests, outputs, layout.log, 1)).to_pylist()
    return found


def encode_logs(
    requests: pa.LargeBinaryArray | None, outputs: Sequence[tuple[str, pa.Array]], names: LogNames | None, count: int
) -> Pieces:
    """Encodes PredictionLogs.

    Args:
        requests: The record of each request; None if requests have no inputs.
        outputs: Name and values of each output.
        names: The names that come from the model.
        count: How many PredictionLogs to make.
    """
    if names is None:
        raise TypeError("the layout does not name the model's input")
    spec = delimited(SIGNATURE_NAME, names.signature.encode())
    request = [repeated(delimited(REQUEST_SPEC, spec), count)]
    if requests is not None:
        request += field(INPUTS, _entry(names.input, tensors(requests)))
    response = [piece for name, column in outputs for piece in field(OUTPUTS, _entry(name, tensors(column)))]
    response.append(repeated(delimited(RESPONSE_SPEC, spec), count))
    return field(PREDICT_LOG, [*field(REQUEST, request), *field(RESPONSE, response)])


def _entry(name: str, value: Pieces) -> Pieces:
    """Encodes an entry of a map with the same name in each record."""
    return [repeated(delimited(NAME, name.encode()), len(value[0])), *field(VALUE, value)]


def tensors(column: pa.Array) -> Pieces:
    """Encodes each record of a column as a TensorProto of the shape [1, …].

    Args:
        column: The values: numbers, bools or bytes, with any nesting.
    """
    flat, bounds = columns.flat_values(column), columns.value_bounds(column)
    head = [
        repeated(wire.varint(DTYPE << wire.WIRE_BITS) + wire.varint(DTYPES[flat.type]), len(column)),
        _shapes(column),
    ]
    if pa.types.is_binary(flat.type) or pa.types.is_large_binary(flat.type):
        values = columns.join(field(STRINGS, [columns.join([flat])]))
        ends = np.append(0, np.cumsum(columns.sizes(values)))[bounds]
        return [*head, columns.gather(columns.contents(values), ends[:-1], ends[1:])]
    numbers = np.ascontiguousarray(flat.to_numpy(zero_copy_only=False))
    ends = bounds * numbers.itemsize
    return [*head, *field(CONTENT, [columns.gather(pa.py_buffer(numbers), ends[:-1], ends[1:])])]


def _shapes(column: pa.Array) -> pa.LargeBinaryArray:
    """Encodes the shape of each record, with a first size of 1."""
    count = len(column)
    bounds: Positions = np.arange(count + 1)
    sizes = [np.ones(count, np.int64)]
    while pa.types.is_fixed_size_list(column.type) or pa.types.is_list(column.type):
        before = np.diff(bounds)
        if pa.types.is_fixed_size_list(column.type):
            bounds = bounds * column.type.list_size
        else:
            offsets = column.offsets.to_numpy().astype(np.int64)
            bounds = (offsets - offsets[0])[bounds]
        sizes.append(np.diff(bounds) // np.maximum(before, 1))
        column = column.flatten()
    found, which = np.unique(np.stack(sizes, axis=1), axis=0, return_inverse=True)
    shapes = pa.array([_shape(shape) for shape in found.tolist()], pa.large_binary())
    return shapes.take(pa.array(which.reshape(-1)))


def _shape(sizes: Sequence[int]) -> bytes:
    dims = [delimited(DIM, wire.varint(1 << wire.WIRE_BITS) + wire.varint(size)) for size in sizes]
    return delimited(SHAPE, b"".join(dims))


class LogBlock(RecordBlock):
    """PredictionLogs of a part, see `transforms.formats.base.Block`."""

    def values(self) -> list[dict[str, Any]]:
        """Returns each PredictionLog as a row: the fields of the request's record, and the outputs as flat lists."""
        bounds = zip(self.records.starts.tolist(), self.records.ends.tolist(), strict=True)
        return [self._row(self.data[start:end]) for start, end in bounds]

    def _row(self, log: bytes) -> dict[str, Any]:
        (predict,) = _all(log, PREDICT_LOG)
        (request,), (response,) = _all(predict, REQUEST), _all(predict, RESPONSE)
        row: dict[str, Any] = {}
        for entry in _all(request, INPUTS):
            (record,) = _values(_all(entry, VALUE)[0])
            if self.record_field:
                row[self.record_field] = [record]
            else:
                row |= fields_of(record) or {}
        for entry in _all(response, OUTPUTS):
            row[_all(entry, NAME)[0].decode()] = _values(_all(entry, VALUE)[0])
        return row


def _values(tensor: bytes) -> list[Any]:
    """Returns the values of a TensorProto that `tensors` encoded, as a flat list."""
    kind = NUMBERS.get(tensor[1])  # the dtype is the first field: a byte for its tag, a byte for its number
    if kind is None:
        return _all(tensor, STRINGS)
    found: list[Any] = np.frombuffer(_all(tensor, CONTENT)[0], kind).tolist()
    return found


def _all(message: bytes, number: int) -> list[bytes]:
    """Returns the contents of all delimited fields of a number."""
    return [content for found, content in wire.fields(message) if found == number]
