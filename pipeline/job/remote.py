"""Submits the job to a remote runner, follows it, and verifies its output.

On Dataflow the job commits by itself, so this command may end before the job does. The same command later finds the
job and follows it again. On other remote runners the command waits for the job, and holds the folder's lock meanwhile.
"""

import contextlib
import functools
import os
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DebugOptions, GoogleCloudOptions, PipelineOptions

from pipeline.compat import beam as beam_compat
from pipeline.job import dataflow
from pipeline.job.commit_run import CommitRun, check_complete
from pipeline.job.graph import build
from pipeline.job.progress import Phase, Progress, Result
from pipeline.job.root_cause import as_run_error
from pipeline.job.written_parts import followed, reported
from pipeline.options.beam_flags import is_local
from pipeline.options.run_options import RunOptions
from pipeline.plan.preflight import Inputs, Plan
from pipeline.run_folder import manifest, records, resume
from pipeline.run_folder.lock import locked
from pipeline.run_folder.place import Place, in_place, staged
from pipeline.run_folder.settle import Settled, conclude
from pipeline.terminal.report import print_line
from pipeline.terminal.signals import in_the_background
from transforms.errors import RunError, UsageError, add_note


def check_place(options: RunOptions, beam_options: PipelineOptions) -> None:
    """Checks that the options fit the runner.

    Args:
        options: The options of the run.
        beam_options: Beam's options, which name the runner.

    Raises:
        UsageError: An option is not for this runner, or an option that the runner requires is missing.
    """
    if dataflow.is_dataflow(beam_options):
        dataflow.check_options(options, beam_options)
    elif options.detach:
        raise UsageError("--detach is for Dataflow, where a job commits by itself; leave it out")
    if options.accelerator and is_local(beam_options):
        raise UsageError(
            f"--accelerator={options.accelerator} is for remote workers; leave it out: a run on this machine takes "
            "the devices that TensorFlow finds"
        )


def run_remote(
    options: RunOptions,
    beam_options: PipelineOptions,
    inputs: Inputs,
    begun: Callable[[], AbstractContextManager[tuple[Plan, Place]]],
    progress: Progress,
) -> None:
    """Submits the job, or finds the job that an earlier command submitted, and waits until it ends.

    It does not wait if it writes a template, or with `--detach`.

    Args:
        options: The options of the run.
        beam_options: Beam's options, which name the runner.
        inputs: The input files and the settings.
        begun: Makes the plan and prepares the output folder.
        progress: Counts what the job has done, and takes the result.

    Raises:
        UsageError: The options do not fit, or the folder is being written by another job. No job was submitted.
        RunError: The run failed, or its job cannot be followed.
    """
    if not dataflow.is_dataflow(beam_options):
        with locked(options.output), begun() as (plan, place):
            ended = functools.partial(_wait, plan, place, beam_options, progress)
            _judge(options, place, ended, progress, resumed=plan.job.resume)
        return
    service = dataflow.Service(beam_options, options.output)
    resumed: bool | None = None
    job_id: str | None = None
    # The lock is held until Dataflow has the job. From then on Dataflow refuses a second job of the same name.
    with locked(options.output):
        running = service.find(_recorded(options.output))
        if running is not None:
            is_template = dataflow.is_template(beam_options)
            place = _check_same(
                options, inputs, running, in_own_region=service.in_own_region(running), is_template=is_template
            )
            print_line("found", f"the job {running.name} is running")
            job_id = running.id
        else:
            with begun() as (plan, place), as_run_error(place.work), service.submitting():
                plan = dataflow.set_defaults(plan, beam_options)
                started, resumed = _start(plan, place, beam_options), plan.job.resume
                if not dataflow.is_template(beam_options):
                    job_id = started.job_id()
    if job_id is None:
        print_line("template", "is written; the job that is made of it commits by itself")
        return
    print_line("job", service.link(job_id))
    if options.detach:
        print_line("detached", "the job commits by itself; the same command follows it, or tells what came of it")
        return
    progress.plan(options.output, inputs.matched.sources)
    _judge(options, place, lambda: _follow(service, job_id, progress), progress, resumed=resumed)


def new_run(beam_options: PipelineOptions) -> records.Run:
    """Makes the record that identifies this run among the runs of its folder.

    Args:
        beam_options: Beam's options. On Dataflow the job's name, project and region come from them.
    """
    found = uuid.uuid4().hex[:12]
    if not dataflow.is_dataflow(beam_options):
        return records.Run(id=found)
    cloud = beam_options.view_as(GoogleCloudOptions)
    return records.Run(id=found, name=cloud.job_name, project=cloud.project, region=cloud.region)


def write_nothing(output: str, beam_options: PipelineOptions) -> None:
    """Writes a template for an output that is complete. Its job only checks that the output is still complete.

    keyjoin writes the template because the program that launches it waits for a job.

    Args:
        output: The output folder.
        beam_options: Beam's options.

    Raises:
        RunError: The Dataflow service cannot be reached, or refuses access.
    """
    dataflow.Service(beam_options, output)
    dataflow.set_smallest_defaults(beam_options)
    root = _pipeline(beam_options)
    root | "CreateFolder" >> beam.Create([output]) | "CheckComplete" >> beam.Map(check_complete)
    root.run()
    print_line("template", "is written; the job that is made of it changes nothing")


