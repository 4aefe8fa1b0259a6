"""Batch scoring with Polars and a script: Polars reads and writes Parquet, the script calls the model between."""

import argparse
from pathlib import Path

import polars as pl

from benchmarks.peers.loop.main import Scorer


def main() -> None:
    """Scores one file."""
    parser = argparse.ArgumentParser()
    for flag in ("--input", "--model", "--output"):
        parser.add_argument(flag, required=True, type=Path)
    parser.add_argument("--features", required=True)
    given = parser.parse_args()
    scorer = Scorer(given.model, given.features)
    given.output.mkdir()
    rows = pl.read_parquet(given.input)
    predictions = scorer.score(rows.select(pl.col(scorer.names).cast(pl.Float32)).to_numpy())
    rows.with_columns(prediction=predictions).write_parquet(given.output / "part-0.parquet")


if __name__ == "__main__":
    main()
