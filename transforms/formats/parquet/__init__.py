"""Parquet files."""

from transforms.formats.base import Format
from transforms.formats.parquet.read import ParquetReader
from transforms.formats.parquet.write import ParquetWriter
from transforms.formats.spec import FormatSpec


def make(spec: FormatSpec) -> Format:
    """Makes the format. The reader has the schema of the planned sources."""
    return Format(ParquetReader(spec.header), ParquetWriter())
