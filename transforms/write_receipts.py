"""Writes the receipts of parts to files in the run's temporary folder.

There are two kinds of files. A *receipt* is a small file for each part, written after all other files of its chunk. It
proves that the part is complete, and a run that resumes looks for it. *Lists* hold the receipts of all parts in a few
files, which keyjoin reads when it commits the run.
"""

import dataclasses
import heapq
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import apache_beam as beam
import google_crc32c
import msgspec

from transforms.errors import RunError
from transforms.records import Chunk, PartReceipt
from transforms.storage import files

RECEIPTS = "receipts"
LISTS = "lists"
SHARDS = 64  # with a million receipts, each shard holds 16,000, about 6 MB
PASSING = ("data", "version")  # fields of a chunk that no receipt keeps
LISTED = 1_000  # receipts in a list that is not grouped by shards; with statistics, 45 MB
_ORDER = operator.attrgetter("chunk.source", "chunk.start", "chunk.number")

Line = TypeVar("Line")


def encode(part: PartReceipt) -> bytes:
    """Encodes a receipt as a JSON object of its fields, without the chunk's `data` and `version` (see `Chunk.lasting`).

    The chunk's `bytes` is present only where positions are not bytes.
    """
    chunk = {name: value for name, value in part.chunk._asdict().items() if name not in PASSING and value is not None}
    return msgspec.json.encode({**part._asdict(), "chunk": chunk})


def decode(line: bytes) -> PartReceipt:
    """Decodes a receipt from a JSON object. The `data` and `version` of its chunk are empty.

    Raises:
        ValueError: The line is not a receipt.
    """
    document = decode_object(line)
    chunk: Chunk = to_record(
        Chunk, {"bytes": None, **msgspec.convert(document.get("chunk"), dict[str, Any]), **dict.fromkeys(PASSING, "")}
    )
    if chunk.start > chunk.end or chunk.number >= chunk.parts:
        raise ValueError(f"there is no chunk {chunk.number} of {chunk.parts} from {chunk.start} to {chunk.end}")
    made: PartReceipt = to_record(PartReceipt, {**document, "chunk": chunk})
    return made


def decode_object(line: bytes) -> dict[str, Any]:
    """Decodes the JSON object of a line.

    Raises:
        ValueError: The line is not a JSON object.
    """
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def to_record(kind: Any, fields: Mapping[str, Any]) -> Any:
    """Makes a NamedTuple of type `kind` from exactly its fields, and checks their types.

    Raises:
        ValueError: A field is missing, unknown or of another type, or a text has a NUL character.
    """
    missing, unknown = sorted(set(kind._fields) - fields.keys()), sorted(fields.keys() - set(kind._fields))
    if missing or unknown:
        raise ValueError(f"it has no {missing[0]!r}" if missing else f"it has {unknown[0]!r}, which is unknown")
    if any(isinstance(value, str) and "\0" in value for value in fields.values()):
        raise ValueError("it has a NUL character")
    return msgspec.convert([fields[name] for name in kind._fields], kind)


def receipt_path(temp: str, part: str) -> str:
    """Returns the path of a part's receipt.

    >>> receipt_path("out/_keyjoin/temp", "sub/a-00000-of-00001.jsonl")
    'out/_keyjoin/temp/receipts/sub/a-00000-of-00001.jsonl.json'
    """
    return files.join(temp, RECEIPTS, *f"{part}.json".split("/"))


def write_receipt(temp: str, part: PartReceipt) -> None:
    """Writes the receipt of a part. Call it after all files that the receipt proves are written.

    Raises:
        RunError: The receipt cannot be written, or a link leads out of the folder.
    """
    files.write_whole(files.below(temp, f"{RECEIPTS}/{part.chunk.part}.json"), [encode(part) + b"\n"])


@dataclasses.dataclass(eq=False)
class WriteReceipts(beam.PTransform[beam.PCollection[PartReceipt], beam.PCollection[str]]):
    """Writes lists of receipts.

    Input:  PCollection[PartReceipt]
    Output: PCollection[str], the paths of the lists, see `read_receipts`
    """

    temp: str

    def expand(self, parts: beam.PCollection[PartReceipt]) -> beam.PCollection[str]:
        """Wires the step."""
        return (
            parts
            | "ShardReceipts" >> beam.Map(self._with_shard).with_output_types(tuple[int, PartReceipt])
            | "GroupReceipts" >> beam.GroupByKey()
            | "WriteShard" >> beam.MapTuple(self._write).with_output_types(str)
        )

    def _with_shard(self, part: PartReceipt) -> tuple[int, PartReceipt]:
        return google_crc32c.value(part.chunk.part.encode()) % SHARDS, part

    def _write(self, shard: int, parts: Iterable[PartReceipt]) -> str:
        return write_list(self.temp, 0, f"{shard:02d}", parts)


def write_list(temp: str, wave: int, name: str, parts: Iterable[PartReceipt]) -> str:
    """Writes a list of receipts.

    Args:
        temp: Folder for files that are deleted after the run.
        wave: The number of the wave of chunks that the receipts belong to; 0 if there is only one wave.
        name: The name of the list within its wave.
        parts: The receipts, in any order.

    Returns:
        The path of the list.

    Raises:
        RunError: The list cannot be written.
    """
    path = files.below(temp, f"{LISTS}/{wave:08d}/{name}.jsonl")
    # Sorted, so that lists can be merged, and so that the same run writes the same list.
    files.write_whole(path, files.in_blocks(map(encode, sorted(parts, key=_ORDER))))
    return path


def read_receipts(temp: str) -> Iterator[PartReceipt]:
    """Yields the receipts in a run's lists, one at a time, sorted by source and position.

    Raises:
        RunError: A list is damaged.
    """
    folder = files.join(temp, LISTS)
    names = sorted(files.list_below(folder))
    # Waves follow each other in the order of their chunks. Within a wave, the shards have to be merged.
    for _, shards in itertools.groupby(names, key=lambda name: name.split("/")[0]):
        yield from heapq.merge(*(read_list(files.join(folder, name)) for name in shards), key=_ORDER)


def read_list(path: str) -> Iterator[PartReceipt]:
    """Yields the receipts in a file with one receipt in each line: a run's list, or `_keyjoin/parts.jsonl`.

    Raises:
        RunError: A line is not a receipt.
    """
    return read_lines(path, decode)


def read_lines(path: str, decode_line: Callable[[bytes], Line]) -> Iterator[Line]:
    """Decodes the lines of a list that a run wrote, one at a time.

    Args:
        path: The list.
        decode_line: Decodes a line; raises a ValueError if the line is damaged.

    Raises:
        RunError: A line is damaged.
    """
    with files.open_own(path) as file:
        try:
            yield from map(decode_line, file)
        except ValueError as error:
            raise RunError(f"{path} is damaged: {error}; run again with --overwrite") from error
