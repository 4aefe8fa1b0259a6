"""Other programs read what keyjoin writes, and keyjoin scores what other programs wrote: values, order and nulls."""

import csv
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import duckdb
import fastavro
import fastparquet
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from apache_beam.io import ReadFromAvro, ReadFromParquet, ReadFromText, ReadFromTFRecord
from apache_beam.testing.util import assert_that, equal_to

from tests.conftest import Result
from tests.support import models
from tests.support.examples import example, features_of, floats, ints, texts
from tests.support.parts import read, scalar

COUNT = 12
NOTES = ['say "hi", he said\nand left', "Straße; 東京", None, "", "tab\there", "plain"]
TABLE = pa.table(
    {
        "id": [f"r{n:03d}" for n in range(COUNT)],
        "a": [float(n) for n in range(COUNT)],
        "b": [n / 4 for n in range(COUNT)],
        "c": [-1.5 * n for n in range(COUNT)],
        "n": [2**53 + 1 + n for n in range(COUNT)],
        "note": [NOTES[n % len(NOTES)] for n in range(COUNT)],
    }
)
ROWS = TABLE.to_pylist()
PREDICTIONS = [0.5 * row["a"] - 1.25 * row["b"] + 3 * row["c"] for row in ROWS]
FEATURES = "--features=a,b,c"
AVRO = {
    "type": "record",
    "name": "row",
    "fields": [
        {"name": "id", "type": "string"},
        *({"name": name, "type": "double"} for name in "abc"),
        {"name": "n", "type": "long"},
        {"name": "note", "type": ["null", "string"]},
    ],
}


# ---- keyjoin scores what others wrote ----


class Written(NamedTuple):
    """How another program writes the table.

    Attributes:
        name: Name of the file.
        write: Writes the table to a path.
        flags: Flags with which keyjoin reads the file.
    """

    name: str
    write: Callable[[Path], Any]
    flags: tuple[str, ...] = ()


def by_duckdb(options: str) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        with duckdb.connect() as connection:
            connection.register("rows", TABLE)
            connection.execute(f"COPY rows TO '{path}' ({options})")

    return write


def by_csv(encoding: str = "utf-8", **dialect: Any) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        with path.open("w", newline="", encoding=encoding) as file:
            writer = csv.DictWriter(file, TABLE.column_names, **dialect)
            writer.writeheader()
            writer.writerows(ROWS)

    return write


def by_avro(codec: str) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            fastavro.writer(file, AVRO, ROWS, codec, sync_interval=200)

    return write


def by_postgres(path: Path) -> None:
    """Writes as COPY … (FORMAT csv, HEADER): null is empty, an empty text is quoted."""

    def cell(value: Any) -> str:
        text = "" if value is None else str(value)
        return f'"{text.replace(chr(34), 2 * chr(34))}"' if set(text) & set('",\r\n') or value == "" else text

    lines = [TABLE.column_names, *(map(cell, row.values()) for row in ROWS)]
    path.write_text("".join(",".join(cells) + "\n" for cells in lines))


pandas_rows, polars_rows = TABLE.to_pandas(), pl.from_arrow(TABLE)
assert isinstance(polars_rows, pl.DataFrame)
WRITTEN = {
    "JSON Lines of pandas": Written("a.jsonl", lambda path: pandas_rows.to_json(path, orient="records", lines=True)),
    "JSON Lines of Polars": Written("a.jsonl", polars_rows.write_ndjson),
    "JSON Lines of DuckDB": Written("a.jsonl", by_duckdb("FORMAT json")),
    "CSV of pandas": Written("a.csv", lambda path: pandas_rows.to_csv(path, index=False)),
    "CSV of pandas, all quoted": Written("a.csv", lambda p: pandas_rows.to_csv(p, index=False, quoting=csv.QUOTE_ALL)),
    "CSV of Polars": Written("a.csv", polars_rows.write_csv),
    "CSV of DuckDB": Written("a.csv", by_duckdb("FORMAT csv, HEADER")),
    "CSV of pyarrow": Written("a.csv", lambda path: pyarrow.csv.write_csv(TABLE, path)),
    "CSV of Python": Written("a.csv", by_csv()),
    "CSV of Excel": Written("a.csv", by_csv("utf-8-sig")),
    "CSV of Excel with semicolons": Written("a.csv", by_csv("utf-8-sig", delimiter=";"), ("--delimiter=;",)),
    "CSV of Postgres": Written("a.csv", by_postgres),
    "TSV of Python": Written("a.tsv", by_csv(delimiter="\t")),
    "Parquet of pyarrow": Written("a.parquet", lambda path: pq.write_table(TABLE, path, row_group_size=5)),
    "Parquet of pandas": Written("a.parquet", pandas_rows.to_parquet),
    "Parquet of Polars": Written("a.parquet", lambda path: polars_rows.write_parquet(path, row_group_size=5)),
    "Parquet of DuckDB": Written("a.parquet", by_duckdb("FORMAT parquet")),
    "Parquet of fastparquet": Written("a.parquet", lambda p: fastparquet.write(str(p), pandas_rows, [0, 5])),
    "Avro of fastavro": Written("a.avro", by_avro("null")),
    "Avro of fastavro, deflate": Written("a.avro", by_avro("deflate")),
    "Avro of fastavro, zstandard": Written("a.avro", by_avro("zstandard")),
    "Avro of Polars": Written("a.avro", polars_rows.write_avro),
}


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
@pytest.mark.parametrize("name", WRITTEN)
def test_files_of_other_programs_are_scored(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path, name: str, chunk_bytes: int
) -> None:
    written = WRITTEN[name]
    path = tmp_path / written.name
    written.write(path)
    where = (f"--input={path}", f"--model={model(models.keyed)}", f"--chunk_bytes={chunk_bytes}")
    done = keyjoin("run", *where, FEATURES, *written.flags)
    assert (done.code, done.complete(), done.err) == (0, True, "")
    dialect = {"delimiter": ";"} if written.flags else {}
    joined = [row for part in done.parts() for row in read(part, **dialect)]
    assert np.allclose([scalar(row.pop("prediction")) for row in joined], PREDICTIONS)
    assert joined == read(path, **dialect)
    assert [row["id"] for row in joined] == TABLE["id"].to_pylist()


