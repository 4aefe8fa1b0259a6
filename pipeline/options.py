"""Command lines, read into frozen dataclasses; nothing here imports Beam or TensorFlow."""

import argparse
import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from transforms.errors import UsageError
from transforms.formats import FORMATS

MAX_CHUNK_BYTES = 1 << 30  # what one Arrow buffer and one Beam element carry at ease


class Budget(NamedTuple):
    """How many rows may be bad: a number, or a share of the rows read.

    Attributes:
        limit: The number or the share.
        is_ratio: Which of the two.
    """

    limit: float
    is_ratio: bool

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Reads `10` as a number and `0.01` as a share.

        >>> Budget.parse("0.01").allows(1, 100), Budget.parse("0").allows(1, 100)
        (True, False)
        """
        try:
            value = float(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text} is neither a number of rows nor a ratio") from error
        is_ratio = not text.strip().isdigit()
        if not value >= 0 or (is_ratio and not value <= 1):
            raise argparse.ArgumentTypeError(f"{text} is neither a number of rows nor a ratio from 0.0 to 1.0")
        return cls(value, is_ratio)

    def allows(self, bad: int, rows: int) -> bool:
        """Whether so many bad rows among so many rows are within the budget."""
        return bad <= (self.limit * rows if self.is_ratio else self.limit)

    def __str__(self) -> str:
        """As given."""
        return str(self.limit if self.is_ratio else int(self.limit))


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Which signature of which model."""

    model: str
    signature: str
    key_input: str | None


@dataclasses.dataclass(frozen=True)
class RunOptions(ModelOptions):
    """The options of `run` and `check`; the help texts below say what each one means."""

    input: tuple[str, ...]
    output: str
    format: str | None
    features: tuple[str, ...]
    input_map: Mapping[str, str]
    output_fields: tuple[str, ...]
    key_field: str | None
    include_fields: tuple[str, ...]
    exclude_fields: tuple[str, ...]
    prediction_prefix: str
    batch_size: int | None
    chunk_bytes: int
    wave_bytes: int
    max_bad_rows: Budget
    non_finite: str
    overwrite: bool
    incremental: bool

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
        twice = [name for name in self.output_fields if self.output_fields.count(name) > 1]
        if twice:
            raise UsageError(f"--output_fields names {twice[0]} twice; name it once")
        if self.overwrite and self.incremental:
            raise UsageError("--overwrite starts anew and --incremental goes on; give one of them")


class Parser(argparse.ArgumentParser):
    """A parser that raises instead of leaving, so that every error is told in one way."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(f"{message}; see {self.prog} --help")


def names(text: str) -> tuple[str, ...]:
    """A comma-separated list."""
    found = tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name; write names with single commas between them")
    return found


def _pair(text: str) -> tuple[str, str]:
    name, equals, field = text.partition("=")
    if not (name and equals and field):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form MODEL_INPUT=ROW_FIELD")
    return name, field


def _positive(limit: int | None = None) -> type[int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < 1 or (limit and int(text) > limit):
            raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1{f' to {limit}' if limit else ''}")
        return int(text)

    return parse  # type: ignore[return-value]  # argparse takes any callable


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of every command that calls a model."""
    parser.add_argument("--model", required=True, metavar="DIR", help="SavedModel folder, or a .keras file")
    parser.add_argument(
        "--signature", default="serving_default", metavar="NAME", help="signature to call (default: %(default)s)"
    )
    parser.add_argument(
        "--key_input",
        metavar="NAME",
        help="model input that takes the key (default: the one called key, if it comes back)",
    )


def run_parser(prog: str) -> Parser:
    """The parser of `run` and `check`."""
    parser = Parser(prog=prog, allow_abbrev=False, description="Scores rows and joins each prediction to its row.")
    add_model_arguments(parser)
    add = parser.add_argument
    add(
        "--input",
        required=True,
        nargs="+",
        action="extend",
        metavar="GLOB",
        help="files, globs or folders; may be repeated",
    )
    add("--output", required=True, metavar="DIR", help="folder for the joined rows; new or empty")
    add("--overwrite", action="store_true", help="replace an earlier run's output, or what is there of it")
    add("--incremental", action="store_true", help="score files that are new since an earlier run, and add their parts")
    add("--format", choices=sorted(FORMATS), help="format of the input (default: by the files' names)")
    add(
        "--features",
        type=names,
        default=(),
        metavar="A,B,C",
        help="scalar fields of the row that make up one matrix input",
    )
    add(
        "--input_map",
        type=_pair,
        nargs="+",
        action="extend",
        default=[],
        metavar="INPUT=FIELD",
        help="feeds a model input from a row field of another name",
    )
    add(
        "--output_fields",
        type=names,
        default=("row",),
        metavar="NAMES",
        help="what is written: row (the whole row and all predictions), key, names of predictions (default: row)",
    )
    add("--key_field", metavar="FIELD", help="the rows' own key, written for key in --output_fields")
    add("--include_fields", type=names, default=(), metavar="A,B", help="write only these of the row's fields")
    add("--exclude_fields", type=names, default=(), metavar="A,B", help="write all of the row's fields but these")
    add(
        "--prediction_prefix",
        default="",
        metavar="TEXT",
        help="put before the names of predictions, where they are taken",
    )
    add(
        "--batch_size",
        type=_positive(1 << 24),
        metavar="ROWS",
        help="rows that a model call sees at most (default: by the size of a row)",
    )
    add(
        "--chunk_bytes",
        type=_positive(MAX_CHUNK_BYTES),
        default=64 << 20,
        metavar="BYTES",
        help="about how much of a file becomes one part (default: %(default)s)",
    )
    add(
        "--wave_bytes",
        type=_positive(),
        default=1 << 30,
        metavar="BYTES",
        help="about how much input a local run has in hand at a time, which bounds its memory (default: %(default)s)",
    )
    add(
        "--max_bad_rows",
        type=Budget.parse,
        default=Budget(0.01, True),
        metavar="N|RATIO",
        help="dead letters that a complete run may have: a number, or a ratio with a point (default: 0.01)",
    )
    add(
        "--non_finite",
        choices=("reject", "keep"),
        default="reject",
        help="predictions that are NaN or infinite: dead letters, or kept (null in JSON) (default: %(default)s)",
    )
    return parser


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
    pairs = dict(given["input_map"])
    if len(pairs) < len(given["input_map"]):
        raise UsageError("--input_map names a model input twice; name it once")
    return RunOptions(**{**given, "input": tuple(given["input"]), "input_map": pairs}), beam_args


def command(options: Mapping[str, Any]) -> list[str]:
    """The words of the `keyjoin run` that gives some options, without --overwrite and --incremental.

    Args:
        options: As the manifest has them, see `RunOptions`.
    """
    words = ["keyjoin", "run"]
    for action in run_parser("")._actions:
        value = options.get(action.dest)
        if not value or value is True or value in (action.default, str(action.default)):
            continue
        if isinstance(value, dict):
            values = [f"{name}={field}" for name, field in value.items()]
        elif isinstance(value, (list, tuple)) and tuple(value) != action.default:
            values = list(value) if isinstance(action, argparse._AppendAction) else [",".join(value)]
        else:
            values = [] if isinstance(value, (list, tuple)) else [str(value)]
        words += [f"{action.option_strings[0]}={each}" for each in values]
    return words
