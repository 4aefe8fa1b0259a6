"""Command lines, read into frozen dataclasses; nothing here imports Beam or TensorFlow."""

import argparse
import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.options.error_limits import ErrorLimits
from pipeline.options.flags import Parser, pairs_of, run_parser
from transforms.errors import UsageError
from transforms.mapping import name_lists


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Which signature of which model."""

    model: str
    signature: str
    key_input: str | None
    constant: Mapping[str, str]
    model_ops: str | None
    model_sha256: str | None
    model_libraries: tuple[str, ...]
    custom_objects: tuple[str, ...]
    tf32: bool


@dataclasses.dataclass(frozen=True)
class RunOptions(ModelOptions):
    """The options of `run` and `check`; the help texts below say what each one means."""

    input: tuple[str, ...]
    output: str
    format: str | None
    features: tuple[str, ...]
    input_map: Mapping[str, str | name_lists.Path]
    pad: tuple[str, ...]
    missing: Mapping[str, str]
    strict_types: bool
    output_fields: tuple[str, ...]
    key_field: str | None
    include_fields: tuple[str, ...]
    exclude_fields: tuple[str, ...]
    prediction_prefix: str
    batch_size: int | None
    batch_dependence: str
    isolate: bool
    batch_timeout: float | None
    chunk_bytes: int | None
    wave_bytes: int
    max_memory: int | None
    max_bad_rows: ErrorLimits
    bad_rows: str
    error_field: str | None
    non_finite: str
    overwrite: bool
    incremental: bool
    accelerator: str | None
    detach: bool

    def __post_init__(self) -> None:
        """Checks what only makes sense together.

        Raises:
            UsageError: Two options contradict each other.
        """
        for flag, value in (("--model", self.model), ("--output", self.output), *(("--input", i) for i in self.input)):
            if not value:
                raise UsageError(f"{flag} is empty; give a path")
        row = "row" in self.output_fields
        if self.include_fields and self.exclude_fields:
            raise UsageError("--include_fields and --exclude_fields contradict each other; give one of them")
        if (self.include_fields or self.exclude_fields) and not row:
            raise UsageError(
                "--include_fields and --exclude_fields choose among the row's fields; add row to --output_fields"
            )
        if self.key_field and (row or "key" not in self.output_fields):
            raise UsageError(
                f"--key_field={self.key_field} is written for `key`; add key to --output_fields and leave out row"
            )
        if self.error_field is not None and self.bad_rows != "null":
            raise UsageError(
                f"--error_field={self.error_field} names a field of bad rows in parts; add --bad_rows=null"
            )
        if self.batch_timeout and not self.isolate:
            raise UsageError(
                f"--batch_timeout={self.batch_timeout:g} ends the process of the model, which needs --isolate; add it"
            )
        twice = [name for name in self.output_fields if self.output_fields.count(name) > 1]
        if twice:
            raise UsageError(f"--output_fields names {twice[0]} twice; name it once")
        if self.overwrite and self.incremental:
            raise UsageError("--overwrite starts anew and --incremental goes on; give one of them")


def _check_spelling(parser: Parser, argv: Sequence[str]) -> None:
    """Names a misspelt flag, where argparse would only say that the right one is missing."""
    given = {arg.partition("=")[0] for arg in argv if arg.startswith("--")}
    known = {flag for action in parser._actions for flag in action.option_strings}
    for action in parser._actions:
        if action.required and not given & set(action.option_strings):
            close = difflib.get_close_matches(action.option_strings[0], given - known, 1, 0.7)
            if close:
                raise UsageError(f"there is no flag {close[0]}; did you mean {action.option_strings[0]}?")


def parse_run(argv: Sequence[str], prog: str) -> tuple[RunOptions, list[str]]:
    """Reads the flags of `run` and `check`.

    Returns:
        The options, and what is left for Beam.

    Raises:
        UsageError: A flag is missing, wrong, or contradicts another.
    """
    parser = run_parser(prog)
    _check_spelling(parser, argv)
    known, beam_args = parser.parse_known_args(argv)
    given = vars(known)
    given |= {
        "input": tuple(given["input"]),
        "pad": tuple(given["pad"]),
        **pairs_of(given),
        "max_bad_rows": ErrorLimits.parse(given["max_bad_rows"]),
    }
    return RunOptions(**given), beam_args


def command(options: RunOptions, output: str) -> list[str]:
    """The words of the `keyjoin run` that gives some options, except --overwrite and --incremental.

    `parse_run` gives the same options again. The output is named apart: a record of options may lie in a copy.
    """
    words = ["keyjoin", "run"]
    for action in run_parser("")._actions:
        value = output if action.dest == "output" else getattr(options, action.dest, None)
        if value is None or action.dest in NOT_REPEATED or value == _DEFAULTS.get(action.dest, action.default):
            continue
        flag = action.option_strings[0]
        words += [flag] if value is True else [f"{flag}={text}" for text in _texts(action, value)]
    return words


NOT_REPEATED = ("overwrite", "incremental")
_DEFAULTS: dict[str, Any] = {
    "input_map": {},
    "pad": (),
    "missing": {},
    "constant": {},
    "max_bad_rows": ErrorLimits.parse([]),
}  # where the parser's are lists


def _texts(action: argparse.Action, value: Any) -> list[str]:
    """What to give for a flag, once or several times."""
    if isinstance(value, ErrorLimits):
        return [",".join(ErrorLimits.items(value.texts()))]
    if isinstance(value, Mapping):
        if action.dest == "missing":
            return [name_lists.values_text(value)]
        if action.dest == "constant":
            return [f"{name}={text}" for name, text in value.items()]
        return name_lists.pairs_texts(list(value.items()))
    if isinstance(value, tuple):
        return list(value) if action.nargs == "+" else [name_lists.names_text(value)]
    return [str(value)]
