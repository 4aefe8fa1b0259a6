"""Implements `keyjoin run` and `keyjoin check`.

`run` checks the inputs and the model, runs the job or resumes it, and writes `_SUCCESS` only if the ledger adds up.
`check` makes the same checks, scores sampled rows and prints the results, but writes nothing.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.compat import beam as beam_compat
from pipeline.job.dataflow import is_template
from pipeline.job.estimates import estimated
from pipeline.job.progress import Phase, Progress, Result
from pipeline.job.remote import check_place, new_run, run_remote, write_nothing
from pipeline.job.root_cause import as_run_error
from pipeline.job.stop_early import Watch
from pipeline.job.waves import run_waves
from pipeline.job.written_parts import reported
from pipeline.model import isolation, model_process
from pipeline.model.model_folder import newest_version
from pipeline.options.beam_flags import is_local, pipeline_options
from pipeline.options.config import is_long
from pipeline.options.error_limits import FLAG, ExceededLimit
from pipeline.options.run_options import CheckOptions, RunOptions, command
from pipeline.plan import memory
from pipeline.plan.canary import score_canary
from pipeline.plan.check_sample import score_spread
from pipeline.plan.preflight import Inputs, Plan, find_inputs, prepare
from pipeline.report.write import write_report
from pipeline.run_folder import ledger, manifest, resume
from pipeline.run_folder.lock import locked
from pipeline.run_folder.names import REPORT
from pipeline.run_folder.place import Place, own_names
from pipeline.run_folder.records import Manifest, Measured
from pipeline.run_folder.replace import finish, finish_if_ready, is_ready
from pipeline.run_folder.settle import Settled, conclude, settle
from pipeline.run_folder.unexpected_files import check_folder
from pipeline.run_folder.writable import check_writable
from pipeline.terminal import check_report, report
from pipeline.terminal.amounts import every
from pipeline.terminal.check_report import CheckResult, InputFile
from pipeline.terminal.exit_codes import Exit
from pipeline.terminal.messages import typed
from pipeline.terminal.signals import in_the_background
from pipeline.terminal.warning import errors_as_warnings, warn
from pipeline.verification.audit import audit
from transforms import formats
from transforms.errors import UsageError
from transforms.mapping import partitions
from transforms.storage import files, stdin
from transforms.write_receipts import read_receipts


def run(options: RunOptions, beam_args: Sequence[str], progress: Progress) -> Exit:
    """Runs the job and prints its result.

    Args:
        options: The options of the run.
        beam_args: Flags for Beam.
        progress: Counts what the run has done. It takes the result, too.

    Returns:
        `Exit.COMPLETE`.

    Raises:
        UsageError: The command line, the inputs or the model are wrong. Nothing was written.
        RunError: The run failed, or exceeds an error limit. There is no new `_SUCCESS`.
    """
    beam_compat.quiet()
    # Made before the model is looked up: Beam's file systems need these options to access remote storage.
    beam_options = pipeline_options(beam_args)
    options = dataclasses.replace(options, model=newest_version(options.model))
    check_place(options, beam_options)
    if stdin.is_copied() and not is_local(beam_options):
        raise UsageError("--input - is read on this machine, and the job runs on others; copy the rows to a bucket")
    progress.enter(Phase.PLANNING)
    inputs = find_inputs(options)
    if finish_if_ready(options.output, overwrite=options.overwrite) and resume.is_same(options, inputs):
        options = dataclasses.replace(options, overwrite=False)  # the result just put in place is what it asks for
    complete = _find_complete(options, inputs)
    if complete is not None:
        progress.result = Result(options.output, complete)
        with errors_as_warnings(f"{options.output} is complete, and could not be cleaned up"):
            resume.clean(options.output)
            if REPORT not in own_names(options.output):  # no command was there when the job ended
                write_report(options.output)
        if options.audit:
            again = [f"--run={options.output}", f"--rescore={options.audit}", f"--model={options.model}"]
            verify = typed(["keyjoin", "verify", *again])
            warn(f"--audit scores rows at the end of a run, and this one is complete; score some again: {verify}")
        if is_template(beam_options):
            write_nothing(options.output, beam_options)
        return Exit.COMPLETE
    check_writable(options.output)
    if is_local(beam_options):
        _run_here(options, beam_options, inputs, progress)
    else:
        run_remote(options, beam_options, inputs, lambda: _begun(options, inputs, beam_options, progress), progress)
    return Exit.COMPLETE


def _run_here(options: RunOptions, beam_options: PipelineOptions, inputs: Inputs, progress: Progress) -> None:
    with locked(options.output) as prove_lock:
        with _begun(options, inputs, beam_options, progress) as (plan, place):
            stopped = _execute(plan, beam_options, options, progress)
            progress.enter(Phase.FINISHING)
            seconds, rate, measured = progress.seconds(), progress.rate(), _measured(progress)
            if stopped is not None:
                settled = Settled(ledger.total(read_receipts(plan.job.temp)), stopped)
            else:
                settled = settle(
                    place,
                    plan.settings,
                    plan.sources,
                    seconds,
                    prove_lock=prove_lock,
                    keep=False,
                    audit=lambda: audit(plan.job, plan.sources, options.audit),
                    measured=measured,
                )
        if place.is_staged and stopped is None and settled.exceeded is None:
            finish(options.output, prove_lock)
        conclude(place, settled, plan.settings, seconds, resumed=plan.job.resume, measured_rate=rate)
        progress.result = Result(options.output, settled.totals, rate)


def _measured(progress: Progress) -> Measured:
    """Records what this attempt measured."""
    pids = os.getpid(), model_process.process().pid
    own, of_model = map(memory.peak_bytes, pids)
    return Measured(
        startup_seconds=round(progress.startup_seconds(), 3),
        timeline=tuple((round(seconds, 3), rows, size) for seconds, rows, size in progress.timeline()),
        peak_memory=None if own is None or of_model is None else own + of_model,
    )


@contextlib.contextmanager
def _begun(
    options: RunOptions, inputs: Inputs, beam_options: PipelineOptions, progress: Progress
) -> Iterator[tuple[Plan, Place]]:
    """Makes and prints a plan, and records it in the output folder.

    From here on the files of the folder show that a run has begun.
    """
    progress.enter(Phase.LOADING)
    with _prepared(options, inputs, beam_options, progress.started) as (plan, start, there):
        if plan.first_rows is not None:
            warning = plan.first_rows.warning(options.max_bad_rows, with_values=options.report_rows > 0)
            if warning:
                warn(warning)
        report.print_plan(plan, start)
        if options.canary is not None and start.earlier is None:
            report.print_line(
                "canary", score_canary(plan, min(options.canary, options.limit or options.canary), options.max_bad_rows)
            )
            if plan.model_here().stateful:  # these calls may have changed its state
                isolation.renew()
        progress.plan(options.output, plan.sources)
        # A remote job needs the id to recognize its folder. In a run that replaces an output, the id distinguishes the
        # new record from the former one. Without the id both may be equal.
        if start.place.is_staged or not is_local(beam_options):
            plan = plan._replace(settings=msgspec.structs.replace(plan.settings, run=new_run(beam_options)))
        if start.place.is_staged:
            there = files.list_below(start.place.work)
        resume.begin(start.place, plan.settings, plan.sources, start.earlier, there, overwrite=options.overwrite)
        yield plan, start.place


def check(options: CheckOptions, beam_args: Sequence[str], progress: Progress) -> Exit:
    """Makes all checks of a run, scores sampled rows, and prints the plan and the results. Writes nothing.

    Args:
        options: The options of the run, and how to print the result.
        beam_args: Flags for Beam.
        progress: Shows what the command does.

    Returns:
        `Exit.COMPLETE`.

    Raises:
        UsageError: The command line, the inputs, the model or the output folder are wrong, or all sampled rows fail.
    """
    beam_compat.quiet()
    # Made before the model is looked up: Beam's file systems need these options to access remote storage.
    beam_options = pipeline_options(beam_args)
    options = dataclasses.replace(options, model=newest_version(options.model))
    check_place(options, beam_options)
    progress.enter(Phase.PLANNING)
    inputs = find_inputs(options)
    shown = check_report.print_json if options.json else check_report.print_check
    ready = is_ready(options.output)
    complete = None if ready else _complete(options, inputs)
    if ready:
        line = "resumes", f"an interrupted command, whose new result run puts in place in {options.output}"
        shown(CheckResult(verdict="ready", plan=(line,)))
    elif complete is not None and not complete.lost:
        shown(CheckResult(verdict="complete", plan=tuple(report.complete_lines(options.output, *complete))))
    else:
        lost = () if complete is None else tuple(report.complete_lines(options.output, *complete))
        check_writable(options.output)
        progress.enter(Phase.LOADING)
        with _prepared(options, inputs, beam_options, progress.started) as (plan, start, _):
            progress.enter(Phase.SAMPLING)
            result, refusal = _checked(plan, start, _without_limits(options, beam_args))
        shown(msgspec.structs.replace(result, plan=(*lost, *result.plan)))
        if refusal is not None:
            raise UsageError(refusal)
    return Exit.COMPLETE


def _without_limits(options: CheckOptions, beam_args: Sequence[str]) -> str | None:
    """Returns the command of the run without error limits; None if it is too long for people."""
    given = [*command(options, options.output), *beam_args]
    words = [word for word in given if not word.startswith(FLAG)]
    return None if not options.json and is_long(words) else typed(words)


def _checked(plan: Plan, start: resume.Start, run: str | None) -> tuple[CheckResult, str | None]:
    """Scores sampled rows.

    Args:
        plan: The plan of the run.
        start: How the run starts.
        run: The command of the run, without error limits; None if it is too long to print.

    Returns:
        The result, and why the run would be useless; None if it would not.
    """
    sample = score_spread(plan.sources, plan.job, plan.model_here())
    exceeded = check_report.exceeded_by(sample, plan.settings.options.max_bad_rows)
    warned = tuple(check_report.warnings(sample, exceeded))
    all_fail = exceeded is not None and sum(sample.bad.values()) == sample.rows
    remedies = [*check_report.remedies(sample, exceeded, run)]
    if plan.first_rows is not None and plan.first_rows.advice:
        remedies.insert(0, plan.first_rows.advice)
    result = CheckResult(
        verdict="refused" if all_fail else "warned" if warned else "ready",
        plan=(*report.input_lines(plan, start), *report.scoring_lines(plan)),
        sources=tuple(InputFile(path=source.path, bytes=source.size) for source in plan.sources),
        inputs=tuple(report.fed_inputs(plan)),
        predictions=tuple(report.written_predictions(plan)),
        sample=sample,
        warnings=warned,
        remedies=tuple(remedies),
        memory=plan.memory and {"total": plan.memory.total, "model": plan.memory.model},
        estimate=plan.settings.estimate,
        calls=plan.trial.calls if plan.trial else (),
        cost=plan.settings.cost,
    )
    return result, f"{every(sample.rows, 'sampled row')} would fail" if all_fail else None


class _Complete(NamedTuple):
    """The result of an earlier run that wrote all rows.

    Attributes:
        totals: The ledger.
        lost: Names of the files that are missing or altered since the run.
    """

    totals: ledger.Totals
    lost: Sequence[str]


def _find_complete(options: RunOptions, inputs: Inputs) -> ledger.Totals | None:
    """Returns the ledger of an earlier run that already wrote the whole result; None if there is none.

    Prints that the result is complete, or which parts of it are lost.
    """
    complete = _complete(options, inputs)
    if complete is None:
        return None
    for line in report.complete_lines(options.output, *complete):
        report.print_line(*line)
    return None if complete.lost else complete.totals


def _complete(options: RunOptions, inputs: Inputs) -> _Complete | None:
    """Returns the result of an earlier run that wrote all rows of these inputs; None if there is none.

    Raises:
        UsageError: The earlier run had other options, sources or another model.
    """
    earlier = None if options.overwrite else resume.start(options, inputs).earlier
    if earlier is None or not isinstance(earlier.record, Manifest) or earlier.stage is not resume.Stage.COMPLETE:
        return None
    if resume.check(earlier, options, inputs):
        return None
    totals = earlier.record.totals
    if options.max_bad_rows.exceeded(totals.dead, totals.rows) is not None:
        return None
    return _Complete(totals, resume.lost_parts(options.output))


@contextlib.contextmanager
def _prepared(
    options: RunOptions, inputs: Inputs, beam_options: PipelineOptions, started: float
) -> Iterator[tuple[Plan, resume.Start, Mapping[str, int]]]:
    """Makes a plan.

    Yields:
        The plan, how the run starts, and the size of each file in the output by its name. Callers reuse this list of
        files, because an object store needs minutes to list many.

    Raises:
        UsageError: The model is wrong, or the output folder holds files that this run may not use or replace.
    """
    start = resume.start(options, inputs)
    place, earlier, before = start
    known = [*inputs.matched.sources, *before]
    there = files.list_below(options.output)
    check_folder(options, there, known, is_resumed=earlier is not None)
    kept = None
    if earlier is not None:
        resume.check(earlier, options, inputs)
        kept = manifest.kept_of(earlier.record)
    local = is_local(beam_options)
    with prepare(options, inputs, local=local, place=place, resume=earlier is not None, kept=kept) as plan:
        if earlier is not None:
            resume.check_settings(earlier, options, plan.settings)
            lineage = tuple(dict.fromkeys([*earlier.record.lineage, *plan.settings.lineage]))
            kept_fields = {name: getattr(earlier.record, name) for name in ("replays", "estimate", "cost")}
            kept_fields["lineage"] = lineage
            plan = plan._replace(settings=msgspec.structs.replace(plan.settings, **kept_fields))
        else:
            plan = estimated(plan, options, beam_options, started)
        yield plan, start, there


def _execute(
    plan: Plan, beam_options: PipelineOptions, options: RunOptions, progress: Progress
) -> ExceededLimit | None:
    """Runs the pipelines on this machine. Returns the exceeded error limit if it stops them early, else None."""
    reader = formats.load(plan.job.format).reader
    least = reader.least_bytes(partitions.in_rows(plan.job.handler.features))
    watch = Watch(options.max_bad_rows, plan.sources, least, reader.traits.line_end, progress=progress)
    progress.model_seconds = model_process.process().processor_seconds
    progress.enter(Phase.SCORING)
    with reported(plan.job.temp, progress.parts), as_run_error(plan.job.output):
        return in_the_background(lambda: run_waves(plan, beam_options, options.wave_bytes, watch))
