"""Provides the format TFRecord, for records that are a tf.train.Example: its reader and its writer."""

from transforms.formats.base import Format
from transforms.formats.spec import FormatSpec
from transforms.formats.tfrecord.read import TFRecordReader
from transforms.formats.tfrecord.write import TFRecordWriter

FORMAT = Format(TFRecordReader(), TFRecordWriter())


def make(spec: FormatSpec) -> Format:  # noqa: ARG001  files of this format have no options
    """Returns the format."""
    return FORMAT
