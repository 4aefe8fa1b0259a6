"""Batch scoring with DuckDB and a script: DuckDB reads and writes Parquet, the script calls the model between."""

import argparse
from pathlib import Path

import duckdb
import pyarrow as pa

from benchmarks.peers.loop.main import Scorer

READ_ROWS = 1 << 17


def main() -> None:
    """Scores one file."""
    parser = argparse.ArgumentParser()
    for flag in ("--input", "--model", "--output"):
        parser.add_argument(flag, required=True, type=Path)
    parser.add_argument("--features", required=True)
    given = parser.parse_args()
    scorer = Scorer(given.model, given.features)
    given.output.mkdir()
    read = duckdb.read_parquet(str(given.input)).to_arrow_reader(READ_ROWS)
    schema = read.schema.append(pa.field("prediction", pa.float32()))
    joined = pa.RecordBatchReader.from_batches(schema, map(scorer.join, read))
    with duckdb.connect() as connection:
        connection.register("joined", joined)
        connection.table("joined").write_parquet(str(given.output / "part-0.parquet"))


if __name__ == "__main__":
    main()
