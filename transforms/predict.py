"""Scores chunks with RunInference and aligns each prediction with its row by the key that the model returns."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.ml.inference.base import ModelHandler, PredictionResult, RunInference

from transforms import columns, statistics
from transforms.errors import StoppedError
from transforms.records import BadRow, Feature, Features, Predictions, pack_bad, unpack_bad
from transforms.saved_model import model as models
from transforms.saved_model.output_shapes import WidthError, is_open
from transforms.scoring import distinct
from transforms.scoring.groups import by_shape
from transforms.scoring.score import Piece, nothing, score, score_groups


@dataclasses.dataclass(eq=False, repr=False)
class KeyedChunkHandler(ModelHandler[Features, PredictionResult, models.Model]):
    """Scores chunks. Each model call gets the ordinals of its rows as keys, and predictions are aligned by these keys.

    Attributes:
        load: Loads the model, or returns the loaded one.
        contract: The inputs and outputs of the model's signature.
        features: The features that feed the model's inputs.
        batch_size: Most rows of one model call.
        keep_non_finite: Whether NaN and infinity count as valid predictions.
        weights: Bytes of the model's variables that take part in each row.
        shared: Whether the processes of a worker share one model. They share large models and models on an
            accelerator.
        dedup: Whether rows of a chunk with equal inputs are scored once.
        refused: Called for each row that fails alone, with the chunk's key, the number of its rows, and the bad row.
            It may raise `StoppedError`.
    """

    load: Callable[[], models.Model]
    contract: models.Contract
    features: tuple[Feature, ...]
    batch_size: int
    keep_non_finite: bool = False
    weights: int = 0
    shared: bool = False
    dedup: bool = False
    refused: Callable[[str, int, BadRow], None] | None = None
    _shared_model: "_SharedModel | None" = dataclasses.field(default=None, init=False, repr=False)

    def __repr__(self) -> str:
        """Returns the class and the batch size only: Beam encodes this text as ASCII, and other fields may not be."""
        return f"{type(self).__name__}(batch_size={self.batch_size})"

    def load_model(self) -> models.Model:
        """Loads the model with only the needed outputs. RunInference calls this once in each process."""
        return self.load().only([tensor.name for tensor in self.contract.outputs])

    def should_skip_batching(self) -> bool:
        """Returns True: an element is a list of one chunk, which the handler itself cuts into batches.

        Beam's own batching would hold each chunk back.
        """
        return True

    def share_model_across_processes(self) -> bool:
        """Returns whether one process of a worker holds the model and the other processes call it there."""
        return self.shared

    def get_num_bytes(self, batch: Sequence[Features]) -> int:
        """Returns the bytes of the chunks' features."""
        return sum(features.inputs.nbytes for features in batch)

    def get_metrics_namespace(self) -> str:
        """Returns the namespace of RunInference's own counters."""
        return type(self).__name__

    def run_inference(
        self,
        batch: Sequence[Features],
        model: models.Model,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[PredictionResult]:
        """Returns one result for each chunk; its `inference` is `Predictions`, or None if scoring was stopped."""
        if inference_args:
            raise ValueError(f"inference_args {sorted(inference_args)} are not supported; wrap the model instead")
        if self.shared:
            model = self._shared_model = self._shared_model or _SharedModel(model, self.weights)
        return [PredictionResult(chunk, self._predict(chunk, model)) for chunk in batch]

    def _predict(self, chunk: Features, model: models.Model) -> Predictions | None:
        try:
            return self._score(chunk, model)
        except StoppedError:
            return None
        except WidthError as error:
            raise WidthError(f"{chunk.key}: {error}" if chunk.key else str(error)) from error

    def _score(self, chunk: Features, model: models.Model) -> Predictions:
        inputs, rows = chunk.inputs, chunk.inputs.num_rows
        refused = functools.partial(self.refused, chunk.key, rows) if self.refused else _nothing
        found = distinct.find(inputs, self.features) if self.dedup else None
        if found is None:
            batch, bad = self._score_rows(inputs, model, refused)
            return Predictions(to_ipc(batch), rows, pack_bad(bad))
        scored, bad = self._score_rows(inputs.take(pa.array(found.first)), model, refused)
        batch, bad = distinct.fan_out(scored, bad, found)
        return Predictions(to_ipc(batch), rows, pack_bad(bad), saved=rows - len(found.first))

    def _score_rows(
        self, inputs: pa.RecordBatch, model: models.Model, refused: Callable[[BadRow], None]
    ) -> tuple[pa.RecordBatch, list[BadRow]]:
        """Returns the predictions of some rows, one record for each row that has one, and the other rows."""
        keep = self.keep_non_finite
        if any(feature.is_grouped for feature in self.features):
            groups = by_shape(inputs, self.features)
            pieces = score_groups(model, self.contract, groups, self.batch_size, keep_non_finite=keep, refused=refused)
            made, bad = in_order(list(pieces), self.contract)
        else:
            arrays = {f.name: columns.to_array(inputs[f.name], f) for f in self.features}
            rows = inputs.num_rows
            scored = score(model, self.contract, arrays, rows, self.batch_size, keep_non_finite=keep, refused=refused)
            made, bad = {name: columns.from_array(array) for name, array in scored.outputs.items()}, scored.bad
        return pa.RecordBatch.from_arrays(list(made.values()), list(made)), bad


def in_order(pieces: Sequence[Piece], contract: models.Contract) -> tuple[dict[str, pa.Array], list[BadRow]]:
    """Puts the predictions of rows that were scored in groups into the order of the rows.

    Args:
        pieces: The scored rows of each group.
        contract: The inputs and outputs of the model's signature.

    Returns:
        Prediction -> a column of all scored rows, with lists of variable size where the contract leaves a size open;
        and the bad rows.
    """
    bad = sorted(one for piece in pieces for one in piece.bad)
    pieces = [piece for piece in pieces if len(piece.numbers)] or [
        Piece(np.zeros(0, np.int64), nothing(contract).outputs, [])
    ]
    order = np.argsort(np.concatenate([piece.numbers for piece in pieces]))
    made = {}
    for tensor in contract.predictions:
        arrays = [columns.from_array(piece.outputs[tensor.name], is_open=is_open(tensor)) for piece in pieces]
        made[tensor.name] = pa.concat_arrays(arrays).take(pa.array(order))
    return made, bad


def _nothing(_: BadRow) -> None:
    pass


class _SharedModel(models.Model):
    """A model in another process. Calls go to that process, and this process keeps the model's `Room`."""

    def __init__(self, there: Callable[..., models.Arrays], weights: int) -> None:
        super().__init__({}, {}, lambda: (), weights=weights)
        self._there = there

    def __call__(self, arrays: models.Arrays, *, alone: bool = False) -> dict[str, Any]:
        """Calls the model in its process."""
        return dict(self._there(arrays, alone=alone))


def to_ipc(batch: pa.RecordBatch) -> bytes:
    """Writes a batch as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def from_ipc(stream: bytes) -> pa.RecordBatch:
    """Reads the one batch of an Arrow IPC stream."""
    with pa.ipc.open_stream(stream) as reader:
        return reader.read_next_batch()


@dataclasses.dataclass(eq=False)
class Predict(beam.PTransform[beam.PCollection[Features], beam.PCollection[tuple[str, Predictions | None]]]):
    """Scores chunks with RunInference.

    Input:  PCollection[Features]
    Output: PCollection[tuple[str, Predictions | None]], one for each input, keyed by the chunk's key; None if the
            handler's `refused` stopped the scoring of the chunk
    """

    handler: KeyedChunkHandler

    def expand(self, chunks: beam.PCollection[Features]) -> beam.PCollection[tuple[str, Predictions | None]]:
        """Wires the step."""
        return (
            chunks
            | "BatchOfOne" >> beam.Map(_alone).with_output_types(list[Features])
            | "RunInference" >> RunInference(self.handler)
            | "CountFeatures" >> beam.Map(self._count).with_output_types(tuple[str, Predictions | None])
        )

    def _count(self, result: Any) -> tuple[str, Predictions | None]:
        chunk: Features = result.example
        scored: Predictions | None = result.inference
        return chunk.key, scored and count_features(chunk.inputs, scored, self.handler.features)


def _alone(chunk: Features) -> list[Features]:
    return [chunk]


def count_features(
    inputs: pa.RecordBatch, scored: Predictions, features: Sequence[Feature], counted: Collection[int] = ()
) -> Predictions:
    """Adds the counts of the inputs of the scored rows to their predictions.

    Args:
        inputs: The inputs of all rows that went into the model.
        scored: The predictions.
        features: The features that feed the model's inputs.
        counted: The numbers of the rows among them that were counted before.
    """
    left_out = {*counted, *(bad.row for bad in unpack_bad(scored.bad))}
    if left_out:
        inputs = inputs.take(pa.array(np.delete(np.arange(inputs.num_rows), sorted(left_out))))
    return scored._replace(features=statistics.pack(statistics.count_features(inputs, features)))
