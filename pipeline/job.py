"""The graph: one, for every runner."""

import json
from typing import NamedTuple

import apache_beam as beam

from pipeline.names import LEDGER, TEMP
from transforms import files, formats
from transforms.chunks import SplitIntoChunks
from transforms.join import JoinPredictions
from transforms.predict import KeyedChunkHandler, Predict
from transforms.read import FEATURES, RECEIPTS, ReadChunk
from transforms.records import Chunk, Layout, PartReceipt
from transforms.sources import MatchSources
from transforms.write import WritePart


class Job(NamedTuple):
    """What is run, checked and settled: nothing in it is a guess of a worker's.

    Attributes:
        patterns: Input files, globs and folders.
        format: Name of their format.
        suffix: What the parts of a source without a known suffix are called.
        chunk_bytes: About how large a chunk is.
        handler: The model, and what feeds it.
        layout: What stands in an output row.
        output: Output folder.
    """

    patterns: tuple[str, ...]
    format: str
    suffix: str
    chunk_bytes: int
    handler: KeyedChunkHandler
    layout: Layout
    output: str

    @property
    def temp(self) -> str:
        """Folder for what is gone after the run."""
        return files.join(self.output, TEMP)


def build(root: beam.Pipeline, job: Job) -> beam.PCollection[str]:
    """Wires the job.

    Returns:
        PCollection[str]: the one file with the receipts of all parts, see `read_receipts`.
    """
    fmt = formats.load(job.format)
    read = (
        root
        | "MatchSources" >> MatchSources(job.patterns, job.suffix)
        | "SplitIntoChunks" >> SplitIntoChunks(fmt, job.chunk_bytes, job.temp)
        | "Reshuffle" >> beam.Reshuffle()
        | "ReadChunk" >> ReadChunk(fmt, job.handler.features)
    )
    predictions = read[FEATURES] | "Predict" >> Predict(job.handler)
    return (
        {"receipts": read[RECEIPTS], "predictions": predictions}
        | "JoinPredictions" >> JoinPredictions()
        | "WritePart" >> WritePart(fmt, job.layout, job.output)
        | "CollectReceipts" >> beam.combiners.ToList()
        | "WriteReceipts" >> beam.Map(_write_receipts, job.temp)
    )


def _write_receipts(parts: list[PartReceipt], temp: str) -> str:
    path = files.join(temp, LEDGER)
    # Sorted, so that the same run writes the same file.
    lines = [json.dumps(part).encode() + b"\n" for part in sorted(parts, key=lambda part: part.chunk)]
    files.write_whole(path, lines)
    return path


def read_receipts(temp: str) -> list[PartReceipt]:
    """The receipts of all parts that a run wrote, by source and position."""
    with files.open_raw(files.join(temp, LEDGER)) as file:
        made = [PartReceipt(*json.loads(line)) for line in file]
    return [part._replace(chunk=Chunk(*part.chunk)) for part in made]
