"""Provides the formats of delimited text, CSV and TSV: the reader and the writer of each dialect."""

from transforms.formats import DELIMITERS
from transforms.formats.base import Format
from transforms.formats.csv.dialect import dialect_of
from transforms.formats.csv.read import CsvReader
from transforms.formats.csv.write import CsvWriter
from transforms.formats.spec import FormatSpec


def make(spec: FormatSpec) -> Format:
    """Returns the format of a dialect."""
    dialect = dialect_of(spec, DELIMITERS[spec.name])
    return Format(CsvReader(spec.name, dialect, spec.header), CsvWriter(spec.name, dialect))
