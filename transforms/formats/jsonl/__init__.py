"""Provides the format JSON Lines: its reader and its writer."""

from transforms.formats.base import Format
from transforms.formats.jsonl.read import JsonLinesReader
from transforms.formats.jsonl.write import JsonLinesWriter
from transforms.formats.spec import FormatSpec

FORMAT = Format(JsonLinesReader(), JsonLinesWriter())


def make(spec: FormatSpec) -> Format:  # noqa: ARG001  files of this format have no options
    """Returns the format."""
    return FORMAT
