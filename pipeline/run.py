"""`keyjoin run`: checks, runs the job or what is left of it, and calls it complete only when the ledger adds up."""

import contextlib
import re
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult

from pipeline import ledger, manifest, memory, report, resume
from pipeline.beam_flags import is_local, pipeline_options
from pipeline.budget import Breach
from pipeline.commit import commit, over_budget
from pipeline.exits import Exit
from pipeline.job import Job, build
from pipeline.lock import locked
from pipeline.names import TRACEBACK
from pipeline.options import RunOptions
from pipeline.preflight import Inputs, Plan, find_inputs, prepare
from pipeline.signals import in_the_background
from pipeline.startup import quiet_beam
from pipeline.warning import only_told
from pipeline.waves import run_waves
from transforms import files
from transforms.errors import RunError, UsageError
from transforms.receipts import read_receipts
from transforms.sources import match_sources

# Beam reports what a step raised as the text of its traceback, with the step's name after it.
OWN_ERROR = re.compile(r"^(?:transforms\.errors\.)?RunError: (.*?)(?: \[while running .*)?$", re.MULTILINE)
STEP = re.compile(r" \[while running .*$", re.DOTALL)


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
    inputs = find_inputs(options)
    if _is_complete(options, inputs):
        with only_told(f"{options.output} is complete, and could not be cleaned up"):
            resume.clean(options.output)
        return Exit.COMPLETE
    with locked(options.output) as prove_lock:
        there = files.list_below(options.output)
        with _prepared(options, inputs, beam_options, there) as (plan, earlier):
            report.print_plan(plan, earlier)
            resume.begin(options.output, plan.settings, plan.sources, earlier, there, overwrite=options.overwrite)
            stopped = _execute(plan, beam_options, options)
        totals = ledger.total(read_receipts(plan.job.temp))
        breach = stopped or options.max_bad_rows.breach(totals.dead, totals.rows)
        if breach is not None:
            with only_told("no bad rows can be shown"):
                report.print_samples(options.output, read_receipts(plan.job.temp), breach.reason)
        if stopped is None:
            prove_lock()
            now, seconds = _sizes(plan.job), time.monotonic() - started
            commit(
                options.output, plan.settings, plan.sources, now, plan.skipped, totals, seconds, success=breach is None
            )
            with only_told(f"{options.output} is written, and could not be shown"):
                report.print_result(options.output, plan, totals, seconds)
    if breach is not None:
        raise over_budget(options.output, breach)
    return Exit.COMPLETE


def check(options: RunOptions, beam_args: Sequence[str]) -> Exit:
    """`keyjoin check`: all of the checks, and the plan that they give; nothing is written.

    Raises:
        UsageError: Something is wrong.
    """
    quiet_beam()
    beam_options = pipeline_options(beam_args)
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
    if earlier is None or earlier.stage is not resume.Stage.COMPLETE or resume.check(earlier, options, inputs):
        return False
    totals = ledger.Totals(**earlier.document["totals"])
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
        kept = manifest.batch_of(earlier.document["model"])
    local = is_local(beam_options)
    with prepare(options, inputs, local=local, resume=earlier is not None, kept=kept) as plan:
        if earlier is not None:
            resume.check_settings(earlier, options, plan.settings)
            plan = plan._replace(settings=manifest.with_replays(plan.settings, earlier.document))
        yield plan, earlier


def _execute(plan: Plan, beam_options: PipelineOptions, options: RunOptions) -> Breach | None:
    """Runs the pipelines; why they stopped early, if they did."""
    try:
        if is_local(beam_options):
            return in_the_background(lambda: run_waves(plan, beam_options, options.wave_bytes, options.max_bad_rows))
        root = beam.Pipeline(options=beam_options)
        build(root, plan.job)
        _wait(root.run())
        return None
    except Exception as error:
        # A step's error reaches us through the runner, in the runner's own type and words.
        raise RunError(f"{_cause(error, plan.job.output)}; no _SUCCESS was written") from error


def _wait(running: PipelineResult) -> None:
    try:
        in_the_background(running.wait_until_finish)
    except KeyboardInterrupt:
        # Elsewhere a job goes on without who started it. Whether it can be stopped is the runner's affair.
        with contextlib.suppress(Exception):
            running.cancel()
        raise


def _cause(error: Exception, output: str) -> str:
    """What a step said; of what was not foreseen also where to find its traceback."""
    if isinstance(error, RunError):
        return STEP.sub("", str(error))
    text = str(error)
    own = OWN_ERROR.findall(text)
    if own:
        return str(own[-1])
    if memory.is_short(text):
        return "the run ran out of memory; lower --chunk_bytes and --wave_bytes, or raise --max_memory if it is given"
    path = files.join(output, TRACEBACK)
    with contextlib.suppress(RunError):  # where nothing can be written, what is said here is all there is
        files.write_whole(path, ["".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace")])
    lines = [line for line in text.splitlines() if line.strip()]
    return f"the run failed: {type(error).__name__}: {lines[-1] if lines else ''}; see {path}"


def _sizes(job: Job) -> dict[str, int]:
    """What the sources have now, in bytes.

    Raises:
        RunError: They cannot be looked up.
    """
    try:
        return {source.path: source.size for source in match_sources(job.patterns, job.suffix).sources}
    except UsageError as error:
        raise RunError(f"the input cannot be looked up again: {error}; no _SUCCESS was written") from error
