"""WriteReceipts: keeps what was written, in files that are read again when the run is committed.

There are two kinds. A *receipt*, a small file beside each part, is written last of what belongs to a chunk: it
proves the part, and a run that goes on looks for it. The *lists* have the receipts of all parts in a few files: who
commits the run reads these.
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
SHARDS = 64  # of a million receipts each holds 16,000, which are 6 MB
PASSING = ("data", "version")  # fields of a chunk that no receipt keeps
LISTED = 16_000  # receipts in a list, where they are not grouped by shards
_ORDER = operator.attrgetter("chunk")  # its fields begin with the source, and within a source the start

Line = TypeVar("Line")


def encode(part: PartReceipt) -> bytes:
    """A receipt as a JSON object, its fields by name; without the chunk's `data` and `version`, see `Chunk.lasting`.

    The chunk's `bytes` are there only where positions are not bytes.
    """
    chunk = {name: value for name, value in part.chunk._asdict().items() if name not in PASSING and value is not None}
    return msgspec.json.encode({**part._asdict(), "chunk": chunk})


def decode(line: bytes) -> PartReceipt:
    """The receipt of a JSON object; its chunk's `data` and `version` are empty.

    Raises:
        ValueError: It is none.
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
    """The JSON object of a line.

    Raises:
        ValueError: It is none.
    """
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def to_record(kind: Any, fields: Mapping[str, Any]) -> Any:
    """The NamedTuple `kind` of exactly such fields, which have the types of its own.

    Raises:
        ValueError: A field is missing, unknown, or of another type.
    """
    missing, unknown = sorted(set(kind._fields) - fields.keys()), sorted(fields.keys() - set(kind._fields))
    if missing or unknown:
        raise ValueError(f"it has no {missing[0]!r}" if missing else f"it has {unknown[0]!r}, which is unknown")
    if any(isinstance(value, str) and "\0" in value for value in fields.values()):
        raise ValueError("it has a NUL character")
    return msgspec.convert([fields[name] for name in kind._fields], kind)


def receipt_path(temp: str, part: str) -> str:
    """Where the receipt of a part is.

    >>> receipt_path("out/_keyjoin/temp", "sub/a-00000-of-00001.jsonl")
    'out/_keyjoin/temp/receipts/sub/a-00000-of-00001.jsonl.json'
    """
    return files.join(temp, RECEIPTS, *f"{part}.json".split("/"))


def write_receipt(temp: str, part: PartReceipt) -> None:
    """Writes the receipt of a part, once all that it proves is there.

    Raises:
        RunError: It cannot be written, or a link leads out of the folder.
    """
    files.write_whole(files.below(temp, f"{RECEIPTS}/{part.chunk.part}.json"), [encode(part) + b"\n"])


@dataclasses.dataclass(eq=False)
class WriteReceipts(beam.PTransform[beam.PCollection[PartReceipt], beam.PCollection[str]]):
    """Writes lists of receipts.

    Input:  PCollection[PartReceipt]
    Output: PCollection[str], the files, see `read_receipts`
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
        temp: Folder for what is gone after the run.
        wave: The wave of chunks that they are of; 0 where there is one.
        name: Of the list, within its wave.
        parts: The receipts, in any order.

    Returns:
        The file.

    Raises:
        RunError: It cannot be written.
    """
    path = files.below(temp, f"{LISTS}/{wave:08d}/{name}.jsonl")
    # Sorted, so that files can be merged, and so that the same run writes the same file.
    files.write_whole(path, files.in_blocks(map(encode, sorted(parts, key=_ORDER))))
    return path


def read_receipts(temp: str) -> Iterator[PartReceipt]:
    """The receipts in a run's lists, by source and position, one at a time.

    Raises:
        RunError: A list is damaged.
    """
    folder = files.join(temp, LISTS)
    names = sorted(files.list_below(folder))
    # Waves follow each other in the order of their chunks; within one the shards have to be merged.
    for _, shards in itertools.groupby(names, key=lambda name: name.split("/")[0]):
        yield from heapq.merge(*(read_list(files.join(folder, name)) for name in shards), key=_ORDER)


def read_list(path: str) -> Iterator[PartReceipt]:
    """The receipts in a file, a line each: a run's list, or `_keyjoin/parts.jsonl`.

    Raises:
        RunError: A line is none.
    """
    return read_lines(path, decode)


def read_lines(path: str, decode_line: Callable[[bytes], Line]) -> Iterator[Line]:
    """What the lines of a list that a run wrote say, one at a time.

    Args:
        path: The list.
        decode_line: What a line says; raises a ValueError where it is damaged.

    Raises:
        RunError: A line is damaged.
    """
    with files.open_own(path) as file:
        try:
            yield from map(decode_line, file)
        except ValueError as error:
            raise RunError(f"{path} is damaged: {error}; run again with --overwrite") from error
