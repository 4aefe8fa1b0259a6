"""Computes a run on Dataflow from the measured costs of a row and a chunk, and from assumptions; pure functions."""

import heapq
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.scale_costs import Costs

GIB = 1 << 30
HOUR = 3600.0


class Assumed(NamedTuple):
    """Values that could not be measured without a cloud; benchmarks/NOTES.md has the reason for each.

    Attributes:
        vcpus: vCPUs of a worker; each vCPU takes one chunk at a time.
        most_workers: Dataflow's limit for a batch job.
        target_seconds: The time in which a run should end.
        vcpu_share: The speed of a vCPU as a share of a processor of the measuring machine.
        read_share: The share of a row's time that is before the join.
        stream_bytes: Bytes a second that a vCPU reads from, or writes to, the object store.
        request_seconds: Time until the first byte of an object.
        page_seconds: Time of one page of a listing.
        page_names: Objects on a page.
        buffer_bytes: The fewest bytes that Beam reads of an object to find one newline.
        source_bytes: Size of an input file.
        worker_seconds: Time from the request for a worker to its first chunk.
        first_workers: Workers at the start of the run.
        doubling_seconds: Time in which autoscaling doubles the workers.
        spread: Spread of the time of chunks: sigma of a lognormal distribution.
        slow_share: Share of chunks that take `slow_factor` times as long.
        slow_factor: See `slow_share`.
    """

    vcpus: int = 4
    most_workers: int = 4_000
    target_seconds: float = HOUR
    vcpu_share: float = 0.5
    read_share: float = 0.75
    stream_bytes: float = 50e6
    request_seconds: float = 0.05
    page_seconds: float = 0.3
    page_names: int = 1_000
    buffer_bytes: int = 16 << 20
    source_bytes: int = GIB
    worker_seconds: float = 240.0
    first_workers: int = 8
    doubling_seconds: float = 120.0
    spread: float = 0.25
    slow_share: float = 0.01
    slow_factor: float = 4.0


class Simulated(NamedTuple):
    """The result of a simulated run: its length, and the sum of its workers' time."""

    seconds: float
    worker_seconds: float


class Estimate(NamedTuple):
    """A run of this many rows in chunks of this size. The fields are the values that the tables show."""

    rows: int
    chunk_bytes: int
    chunks: int
    chunk_rows: float
    input_bytes: float
    cpu_hours: float
    workers: int
    seconds: float
    vcpu_hours: float
    shuffled_bytes: float
    parts_list_bytes: float
    shard_bytes: float
    value_bytes: float
    worker_bytes: float
    sources: int
    pages: int
    listing_seconds: float
    driver_seconds: float
    driver_bytes: float
    split_seconds: float
    splits_alone_seconds: float


Seconds = npt.NDArray[np.float64]
MOST_TASKS = 100_000  # of more tasks, only a share is simulated


def estimate(rows: int, chunk_bytes: int, costs: Costs, assumed: Assumed) -> Estimate:
    """Estimates a run: its time, workers, bytes and listings."""
    input_bytes = rows * costs.row_bytes
    chunks = math.ceil(input_bytes / chunk_bytes)
    chunk_rows = rows / chunks
    before, after = task_seconds(chunk_rows, costs, assumed)
    workers = workers_for(chunks, before + after, assumed)
    simulated = simulate(chunks, (before, after), workers, assumed)
    sources = math.ceil(input_bytes / assumed.source_bytes)
    # The input is listed before the run, after it and by the job; the output before and after the run.
    pages = 3 * math.ceil(sources / assumed.page_names) + 1 + math.ceil(chunks / assumed.page_names)
    listing = pages * assumed.page_seconds + (chunks + 3 * sources) * costs.listed_seconds
    shuffled = rows * costs.row_shuffled + chunks * costs.chunk_shuffled
    boundary = assumed.request_seconds + assumed.buffer_bytes / assumed.stream_bytes
    return Estimate(
        rows=rows,
        chunk_bytes=chunk_bytes,
        chunks=chunks,
        chunk_rows=chunk_rows,
        input_bytes=input_bytes,
        cpu_hours=(rows * costs.row_seconds + chunks * costs.chunk_seconds) / HOUR,
        workers=workers,
        seconds=simulated.seconds,
        vcpu_hours=simulated.worker_seconds * assumed.vcpus / HOUR,
        shuffled_bytes=shuffled,
        parts_list_bytes=chunks * costs.part_line_bytes,
        shard_bytes=chunks * costs.shard_part_bytes,
        value_bytes=chunk_rows * costs.row_shuffled + costs.chunk_shuffled,
        worker_bytes=assumed.vcpus * (costs.process_bytes + min(chunk_bytes, input_bytes) * costs.chunk_byte_bytes),
        sources=sources,
        pages=pages,
        listing_seconds=listing,
        driver_seconds=chunks * costs.end_part_seconds,
        driver_bytes=costs.end_bytes + (chunks + sources) * costs.listed_bytes,
        split_seconds=chunks / sources * boundary,
        splits_alone_seconds=chunks * boundary,
    )


