"""Makes chunks and blocks from bytes, in any format."""

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from transforms.formats.base import Block, Format
from transforms.records import BadRow, Chunk, Feature


def cut(fmt: Format, data: bytes, chunk_bytes: int, chunk_rows: int | None = None) -> list[int]:
    """Returns the positions at which the chunks of a file end; an empty file has one chunk."""
    return [found.end for found in fmt.reader.split(io.BytesIO(data), len(data), chunk_bytes, chunk_rows)] or [0]


def chunks(fmt: Format, data: bytes, chunk_bytes: int) -> list[Chunk]:
    ends = cut(fmt, data, chunk_bytes)
    bounds = zip([0, *ends[:-1]], ends, strict=True)
    return [Chunk("s", "s", start, end, number, len(ends), "p") for number, (start, end) in enumerate(bounds)]


def whole(fmt: Format, data: bytes) -> Chunk:
    """Makes the chunk that has all rows of a file."""
    end = len(data) if fmt.reader.unit == "byte" else cut(fmt, data, len(data))[-1]
    return Chunk("s", "s", 0, end, 0, 1, "p")


def block_of(fmt: Format, data: bytes, start: int = 0) -> Block:
    """Makes a block from bytes. Positions begin at `start`, if they are bytes and no header precedes the rows."""
    chunk = whole(fmt, data)
    if fmt.reader.unit != "byte" or fmt.reader.read_header(io.BytesIO(data), len(data)):
        start = 0
    chunk = chunk._replace(start=start, end=start + chunk.end)
    return fmt.reader.load(io.BytesIO(bytes(start) + data), chunk)


def read(fmt: Format, data: bytes, features: Sequence[Feature]) -> tuple[pa.RecordBatch, list[BadRow]]:
    return block_of(fmt, data).inputs(features)


def raws(block: Block) -> list[bytes]:
    return block.raw(range(len(block.positions))).to_pylist()


def joined_bytes(blocks: Any) -> bytes:
    return b"".join(bytes(memoryview(block)) for block in blocks)
