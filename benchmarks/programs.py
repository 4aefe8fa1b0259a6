"""The programs that are compared: a new one is a row of the table at the end, and a script in this folder."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"
MODEL = ROOT / "examples" / "boston" / "model"
LETTERS = "_keyjoin/dead_letters/**/*.jsonl"  # where rows that cannot be scored are, below the output folder
# What keyjoin, its baseline and whatever else takes keyjoin's flags are called with.
FLAGS = ("--input", "{input}", "--model", "{model}", "--output", "{output}")


class Program(NamedTuple):
    """A way to score rows and join the predictions to them.

    Attributes:
        summary: What it is, in one line.
        arguments: What Python is called with; `{input}`, `{model}`, `{output}` and `{rows}`, the number
            of rows, are filled in. The flags of the workload follow.
        parts: Glob of the files that hold its rows, below the output folder; empty if it writes none.
        exact: Whether these must be the input's lines in order, byte for byte, with the prediction
            spliced in as keyjoin does it. Others may write rows in any order and spelling.
        environment: The folder of `peers` whose locked packages it needs; None for the project's own.
    """

    summary: str
    arguments: tuple[str, ...]
    parts: str
    exact: bool
    environment: str | None = None

    def command(
        self, source: Path, output: Path, model: Path = MODEL, rows: int = 0, flags: Sequence[str] = ()
    ) -> list[str]:
        """The command line that scores a file."""
        values = {"input": source, "model": model, "output": output, "rows": rows}
        python = sys.executable if self.environment is None else str(python_of(self.environment))
        return [python, *(argument.format(**values) for argument in self.arguments), *flags]


def python_of(environment: str) -> Path:
    """The Python of a peer's environment, which `environments` makes."""
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
# What runs when nothing is named: no large downloads, and of the slow ones the one that keyjoin came from.
DEFAULT = ("keyjoin", "baseline", "script", "textbook")

# What is in every run of keyjoin, alone: these write nothing.
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


def find(name: str) -> Program:
    """A program of either table."""
    return PROGRAMS[name] if name in PROGRAMS else FLOORS[name]