def task_seconds(rows: float, costs: Costs, assumed: Assumed) -> tuple[float, float]:
    """Returns the seconds that a vCPU spends on a chunk of this many rows: before the join, and after it."""
    cpu = (rows * costs.row_seconds + costs.chunk_seconds) / assumed.vcpu_share
    read = rows * costs.row_bytes / assumed.stream_bytes + assumed.request_seconds
    written = rows * costs.written_row_bytes / assumed.stream_bytes + assumed.request_seconds
    return cpu * assumed.read_share + read, cpu * (1 - assumed.read_share) + read + written


def workers_for(chunks: int, seconds: float, assumed: Assumed) -> int:
    """Returns the workers needed to reach the target time, at most Dataflow's limit and one vCPU for each chunk."""
    left = assumed.target_seconds - assumed.worker_seconds
    wanted = math.ceil(chunks * seconds / (left * assumed.vcpus))
    return max(1, min(wanted, assumed.most_workers, math.ceil(chunks / assumed.vcpus)))


def simulate(chunks: int, seconds: tuple[float, float], workers: int, assumed: Assumed) -> Simulated:
    """Simulates workers that take chunks, in two stages. The second starts when the first has ended: it groups by key.

    If there are more chunks than `MOST_TASKS`, it simulates a share of the chunks on the same share of the workers.
    """
    part = max(1.0, chunks / MOST_TASKS)
    workers_here = max(1, round(workers / part))
    tasks = round(chunks * workers_here / workers)
    random = np.random.default_rng(7)
    requested = requested_at(workers, assumed)[np.linspace(0, workers - 1, workers_here).astype(int)]
    ready = np.repeat(requested + assumed.worker_seconds, assumed.vcpus)
    joined = last_end(ready, durations(tasks, seconds[0], random, assumed))
    ended = last_end(np.maximum(ready, joined), durations(tasks, seconds[1], random, assumed))
    # The run never requests a worker that would only arrive after its end.
    paid = float(np.maximum(0.0, ended - requested).sum()) * workers / workers_here
    return Simulated(ended, paid)


def requested_at(workers: int, assumed: Assumed) -> Seconds:
    """Returns the time at which each worker is requested: the first ones at the start, then the number doubles."""
    steps = np.arange(1, workers + 1) / assumed.first_workers
    return np.ceil(np.log2(np.maximum(steps, 1.0))) * assumed.doubling_seconds


def durations(tasks: int, seconds: float, random: np.random.Generator, assumed: Assumed) -> Seconds:
    """Draws the times of tasks with this average, lognormal; a small share of the tasks is slower by a factor."""
    spread = random.lognormal(-(assumed.spread**2) / 2, assumed.spread, tasks)
    slow = np.where(random.random(tasks) < assumed.slow_share, assumed.slow_factor, 1.0)
    times: Seconds = seconds * spread * slow
    return times


def last_end(ready: Seconds, times: Seconds) -> float:
    """Returns when the last task ends, if the worker that is free first takes the next task.

    >>> last_end(np.array([0.0, 1.0]), np.array([5.0, 1.0, 1.0]))
    5.0
    """
    free = ready.tolist()
    heapq.heapify(free)
    last = free[0]
    for time in times.tolist():
        end = free[0] + time
        heapq.heapreplace(free, end)
        last = max(last, end)
    return float(last)
