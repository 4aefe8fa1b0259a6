"""The options of `run` and `check`, and the command that gives them again."""

import dataclasses
from collections.abc import Iterator, Sequence

from pipeline.options.flag import words
from pipeline.options.groups import (
    BadRowOptions,
    FolderOptions,
    InputOptions,
    LocalOptions,
    ModelOptions,
    OutputOptions,
    RemoteOptions,
    ScoringOptions,
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
    BadRowOptions,
    RemoteOptions,
):
    """The options of `run` and `check`."""

    def __post_init__(self) -> None:
        """Checks what only makes sense together.

        Raises:
            UsageError: Two options contradict each other, or a path is empty.
        """
        wrong = next(_contradictions(self), None)
        if wrong is not None:
            raise UsageError(wrong)


def _contradictions(options: RunOptions) -> Iterator[str]:
    """What is wrong with options that are right one by one."""
    paths = (("--model", options.model), ("--output", options.output), *(("--input", path) for path in options.input))
    for flag, value in paths:
        if not value:
            yield f"{flag} is empty; give a path"
    yield from _contradicting_fields(options)
    if options.error_field is not None and options.bad_rows != "null":
        yield f"--error_field={options.error_field} names a field of bad rows in parts; add --bad_rows=null"
    if options.batch_timeout and not options.isolate:
        yield f"--batch_timeout={options.batch_timeout:g} ends the process of the model, which needs --isolate; add it"
    if options.overwrite and options.incremental:
        yield "--overwrite starts anew and --incremental resumes; give one of them"


def _contradicting_fields(options: OutputOptions) -> Iterator[str]:
    """What is wrong with the fields that are to be written."""
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


def run_parser(prog: str) -> OptionsParser[RunOptions]:
    """The parser of `run` and `check`."""
    return OptionsParser(RunOptions, prog, "Scores rows and joins each prediction to its row.")


def parse_run(argv: Sequence[str], prog: str) -> tuple[RunOptions, list[str]]:
    """Reads the flags of `run` and `check`.

    Returns:
        The options, and what is left for Beam.

    Raises:
        UsageError: A flag is missing, wrong, or contradicts another.
    """
    return run_parser(prog).read_known(argv)


def command(options: RunOptions, output: str) -> list[str]:
    """The words of the `keyjoin run` that gives some options, except --overwrite and --incremental.

    `parse_run` gives the same options again. The output is named apart: a record of options may lie in a copy.
    """
    return ["keyjoin", "run", *words(dataclasses.replace(options, output=output))]
