"""`keyjoin run`: checks, runs the job, and calls it complete only when the ledger adds up."""

import re
import time
import traceback
from collections.abc import Sequence

import apache_beam as beam

from pipeline import ledger, manifest, report
from pipeline.beam_flags import pipeline_options
from pipeline.exits import Exit
from pipeline.job import build, read_receipts
from pipeline.names import SUCCESS, TRACEBACK
from pipeline.options import RunOptions
from pipeline.preflight import Plan, prepare
from pipeline.startup import quiet_beam
from transforms import files
from transforms.errors import RunError
from transforms.records import PartReceipt
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
    with prepare(options) as plan:
        report.print_plan(plan)
        if options.overwrite:
            _clear(options.output)
        manifest.begin(options, plan)
        _execute(plan, beam_options)
    parts = read_receipts(plan.job.temp)
    _check(plan, parts)
    totals = ledger.total(parts)
    within = options.max_bad_rows.allows(totals.bad, totals.rows)
    seconds = time.monotonic() - started
    document = manifest.make(options, plan, parts, seconds, "complete" if within else "over budget")
    files.delete_tree(plan.job.temp)
    manifest.commit(options.output, document, success=within)
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
    pipeline_options(beam_args)
    with prepare(options) as plan:
        report.print_plan(plan)
    return Exit.COMPLETE


def _execute(plan: Plan, beam_options: beam.options.pipeline_options.PipelineOptions) -> None:
    quiet_beam()
    root = beam.Pipeline(options=beam_options)
    build(root, plan.job)
    try:
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
    path = files.join(output, TRACEBACK)
    files.write_whole(path, ["".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace")])
    lines = [line for line in text.splitlines() if line.strip()]
    return f"the run failed: {type(error).__name__}: {lines[-1] if lines else ''}; see {path}"


def _clear(output: str) -> None:
    """Empties the output folder; that all in it is an earlier run's was checked before."""
    # `_SUCCESS` goes first: from then on nobody takes what is left for a result.
    files.delete_tree(files.join(output, SUCCESS))
    files.delete_below(output)


def _check(plan: Plan, parts: Sequence[PartReceipt]) -> None:
    """Reads back the sizes of sources and parts.

    Raises:
        RunError: The ledger does not add up.
    """
    written = files.list_below(plan.job.output)
    now = {f.path: f.size_in_bytes for pattern in {p.chunk.source for p in parts} for f in files.match(pattern)}
    found = ledger.problems(plan.sources, now, parts, written)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise RunError(f"the ledger does not add up: {found[0]}{more}; no _SUCCESS was written: run again")
