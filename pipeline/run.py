"""`keyjoin run`: checks, runs the job, and calls it complete only when the ledger adds up."""

import re
import time
import traceback
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import ledger, manifest, memory, report
from pipeline.beam_flags import is_local, pipeline_options
from pipeline.exits import Exit
from pipeline.job import build
from pipeline.names import SUCCESS, TRACEBACK
from pipeline.options import RunOptions
from pipeline.preflight import Plan, prepare
from pipeline.startup import quiet_beam
from pipeline.waves import run_waves
from transforms import files
from transforms.errors import RunError, UsageError
from transforms.receipts import read_receipts
from transforms.sources import match_sources
from transforms.write import DEAD_LETTERS

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
    beam_options = pipeline_options(beam_args)
    with prepare(options, local=is_local(beam_options)) as plan:
        report.print_plan(plan)
        if options.overwrite:
            _clear(options.output)
        manifest.begin(options, plan)
        _execute(plan, beam_options, options.wave_bytes)
    _check(plan)
    totals = ledger.total(read_receipts(plan.job.temp))
    within = options.max_bad_rows.allows(totals.bad, totals.rows)
    seconds = time.monotonic() - started
    manifest.commit(options, plan, totals, seconds, success=within)
    report.print_result(options.output, plan, totals, seconds)
    if not within:
        raise RunError(
            f"{totals.bad} of {totals.rows} rows are bad, more than --max_bad_rows={options.max_bad_rows} allows; "
            f"see {files.join(options.output, DEAD_LETTERS)}, mend the rows or raise the budget, and run again "
            "with --overwrite"
        )
    return Exit.COMPLETE


def check(options: RunOptions, beam_args: Sequence[str]) -> Exit:
    """`keyjoin check`: all of the checks, and the plan that they give; nothing is written.

    Raises:
        UsageError: Something is wrong.
    """
    local = is_local(pipeline_options(beam_args))
    with prepare(options, local=local) as plan:
        report.print_plan(plan)
    return Exit.COMPLETE


def _execute(plan: Plan, beam_options: PipelineOptions, wave_bytes: int) -> None:
    quiet_beam()
    try:
        if is_local(beam_options):
            run_waves(plan, beam_options, wave_bytes)
        else:
            root = beam.Pipeline(options=beam_options)
            build(root, plan.job)
            root.run().wait_until_finish()
    except Exception as error:
        # A step's error reaches us through the runner, in the runner's own type and words.
        raise RunError(f"{_cause(error, plan.job.output)}; no _SUCCESS was written") from error


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
    files.write_whole(path, ["".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace")])
    lines = [line for line in text.splitlines() if line.strip()]
    return f"the run failed: {type(error).__name__}: {lines[-1] if lines else ''}; see {path}"


def _clear(output: str) -> None:
    """Empties the output folder; that all in it is an earlier run's was checked before."""
    # `_SUCCESS` goes first: from then on nobody takes what is left for a result.
    files.delete_tree(files.join(output, SUCCESS))
    files.delete_below(output)


def _check(plan: Plan) -> None:
    """Reads back the sizes of sources and parts.

    Raises:
        RunError: The ledger does not add up.
    """
    job = plan.job
    try:
        now = {source.path: source.size for source in match_sources(job.patterns, job.suffix).sources}
    except UsageError:  # some pattern matches nothing any more
        now = {}
    found = ledger.problems(plan.sources, now, read_receipts(job.temp), files.list_below(job.output))
    first = next(found, None)
    if first is not None:
        others = sum(1 for _ in found)  # Counted, not kept: there may be one for each of a million parts.
        more = f" (and {others} more)" if others else ""
        raise RunError(f"the ledger does not add up: {first}{more}; no _SUCCESS was written: run again")
