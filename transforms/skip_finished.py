"""Skips the chunks whose parts an earlier attempt has written."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Final, Literal

import apache_beam as beam

from transforms.records import Chunk, PartReceipt
from transforms.storage import files
from transforms.write_part import written_of
from transforms.write_receipts import decode, receipt_path

UNFINISHED: Final = "unfinished"
FINISHED: Final = "finished"

TaggedPart = beam.pvalue.TaggedOutput[Literal["finished"], PartReceipt]


def find_finished(chunk: Chunk, output: str, temp: str, former: str | None = None) -> PartReceipt | None:
    """Finds the receipt of a chunk whose part and dead letters exist and match it byte for byte; else returns None.

    The function reads the files completely. It does not check that the chunk's source is unchanged since then: the
    caller has to, see `pipeline.run_folder.resume`.

    Args:
        chunk: The chunk, as it would be scored now.
        output: Output folder.
        temp: Folder of the receipts.
        former: The complete output that the run replaces, whose files also count; None if there is none.

    Raises:
        RunError: A file exists and cannot be read.
    """
    found = files.read_small(receipt_path(temp, chunk.part))
    if found is None:
        return None
    try:
        part = decode(found)
    except ValueError:  # a damaged receipt proves nothing, so the chunk is scored again
        return None
    if part.chunk != chunk.lasting:
        return None
    folders = [output] if former is None else [output, former]
    whole = all(
        any(files.read_back(files.below(folder, name)) == written for folder in folders)
        for name, written in written_of(part)
    )
    return part if whole else None


@dataclasses.dataclass(eq=False)
class SkipFinished(beam.PTransform[beam.PCollection[Chunk], Any]):
    """Separates finished chunks from unfinished ones.

    Input:  PCollection[Chunk]
    Output: UNFINISHED, FINISHED = PCollection[Chunk], PCollection[PartReceipt]; each chunk is in exactly one of them
    """

    output: str
    temp: str
    former: str | None = None

    def expand(self, chunks: beam.PCollection[Chunk]) -> Any:  # Beam warns about every type for several outputs
        """Wires the step."""
        return chunks | "FindFinished" >> beam.FlatMap(self._find).with_outputs(FINISHED, main=UNFINISHED)

    def _find(self, chunk: Chunk) -> Iterator[Chunk | TaggedPart]:
        part = find_finished(chunk, self.output, self.temp, self.former)
        yield chunk if part is None else beam.pvalue.TaggedOutput(FINISHED, part)
