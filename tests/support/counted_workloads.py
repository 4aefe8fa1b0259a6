"""Workloads for counting costs: chunks of rows that differ in spelling and length, and a model that costs nothing."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import rows as made
from tests.support.examples import example, floats, texts, written
from transforms import columns, formats
from transforms.formats import slices
from transforms.formats.jsonl import split
from transforms.line_numbers import Lines
from transforms.predict import KeyedChunkHandler
from transforms.read_chunk import read_chunk
from transforms.records import Chunk, Feature, Features, Layout, PartReceipt, Predictions, Receipt
from transforms.saved_model.model import Contract, Echo, Model, Tensor
from transforms.write_part import write_part

SEED = 20_240_229
DISTINCT = 2_000
KEY, PREDICTION = Tensor("key", "int64", (), "key:0"), Tensor("prediction", "float32", (1,), "prediction:0")
WHOLE = Layout(True, (), (), None, None, (("prediction", "prediction"),))
KEYED = Layout(False, (), (), "key", None, (("prediction", "p"),))


class Work(NamedTuple):
    """Rows of one kind.

    Attributes:
        make: Makes rows, see `benchmarks.rows`: spelling, spaces, the order of fields and lengths differ.
        features: The fields that the model reads; the rows have others, too.
        small: Rows of a small chunk; a large one has ten times as many.
        format: Name of the format.
        layout: The layout of the output rows.
    """

    make: Callable[..., list[str]]
    features: tuple[Feature, ...]
    small: int
    format: str = "jsonl"
    layout: Layout = WHOLE


def _floats(field: str, count: int = 13) -> tuple[Feature, ...]:
    return (Feature("x", "float32", (count,), (field,)),)


HOUSE = (
    Feature("numbers", "float32", (4,), ("area", "rooms", "age", "price")),
    Feature("city", "string", (), ("city",)),
    Feature("kind", "string", (), ("kind",)),
)
WORKS = {
    "mixed": Work(made.mixed, _floats("features"), 2_000),
    "keyed": Work(made.mixed, _floats("features"), 2_000, layout=KEYED),
    "wide": Work(made.wide, _floats("signal", made.WIDE), 60),
    "text": Work(made.text, _floats("measures"), 60),
    "strings": Work(made.strings, HOUSE, 2_000),
    "tfrecord": Work(made.mixed, _floats("features"), 2_000, "tfrecord"),
    "alike": Work(made.houses, _floats("features"), 4_000, "tfrecord"),
}


def write(work: Work, count: int, folder: Path) -> Chunk:
    """Writes rows as one chunk. After the first rows it repeats them; keyjoin has no code that could detect that."""
    lines = work.make(np.random.default_rng(SEED), 0, min(count, work.small, DISTINCT))
    rows = [_record(line) for line in lines] if work.format == "tfrecord" else [line.encode() for line in lines]
    rows = [rows[at % len(rows)] for at in range(count)]
    data = written(rows) if work.format == "tfrecord" else b"\n".join([*rows, b""])
    path = folder / f"{count}.{work.format}"
    path.write_bytes(data)
    return Chunk(str(path), str(path), 0, len(data), 0, 1, f"part-{path.name}")


def _record(line: str) -> bytes:
    """Converts a row of `mixed` to an Example; its length varies with the texts that the model does not read."""
    row = json.loads(line)
    numbers = row.pop("features")
    return example(features=floats(*numbers), **{name: texts(str(value).encode()) for name, value in row.items()})


def _predict(*arrays: Any) -> Sequence[Any]:
    *inputs, keys = arrays
    numbers = next(array for array in inputs if array.dtype != object)
    # The sine gives values with as many digits as real predictions.
    return [np.sin(numbers.sum(axis=1, keepdims=True)), keys]


class Passage:
    """Takes one chunk through keyjoin's steps without Beam; each step can run any number of times."""

    steps = ("read", "score", "write")

    def __init__(self, work: Work, rows: int, folder: Path) -> None:
        """Writes the chunk, and runs each step once, so that work done once per process is done before counting."""
        self.work, self.rows, self.output = work, rows, str(folder / "out")
        self.chunk = write(work, rows, folder)
        self.format = formats.load(work.format)
        inputs = tuple(Tensor(f.name, f.dtype, f.shape, f.name) for f in work.features)
        self.model = Model({t.name: t for t in (*inputs, KEY)}, {t.name: t for t in (PREDICTION, KEY)}, _predict)
        contract = Contract("serving_default", inputs, (PREDICTION, KEY), KEY, (Echo("key", last_column=False),))
        self.batch = columns.batch_rows(work.features)
        self.handler = KeyedChunkHandler(lambda: self.model, contract, work.features, self.batch)
        self.features, self.receipt = self.read()
        self.predictions = self.score()
        self.part = self.write()

    def read(self) -> tuple[Features, Receipt]:
        return read_chunk(self.chunk, self.format.reader, self.work.features)

    def score(self) -> Predictions:
        (result,) = self.handler.run_inference([self.features], self.model)
        return result.inference

    def write(self) -> PartReceipt:
        return write_part(
            self.receipt,
            self.predictions,
            self.format,
            self.work.layout,
            self.output,
            f"{self.output}/_keyjoin/temp",
            Lines(self.format.reader.traits.line_end),
        )

    def slices(self, step: str) -> int:
        """Returns the number of slices of the chunk that a step processes one by one."""
        if step == "score":
            size, most = self.rows, self.batch
        elif step == "write":
            size, most = self.rows, slices.row_count(self.rows, self.chunk.end)
        else:
            size, most = self.chunk.end, slices.SLICE_BYTES
        return -(-size // most)

    def blocks(self) -> int:
        """Returns the number of blocks in which newlines are searched."""
        return -(-self.chunk.end // split.SEARCH_BYTES)
