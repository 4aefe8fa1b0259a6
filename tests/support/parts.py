"""Reads files of any format row by row, with the plainest reader of each."""

import csv
import json
from pathlib import Path
from typing import Any

import fastavro
import pyarrow.parquet as pq
import tensorflow as tf

from tests.support.examples import features_of


def read(path: Path, **dialect: Any) -> list[dict[str, Any]]:
    """Returns the rows of a file. Cells of CSV are text, and features of TFRecord are lists.

    Args:
        path: The file.
        **dialect: The dialect of CSV, as Python's csv module takes it.
    """
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".parquet":
        found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return found
    if path.suffix == ".avro":
        with path.open("rb") as file:
            return list(fastavro.reader(file))  # type: ignore[arg-type]
    if path.suffix == ".tfrecord":
        return [features_of(record) for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()]
    tabs = {"delimiter": "\t"} if path.suffix == ".tsv" else {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file, **tabs | dialect))


def scalar(value: Any) -> float:
    """Returns the value of a prediction of the shape (rows, 1): a list in JSON Lines and TFRecord, text in CSV."""
    return float(value[0] if isinstance(value, list) else value)
