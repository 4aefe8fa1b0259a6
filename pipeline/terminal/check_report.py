"""Prints the result of `keyjoin check`: the plan, what feeds the model, and how the sampled rows were scored."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from pipeline.options.error_limits import FLAG, ErrorLimits, ExceededLimit
from pipeline.plan.check_sample import SECONDS, SampledRows
from pipeline.plan.trial import Calls
from pipeline.run_folder.records import Estimate, JobCost
from pipeline.terminal import amounts
from pipeline.terminal.amounts import part_of, with_noun
from pipeline.terminal.cost import cost_lines
from pipeline.terminal.messages import at_line, is_quiet, show, show_json, visible
from pipeline.terminal.report import FedInput, Line, WrittenPrediction, print_line, table
from pipeline.terminal.warning import warn
from transforms.reasons import Reason

SCHEMA_VERSION = 1
SHOWN_SOURCES = 12
LONGEST_CELL = 44  # characters of a cell of a table, so that a table fits into most terminals


class InputFile(msgspec.Struct, frozen=True, kw_only=True):
    """A source of the run.

    Attributes:
        path: Its path.
        bytes: Its size, compressed if the file is.
    """

    path: str
    bytes: int


class CheckResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The document of `keyjoin check --json`. Sections that were not reached are absent.

    Attributes:
        schema_version: The version of these names; a change of their meaning raises it.
        verdict: `ready`; `warned` if more sampled rows would fail than the error limits allow, or an output is
            constant; `refused` if all would fail; `complete` if the output already has the whole result.
        plan: Lines about the input, the key and the calls of the model, as pairs of a label and a text.
        sources: All input files, in the order of the run. For people `check` prints a dozen of them.
        inputs: The model's inputs.
        predictions: The predictions that are written.
        sample: The results of the sampled rows.
        warnings: What to look at before the run.
        remedies: Commands and changes that help.
        memory: The memory that a local run needs, as the system limits it: `total` bytes, and `model` of them for the
            model.
        estimate: What the run takes; absent if the first rows could not be measured.
        calls: How fast the model is in calls of some numbers of rows. The last one has the rows of the run's calls,
            unless that would have taken long.
        cost: What a job on Dataflow takes.
    """

    schema_version: int = msgspec.field(default_factory=lambda: SCHEMA_VERSION)
    verdict: str
    plan: tuple[Line, ...] = ()
    sources: tuple[InputFile, ...] = ()
    inputs: tuple[FedInput, ...] = ()
    predictions: tuple[WrittenPrediction, ...] = ()
    sample: SampledRows | None = None
    warnings: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    memory: dict[str, int] | None = None
    estimate: Estimate | None = None
    calls: tuple[Calls, ...] = ()
    cost: JobCost | None = None


def exceeded_by(sample: SampledRows, limits: ErrorLimits) -> ExceededLimit | None:
    """Returns the error limit that the sampled rows exceed; None if they keep all."""
    return limits.exceeded(sample.bad, sample.rows) if sample.rows else None


def warnings(sample: SampledRows, exceeded: ExceededLimit | None) -> Iterator[str]:
    """Yields what to look at before the run."""
    if exceeded is not None:
        yield f"{part_of(exceeded.bad, sample.rows, 'sampled row', 'would fail')}, and {exceeded.flag} allows fewer"
    for name, value in sample.constant.items():
        yield f"output {name} is {value} for all sampled rows; look at the fields that feed the model"


def remedies(sample: SampledRows, exceeded: ExceededLimit | None, command: str | None) -> Iterator[str]:
    """Yields how to fix bad rows, and the command that allows them.

    Args:
        sample: The results of the sampled rows.
        exceeded: The error limit that they exceed.
        command: The command of the run, without error limits; None if it is too long to print.
    """
    for reason in Reason:
        if reason.value in sample.bad:
            yield f"{reason.value}: {reason.remedy}"
    if exceeded is not None:
        allowed = f"{FLAG}={exceeded.raised}"
        yield f"or allow them: {command} {allowed}" if command else f"or allow them: add {allowed} to the command"


