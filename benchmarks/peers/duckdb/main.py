"""Batch scoring with DuckDB and a script: DuckDB reads and writes Parquet, the script calls the model between."""

import duckdb
import pyarrow as pa

from benchmarks.peers.loop.main import arguments

READ_ROWS = 1 << 17


def main() -> None:
    """Scores one file."""
    source, output, scorer = arguments()
    read = duckdb.read_parquet(str(source)).to_arrow_reader(READ_ROWS)
    schema = read.schema.append(pa.field("prediction", pa.float32()))
    joined = pa.RecordBatchReader.from_batches(schema, map(scorer.join, read))
    with duckdb.connect() as connection:
        connection.register("joined", joined)
        connection.table("joined").write_parquet(str(output / "part-0.parquet"))


if __name__ == "__main__":
    main()
