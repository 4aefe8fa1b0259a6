"""Provides the format Avro: its reader and its writer."""

from transforms.formats.avro.read import AvroReader
from transforms.formats.avro.write import AvroWriter
from transforms.formats.base import Format
from transforms.formats.spec import FormatSpec


def make(spec: FormatSpec) -> Format:
    """Returns the format of files with the schema of `spec`."""
    return Format(AvroReader(spec.header), AvroWriter())