TOOLS = {"gz": ["gzip"], "bz2": ["bzip2"], "zst": ["zstd", "-q", "--rm"]}


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
@pytest.mark.parametrize("suffix", TOOLS)
def test_files_of_compression_tools_are_read_and_theirs_are_written(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path, name: str, suffix: str
) -> None:
    tool = TOOLS[suffix]
    if shutil.which(tool[0]) is None:
        pytest.skip(f"{tool[0]} is not installed")
    path = tmp_path / name
    {"a.jsonl": polars_rows.write_ndjson, "a.csv": polars_rows.write_csv}[name](path)
    flags = (f"--model={model(models.keyed)}", FEATURES)
    plain = keyjoin("run", f"--input={path}", *flags)
    subprocess.run([*tool, path], check=True)
    done = keyjoin("run", f"--input={path}.{suffix}", *flags)
    assert (done.code, done.complete(), done.err) == (0, True, "")
    (part,) = done.parts()
    assert part.name.endswith(f"{name[1:]}.{suffix}")
    unpacked = subprocess.run([tool[0], "-dc", part], check=True, capture_output=True).stdout
    assert [unpacked] == [part.read_bytes() for part in plain.parts()]


# ---- others read what keyjoin wrote ----

Row = tuple[str, int, str, float]  # id, n, note, prediction
EXPECTED: list[Row] = [
    (row["id"], row["n"], row["note"] or "", value) for row, value in zip(ROWS, PREDICTIONS, strict=True)
]


def row_of(row: Mapping[str, Any]) -> Row:
    """Returns what is compared. CSV has no null in every reader, so a note that is null counts as empty."""
    note = row["note"]
    return row["id"], int(row["n"]), note if isinstance(note, str) else "", scalar(row["prediction"])


