"""JSON Lines."""

from transforms.formats.base import Format
from transforms.formats.jsonl.read import JsonLinesReader
from transforms.formats.jsonl.write import JsonLinesWriter

FORMAT = Format(JsonLinesReader(), JsonLinesWriter())
