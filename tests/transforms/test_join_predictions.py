"""The join: each chunk has one receipt and one set of predictions of the same rows, or the run fails."""

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors import RunError
from transforms.join_predictions import JoinPredictions, join_chunk
from transforms.records import BadRow, Chunk, Predictions, Receipt, pack_bad


def receipt(rows: int, bad: int = 0, start: int = 0) -> Receipt:
    refused = tuple(BadRow(row, "read", "null", "no value") for row in range(bad))
    return Receipt(Chunk("s", "s", start, start + 9, 0, 1, "p"), 1, rows, 0, pack_bad(refused))


def predictions(rows: int) -> Predictions:
    return Predictions(b"", rows, pack_bad([]))


@given(st.integers(0, 3), st.integers(0, 3))
def test_there_is_one_of_each(receipts: int, scored: int) -> None:
    sides = [receipt(5)] * receipts, [predictions(5)] * scored
    if receipts == scored == 1:
        assert join_chunk("s#0", *sides) == (receipt(5), predictions(5))
    else:
        with pytest.raises(RunError, match=f"chunk s#0: {receipts} receipts and {scored} predictions"):
            join_chunk("s#0", *sides)


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_all_good_rows_went_into_the_model(rows: int, bad: int, scored: int) -> None:
    bad = min(bad, rows)
    if rows - bad == scored:
        join_chunk("s#0", [receipt(rows, bad)], [predictions(scored)])
    else:
        with pytest.raises(RunError, match=f"chunk s#0: {rows - bad} good rows were read and {scored} went into"):
            join_chunk("s#0", [receipt(rows, bad)], [predictions(scored)])


def test_it_joins_by_the_chunks_key() -> None:
    with beam.Pipeline("FnApiRunner") as root:
        read = root | "Receipts" >> beam.Create([("s#0", receipt(2)), ("s#9", receipt(3, start=9))])
        scored = root | "Predictions" >> beam.Create([("s#9", predictions(3)), ("s#0", predictions(2))])
        joined = {"receipts": read, "predictions": scored} | JoinPredictions()
        assert_that(joined, equal_to([(receipt(2), predictions(2)), (receipt(3, start=9), predictions(3))]))


def test_a_chunk_whose_scoring_was_stopped_is_left_out() -> None:
    with beam.Pipeline("FnApiRunner") as root:
        read = root | "Receipts" >> beam.Create([("s#0", receipt(2)), ("s#9", receipt(3, start=9))])
        scored = root | "Predictions" >> beam.Create([("s#9", predictions(3)), ("s#0", None)])
        joined = {"receipts": read, "predictions": scored} | JoinPredictions()
        assert_that(joined, equal_to([(receipt(3, start=9), predictions(3))]))


def test_a_chunk_without_predictions_fails_the_run() -> None:
    root = beam.Pipeline("FnApiRunner")
    read = root | "Receipts" >> beam.Create([("s#0", receipt(2))])
    scored = root | "Predictions" >> beam.Create([]).with_output_types(tuple[str, Predictions])
    _ = {"receipts": read, "predictions": scored} | JoinPredictions()
    with pytest.raises(RuntimeError, match="1 receipts and 0 predictions"):
        root.run()
