"""Estimates the time, the workers and the price of a job on Dataflow from what sampled rows took on this machine.

    work       = bytes x (BUSY x processor + cores x model)           seconds of one core of this machine
    hours      = start of a worker + work / (speed of a vCPU x vCPUs of all workers)
    vCPU-hours = vCPUs of all workers x hours
    price      = vCPU-hours x price + memory x hours x price + disk x hours x price + shuffled bytes x price
                 + accelerators x hours x price

`bytes`, `BUSY`, `processor` and `model` are those of `pipeline.plan.estimate`. Each result is a range, because two
values are only known as one: how fast a vCPU is, and how long a worker takes to start (benchmarks/NOTES.md, "Large
jobs"). With an accelerator, the model takes between no time and the time that it takes here.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, WorkerOptions

from pipeline.job import accelerators, dataflow
from pipeline.job.accelerators import Hint, Machine
from pipeline.plan import prices
from pipeline.plan.estimate import BUSY, Cost
from pipeline.plan.preflight import Plan
from pipeline.plan.prices import Prices
from pipeline.run_folder.records import JobCost, Range
from transforms.threads import THREADS

SPEEDS = (1.0, 0.5)  # of a vCPU, as a share of a core of this machine: at best, and at worst
START_HOURS = (2 / 60, 5 / 60)
DISK_GB = 25  # of a worker of a batch job that uses Dataflow Shuffle: https://cloud.google.com/dataflow/docs/shuffle-for-batch
WEIGHT_BYTES = 4  # of a float32
SHUFFLED = 2  # bytes are charged when they are written and when they are read
GB_A_CPU = {"standard": 4.0, "highmem": 8.0, "highcpu": 1.0}
N1_GB_A_CPU = {"standard": 3.75, "highmem": 6.5, "highcpu": 0.9}
NAME = re.compile(r"([a-z]\w*)-(standard|highmem|highcpu)-(\d+)")


class Fleet(NamedTuple):
    """The workers of a job.

    Attributes:
        workers: How many there are.
        machine: The machine type of each.
        disk_gb: The size of the disk of each.
        accelerator: The type of the accelerators, and how many of them each has; None for none.
    """

    workers: int
    machine: Machine
    disk_gb: int = DISK_GB
    accelerator: tuple[str, int] | None = None


def hours_of(work: float, fleet: Fleet, speed: float, start: float) -> float:
    """Returns the hours of a job.

    Args:
        work: Seconds of one core of this machine.
        fleet: The workers.
        speed: The speed of a vCPU, as a share of a core of this machine.
        start: Hours until a worker takes its first chunk.

    >>> hours_of(3600 * 40, Fleet(5, Machine("n2-standard-4", 4, 16)), 0.5, 0.1)
    4.1
    """
    return start + work / 3600 / (speed * fleet.workers * fleet.machine.cpus)


def items_of(hours: float, fleet: Fleet, shuffled: float) -> dict[str, float]:
    """Returns how much of each item a job takes.

    Args:
        hours: The duration of the job.
        fleet: The workers.
        shuffled: Bytes through the join.

    Returns:
        Item, see `Prices` -> the amount.
    """
    all_hours = fleet.workers * hours
    kind, count = fleet.accelerator or ("", 0)
    return {
        "vcpu_hour": all_hours * fleet.machine.cpus,
        "memory_gb_hour": all_hours * fleet.machine.gigabytes,
        "disk_gb_hour": all_hours * fleet.disk_gb,
        "shuffle_gb": SHUFFLED * shuffled / 1e9,
        **({kind: all_hours * count} if kind else {}),
    }


def cost_of(work: Range, fleet: Fleet, shuffled: float, found: Prices) -> JobCost:
    """Returns what a job takes.

    Args:
        work: Seconds of one core of this machine, at best and at worst.
        fleet: The workers.
        shuffled: Bytes through the join.
        found: The prices.
    """
    low, high = (hours_of(*values) for values in zip(work, (fleet, fleet), SPEEDS, START_HOURS, strict=True))
    items = [items_of(hours, fleet, shuffled) for hours in (low, high)]
    unknown = tuple(name for name in items[0] if name not in found.of)
    price = None if unknown else tuple(sum(count * found.of[name] for name, count in some.items()) for some in items)
    return JobCost(
        workers=fleet.workers,
        machine_type=fleet.machine.name,
        hours=(low, high),
        vcpu_hours=(items[0]["vcpu_hour"], items[1]["vcpu_hour"]),
        price=None if price is None else (price[0], price[1]),
        currency=found.currency,
        unknown=unknown,
        prices=found.source,
    )


def estimate(plan: Plan, beam_options: PipelineOptions, path: str | None) -> JobCost | None:
    """Estimates a job on Dataflow.

    Args:
        plan: The plan of the run.
        beam_options: Beam's options, as the user gave them.
        path: The value of `--prices`.

    Returns:
        The estimate; None if the sampled rows could not be measured, or the machine type is unknown.

    Raises:
        UsageError: The file of prices is wrong.
    """
    found = prices.read(beam_options.view_as(GoogleCloudOptions).region, path)
    fleet = fleet_of(plan, beam_options)
    if plan.trial is None or fleet is None:
        return None
    plain, cost = plan.trial.plain_bytes(plan.sources), Cost.of(plan.trial)
    model = plain * cost.model * THREADS
    rest = plain * BUSY * cost.processor
    work = (rest + (0.0 if plan.job.accelerator else model), rest + model)
    made = cost_of(work, fleet, plain * plan.expected.predictions, found)
    return msgspec.structs.replace(made, fed_share=fed_share(plan, fleet))


def fed_share(plan: Plan, fleet: Fleet) -> float | None:
    """Returns the share of its accelerators' peak that a worker can feed with rows.

        share = rows a second that one core reads here x vCPUs x operations a row / (operations a second x accelerators)

    A row takes two operations, a product and a sum, for each float32 weight of the model. A model that uses a weight
    several times, such as a convolution, takes more, and its share is larger.

    Args:
        plan: The plan of the run.
        fleet: The workers.

    Returns:
        The share, 1 at most; None without an accelerator, and if its peak, the model's weights or the rate are unknown.
    """
    if fleet.accelerator is None or plan.trial is None or not plan.job.handler.weights:
        return None
    kind, count = fleet.accelerator
    if kind not in accelerators.PEAKS:
        return None
    read = plan.trial.rows / plan.trial.read_seconds * fleet.machine.cpus * SPEEDS[0]
    operations = 2 * plan.job.handler.weights / WEIGHT_BYTES
    return min(1.0, read * operations / (accelerators.PEAKS[kind] * count))


def fleet_of(plan: Plan, beam_options: PipelineOptions) -> Fleet | None:
    """Returns the workers that a job is expected to have; None if their machine type is unknown.

    It has as many as the user gave, and no more than have a chunk for each of their vCPUs. With an accelerator, all
    workers count as if they had it.

    Args:
        plan: The plan of the run.
        beam_options: Beam's options, as the user gave them.
    """
    workers, hint = beam_options.view_as(WorkerOptions), plan.job.accelerator and Hint.of(plan.job.accelerator)
    name = (hint and hint.machine) or workers.machine_type
    fitting = accelerators.MACHINES[hint.type][hint.number] if hint and not name else dataflow.MACHINES
    machine = find_machine(name) if name else dataflow.machine_for(plan, fitting)
    if machine is None:
        return None
    size = sum(source.size for source in plan.sources)
    plain = plan.trial.plain_bytes(plan.sources) if plan.trial else size
    chunks = max(1, math.ceil(plain / max(plan.expected.chunk_bytes, 1)))
    most = workers.max_num_workers or max(workers.num_workers or 1, dataflow.most_workers(size))
    count = max(workers.num_workers or 1, min(most, math.ceil(chunks / machine.cpus)))
    return Fleet(count, machine, workers.disk_size_gb or DISK_GB, (hint.type, hint.number) if hint else None)


def find_machine(name: str) -> Machine | None:
    """Returns the machine type of a name; None if its size does not follow from the name.

    >>> find_machine("n1-standard-8"), find_machine("a2-highgpu-1g").cpus, find_machine("custom-4-2048")
    (Machine(name='n1-standard-8', cpus=8, gigabytes=30), 12, None)
    """
    known = next((machine for machine in _machines() if machine.name == name), None)
    parts = NAME.fullmatch(name)
    if known is not None or parts is None:
        return known
    each = (N1_GB_A_CPU if parts[1] == "n1" else GB_A_CPU)[parts[2]]
    return Machine(name, int(parts[3]), round(each * int(parts[3])))


def _machines() -> Iterator[Machine]:
    yield from dataflow.MACHINES
    for by_count in accelerators.MACHINES.values():
        for machines in by_count.values():
            yield from machines
