"""Scores rows before a run as the run does: it reads, scores and joins them, and writes nothing."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa

from pipeline.job.graph import Job
from transforms import formats
from transforms.formats.base import Block
from transforms.mapping import partitions
from transforms.predict import from_ipc
from transforms.records import BadRow, Features, Predictions, unpack_bad, without
from transforms.saved_model.model import Model
from transforms.write_part import join_rows


class Scored(NamedTuple):
    """The results of some rows.

    Attributes:
        rows: How many rows there are, good and bad.
        bad: The rows that a run would write as dead letters, in order.
        inputs: The model's inputs, one record for each row that the model scored.
        predictions: The predictions, one record for each row that the model scored.
    """

    rows: int
    bad: list[BadRow]
    inputs: pa.RecordBatch
    predictions: pa.RecordBatch


def score_block(
    block: Block, job: Job, model: Model, refused: Callable[[str, int, BadRow], None] | None = None
) -> Scored | None:
    """Scores the rows of a block.

    Args:
        block: The rows.
        job: The settings of the run.
        model: The model, with the outputs that the run needs.
        refused: See `KeyedChunkHandler`.

    Returns:
        The results; None if `refused` stopped the scoring.

    Raises:
        RunError: The run would end with this error.
    """
    inputs, unread = partitions.inputs(block, job.handler.features)
    handler = dataclasses.replace(job.handler, shared=False, refused=refused)
    (result,) = handler.run_inference([Features(block.source, inputs)], model)
    predictions = result.inference
    if not isinstance(predictions, Predictions):
        return None
    bad = join_rows(block, unread, predictions, formats.load(job.format), job.layout).bad
    good = without(inputs.num_rows, unpack_bad(predictions.bad))
    return Scored(len(block.positions), bad, inputs.take(pa.array(good)), from_ipc(predictions.columns))
