"""Provides the format TFRecord: its reader and its writer."""

from transforms.formats.base import Format
from transforms.formats.spec import FormatSpec
from transforms.formats.tfrecord.prediction_log import LogBlock, PredictionLogWriter
from transforms.formats.tfrecord.read import RecordBlock, TFRecordReader
from transforms.formats.tfrecord.write import TFRecordWriter


def make(spec: FormatSpec) -> Format:
    """Makes the reader and the writer."""
    kind = LogBlock if spec.prediction_logs == "read" else RecordBlock
    writer = PredictionLogWriter(spec.record_field) if spec.prediction_logs else TFRecordWriter()
    return Format(TFRecordReader(spec.record_field, kind), writer)


FORMAT = make(FormatSpec("tfrecord"))