def _recorded(output: str) -> list[records.Run]:
    """Reads the runs that have begun in an output.

    Ignores a damaged record: `resume` refuses it later, unless the run overwrites it.
    """
    found = []
    for place in (in_place(output), staged(output)):
        with contextlib.suppress(RunError):
            begun = records.read(place.work, records.Job)
            found += [begun.run] if begun is not None and begun.run is not None else []
    return found


def _check_same(
    options: RunOptions, inputs: Inputs, running: dataflow.Running, *, in_own_region: bool, is_template: bool
) -> Place:
    """Refuses a running job that belongs to another run, or that this command cannot follow.

    Returns:
        The folders that the job writes to.

    Raises:
        UsageError: The running job has other options or sources, or is in another project or region. Or the command
            writes a template, which never follows a job.
    """
    place, earlier, _ = resume.start(options, inputs)
    if earlier is None or earlier.folder != place.work or is_template:
        raise UsageError(
            f"--output {options.output} is being written by {running.link}; wait for it, or cancel it first"
        )
    if not in_own_region:
        raise UsageError(
            f"--output {options.output} is being written by {running.link}; to follow it, give --project="
            f"{running.project} --region={running.region}"
        )
    resume.check(earlier, options, inputs)
    return place


def _start(
    plan: Plan, place: Place, beam_options: PipelineOptions
) -> Any:  # a PipelineResult, of the runner's own kind
    if plan.model is not None:
        plan.model.stage()
    if plan.settings.run is None:
        raise ValueError("a run on another runner has an id")
    root, run = _pipeline(beam_options), plan.settings.run.id
    audited = plan.job if plan.settings.options.audit else None
    build(root, plan.job, run) | "CommitRun" >> CommitRun(place, run, time.time(), audited)
    return root.run()


def _pipeline(beam_options: PipelineOptions) -> beam.Pipeline:
    # Beam pickles a function as code if it cannot be imported by name, as some of Beam's own. The code contains the
    # path of its source file, with folder names of this machine, which can include the user's name.
    beam_compat.name_files_by(among_packages)
    # Without this experiment, workers log the packages that are installed on this machine, and their folders.
    beam_options.view_as(DebugOptions).add_experiment("disable_logging_submission_environment")
    return beam.Pipeline(options=beam_options)


def among_packages(path: str) -> str:
    """Returns a file's path relative to the folder that Python imports it from; only its name if there is no such one.

    Args:
        path: The path of a source file.

    >>> among_packages(__file__)
    'pipeline/job/remote.py'
    >>> among_packages("/home/user/notebook.py"), among_packages("<string>")
    ('notebook.py', '<string>')
    """
    folders = (os.path.join(os.path.abspath(folder), "") for folder in sys.path)
    inside = max((folder for folder in folders if path.startswith(folder)), key=len, default=None)
    return path[len(inside) :] if inside else os.path.basename(path)


def _wait(plan: Plan, place: Place, beam_options: PipelineOptions, progress: Progress) -> None:
    progress.enter(Phase.RUNNING)
    with followed(place, progress):
        running = _start(plan, place, beam_options)
        try:
            in_the_background(running.wait_until_finish)
        except KeyboardInterrupt:
            # On a remote runner the job continues after this command ends, unless it is cancelled. Not every runner can
            # cancel a job, so an error of `cancel` is ignored.
            with contextlib.suppress(Exception):
                running.cancel()
            raise


def _follow(service: dataflow.Service, job_id: str, progress: Progress) -> None:
    try:
        in_the_background(lambda: service.follow(job_id, progress))
    except KeyboardInterrupt as stopped:
        print_line("continues", f"the job; the same command follows it again, {service.link(job_id)} can cancel it")
        add_note(stopped, "the job continues, and the same command follows it")
        raise


def _judge(
    options: RunOptions, place: Place, ended: Callable[[], None], progress: Progress, *, resumed: bool | None
) -> None:
    """Waits until the job ends, verifies its output, and prints the result.

    Args:
        options: The options of the run.
        place: The folders that the job writes to.
        ended: Waits until the job ends.
        progress: Takes the result.
        resumed: Whether earlier attempts had finished a part of the run; None if that is not known.

    Raises:
        RunError: The job failed, exceeds an error limit, or wrote no `_SUCCESS`.
    """
    output, failed = options.output, None
    try:
        with reported(place.temp), as_run_error(place.work):
            ended()
    except RunError as error:
        failed = error
    # If the job exceeded an error limit, its manifest has the counts. It cannot be the manifest of an earlier run,
    # which was deleted before the job started.
    over = records.read(place.work, records.Manifest)
    if over is not None and over.status == records.OVER_ERROR_LIMIT:
        exceeded = options.max_bad_rows.exceeded(over.totals.dead, over.totals.rows)
        if exceeded is not None:  # `conclude` then raises
            conclude(place, Settled(over.totals, exceeded), over, over.seconds, resumed=resumed)
    if failed is not None:
        raise failed
    document = records.read(output, records.Manifest)
    if document is None or not manifest.is_complete(output):
        raise RunError(f"the job has ended, but {output} has no _SUCCESS; give the same command again")
    conclude(place, Settled(document.totals, None, document.audit), document, document.seconds, resumed=resumed)
    progress.result = Result(output, document.totals)