def print_json(result: CheckResult) -> None:
    """Prints the result as one JSON document."""
    show_json(msgspec.json.format(msgspec.json.encode(result), indent=1).decode())


def print_check(result: CheckResult) -> None:
    """Prints the result for people; with --quiet only its warnings."""
    if is_quiet():
        for text in result.warnings:
            warn(text)
        return
    for line in result.plan:
        print_line(*line)
    if len(result.sources) > 1:
        for line in _source_lines(result.sources):
            print_line(*line)
    sample = result.sample
    if sample is not None:
        show()
        show(_mapping(result.inputs, sample))
        show()
        show(_predictions(result.predictions, sample))
        show()
        _print_sample(sample)
    for text in result.warnings:
        print_line("warning", text)
    for text in result.remedies:
        print_line("remedy", text)
    _print_estimates(result)


def _print_estimates(result: CheckResult) -> None:
    if result.memory is not None:
        total, model = (amounts.size(result.memory[name]) for name in ("total", "model"))
        print_line("memory", f"at least about {total} for --max_memory, {model} of them for the model")
    if result.estimate is not None:
        print_line("estimate", _estimated(result.estimate))
    if result.calls:
        show()
        show(_call_table(result.calls))
    if result.cost is not None:
        for line in cost_lines(result.cost):
            print_line(*line)


def _source_lines(sources: Sequence[InputFile]) -> Iterator[Line]:
    for source in sources[:SHOWN_SOURCES]:
        yield "source", f"{source.path}, {with_noun(source.bytes, 'byte')}"
    rest = sources[SHOWN_SOURCES:]
    if rest:
        size = sum(source.bytes for source in rest)
        yield "", f"… and {with_noun(len(rest), 'more source')}, {with_noun(size, 'byte')}"


def _call_table(calls: Sequence[Calls]) -> str:
    rows: list[tuple[Any, ...]] = [("rows a call", "rows/s of all cores", "memory of the model process")]
    for one in calls:
        memory = "" if one.peak_bytes is None else amounts.size(one.peak_bytes)
        rows.append((f"{one.rows:,}", f"{one.rows_a_second:,.0f}", memory))
    return table(rows)


def _estimated(estimate: Estimate) -> str:
    memory = f", {amounts.size(estimate.memory)} of memory in use" if estimate.memory else ""
    return f"about {amounts.duration(estimate.seconds)}{memory}, {amounts.size(estimate.output_bytes)} of output"


def _mapping(inputs: Sequence[FedInput], sample: SampledRows) -> str:
    rows: list[tuple[Any, ...]] = [("model input", "type", "from", "example")]
    rows += [(one.name, one.type, _cell(one.source), sample.inputs.get(one.name, "")) for one in inputs]
    return table(rows)


def _predictions(predictions: Sequence[WrittenPrediction], sample: SampledRows) -> str:
    rows: list[tuple[Any, ...]] = [("prediction", "type", "written to", "example")]
    rows += [(one.name, one.type, one.field, sample.predictions.get(one.name, "")) for one in predictions]
    return table(rows)


def _cell(text: str) -> str:
    return text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL // 2]} … {text[-(LONGEST_CELL // 2 - 3) :]}"


def _print_sample(sample: SampledRows) -> None:
    every = "the file" if sample.of_files == 1 else "all files"
    files = f"{sample.files:,} of {sample.of_files:,} files" if sample.files < sample.of_files else every
    stopped = "" if sample.is_whole else f"; keyjoin stopped after {SECONDS:.0f} seconds"
    print_line("sample", f"{with_noun(sample.rows, 'row')} of {files}: {sample.places}{stopped}")
    failed = sum(sample.bad.values())
    if not failed:
        print_line("bad rows", "no sampled row would fail")
        return
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sample.bad.items())
    print_line("bad rows", f"{part_of(failed, sample.rows, 'sampled row', 'would fail')}: {reasons}")
    for one in sample.examples:
        show(f"  {visible(at_line(one.key, one.line))}  {one.reason}: {visible(one.message)}")
