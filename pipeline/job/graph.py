"""The graph: one, for every runner."""

import dataclasses
import functools
from typing import Any, NamedTuple

import apache_beam as beam

from pipeline.job.claim_run import ClaimRun, check_own
from pipeline.job.stop_early import Watch
from pipeline.run_folder.names import TEMP
from pipeline.run_folder.place import Place
from transforms import formats
from transforms.formats.spec import FormatSpec
from transforms.join_predictions import JoinPredictions
from transforms.predict import KeyedChunkHandler, Predict
from transforms.read_chunk import FEATURES, RECEIPTS, ReadChunk
from transforms.records import Chunk, Layout, PartReceipt, Predictions, Receipt
from transforms.skip_finished import FINISHED, UNFINISHED, SkipFinished
from transforms.split_into_chunks import SplitIntoChunks
from transforms.storage import files
from transforms.write_part import WritePart
from transforms.write_receipts import WriteReceipts


class Job(NamedTuple):
    """What is run, checked and settled: nothing in it is a guess of a worker's.

    Attributes:
        format: The format of the input and of the parts.
        chunk_bytes: About how large a chunk is.
        chunk_rows: How many rows it has at most; None for no such limit.
        handler: The model, and what feeds it.
        layout: What stands in an output row.
        output: The folder that parts are written to.
        former: The complete output that the run replaces; None if there is none.
        resume: Whether chunks may be done already, by an earlier attempt at the same job.
        accelerator: What the workers that predict have besides, as Beam's resource hint says it; None for nothing.
    """

    format: FormatSpec
    chunk_bytes: int
    chunk_rows: int | None
    handler: KeyedChunkHandler
    layout: Layout
    output: str
    former: str | None = None
    resume: bool = False
    accelerator: str | None = None

    @property
    def place(self) -> Place:
        """Where it writes."""
        return Place(self.former or self.output, self.output)

    @property
    def temp(self) -> str:
        """Folder for what is gone after the run."""
        return files.join(self.output, TEMP)


def build(root: beam.Pipeline, job: Job, run: str) -> beam.PCollection[str]:
    """Wires the whole job.

    Args:
        root: The pipeline.
        job: The job.
        run: The id of the run, which is in the output's `_keyjoin/job.json`.

    Returns:
        PCollection[str]: the files with the receipts of all parts, see `read_receipts`.
    """
    chunks = (
        root
        | "ClaimRun" >> ClaimRun(job.place, run)
        # All sources come out of one element: without this, one worker would split, and unpack, all of them.
        | "SpreadSources" >> beam.Reshuffle()
        | "SplitIntoChunks"
        >> SplitIntoChunks(formats.load(job.format).reader, job.chunk_bytes, job.chunk_rows, job.temp)
        | "SpreadChunks" >> beam.Reshuffle()
    )
    if job.resume:
        apart = chunks | "SkipFinished" >> SkipFinished(job.output, job.temp, job.former)
        parts = (build_chunks(apart[UNFINISHED], job, run=run), apart[FINISHED]) | "AddFinished" >> beam.Flatten()
    else:
        parts = build_chunks(chunks, job, run=run)
    return parts | "WriteReceipts" >> WriteReceipts(job.temp)


def build_chunks(
    chunks: beam.PCollection[Chunk], job: Job, watch: Watch | None = None, run: str | None = None
) -> beam.PCollection[PartReceipt]:
    """Wires the job from its chunks on, to their parts.

    Args:
        chunks: All chunks of the job, or those of a wave.
        job: The job.
        watch: Counts bad rows, and decides which chunks are begun. Only on this machine.
        run: The id of the run, which is looked for before each part is written. Only on other runners: here the
            folder is locked.

    Returns:
        PCollection[PartReceipt]: what was written of each chunk.
    """
    fmt = formats.load(job.format)
    if watch:
        chunks |= "WhileWithinErrorLimit" >> beam.Filter(watch.may_start).with_output_types(Chunk)
    read = chunks | "ReadChunk" >> ReadChunk(fmt.reader, job.handler.features)
    handler = dataclasses.replace(job.handler, refused=watch.refused) if watch else job.handler
    predict: beam.PTransform[Any, Any] = Predict(handler)
    if job.accelerator:  # For this step alone: the others stay on workers without one.
        predict = predict.with_resource_hints(accelerator=job.accelerator)
    receipts, predictions = read[RECEIPTS], read[FEATURES] | "Predict" >> predict
    if watch:
        receipts |= "WatchRead" >> beam.Map(watch.read).with_output_types(tuple[str, Receipt])
        predictions |= "WatchScored" >> beam.Map(watch.scored).with_output_types(tuple[str, Predictions | None])
    joined = {"receipts": receipts, "predictions": predictions} | "JoinPredictions" >> JoinPredictions()
    if run:
        own = functools.partial(check_own, output=job.output, run=run)
        joined |= "WhileFolderIsOurs" >> beam.Map(own).with_output_types(tuple[Receipt, Predictions])
    parts = joined | "WritePart" >> WritePart(fmt, job.layout, job.output, job.temp)
    if watch:
        parts |= "WatchWritten" >> beam.Map(watch.wrote).with_output_types(PartReceipt)
    return parts
