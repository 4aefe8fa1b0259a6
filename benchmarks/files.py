"""Writes the rows of the benchmark in each format, and reads the rows of files record by record, to verify them.

The libraries of the formats are imported by the functions that need them: these run in a process of their own.
"""

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import rows
from benchmarks.workloads import AVRO, COLUMNS, CSV, GZIP, PARQUET, TFRECORD

BLOCK_ROWS = 100_000
SCHEMA = {
    "type": "record",
    "name": "house",
    "fields": [*({"name": name, "type": "double"} for name in COLUMNS), {"name": "name", "type": "string"}],
}


def write(lines: Path, path: Path, suffix: str) -> None:
    """Converts JSON Lines to another format. In CSV, Parquet and Avro, the 13 numbers are 13 columns."""
    WRITERS[suffix](lines, path)


def _write_examples(lines: Path, path: Path) -> None:
    import tensorflow as tf

    with lines.open() as file, tf.io.TFRecordWriter(str(path)) as writer:
        for line in file:
            writer.write(rows.example(line))


def _write_gzip(lines: Path, path: Path) -> None:
    with lines.open("rb") as file, gzip.open(path, "wb", compresslevel=6) as packed:
        packed.writelines(file)


def _flat(lines: Path) -> Iterator[dict[str, Any]]:
    with lines.open() as file:
        for row in map(json.loads, file):
            numbers = row.pop("features")
            yield dict(zip(COLUMNS, numbers, strict=True)) | row


def _write_csv(lines: Path, path: Path) -> None:
    with path.open("w") as file:
        file.write(",".join((*COLUMNS, "name")) + "\n")
        file.writelines(",".join(map(str, row.values())) + "\n" for row in _flat(lines))


def _write_parquet(lines: Path, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = pa.Table.from_pylist(list(_flat(lines)))
    pq.write_table(made, path, compression="snappy", row_group_size=BLOCK_ROWS)


def _write_avro(lines: Path, path: Path) -> None:
    import fastavro

    with path.open("wb") as file:
        fastavro.writer(file, SCHEMA, _flat(lines), "deflate")


WRITERS: Mapping[str, Callable[[Path, Path], None]] = {
    TFRECORD: _write_examples,
    GZIP: _write_gzip,
    CSV: _write_csv,
    PARQUET: _write_parquet,
    AVRO: _write_avro,
}


def records(paths: Iterable[Path], suffix: str) -> Iterator[bytes]:
    """Yields the records of files: lines, CSV records without the header, serialized Examples.

    A row of Parquet or Avro is shown as a line of JSON.
    """
    for path in paths:
        yield from READERS.get(suffix, _lines)(path)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _examples(path: Path) -> Iterator[bytes]:
    # A TFRecord is the length, its checksum, the data, and their checksum.
    with path.open("rb") as file:
        while head := file.read(12):
            yield file.read(int.from_bytes(head[:8], "little"))
            file.seek(4, 1)


def _packed_lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path) as file:
        yield from file


def _csv_records(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:  # no cell of the benchmark has a newline
        next(file, b"")
        yield from file


def _as_json(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _parquet_rows(path: Path) -> Iterator[bytes]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(path).iter_batches(BLOCK_ROWS):
        yield from map(_as_json, batch.to_pylist())


def _avro_rows(path: Path) -> Iterator[bytes]:
    import fastavro

    with path.open("rb") as file:
        yield from map(_as_json, fastavro.reader(file))


READERS: Mapping[str, Callable[[Path], Iterator[bytes]]] = {
    TFRECORD: _examples,
    GZIP: _packed_lines,
    CSV: _csv_records,
    PARQUET: _parquet_rows,
    AVRO: _avro_rows,
}


def beginning(record: bytes, suffix: str) -> bytes:
    """Returns the bytes with which an output row begins, as `records` yields it: the input row, without its end."""
    if suffix == TFRECORD:
        return record  # an Example keeps its bytes and gets more after them
    return record.removesuffix(b"\n") + b"," if suffix == CSV else record.removesuffix(b"}\n") + b", "
