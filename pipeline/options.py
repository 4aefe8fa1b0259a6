"""Command lines, read into frozen dataclasses; nothing here imports Beam or TensorFlow."""

import argparse
import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from pipeline.budget import Budget
from pipeline.terminal import show
from transforms import formats
from transforms.errors import UsageError
from transforms.model_ops import POLICIES

SHORTEST_SECONDS, LONGEST_SECONDS = 0.01, 1_000_000
BATCH_DEPENDENCE = REFUSE, WARN, ALLOW = "refuse", "warn", "allow"
MAX_CHUNK_BYTES = 1 << 30  # what one Arrow buffer and one Beam element carry at ease


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Which signature of which model."""

    model: str
    signature: str
    key_input: str | None
    model_ops: str | None
    model_sha256: str | None


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
    batch_dependence: str
    isolate: bool
    batch_timeout: float | None
    chunk_bytes: int | None
    wave_bytes: int
    max_memory: int | None
    max_bad_rows: Budget
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


class Parser(argparse.ArgumentParser):
    """A parser that raises instead of leaving, so that every error is told in one way."""

    def print_help(self, file: object = None) -> None:  # noqa: ARG002
        """Prints the help, or raises an OSError where standard output does not take it."""
        show(self.format_help().rstrip())

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(f"{message}; see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuses the value `--`, which argparse loses."""
        for word in args or ():
            if word.startswith("--") and word.partition("=")[2] == "--":
                self.error(f"{word}: -- cannot be a value")
        return super().parse_known_args(args, namespace)


def names(text: str) -> tuple[str, ...]:
    """A comma-separated list."""
    found = tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name; write names with single commas between them")
    return found


def _pair(text: str) -> tuple[str, str]:
    at = text.rfind("=", 1, -1)  # of several; which one it is depends on the model, see `mapping.resolve`
    if at < 0 or text.startswith("="):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form MODEL_INPUT=ROW_FIELD")
    return text[:at], text[at + 1 :]


def _positive(limit: int | None = None) -> type[int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < 1 or (limit and int(text) > limit):
            raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1{f' to {limit}' if limit else ''}")
        return int(text)

    return parse  # type: ignore[return-value]  # argparse takes any callable


def _accelerator(text: str) -> str:
    if not re.fullmatch(r"type:[\w-]+;count:[1-9]\d*(;[\w:.-]+)*", text):
        raise argparse.ArgumentTypeError(f"{text} is not of the form type:nvidia-l4;count:1")
    return text


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not SHORTEST_SECONDS <= value <= LONGEST_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text} is not a number of seconds from {SHORTEST_SECONDS} to {LONGEST_SECONDS}"
        )
    return value


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of every command that calls a model."""
    parser.add_argument("--model", required=True, metavar="DIR", help="SavedModel folder, or a .keras file")
    parser.add_argument(
        "--signature", default="serving_default", metavar="NAME", help="signature to call (default: %(default)s)"
    )
    parser.add_argument(
        "--key_input",
        metavar="NAME",
        help="model input that takes the key (default: the one called key, if it comes back and no prediction changes "
        "with it)",
    )
    add_trust_arguments(parser)


def add_trust_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of every command that takes a model."""
    parser.add_argument(
        "--model_ops",
        choices=POLICIES,
        help="what happens to a model that does more than compute: deny refuses it, warn says so, allow says nothing "
        "(default: refuse what writes, runs Python, talks to others or is unknown; say so of the rest)",
    )
    parser.add_argument(
        "--model_sha256", type=_sha256, metavar="HEX", help="refuse any model but this one, see keyjoin inspect"
    )


def add_mapping_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that say what feeds the model's inputs."""
    add = parser.add_argument
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


def pairs_of(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """What `--input_map` says.

    Raises:
        UsageError: It names an input twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UsageError("--input_map names a model input twice; name it once")
    return found


def _sha256(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"{text} is not a sha256, 64 hexadecimal digits; keyjoin inspect shows it")
    return text.lower()


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
    add("--format", type=formats.known, metavar="NAME", help="format of the input (default: by the files' names)")
    add_mapping_arguments(parser)
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
        "--batch_dependence",
        choices=BATCH_DEPENDENCE,
        default=WARN,
        help="what happens where a row's prediction depends on the other rows of its batch, or differs from call to "
        "call: refuse the model, warn, or say nothing (default: %(default)s)",
    )
    add(
        "--isolate",
        action="store_true",
        help="start the process of a model that crashes again; rows for which it crashes become dead letters",
    )
    add(
        "--batch_timeout",
        type=_seconds,
        metavar="SECONDS",
        help="with --isolate: what a call of the model may take (default: any time)",
    )
    add(
        "--chunk_bytes",
        type=_positive(MAX_CHUNK_BYTES),
        metavar="BYTES",
        help="about how much of a file becomes one part (default: 67108864; less where predictions are large)",
    )
    add(
        "--wave_bytes",
        type=_positive(),
        default=1 << 28,
        metavar="BYTES",
        help="about how much a local run scores before it writes, input and predictions, which bounds its memory; all "
        "of it if it is less than twice as much (default: %(default)s)",
    )
    add(
        "--max_memory",
        type=_positive(),
        metavar="BYTES",
        help="what a local run may have of memory, both processes together; refused if it cannot do (default: all)",
    )
    add(
        "--max_bad_rows",
        action="append",
        default=[],
        metavar="LIMITS",
        help="bad rows that a complete run may have: a number, or a ratio with a point (default: 0.01); and of them "
        "those of a reason, `0.01,model_error=0`; may be repeated",
    )
    add(
        "--bad_rows",
        choices=("apart", "null"),
        default="apart",
        help="where bad rows are written: apart, in _dead_letter/; null: also in the parts, in their place, with null "
        "predictions and an error (default: %(default)s)",
    )
    add(
        "--error_field",
        metavar="NAME",
        help="with --bad_rows=null, the name of the field that says what is wrong with a row (default: error)",
    )
    add(
        "--non_finite",
        choices=("reject", "keep"),
        default="reject",
        help="predictions that are NaN or infinite: dead letters, or kept (null in JSON) (default: %(default)s)",
    )
    add(
        "--accelerator",
        type=_accelerator,
        metavar="HINT",
        help="what the workers that predict have besides, and no others: type:nvidia-l4;count:1 (default: nothing)",
    )
    add(
        "--detach",
        action="store_true",
        help="on Dataflow: end once the job is started; it commits by itself, and the same command follows it",
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
    pairs = pairs_of(given["input_map"])
    given |= {"input": tuple(given["input"]), "input_map": pairs, "max_bad_rows": Budget.parse(given["max_bad_rows"])}
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
_DEFAULTS: dict[str, Any] = {"input_map": {}, "max_bad_rows": Budget.parse([])}  # where the parser's are lists


def _texts(action: argparse.Action, value: Any) -> list[str]:
    """What to give for a flag, once or several times."""
    if isinstance(value, Budget):
        return [",".join(Budget.items(value.texts()))]
    if isinstance(value, Mapping):
        return [f"{name}={field}" for name, field in value.items()]
    if isinstance(value, tuple):
        return list(value) if action.nargs == "+" else [",".join(value)]
    return [str(value)]