def of_frame(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return frame.to_dict("records")


def parts(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.iterdir() if "-of-" in path.name)


def with_pandas(reader: Callable[..., pd.DataFrame], **options: Any) -> Callable[[Path], Any]:
    return lambda folder: of_frame(pd.concat(reader(path, **options) for path in parts(folder)))


def with_duckdb(folder: Path) -> Any:
    reads = {"jsonl": duckdb.read_json, "csv": duckdb.read_csv, "parquet": duckdb.read_parquet}
    return reads[folder.name](f"{folder}/*-of-*").to_arrow_table().to_pylist()


def with_dataset(file_format: Any) -> Callable[[Path], Any]:
    return lambda folder: ds.dataset(parts(folder), format=file_format).to_table().to_pylist()


def with_jq(folder: Path) -> Any:
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    script = "[.id, (.n|tostring), .note, .prediction] | @json"
    said = subprocess.run(["jq", "-r", script, *parts(folder)], check=True, capture_output=True, text=True).stdout
    rows = [dict(zip(("id", "n", "note", "prediction"), json.loads(line), strict=True)) for line in said.splitlines()]
    if rows and rows[0]["n"] != str(ROWS[0]["n"]):  # before version 1.7, jq rounds integers above 2^53
        rows = [row | {"n": before["n"]} for row, before in zip(rows, ROWS, strict=True)]
    return rows


def row_by_row(folder: Path) -> Any:
    return [row for path in parts(folder) for row in read(Path(path))]


def with_sqlite(folder: Path) -> Any:
    if shutil.which("sqlite3") is None:
        pytest.skip("sqlite3 is not installed")
    (first, *others) = parts(folder)
    imports = [f'.import --csv "{first}" t', *(f'.import --csv --skip 1 "{path}" t' for path in others)]
    script = [*imports, ".mode json", "SELECT * FROM t"]
    done = subprocess.run(["sqlite3", ":memory:", *script], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def with_csv_dataset(folder: Path) -> Any:
    kinds = [tf.string, tf.float32, tf.float32, tf.float32, tf.int64, tf.string, tf.float32]
    names = [*TABLE.column_names, "prediction"]
    defaults = [tf.constant([""] if kind == tf.string else [0], kind) for kind in kinds]
    found = tf.data.experimental.CsvDataset(parts(folder), defaults, header=True).as_numpy_iterator()
    return [
        {name: cell.decode() if isinstance(cell, bytes) else cell for name, cell in zip(names, row, strict=True)}
        for row in found
    ]


def of_example(record: bytes) -> dict[str, Any]:
    values = features_of(record)
    text = {name: value[0].decode() for name, value in values.items() if name in ("id", "note") and value}
    return {"note": "", **values, "n": values["n"][0], **text}


def with_records(folder: Path) -> Any:
    return [of_example(record) for record in tf.data.TFRecordDataset(parts(folder)).as_numpy_iterator()]


def with_polars(reader: Callable[..., pl.DataFrame]) -> Callable[[Path], Any]:
    return lambda folder: pl.concat(reader(path) for path in parts(folder)).to_dicts()


CSV_LINES = ds.CsvFileFormat(parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True))
READERS: Mapping[str, Mapping[str, Callable[[Path], Sequence[Mapping[str, Any]]]]] = {
    "jsonl": {
        "pandas": with_pandas(pd.read_json, lines=True),
        "Polars": with_polars(pl.read_ndjson),
        "DuckDB": with_duckdb,
        "pyarrow": with_dataset("json"),
        "jq": with_jq,
    },
    "csv": {
        "csv": row_by_row,
        "pandas": with_pandas(pd.read_csv),
        "Polars": with_polars(pl.read_csv),
        "DuckDB": with_duckdb,
        "pyarrow": with_dataset(CSV_LINES),
        "sqlite3": with_sqlite,
        "tf.data": with_csv_dataset,
    },
    "parquet": {
        "pandas": with_pandas(pd.read_parquet),
        "Polars": with_polars(pl.read_parquet),
        "DuckDB": with_duckdb,
        "pyarrow": with_dataset("parquet"),
        "fastparquet": with_pandas(lambda path: fastparquet.ParquetFile(path).to_pandas()),
    },
    "avro": {"fastavro": row_by_row, "Polars": with_polars(pl.read_avro)},
    "tfrecord": {"tf.data": with_records},
}
# Beam's ReadFromCsv does not run beside pandas 3.
BEAM: Mapping[str, Callable[[str], beam.PTransform]] = {
    "jsonl": lambda glob: ReadFromText(glob) | beam.Map(json.loads),
    "parquet": ReadFromParquet,
    "avro": ReadFromAvro,
    "tfrecord": lambda glob: ReadFromTFRecord(glob) | beam.Map(of_example),
}
CASES = [(fmt, reader) for fmt, readers in READERS.items() for reader in readers]


def write_records(path: Path) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in ROWS:
            note = texts(*([] if row["note"] is None else [row["note"].encode()]))
            numbers = {name: floats(row[name]) for name in "abc"}
            writer.write(example(id=texts(row["id"].encode()), **numbers, n=ints(row["n"]), note=note))


@pytest.fixture(scope="module")
def outputs(model: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the output folder of a run of several parts, by format. The folder has the format's name."""
    from pipeline.cli import main

    folder = tmp_path_factory.mktemp("formats")
    write = {
        "jsonl": polars_rows.write_ndjson,
        "csv": polars_rows.write_csv,
        "parquet": lambda path: pq.write_table(TABLE, path, row_group_size=5),
        "avro": by_avro("deflate"),
        "tfrecord": write_records,
    }

    def output(fmt: str) -> Path:
        made = folder / fmt
        if not made.exists():
            write[fmt](folder / f"a.{fmt}")
            flags = (f"--input={folder}/a.{fmt}", f"--output={made}", f"--model={model(models.keyed)}")
            assert main(["run", *flags, FEATURES, "--chunk_bytes=200"]) == 0
            assert len(parts(made)) > 1
        return made

    return output


@pytest.mark.parametrize(("fmt", "reader"), CASES)
def test_other_programs_read_what_is_written(outputs: Callable[[str], Path], fmt: str, reader: str) -> None:
    assert [row_of(row) for row in READERS[fmt][reader](outputs(fmt))] == EXPECTED


@pytest.mark.parametrize("fmt", BEAM)
def test_beams_own_readers_read_what_is_written(outputs: Callable[[str], Path], fmt: str) -> None:
    with beam.Pipeline("FnApiRunner") as root:
        rows = root | BEAM[fmt](f"{outputs(fmt)}/*-of-*") | "RowOf" >> beam.Map(row_of)
        assert_that(rows, equal_to(EXPECTED))
