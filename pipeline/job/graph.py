"""Wires the pipeline graph of a run.

Remote runners run the whole graph. A local run uses only `build_chunks`, once for each wave of chunks, see
`pipeline.job.waves`.
"""

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
    """The checked settings of a run. They are all decided before the run starts, so workers decide none of them.

    Attributes:
        format: The format of the input and of the parts.
        chunk_bytes: The approximate size of a chunk in bytes.
        chunk_rows: Most rows of a chunk; None for no limit.
        handler: Loads the model, and scores chunks with it.
        layout: The fields of an output row.
        output: The folder that parts are written to.
        former: The complete output that the run replaces; None if there is none.
        resume: Whether an earlier attempt may have finished some chunks.
        accelerator: Beam's resource hint for the accelerator of the workers that predict; None for no accelerator.
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
        """The folders that the run writes to."""
        return Place(self.former or self.output, self.output)

    @property
    def temp(self) -> str:
        """The temporary folder, which is removed after the run."""
        return files.join(self.output, TEMP)


def build(root: beam.Pipeline, job: Job, run: str) -> beam.PCollection[str]:
    """Wires the graph of a whole run, for a remote runner.

    Args:
        root: The pipeline.
        job: The settings of the run.
        run: The id of the run, which is also in the output's `_keyjoin/job.json`.

    Returns:
        PCollection[str]: the paths of the lists with the receipts of all parts, see `read_receipts`.
    """
    chunks = (
        root
        | "ClaimRun" >> ClaimRun(job.place, run)
        # All sources come from one element. Without this step, one worker would decompress and split all of them.
        | "SpreadSources" >> beam.Reshuffle()
        | "SplitIntoChunks"
        >> SplitIntoChunks(
            formats.load(job.format).reader, job.chunk_bytes, job.chunk_rows, job.temp, job.format.needed_header
        )
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
    """Wires the steps from chunks to parts: read, predict, join and write.

    Args:
        chunks: All unfinished chunks of the run, or those of a wave.
        job: The settings of the run.
        watch: Counts bad rows, and decides which chunks start. Only for a local run, because it stays in this process.
        run: The id of the run. The graph checks before each part that the folder still belongs to this run. Only for a
            remote runner: a local run locks the folder.

    Returns:
        PCollection[PartReceipt]: one receipt for each part that was written.
    """
    fmt = formats.load(job.format)
    if watch:
        chunks |= "WhileWithinErrorLimit" >> beam.Filter(watch.may_start).with_output_types(Chunk)
    read = chunks | "ReadChunk" >> ReadChunk(fmt.reader, job.handler.features)
    handler = dataclasses.replace(job.handler, refused=watch.refused) if watch else job.handler
    predict: beam.PTransform[Any, Any] = Predict(handler)
    if job.accelerator:  # The hint is on this step only, so the other steps run on workers without an accelerator.
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
