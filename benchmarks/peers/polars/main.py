"""Batch scoring with Polars and a script: Polars reads and writes Parquet, the script calls the model between."""

import polars as pl

from benchmarks.peers.loop.main import arguments


def main() -> None:
    """Scores one file."""
    source, output, scorer = arguments()
    rows = pl.read_parquet(source)
    predictions = scorer.score(rows.select(pl.col(scorer.names).cast(pl.Float32)).to_numpy())
    rows.with_columns(prediction=predictions).write_parquet(output / "part-0.parquet")


if __name__ == "__main__":
    main()
