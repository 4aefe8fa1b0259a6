"""The workloads. To add one, add a row to the table at the end: a function for its rows and, if needed, a model."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from benchmarks import rows
from benchmarks.rows import Random

JSONL, TFRECORD, GZIP, CSV, PARQUET, AVRO = ".jsonl", ".tfrecord", ".jsonl.gz", ".csv", ".parquet", ".avro"
# The columns of the 13 numbers of `houses` in formats without lists, and the flag that feeds them to the model.
COLUMNS = tuple(f"f{number:02d}" for number in range(13))
FEATURES = ("--features", ",".join(COLUMNS))


class Workload(NamedTuple):
    """Rows of one kind, and the model that scores them.

    Attributes:
        make: Makes rows from a generator, the number of the first row and the number of rows. Workloads with the same
            function have the same rows, and so the same predictions.
        model: The function of `models` that makes the model; None is the model of examples/boston.
        flags: Further flags of the programs.
        suffix: The suffix of the file, which sets its format.
        distinct: The number of distinct rows; further rows repeat them under new names.
        bad_every: One row of this many is bad; 0 means none.
    """

    make: Callable[[Random, int, int], list[str]]
    model: str | None = None
    flags: tuple[str, ...] = ()
    suffix: str = JSONL
    distinct: int = 2_000_000
    bad_every: int = 0

    @property
    def data(self) -> str:
        """The name of its rows."""
        return self.make.__name__

    def is_bad(self, number: int) -> bool:
        """Returns whether a row is bad, so that no program can score it."""
        return self.bad_every > 0 and number % self.bad_every == self.bad_every // 2


WORKLOADS: Mapping[str, Workload] = {
    "houses": Workload(rows.houses),
    "houses_gzip": Workload(rows.houses, suffix=GZIP),
    "houses_csv": Workload(rows.houses, flags=FEATURES, suffix=CSV),
    "houses_parquet": Workload(rows.houses, flags=FEATURES, suffix=PARQUET),
    "houses_avro": Workload(rows.houses, flags=FEATURES, suffix=AVRO),
    "demo": Workload(rows.demo),
    "mixed": Workload(rows.mixed, distinct=200_000),
    "bad": Workload(rows.mixed, flags=("--max_bad_rows", "0.1"), distinct=200_000, bad_every=20),
    "chunks": Workload(rows.houses, flags=("--chunk_bytes", "1")),
    "heavy": Workload(rows.heavy, "heavy", distinct=8_000),
    "heavy_tfrecord": Workload(rows.heavy, "heavy", suffix=TFRECORD, distinct=8_000),
    "wide": Workload(rows.wide, "wide", distinct=1_000),
    "text": Workload(rows.text, flags=("--input_map", "features=measures"), distinct=1_000),
    "strings": Workload(
        rows.strings,
        "strings",
        flags=("--features", "area,rooms,age,price", "--input_map", "town=city", "kind=kind"),
        distinct=200_000,
    ),
}
