"""Writes the Boston rows of examples/boston/houses.csv in each format that keyjoin reads."""

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from tests.conftest import BOSTON
from tests.support.examples import example, floats

CSV = BOSTON / "houses.csv"
with CSV.open(newline="") as _file:
    NAMES, *CELLS = csv.reader(_file)
# The flag with which the 13 columns feed the model of examples/boston.
FEATURES = f"--features={','.join(NAMES)}"


def table() -> pa.Table:
    """The rows as columns of doubles."""
    columns = zip(*CELLS, strict=True)
    return pa.table(dict(zip(NAMES, ([float(cell) for cell in cells] for cells in columns), strict=True)))


def _csv(path: Path) -> None:
    path.write_bytes(CSV.read_bytes())


def _tsv(path: Path) -> None:
    path.write_text(CSV.read_text().replace(",", "\t"))


def _jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in table().to_pylist()))


def _parquet(path: Path) -> None:
    pq.write_table(table(), path, row_group_size=40)


def _avro(path: Path) -> None:
    fields = [{"name": name, "type": "double"} for name in NAMES]
    with path.open("wb") as file:
        schema = {"type": "record", "name": "house", "fields": fields}
        fastavro.writer(file, schema, table().to_pylist(), "deflate", sync_interval=2000)


def _tfrecord(path: Path) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in table().to_pylist():
            writer.write(example(**{name: floats(value) for name, value in row.items()}))


WRITERS: Mapping[str, Callable[[Path], None]] = {
    "csv": _csv,
    "tsv": _tsv,
    "jsonl": _jsonl,
    "parquet": _parquet,
    "avro": _avro,
    "tfrecord": _tfrecord,
}


def write(folder: Path, fmt: str) -> Path:
    """Writes the rows as `houses.<format>` and returns the path."""
    path = folder / f"houses.{fmt}"
    WRITERS[fmt](path)
    return path
