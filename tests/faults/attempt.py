"""Runs one attempt at a job in a process forked for it: imports are warm, and no state of an earlier attempt remains.

The fork server imports this module once, and forks each attempt from itself. So this module imports all that a run
needs, except TensorFlow: the model is a function in this process.
"""

import functools
import gettext
import importlib
import json
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam.runners.portability.fn_api_runner.fn_runner
import apache_beam.typehints.decorators as hints
import numpy as np
import pyarrow.json  # noqa: F401
from apache_beam.transforms import core

import pipeline.commands.run
from pipeline import cli
from pipeline.compat import startup
from pipeline.model import isolation, model_process
from tests.faults import hooks
from tests.faults.disk import Disk, Fault
from tests.faults.objects import ObjectStore
from transforms import formats, write_part
from transforms.errors import ModelError
from transforms.saved_model.model import Model, Tensor

for _name in formats.FORMATS:
    formats.load(_name)
importlib.import_module("transforms.formats.jsonl.diagnose")
importlib.import_module("pipeline.report.page")
startup.collect_garbage()

WEIGHTS = np.array([0.5, -1.25, 3.0], np.float32)
REFUSED = 666.0  # the model raises for a batch that has it


class Attempt(NamedTuple):
    """What to run, and what fails.

    Attributes:
        argv: The command line.
        folder: Only operations below this folder can fail. It is also the current folder, so that the same command in
            two folders writes the same bytes.
        result: Path of the outcome file; outside the folder.
        disk: The fault on the disk.
        store: The fault in the object store.
        shuffle: Seed of the order of the model's predictions; None keeps the order of the rows.
        hook: Name of a function of `tests.faults.hooks`, called before the run, and its arguments.
        environment: Environment variables.
        at_once: Parts that are written at a time; with 1, operations have the same order in every attempt.
    """

    argv: Sequence[str]
    folder: str
    result: str
    disk: Fault | None = None
    store: Fault | None = None
    shuffle: int | None = None
    hook: tuple[str, Sequence[Any]] | None = None
    environment: Mapping[str, str] = {}
    at_once: int = write_part.AT_ONCE


def linear(x: Any) -> Any:
    """(rows, 3) -> (rows, 1), float32. Sums in a fixed order, so the result does not depend on the batch."""
    return (x[:, 0] * WEIGHTS[0] + x[:, 1] * WEIGHTS[1] + x[:, 2] * WEIGHTS[2])[:, None]


def stub(shuffle: int | None) -> Model:
    """A keyed model that needs no TensorFlow, and can return predictions in any order."""
    order = random.Random(shuffle)

    def call(key: Any, x: Any) -> list[Any]:
        if (x[:, 0] == REFUSED).any():
            raise ModelError("InvalidArgumentError: the number of the beast")
        rows = list(range(len(key)))
        if shuffle is not None:
            order.shuffle(rows)
        return [key[rows], linear(x)[rows]]

    tensors = {name: Tensor(name, dtype, shape, name) for name, dtype, shape in (
        ("key", "int32", ()), ("x", "float32", (3,)), ("prediction", "float32", (1,)),
    )}  # fmt: skip
    return Model(
        {name: tensors[name] for name in ("key", "x")}, {name: tensors[name] for name in ("key", "prediction")}, call
    )


class _Stub:
    """Replaces the process of the model."""

    def __init__(self, shuffle: int | None) -> None:
        self._model = stub(shuffle)
        self.pid = os.getpid()  # the model is a function in this process

    def ensure(self) -> None:
        """Does nothing: there is no process to start."""

    def processor_seconds(self) -> None:
        """Returns nothing: there is no process that uses a processor."""

    def load(self, *_: object) -> Model:
        return self._model


def run(attempt: Attempt) -> None:
    """Runs the attempt, then ends the process with the command's exit code."""
    # Beam calls these for each step of each graph, thousands of times, with the same result each time. Caching them
    # is safe only here: in the process of the tests, the cache would keep every graph alive.
    hints.get_signature = functools.cache(hints.get_signature)
    gettext.find = functools.cache(gettext.find)
    with open(f"{attempt.result}.log", "wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    result = open(attempt.result, "w")  # noqa: SIM115  now, while nothing is replaced and nothing is forbidden
    os.environ.update(attempt.environment)
    os.chdir(attempt.folder)
    if "TZ" in attempt.environment:
        time.tzset()
    stands_in = functools.cache(lambda: _Stub(attempt.shuffle))
    model_process.process = isolation.process = stands_in  # type: ignore[assignment]
    write_part.AT_ONCE = attempt.at_once
    disk = Disk(attempt.folder, attempt.disk)
    store = ObjectStore.serve(f"{attempt.folder}/objects", attempt.store)
    if attempt.hook is not None:
        getattr(hooks, attempt.hook[0])(*attempt.hook[1])
    disk.install()
    code = int(cli.main(attempt.argv))
    for call in hooks.LATE:
        call()
    outcome = {"disk": disk.trace, "store": store.trace, "hook": hooks.SEEN}
    result.write(json.dumps(outcome))
    result.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


assert apache_beam.runners.portability.fn_api_runner.fn_runner
assert core
assert pipeline.commands.run
