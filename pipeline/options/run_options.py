"""Reads the options of `run` and `check`, and writes options as a `keyjoin run` command."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar

from pipeline.options.flag import SWITCH, flag, words
from pipeline.options.groups import (
    BadRowOptions,
    ConfigOptions,
    CostOptions,
    FolderOptions,
    InputOptions,
    LocalOptions,
    ModelOptions,
    OutputOptions,
    RemoteOptions,
    ReportOptions,
    ScoringOptions,
    TerminalOptions,
    VerbosityOptions,
)
from pipeline.options.parser import OptionsParser
from transforms.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions(
    ModelOptions,
    FolderOptions,
    InputOptions,
    OutputOptions,
    ScoringOptions,
    LocalOptions,
    CostOptions,
    BadRowOptions,
    ReportOptions,
    RemoteOptions,
    TerminalOptions,
):
    """The options of `run` and `check`."""

    def __post_init__(self) -> None:
        """Checks combinations of options.

        Raises:
            UsageError: Two options contradict each other, or a path is empty.
        """
        wrong = next(_contradictions(self), None)
        if wrong is not None:
            raise UsageError(wrong)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckOptions(RunOptions):
    """The options of `check`."""

    topic: ClassVar[str] = "Result"
    json: bool = flag(
        SWITCH,
        "print the result as one JSON document",
        in_template=False,
        in_command=False,
        brief="print one JSON document",
    )


def _contradictions(options: RunOptions) -> Iterator[str]:
    """Yields a message for each contradiction between options, and for each empty path."""
    paths = (("--model", options.model), ("--output", options.output), *(("--input", path) for path in options.input))
    for name, value in paths:
        if not value:
            yield f"{name} is empty; give a path"
    yield from _contradicting_fields(options)
    if options.error_field is not None and options.bad_rows != "null":
        yield f"--error_field={options.error_field} names a field of bad rows in parts; add --bad_rows=null"
    if options.batch_timeout and not options.isolate:
        yield f"--batch_timeout={options.batch_timeout:g} ends the process of the model, which needs --isolate; add it"
    if options.limit is not None and options.incremental:
        yield f"--limit={options.limit} scores the first rows only, and --incremental adds files; leave one out"
    if options.overwrite and options.incremental:
        yield "--overwrite starts anew and --incremental resumes; give one of them"


def _contradicting_fields(options: OutputOptions) -> Iterator[str]:
    """Yields a message for each contradiction between the options of the output's fields."""
    has_row = "row" in options.output_fields
    if options.include_fields and options.exclude_fields:
        yield "--include_fields and --exclude_fields contradict each other; give one of them"
    if (options.include_fields or options.exclude_fields) and not has_row:
        yield "--include_fields and --exclude_fields choose among the row's fields; add row to --output_fields"
    if options.key_field and (has_row or "key" not in options.output_fields):
        yield f"--key_field={options.key_field} is written for `key`; add key to --output_fields and leave out row"
    for name in options.output_fields:
        if options.output_fields.count(name) > 1:
            yield f"--output_fields names {name} twice; name it once"


_ALSO = (ConfigOptions, VerbosityOptions)
_EPILOG = "Flags of Beam, such as --runner and --project, are passed on to it."


def run_parser(prog: str) -> OptionsParser[RunOptions]:
    """Makes the parser of `run`."""
    return OptionsParser(
        RunOptions,
        prog,
        "Scores rows and joins each prediction to its row.",
        _EPILOG,
        also=_ALSO,
    )


def check_parser(prog: str) -> OptionsParser[CheckOptions]:
    """Makes the parser of `check`."""
    return OptionsParser(
        CheckOptions,
        prog,
        "Makes all checks of a run, scores sampled rows and prints the plan; writes nothing.",
        _EPILOG,
        also=_ALSO,
    )


def parse_run(argv: Sequence[str], prog: str) -> tuple[RunOptions, list[str]]:
    """Reads the flags of `run`.

    Returns:
        The options, and the other arguments, which are for Beam.

    Raises:
        UsageError: A flag is missing or wrong, or contradicts another.
    """
    return run_parser(prog).read_known(argv)


def command(options: RunOptions, output: str) -> list[str]:
    """Returns the words of the `keyjoin run` command with these options, except --overwrite and --incremental.

    `parse_run` reads the same options from these words.

    Args:
        options: The options, such as those that an output folder records.
        output: The output folder that the command names. It can differ from `options.output`: the folder with the
            record may be a copy.
    """
    return ["keyjoin", "run", *words(dataclasses.replace(options, output=output))]
