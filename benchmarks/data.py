"""The rows that are scored: made from a seed, kept between calls."""

import csv
import os
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.programs import ROOT

HOUSES = ROOT / "examples" / "boston" / "boston_house_prices.csv"
NAME = "house-{:08d}"
BLOCK_ROWS = 10_000
SPREAD = 0.1


def cached(rows: int, seed: int) -> Path:
    """A JSON Lines file of so many rows, made where it is not there yet."""
    # A user's own folder: a name that all users share could be another user's file.
    folder = Path(tempfile.gettempdir()) / f"keyjoin-benchmarks-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"houses-{rows}-seed-{seed}.jsonl"
    if not path.exists():
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        write(unfinished, rows, seed)
        unfinished.replace(path)
    return path


def write(path: Path, rows: int, seed: int) -> None:
    """Writes Boston houses, each of their 13 numbers changed a little, as `features` beside a `name`."""
    random = np.random.default_rng(seed)
    houses = _houses()
    with path.open("w") as file:
        for first in range(0, rows, BLOCK_ROWS):
            count = min(BLOCK_ROWS, rows - first)
            spread = random.uniform(1 - SPREAD, 1 + SPREAD, (count, houses.shape[1]))
            block = np.round(houses[random.integers(len(houses), size=count)] * spread, 4).tolist()
            # The text of a list of floats is JSON.
            file.writelines(
                f'{{"features": {features}, "name": "{NAME.format(number)}"}}\n'
                for number, features in enumerate(block, first)
            )


def number(name: str) -> int:
    """Which row has that name.

    Raises:
        ValueError: None can have it.
    """
    found = int(name.removeprefix("house-"))
    if NAME.format(found) != name:
        raise ValueError(f"no row is called {name}")
    return found


def _houses() -> np.ndarray:
    with HOUSES.open(newline="") as file:
        _, _, *records = csv.reader(file)  # Two lines of head: the size, then the names.
    return np.array(records, np.float64)[:, :-1]
