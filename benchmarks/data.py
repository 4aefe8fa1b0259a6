"""Makes the rows and the models of the benchmark from a seed, and keeps them between calls."""

import itertools
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from benchmarks import files, rows
from benchmarks.programs import MODEL
from benchmarks.workloads import JSONL, Workload
from pipeline.compat import startup

BLOCK_ROWS = 10_000


def cached(work: Workload, count: int, seed: int) -> Path:
    """Returns a file with this many rows of a workload; writes it on first use."""
    bad = f"-bad-{work.bad_every}" * (work.bad_every > 0)
    stem = f"{work.data}-{count}{bad}-seed-{seed}"
    lines = _kept(f"{stem}.jsonl", lambda path: write(path, work, count, seed))
    if work.suffix == JSONL:
        return lines
    return _kept(stem + work.suffix, lambda path: apart(files.write, lines, path, work.suffix))


def model(work: Workload) -> Path:
    """Returns the folder of a workload's model; saves the model on first use."""
    if work.model is None:
        return MODEL
    name = work.model
    return _kept(f"model-{name}", lambda path: apart(_save, name, path))


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function that needs TensorFlow in a process of its own.

    A process starts with its parent's peak memory as its own. So the process that starts the programs must stay small.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_begin) as pool:
        return pool.submit(function, *arguments).result()


def _begin() -> None:
    startup.begin()
    startup.import_tensorflow()


def _kept(name: str, make: Callable[[Path], None]) -> Path:
    # The folder belongs to one user: a name that all users share could be another user's file.
    folder = Path(tempfile.gettempdir()) / f"keyjoin-benchmarks-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / name
    if not path.exists():
        unfinished = folder / f"{name}.{os.getpid()}.tmp"
        make(unfinished)
        unfinished.replace(path)
    return path


def write(path: Path, work: Workload, count: int, seed: int) -> None:
    """Writes the rows of a workload as JSON Lines."""
    with path.open("w") as file:
        file.writelines(_made(work, min(count, work.distinct), seed))
    with path.open() as made, path.open("a") as file:
        file.writelines(itertools.islice(_again(made, work.distinct), max(0, count - work.distinct)))


def _made(work: Workload, count: int, seed: int) -> Iterator[str]:
    random = np.random.default_rng(seed)
    for first in range(0, count, BLOCK_ROWS):
        lines = work.make(random, first, min(BLOCK_ROWS, count - first))
        for number, line in enumerate(lines, first):
            yield (rows.spoil(line, number // work.bad_every) if work.is_bad(number) else line) + "\n"


def _again(made: TextIO, distinct: int) -> Iterator[str]:
    """Repeats the first rows under new names, because formatting the numbers takes most of the time."""
    for first in itertools.count(distinct, distinct):
        made.seek(0)
        for number, line in enumerate(itertools.islice(made, distinct)):
            yield line.replace(rows.NAME.format(number), rows.NAME.format(first + number))


def _save(name: str, folder: Path) -> None:
    from benchmarks import models

    getattr(models, name)(folder)
