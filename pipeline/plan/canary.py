"""Scores the first rows of the input before a run, for `--canary`, and stops the run if their results look wrong."""

import dataclasses
from collections.abc import Iterable, Iterator

from pipeline.options.error_limits import FLAG, ErrorLimits
from pipeline.plan.check_sample import Counted, value_text
from pipeline.plan.first_rows import first_rows
from pipeline.plan.preflight import Plan
from pipeline.plan.read_sample import SomeRows
from pipeline.plan.score_rows import score_block
from pipeline.terminal.amounts import first, part_of, with_noun
from pipeline.terminal.messages import at_line
from transforms import formats
from transforms.errors import RunError
from transforms.line_numbers import Lines

STEP = 1_000  # rows after which the error limits are checked
REMEDY = "nothing was written: `keyjoin check` shows what feeds the model; fix the rows or the model"


def score_canary(plan: Plan, count: int, limits: ErrorLimits) -> str:
    """Scores the first rows of the input, and judges their results. Writes nothing.

    Rows with a prediction that is not finite count as bad, whatever `--non_finite` is.

    Args:
        plan: The plan of the run.
        count: How many rows to score.
        limits: The error limits of the run.

    Returns:
        A line for a run that continues.

    Raises:
        UsageError: A source cannot be read.
        RunError: The rows exceed an error limit, or an output has the same prediction for all of them.
    """
    job = plan.job._replace(handler=dataclasses.replace(plan.job.handler, keep_non_finite=False))
    model, reader = plan.model_here(), formats.load(job.format).reader
    counted = Counted(Lines(reader.traits.line_end))
    for some in _steps(first_rows(plan.sources, reader, count)):
        scored = score_block(some.block, job, model)
        assert scored is not None  # noqa: S101  nothing stops the scoring of a block
        counted.add(some, scored)
        _judge(counted, limits, count - counted.rows)
    _judge(counted, limits, None)
    constant = counted.constants.found()
    if constant:
        values = ", ".join(f"{name} is {value_text(value)}" for name, value in constant.items())
        raise RunError(f"--canary={count}: output {values} for all of {first(counted.rows, 'row')}; {REMEDY}")
    return f"{with_noun(counted.rows, 'row')} scored, {counted.bad.total():,} of them bad; the run continues"


def _judge(counted: Counted, limits: ErrorLimits, to_come: int | None) -> None:
    """Refuses rows that exceed an error limit, whatever the rest of the canary's rows are.

    Raises:
        RunError: They exceed it.
    """
    exceeded = limits.exceeded(counted.bad, counted.rows, to_come)
    if exceeded is None:
        return
    examples = "; ".join(f"{at_line(one.key, one.line)} {one.reason}: {one.message}" for one in counted.examples())
    raise RunError(
        f"--canary: {part_of(exceeded.bad, counted.rows, 'row', of_first=True)} bad, and {exceeded.flag} allows fewer: "
        f"{examples}; {REMEDY}, or raise the error limit: {FLAG}={exceeded.raised}"
    )


def _steps(rows: Iterable[SomeRows]) -> Iterator[SomeRows]:
    for some in rows:
        found = len(some.block.positions)
        for at in range(0, found, STEP):
            yield some._replace(block=some.block.take(range(at, min(at + STEP, found))))
