"""Estimates the time, memory and output of a local run from what sampled rows took, see `pipeline.plan.trial`.

Seconds of a run on this machine:

    seconds = begun + GRAPH_SECONDS x waves + PART_SECONDS x parts
              + bytes x (BUSY x processor / cores + model)

`begun` is the time until the estimate is made: imports, loading the model, reading sampled rows. `bytes` is the
decompressed input. `processor` is the time of one thread to read a byte of it and to write its share of the parts, and
`model` the time in which the model scores its rows, with as many calls at a time as there are cores.
The output is as large as the parts of the sampled rows would be: bytes x written bytes / read bytes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.plan.trial import Trial
from transforms.records import Source

# Measured: benchmarks/NOTES.md.
GRAPH_SECONDS = 0.25  # to build and start Beam's graph for a wave
PART_SECONDS = 0.006  # of a part beside its rows: files, checksums, receipts
# Times the processor time of the sampled rows: a run reads each row twice, and threads share caches and disk.
BUSY = 1.7


class Cost(NamedTuple):
    """What a byte of decompressed input takes.

    Attributes:
        processor: Seconds of one thread that reads and writes it.
        model: Seconds in which the model scores it, with one call on each core.
        written: Bytes of a part.
    """

    processor: float
    model: float
    written: float

    @classmethod
    def of(cls, trial: Trial) -> "Cost":
        """Returns the cost of a byte of the rows that were measured."""
        return cls(
            (trial.read_seconds + trial.write_seconds) / trial.bytes,
            trial.rows / trial.bytes / trial.rows_a_second,
            trial.written / trial.bytes,
        )


class Work(NamedTuple):
    """The size of a local run.

    Attributes:
        bytes: Bytes of decompressed input.
        parts: The number of parts.
        waves: The number of waves.
    """

    bytes: float
    parts: int
    waves: int


def seconds_of(work: Work, cost: Cost, cores: int) -> float:
    """Returns the seconds of a local run after its start, see the module.

    Args:
        work: The size of the run.
        cost: The cost of a byte.
        cores: The processors that the run may use.

    >>> seconds_of(Work(1e9, 15, 4), Cost(13e-9, 2e-9, 1.1), 2)
    11.54
    """
    rows = work.bytes * (BUSY * cost.processor / cores + cost.model)
    return GRAPH_SECONDS * work.waves + PART_SECONDS * work.parts + rows


def work_of(sources: Sequence[Source], chunk_bytes: float, trial: Trial, wave: int) -> Work:
    """Returns the size of a local run.

    Args:
        sources: All sources.
        chunk_bytes: Bytes of decompressed input of a chunk.
        trial: What the sampled rows took.
        wave: Bytes of input of a wave, see `pipeline.plan.memory.wave_size`.
    """
    chunk = max(chunk_bytes, 1)
    parts = sum(max(1, math.ceil(trial.plain_bytes([source]) / chunk)) for source in sources)
    plain = trial.plain_bytes(sources)
    return Work(plain, parts, min(parts, math.ceil(plain / max(wave, 1))))


def output_bytes(sources: Sequence[Source], trial: Trial) -> int:
    """Returns the size of all parts, as estimated.

    Args:
        sources: All sources.
        trial: What the sampled rows took.
    """
    return round(trial.plain_bytes(sources) * Cost.of(trial).written)
