"""Estimates a new run, here or on Dataflow, and refuses one that would take longer or cost more than it may."""

import time

import msgspec
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from pipeline.job import cost
from pipeline.job.dataflow import is_dataflow
from pipeline.options.beam_flags import is_local
from pipeline.options.groups import CostOptions, LocalOptions
from pipeline.options.run_options import RunOptions
from pipeline.plan.estimate import Cost, output_bytes, seconds_of, work_of
from pipeline.plan.memory import wave_size
from pipeline.plan.preflight import Plan
from pipeline.plan.prices import EXAMPLE
from pipeline.run_folder.records import Estimate, JobCost
from pipeline.terminal import amounts
from transforms.errors import UsageError
from transforms.split_into_chunks import most_bytes
from transforms.threads import THREADS

UNKNOWN = "cannot be estimated, since no first row could be scored; leave it out, or begin with a file of good rows"


def estimated(plan: Plan, options: RunOptions, beam_options: PipelineOptions, started: float) -> Plan:
    """Adds the estimate to the plan of a new run.

    Args:
        plan: The plan of the run.
        options: The options of the run.
        beam_options: Beam's options, as the user gave them.
        started: When the command was started, in seconds of `time.monotonic`.

    Raises:
        UsageError: The run would take longer or cost more than it may, or this cannot be estimated.
    """
    found, job = None, None
    if is_local(beam_options):
        found = _estimate_here(plan, options, time.monotonic() - started)
        _check_here(options, found)
    elif is_dataflow(beam_options):
        job = cost.estimate(plan, beam_options, options.prices)
        if job is not None and plan.trial is not None:
            seconds = round(sum(job.hours) / 2 * 3600, 3)
            found = Estimate(seconds=seconds, memory=None, output_bytes=output_bytes(plan.sources, plan.trial))
        _check_job(options, job)
    elif options.max_hours or options.max_cost:
        runner = beam_options.view_as(StandardOptions).runner
        raise UsageError(f"--max_hours and --max_cost are for this machine and Dataflow, not {runner}; leave them out")
    return plan._replace(settings=msgspec.structs.replace(plan.settings, estimate=found, cost=job))


def _estimate_here(plan: Plan, options: LocalOptions, begun: float) -> Estimate | None:
    """Estimates a run on this machine.

    Args:
        plan: The plan of the run.
        options: The options of a local run.
        begun: Seconds since the command was started.

    Returns:
        The estimate; None if the sampled rows could not be measured.
    """
    trial = plan.trial
    if trial is None:
        return None
    wave = wave_size(most_bytes(plan.sources), options.wave_bytes, plan.expected.predictions)
    work = work_of(plan.sources, plan.expected.chunk_bytes, trial, wave)
    return Estimate(
        seconds=round(begun + seconds_of(work, Cost.of(trial), THREADS), 3),
        memory=plan.memory.resident if plan.memory else None,
        output_bytes=output_bytes(plan.sources, trial),
    )


def _check_here(options: CostOptions, found: Estimate | None) -> None:
    if options.max_cost is not None:
        raise UsageError(f"--max_cost={options.max_cost:g} is for Dataflow; leave it out, or give --max_hours")
    if options.prices is not None:
        raise UsageError(f"--prices={options.prices} is for Dataflow; leave it out")
    if options.max_hours is None:
        return
    if found is None:
        raise UsageError(f"--max_hours={options.max_hours:g} {UNKNOWN}")
    if found.seconds > options.max_hours * 3600:
        raise UsageError(
            f"--max_hours={options.max_hours:g} is less than the {amounts.duration(found.seconds)} that this run takes "
            f"on this machine, as estimated; raise it, give fewer files, or run it on Dataflow"
        )


def _check_job(options: CostOptions, job: JobCost | None) -> None:
    """Refuses a job by its most likely time and price, the middle of the ranges."""
    if job is None:
        for flag, given in (("--max_hours", options.max_hours), ("--max_cost", options.max_cost)):
            if given is not None:
                raise UsageError(f"{flag}={given:g} {UNKNOWN}; or the machine type is unknown: give --machine_type")
        return
    hours = sum(job.hours) / 2
    workers = amounts.with_noun(job.workers, "worker")
    if options.max_hours is not None and hours > options.max_hours:
        raise UsageError(
            f"--max_hours={options.max_hours:g} is less than the {amounts.duration(3600 * hours)} that this job takes "
            f"with {workers}, as estimated; raise it, or give more workers: --max_num_workers="
            f"{2 * job.workers}"
        )
    if options.max_cost is None:
        return
    if job.price is None:
        raise UsageError(
            f"--max_cost={options.max_cost:g} needs the price of {', '.join(job.unknown)}, which is unknown "
            f"({job.prices}); give your prices with --prices=FILE, such as {EXAMPLE}, or leave --max_cost out"
        )
    price = sum(job.price) / 2
    if price > options.max_cost:
        raise UsageError(
            f"--max_cost={options.max_cost:g} is less than the {amounts.money(price, job.currency)} that this job "
            f"costs, as estimated with {job.prices}; raise it, or give fewer files"
        )
