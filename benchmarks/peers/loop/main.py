"""Batch scoring as a plain loop over the library of a format: pyarrow for CSV and Parquet, fastavro for Avro."""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import tensorflow as tf

BATCH_ROWS = 4096
BLOCK_BYTES = 1 << 24


class Scorer:
    """Calls the model on batches of columns."""

    def __init__(self, model: Path, features: str) -> None:
        self._model = tf.saved_model.load(str(model))
        self._predict = self._model.signatures["serving_default"]
        self.names = features.split(",")

    def score(self, rows: np.ndarray) -> np.ndarray:
        """Returns the predictions of rows: (rows, features) -> (rows,), float32."""
        found = [
            self._predict(features=tf.constant(batch), key=tf.range(len(batch)))["prediction"].numpy()[:, 0]
            for batch in (rows[first : first + BATCH_ROWS] for first in range(0, len(rows), BATCH_ROWS))
        ]
        return np.concatenate(found)

    def join(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Returns a batch with its predictions."""
        rows = np.column_stack([batch[name].to_numpy(zero_copy_only=False) for name in self.names])
        return batch.append_column("prediction", pa.array(self.score(rows.astype(np.float32))))


def _write_parquet(source: Path, path: Path, scorer: Scorer) -> None:
    file = pq.ParquetFile(source)
    schema = file.schema_arrow.append(pa.field("prediction", pa.float32()))
    with pq.ParquetWriter(path, schema) as writer:
        for batch in file.iter_batches(1 << 17):
            writer.write_batch(scorer.join(batch))


def _write_csv(source: Path, path: Path, scorer: Scorer) -> None:
    options = pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES)
    with pyarrow.csv.open_csv(source, options) as reader:
        schema = reader.schema.append(pa.field("prediction", pa.float32()))
        with pyarrow.csv.CSVWriter(path, schema) as writer:
            for batch in reader:
                writer.write_batch(scorer.join(batch))


def _write_avro(source: Path, path: Path, scorer: Scorer) -> None:
    with source.open("rb") as file, path.open("wb") as out:
        reader = fastavro.reader(file)
        schema: Any = reader.writer_schema
        schema = {**schema, "fields": [*schema["fields"], {"name": "prediction", "type": "float"}]}
        fastavro.writer(out, schema, _joined(reader, scorer), reader.codec)


def _joined(reader: Iterator[Any], scorer: Scorer) -> Iterator[dict[str, Any]]:
    while rows := list(itertools.islice(reader, BATCH_ROWS)):
        values = np.array([[row[name] for name in scorer.names] for row in rows], np.float32)
        for row, prediction in zip(rows, scorer.score(values).tolist(), strict=True):
            row["prediction"] = prediction
            yield row


WRITERS = {".parquet": _write_parquet, ".csv": _write_csv, ".avro": _write_avro}


def arguments() -> tuple[Path, Path, Scorer]:
    """Reads the command line and makes the output folder. Returns the input file, that folder, and the model."""
    parser = argparse.ArgumentParser()
    for flag in ("--input", "--model", "--output"):
        parser.add_argument(flag, required=True, type=Path)
    parser.add_argument("--features", required=True)
    given = parser.parse_args()
    given.output.mkdir()
    return given.input, given.output, Scorer(given.model, given.features)


def main() -> None:
    """Scores one file."""
    source, output, scorer = arguments()
    WRITERS[source.suffix](source, output / f"part-0{source.suffix}", scorer)


if __name__ == "__main__":
    main()
