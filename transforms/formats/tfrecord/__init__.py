"""TFRecord files of tf.train.Example."""

from transforms.formats.base import Format
from transforms.formats.tfrecord.read import TFRecordReader
from transforms.formats.tfrecord.write import TFRecordWriter

FORMAT = Format(TFRecordReader(), TFRecordWriter())
