"""The programs to compare. To add one, add a row to the table at the end and a script to this folder."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"
MODEL = ROOT / "examples" / "boston" / "model"
DEAD_LETTERS = "_keyjoin/dead_letters/**/*.jsonl"  # the dead letters, below the output folder
# The arguments of keyjoin, its baseline and every other program that takes keyjoin's flags.
FLAGS = ("--input", "{input}", "--model", "{model}", "--output", "{output}")


class Program(NamedTuple):
    """A way to score rows and join the predictions to them.

    Attributes:
        summary: A description in one line.
        arguments: Python's arguments. `{input}`, `{model}`, `{output}` and `{rows}`, the number of rows, are filled in.
            The flags of the workload follow.
        parts: Glob of the output files, below the output folder; empty if the program writes none.
        exact: Whether the output must be the input's lines in order, byte for byte, with the prediction
            spliced in as keyjoin does it. Other programs may write rows in any order and spelling.
        environment: The folder of `peers` whose locked packages the program needs; None for the project's own.
    """

    summary: str
    arguments: tuple[str, ...]
    parts: str
    exact: bool
    environment: str | None = None

    def command(
        self, source: Path, output: Path, model: Path = MODEL, rows: int = 0, flags: Sequence[str] = ()
    ) -> list[str]:
        """Returns the command line that scores a file."""
        values = {"input": source, "model": model, "output": output, "rows": rows}
        python = sys.executable if self.environment is None else str(python_of(self.environment))
        return [python, *(argument.format(**values) for argument in self.arguments), *flags]


def python_of(environment: str) -> Path:
    """Returns the path of the Python in a peer's environment, which `environments` makes."""
    return PEERS / environment / ".venv" / "bin" / "python"


PROGRAMS: Mapping[str, Program] = {
    "keyjoin": Program(
        "keyjoin run, on Beam's local runner",
        ("-m", "pipeline", "run", *FLAGS),
        "*-of-*",
        exact=True,
    ),
    "baseline": Program(
        "the same functions in a plain loop: no Beam, no second read, no checksums, no ledger",
        ("-m", "benchmarks.baseline", *FLAGS),
        "*-of-*",
        exact=True,
    ),
    "textbook": Program(
        "Beam as its documentation teaches it: a row is an element, its key a uuid",
        ("-m", "benchmarks.textbook", *FLAGS),
        "part-*.jsonl",
        exact=False,
    ),
    "script": Program(
        "a script of one's own: one process, a fast JSON library, batches of 4,096 rows",
        ("-m", "benchmarks.peers.script.main", *FLAGS),
        "part-*.jsonl",
        exact=False,
    ),
    "tfx_bsl": Program(
        "tfx_bsl's RunInference on Beam: rows become tf.Examples, each its own key",
        ("-m", "benchmarks.peers.tfx_bsl.main", *FLAGS),
        "part-*.jsonl",
        exact=False,
    ),
    "spark": Program(
        "PySpark's predict_batch_udf, local[*]",
        ("-m", "benchmarks.peers.spark.main", *FLAGS),
        "part-*.json",
        exact=False,
        environment="spark",
    ),
    "ray": Program(
        "Ray Data's map_batches with an actor",
        ("-m", "benchmarks.peers.ray.main", *FLAGS),
        "*.json",
        exact=False,
        environment="ray",
    ),
}
# These run by default: none needs a large download; `textbook`, the design that keyjoin grew from, is the only slow
# one.
DEFAULT = ("keyjoin", "baseline", "script", "textbook")

# The parts of every keyjoin run, each measured alone. These programs write no output.
FLOORS: Mapping[str, Program] = {
    "imports": Program(
        "imports TensorFlow and Beam, and loads the model",
        ("-m", "benchmarks.imports", "--model", "{model}"),
        "",
        exact=False,
    ),
    "bare": Program(
        "calls the model on batches that are in memory, of the size that keyjoin chooses",
        ("-m", "benchmarks.bare", "--model", "{model}", "--rows", "{rows}"),
        "",
        exact=False,
    ),
}
# Scripts of one's own over a library that reads and writes the format. They run on workloads of that format.
LIBRARIES: Mapping[str, Program] = {
    name: Program(summary, ("-m", f"benchmarks.peers.{name}.main", *FLAGS), "part-*", exact=False)
    for name, summary in {
        "loop": "a plain loop over the format's own library: pyarrow for CSV and Parquet, fastavro for Avro",
        "duckdb": "DuckDB reads and writes Parquet, a script calls the model between",
        "polars": "Polars reads and writes Parquet, a script calls the model between",
    }.items()
}


def find(name: str) -> Program:
    """Returns a program of any table."""
    return {**PROGRAMS, **FLOORS, **LIBRARIES}[name]
