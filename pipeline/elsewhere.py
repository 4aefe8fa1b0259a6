"""A run on another runner than the one in this process: started, followed, and judged by what it leaves."""

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions

from pipeline import dataflow, manifest, record, report, resume
from pipeline.beam_flags import is_local
from pipeline.cause import told
from pipeline.commit import over_budget
from pipeline.commit_step import CommitRun
from pipeline.job import build
from pipeline.lock import locked
from pipeline.options import RunOptions
from pipeline.pickles import leave_out_folders
from pipeline.place import Place
from pipeline.preflight import Inputs, Plan
from pipeline.progress import reported
from pipeline.report import say
from pipeline.signals import in_the_background
from pipeline.warning import only_told
from transforms.errors import RunError, UsageError
from transforms.receipts import read_receipts


def check_place(options: RunOptions, beam_options: PipelineOptions) -> None:
    """Checks that the options are for the runner.

    Raises:
        UsageError: One of them is not, or lacks another.
    """
    if dataflow.is_dataflow(beam_options):
        dataflow.check_options(options, beam_options)
    elif options.detach:
        raise UsageError("--detach is for Dataflow, where a job goes on by itself; leave it out")
    if options.accelerator and is_local(beam_options):
        raise UsageError(
            f"--accelerator={options.accelerator} is for workers elsewhere; leave it out: a run on this machine takes "
            "the devices that TensorFlow finds"
        )


def run_elsewhere(
    options: RunOptions,
    beam_options: PipelineOptions,
    inputs: Inputs,
    begun: Callable[[], AbstractContextManager[tuple[Plan, Place]]],
) -> None:
    """Starts the job, or finds the one that was started before, and waits for its end.

    Args:
        options: What to run.
        beam_options: Where.
        inputs: What it is about.
        begun: Makes the plan, and the folder ready for it.

    Raises:
        UsageError: Something is wrong; nothing was started.
        RunError: The run failed, or its job cannot be followed.
    """
    if not dataflow.is_dataflow(beam_options):
        with locked(options.output), begun() as (plan, place):
            _judge(options, place, lambda: _wait(_start(plan, place, beam_options)), resumed=plan.job.resume)
        return
    service, resumed = dataflow.Service(beam_options, options.output), None
    # Held until the job is there: from then on it is the one of its name, which nobody else can start.
    with locked(options.output):
        job_id = service.find()
        if job_id is not None:
            place = _check_same(options, inputs, service.link(job_id))
            say("found", f"the job {service.name} is running")
        else:
            with begun() as (plan, place), told(place.work), service.submitting():
                dataflow.settle(plan, beam_options)
                started, resumed = _start(plan, place, beam_options), plan.job.resume
                job_id = None if service.is_template else started.job_id()
    if job_id is None:
        say("template", "is written; the job that is made of it commits by itself")
        return
    say("job", service.link(job_id))
    if options.detach:
        say("detached", "the job commits by itself; the same command follows it, or tells what came of it")
        return
    _judge(options, place, lambda: _follow(service, job_id), resumed=resumed)


def _check_same(options: RunOptions, inputs: Inputs, link: str) -> Place:
    """Refuses a running job that is not the one that was asked for; where that one writes."""
    place, earlier = resume.start(options, inputs)
    if earlier is None or earlier.folder != place.work:
        raise UsageError(f"--output {options.output} is being written by {link}; wait for it, or cancel it first")
    resume.check(earlier, options, inputs)
    return place


def _start(
    plan: Plan, place: Place, beam_options: PipelineOptions
) -> Any:  # a PipelineResult, of the runner's own kind
    if plan.model is not None:
        plan.model.stage()
    leave_out_folders()
    # Else Beam has workers log what is installed here, and where.
    beam_options.view_as(DebugOptions).add_experiment("disable_logging_submission_environment")
    root = beam.Pipeline(options=beam_options)
    build(root, plan.job) | "CommitRun" >> CommitRun(place, time.time())
    return root.run()


def _wait(running: Any) -> None:
    try:
        in_the_background(running.wait_until_finish)
    except KeyboardInterrupt:
        # Elsewhere a job goes on without who started it. Whether it can be stopped is the runner's affair.
        with contextlib.suppress(Exception):
            running.cancel()
        raise


def _follow(service: dataflow.Service, job_id: str) -> None:
    try:
        in_the_background(lambda: service.follow(job_id))
    except KeyboardInterrupt as stopped:
        say("goes on", f"the job; the same command follows it again, {service.link(job_id)} can cancel it")
        stopped.add_note("the job goes on, and the same command follows it")
        raise


def _judge(options: RunOptions, place: Place, ended: Callable[[], None], *, resumed: bool | None) -> None:
    """Waits for the end, and tells what the job has left.

    Args:
        options: What was asked for.
        place: Where the job writes.
        ended: Waits.
        resumed: Whether earlier attempts had done some of it; None if that is not known.

    Raises:
        RunError: The job failed, more rows are bad than may be, or it has left no `_SUCCESS`.
    """
    output, failed = options.output, None
    try:
        with reported(place.temp), told(place.work):
            ended()
    except RunError as error:
        failed = error
    document = record.read(place.work, record.Manifest)
    # What the job read and counted is told by its manifest; one of an earlier run went before it was started.
    if document is not None and document.status == record.OVER_BUDGET:
        totals = document.totals
        breach = options.max_bad_rows.breach(totals.dead, totals.rows)
        if breach is not None:
            with only_told("no bad rows can be shown"):
                report.print_samples(place.work, read_receipts(place.temp), breach.reason)
            raise over_budget(place, breach) from failed
    if failed is not None:
        raise failed
    document = record.read(output, record.Manifest)
    if document is None or not manifest.is_complete(output):
        raise RunError(f"the job has ended, but {output} has no _SUCCESS; give the same command again")
    with only_told(f"{output} is written, and could not be shown"):
        report.print_result(output, document.format, document.totals, document.seconds, resumed=resumed)
