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
from pipeline.exits import Exit
from pipeline.job import build
from pipeline.lock import locked
from pipeline.names import TEMP, TRACEBACK, is_part
from pipeline.options import RunOptions
from pipeline.preflight import Inputs, Plan, find_inputs, prepare
from pipeline.signals import in_the_background
from pipeline.startup import quiet_beam
from pipeline.warning import only_told
from pipeline.waves import run_waves
from transforms import files
from transforms.errors import RunError, UsageError
from transforms.reasons import DEAD_LETTERS
from transforms.receipts import read_receipts
from transforms.sources import match_sources
from transforms.write import written_of

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
            resume.begin(options, plan, earlier, there)
            stopped = _execute(plan, beam_options, options)
        totals = ledger.total(read_receipts(plan.job.temp))
        breach = stopped or options.max_bad_rows.breach(totals.dead, totals.rows)
        if breach is not None:
            with only_told("no bad rows can be shown"):
                report.print_samples(options.output, read_receipts(plan.job.temp), breach.reason)
        if stopped is None:
            prove_lock()
            _commit(options, plan, totals, started, success=breach is None)
    if breach is not None:
        raise RunError(
            f"{breach}; see {files.join(options.output, DEAD_LETTERS)}, then raise the budget and give the same "
            "command, which goes on from here, or mend the rows and run again with --overwrite; no _SUCCESS was written"
        )
    return Exit.COMPLETE


def _commit(options: RunOptions, plan: Plan, totals: ledger.Totals, started: float, *, success: bool) -> None:
    """Checks what was written, and makes it the result.

    Raises:
        RunError: The ledger does not add up.
    """
    unnamed = _check(plan)
    report.print_unnamed(unnamed)
    files.delete_files(options.output, unnamed)
    seconds = time.monotonic() - started
    manifest.commit(options, plan, totals, seconds, success=success)
    with only_told(f"{options.output} is written, and could not be shown"):
        report.print_result(options.output, plan, totals, seconds)


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


def _check(plan: Plan) -> list[str]:
    """Compares sources and parts with the receipts.

    Returns:
        Files of an earlier attempt that no receipt names.

    Raises:
        RunError: The ledger does not add up.
    """
    job = plan.job
    try:
        now = {source.path: source.size for source in match_sources(job.patterns, job.suffix).sources}
    except UsageError as error:
        raise RunError(f"the input cannot be looked up again: {error}; no _SUCCESS was written") from error
    written = files.list_below(job.output)
    found = ledger.problems(plan.sources, now, read_receipts(job.temp), written)
    first = next(found, None)
    if first is not None:
        others = sum(1 for _ in found)  # Counted, not kept: there may be one for each of a million parts.
        more = f" (and {others} more)" if others else ""
        raise RunError(
            f"the ledger does not add up: {first}{more}; no _SUCCESS was written: give the same command again, which "
            "goes on from here"
        )
    for part in read_receipts(job.temp):
        for name, _ in written_of(part):
            del written[name]
    return [name for name in written if is_part(name) and name.split("/")[0] != TEMP]
