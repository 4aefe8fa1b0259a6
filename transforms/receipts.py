"""WriteReceipts: keeps what was written, in files that are read again when the run is committed."""

import dataclasses
import heapq
import itertools
import operator
from collections.abc import Iterable, Iterator

import apache_beam as beam
import google_crc32c
import msgspec

from transforms import files
from transforms.records import PartReceipt

FOLDER = "receipts"
SHARDS = 64  # of a million receipts each holds 16,000, which are 5 MB
_ORDER = operator.attrgetter("chunk")  # its fields begin with the source, and within a source the start
_DECODER = msgspec.json.Decoder(PartReceipt)


@dataclasses.dataclass(eq=False)
class WriteReceipts(beam.PTransform[beam.PCollection[PartReceipt], beam.PCollection[str]]):
    """Writes the receipts of parts; `wave` is which wave of chunks they are of, None if they are all.

    Input:  PCollection[PartReceipt]
    Output: PCollection[str], the files, see `read_receipts`
    """

    temp: str
    wave: int | None

    def expand(self, parts: beam.PCollection[PartReceipt]) -> beam.PCollection[str]:
        """Wires the step."""
        return (
            parts
            | "ShardReceipts" >> beam.Map(self._with_shard).with_output_types(tuple[int, PartReceipt])
            | "GroupReceipts" >> beam.GroupByKey()
            | "WriteShard" >> beam.MapTuple(self._write).with_output_types(str)
        )

    def _with_shard(self, part: PartReceipt) -> tuple[int, PartReceipt]:
        shards = SHARDS if self.wave is None else 1
        return google_crc32c.value(part.chunk.part.encode()) % shards, part

    def _write(self, shard: int, parts: Iterable[PartReceipt]) -> str:
        path = files.join(self.temp, FOLDER, f"{self.wave or 0:08d}", f"{shard:02d}.jsonl")
        # Sorted, so that files can be merged, and so that the same run writes the same file.
        files.write_whole(path, files.in_blocks(map(msgspec.json.encode, sorted(parts, key=_ORDER))))
        return path


def read_receipts(temp: str) -> Iterator[PartReceipt]:
    """The receipts of all parts that a run wrote, by source and position, one at a time."""
    folder = files.join(temp, FOLDER)
    names = sorted(files.list_below(folder))
    # Waves follow each other in the order of their chunks; within one the shards have to be merged.
    for _, shards in itertools.groupby(names, key=lambda name: name.split("/")[0]):
        yield from heapq.merge(*(_read(files.join(folder, name)) for name in shards), key=_ORDER)


def _read(path: str) -> Iterator[PartReceipt]:
    with files.open_raw(path) as file:
        yield from map(_DECODER.decode, file)
