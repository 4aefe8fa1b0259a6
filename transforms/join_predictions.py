"""Joins the receipt of each chunk with its predictions, by the chunk's key."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam

from transforms.errors import RunError
from transforms.records import Predictions, Receipt, unpack_bad


def join_chunk(
    key: str, receipts: Iterable[Receipt], predictions: Iterable[Predictions]
) -> tuple[Receipt, Predictions]:
    """Returns the one receipt and the one set of predictions of a chunk.

    Raises:
        RunError: There is not exactly one of each, or the two have different numbers of good rows.
    """
    read, scored = list(receipts), list(predictions)
    if len(read) != 1 or len(scored) != 1:
        raise RunError(f"chunk {key}: {len(read)} receipts and {len(scored)} predictions, one of each expected")
    good = read[0].rows - len(unpack_bad(read[0].bad))
    if good != scored[0].rows:
        raise RunError(f"chunk {key}: {good} good rows were read and {scored[0].rows} went into the model")
    return read[0], scored[0]


class JoinPredictions(beam.PTransform[Any, beam.PCollection[tuple[Receipt, Predictions]]]):
    """Joins by the chunk's key.

    Input:  {"receipts": PCollection[tuple[str, Receipt]], "predictions": PCollection[tuple[str, Predictions | None]]}
    Output: PCollection[tuple[Receipt, Predictions]]. A chunk whose predictions are None has no output: its scoring was
            stopped, so its rows have no result.
    """

    def expand(self, sides: Any) -> beam.PCollection[tuple[Receipt, Predictions]]:
        """Wires the step."""
        return (
            sides
            | "CoGroupByKey" >> beam.CoGroupByKey()
            | "JoinChunk" >> beam.FlatMapTuple(_join).with_output_types(tuple[Receipt, Predictions])
        )


def _join(key: str, sides: Mapping[str, Iterable[Any]]) -> Iterator[tuple[Receipt, Predictions]]:
    predictions = list(sides["predictions"])
    if predictions != [None]:
        yield join_chunk(key, sides["receipts"], predictions)
