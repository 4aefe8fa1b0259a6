"""`keyjoin run`: checks, runs the job or what is left of it, and calls it complete only when the ledger adds up."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import ledger, manifest, report, resume
from pipeline.beam_flags import is_local, pipeline_options
from pipeline.budget import Breach
from pipeline.cause import told
from pipeline.commit import commit, look_again, over_budget
from pipeline.elsewhere import check_place, run_elsewhere
from pipeline.exits import Exit
from pipeline.lock import locked
from pipeline.options import RunOptions
from pipeline.preflight import Inputs, Plan, find_inputs, prepare
from pipeline.record import Manifest
from pipeline.signals import in_the_background
from pipeline.startup import quiet_beam
from pipeline.warning import only_told
from pipeline.waves import run_waves
from transforms import files
from transforms.receipts import read_receipts


def run(options: RunOptions, beam_args: Sequence[str], started: float) -> Exit:
    """Runs the job and prints what came of it.

    Args:
        options: What to run.
        beam_args: Flags for Beam.
        started: When the command was, by `time.monotonic`.

    Raises:
        UsageError: Something is wrong with the command line, the inputs or the model; nothing was written.
        RunError: The run failed; there is no `_SUCCESS`.
    """
    quiet_beam()
    beam_options = pipeline_options(beam_args)
    check_place(options, beam_options)
    inputs = find_inputs(options)
    if _is_complete(options, inputs):
        with only_told(f"{options.output} is complete, and could not be cleaned up"):
            resume.clean(options.output)
        return Exit.COMPLETE
    if is_local(beam_options):
        _run_here(options, beam_options, inputs, started)
    else:
        run_elsewhere(options, beam_options, inputs, lambda: _begun(options, inputs, beam_options))
    return Exit.COMPLETE


def _run_here(options: RunOptions, beam_options: PipelineOptions, inputs: Inputs, started: float) -> None:
    with locked(options.output) as prove_lock:
        with _begun(options, inputs, beam_options) as plan:
            stopped = _execute(plan, beam_options, options)
        totals = ledger.total(read_receipts(plan.job.temp))
        breach = stopped or options.max_bad_rows.breach(totals.dead, totals.rows)
        if breach is not None:
            with only_told("no bad rows can be shown"):
                report.print_samples(options.output, read_receipts(plan.job.temp), breach.reason)
        if stopped is None:
            prove_lock()
            now, seconds = look_again(plan.job.patterns, plan.job.suffix), time.monotonic() - started
            commit(options.output, plan.settings, plan.sources, now, totals, seconds, success=breach is None)
            with only_told(f"{options.output} is written, and could not be shown"):
                report.print_result(options.output, plan.job.format, totals, seconds, resumed=plan.job.resume)
    if breach is not None:
        raise over_budget(options.output, breach)


@contextlib.contextmanager
def _begun(options: RunOptions, inputs: Inputs, beam_options: PipelineOptions) -> Iterator[Plan]:
    """A plan, told and written down: from here on the folder says what is going on in it."""
    there = files.list_below(options.output)
    with _prepared(options, inputs, beam_options, there) as (plan, earlier):
        report.print_plan(plan, earlier)
        resume.begin(options.output, plan.settings, plan.sources, earlier, there, overwrite=options.overwrite)
        yield plan


def check(options: RunOptions, beam_args: Sequence[str]) -> Exit:
    """`keyjoin check`: all of the checks, and the plan that they give; nothing is written.

    Raises:
        UsageError: Something is wrong.
    """
    quiet_beam()
    beam_options = pipeline_options(beam_args)
    check_place(options, beam_options)
    inputs = find_inputs(options)
    if not _is_complete(options, inputs):
        there = files.list_below(options.output)
        with _prepared(options, inputs, beam_options, there) as (plan, earlier):
            report.print_plan(plan, earlier)
    return Exit.COMPLETE


def _is_complete(options: RunOptions, inputs: Inputs) -> bool:
    """Whether an earlier run has done all that is asked for; says so, or what it lacks.

    Raises:
        UsageError: It was a run of something else.
    """
    earlier = None if options.overwrite else resume.look(options.output)
    if earlier is None or not isinstance(earlier.record, Manifest) or earlier.stage is not resume.Stage.COMPLETE:
        return False
    if resume.check(earlier, options, inputs):
        return False
    totals = earlier.record.totals
    if options.max_bad_rows.breach(totals.dead, totals.rows) is not None:
        return False
    lost = resume.lost_parts(options.output)
    report.print_complete(options.output, totals, lost)
    return not lost


@contextlib.contextmanager
def _prepared(
    options: RunOptions, inputs: Inputs, beam_options: PipelineOptions, there: Mapping[str, int]
) -> Iterator[tuple[Plan, resume.Earlier | None]]:
    """A plan, and the earlier run that it goes on from.

    Raises:
        UsageError: Something is wrong with the model, or with what the output folder holds.
    """
    earlier = None if options.overwrite else resume.look(options.output)
    resume.check_folder(options, there, earlier)
    kept = None
    if earlier is not None:
        resume.check(earlier, options, inputs)
        kept = manifest.batch_of(earlier.record.model)
    local = is_local(beam_options)
    with prepare(options, inputs, local=local, resume=earlier is not None, kept=kept) as plan:
        if earlier is not None:
            resume.check_settings(earlier, options, plan.settings)
            plan = plan._replace(settings=msgspec.structs.replace(plan.settings, replays=earlier.record.replays))
        yield plan, earlier


def _execute(plan: Plan, beam_options: PipelineOptions, options: RunOptions) -> Breach | None:
    """Runs the pipelines on this machine; why they stopped early, if they did."""
    with told(options.output):
        return in_the_background(lambda: run_waves(plan, beam_options, options.wave_bytes, options.max_bad_rows))
