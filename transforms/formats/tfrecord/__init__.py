"""Provides the format TFRecord: its reader and its writer."""

from transforms.formats.base import Format
from transforms.formats.spec import FormatSpec
from transforms.formats.tfrecord.read import TFRecordReader
from transforms.formats.tfrecord.write import TFRecordWriter

FORMAT = Format(TFRecordReader(), TFRecordWriter())


def make(spec: FormatSpec) -> Format:
    """Makes the reader and the writer."""
    return FORMAT._replace(reader=TFRecordReader(spec.record_field)) if spec.record_field else FORMAT
