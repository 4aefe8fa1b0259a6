"""The flags of the commands, in groups."""

import argparse
import itertools
import keyword
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from pipeline.terminal.messages import show
from transforms import formats
from transforms.errors import UsageError
from transforms.mapping import name_lists
from transforms.model_safety.model_ops import POLICIES

SHORTEST_SECONDS, LONGEST_SECONDS = 0.01, 1_000_000
BATCH_DEPENDENCE = REFUSE, WARN, ALLOW = "refuse", "warn", "allow"
Parsed = TypeVar("Parsed")
MAX_CHUNK_BYTES = 1 << 30  # what one Arrow buffer and one Beam element carry at ease


class Parser(argparse.ArgumentParser):
    """A parser that raises instead of leaving, so that all errors are reported in one way."""

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


def _names(text: str) -> tuple[str, ...]:
    return _parsed(name_lists.names, text)


def _modules(text: str) -> tuple[str, ...]:
    found = _names(text)
    for name in found:
        if not all(part.isidentifier() and not keyword.iskeyword(part) for part in name.split(".")):
            raise argparse.ArgumentTypeError(
                f"{name!r} is not the name of a Python module; write it as in an import, such as tensorflow_text"
            )
    return found


def _pairs(text: str) -> list[tuple[str, str | name_lists.Path]]:
    return _parsed(name_lists.pairs, text)


def _values(text: str) -> list[tuple[str, str]]:
    return _parsed(name_lists.values, text)


def _parsed(parse: Callable[[str], Parsed], text: str) -> Parsed:
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _constant(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")  # the first of several, see `constants.resolve`
    if not sign or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form MODEL_INPUT=VALUE")
    return name, value


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
    add_constant_argument(parser)
    parser.add_argument(
        "--tf32",
        action="store_true",
        help="let a GPU round the factors of float32 products to 10 bits, as TensorFlow does by default; faster, and "
        "less exact",
    )
    add_trust_arguments(parser)


def add_constant_argument(parser: argparse.ArgumentParser) -> None:
    """The flag of every command that calls a model, for inputs that are the same for all rows."""
    parser.add_argument(
        "--constant",
        type=_constant,
        nargs="+",
        action="extend",
        default=[],
        metavar="INPUT=VALUE",
        help="feeds a model input the same value for all rows: a number, true, false, text, or a JSON list",
    )


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
    add_code_arguments(parser)


def add_code_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of every command that loads a model: they name code."""
    parser.add_argument(
        "--model_libraries",
        type=_modules,
        default=(),
        metavar="A,B",
        help="Python modules that register the model's own ops, such as tensorflow_text; they are imported, which runs "
        "their code",
    )
    parser.add_argument(
        "--custom_objects",
        type=_modules,
        default=(),
        metavar="A,B",
        help="Python modules that define own layers of a .keras file, also in the current folder; they are imported, "
        "which runs their code",
    )


def add_mapping_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that say what feeds the model's inputs."""
    add = parser.add_argument
    add(
        "--features",
        type=_names,
        default=(),
        metavar="A,B,C",
        help="scalar fields of the row that make up one matrix input",
    )
    add(
        "--input_map",
        type=_pairs,
        nargs="+",
        action="extend",
        default=[],
        metavar="INPUT=FIELD",
        help="feeds a model input from a row field of another name, or from a.b.c inside of objects; or a JSON object, "
        '{"INPUT": "FIELD", "OTHER": ["a", "b.c"]}',
    )
    add(
        "--missing",
        type=_values,
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="gives a value, such as 0 or nan, to a field that is missing or null; or a JSON object of such values "
        "(default: such a row is a dead letter)",
    )


def add_pad_argument(parser: argparse.ArgumentParser) -> None:
    """The flag that says what rows of different lengths are padded with."""
    parser.add_argument(
        "--pad",
        type=_padding,
        nargs="+",
        action="extend",
        default=[],
        metavar="INPUT=VALUE",
        help="pads a model input whose size is open to the longest row of each call, with this value (default: rows of "
        "one shape are called together, and nothing is padded)",
    )


def _padding(text: str) -> str:
    if text.find("=", 1) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form MODEL_INPUT=VALUE")
    return text


def pairs_of(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the flags of pairs say: `--input_map`, `--missing` and `--constant`.

    Args:
        given: Flag without its hyphens -> what the parser made of it.

    Raises:
        UsageError: One of them names an input or a field twice.
    """
    flatten = itertools.chain.from_iterable
    return {
        "input_map": _once("--input_map", "model input", flatten(given["input_map"])),
        "missing": _once("--missing", "field", flatten(given["missing"])),
        "constant": _once("--constant", "model input", given["constant"]),
    }


def _once(flag: str, what: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise UsageError(f"{flag} names a {what} twice; name it once")
        found[name] = value
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
    add_pad_argument(parser)
    add(
        "--strict_types",
        action="store_true",
        help="take only JSON numbers, and for integers only those without a point and an exponent; by default numbers "
        "may be strings and whole floats, as proto3's JSON mapping has them",
    )
    add(
        "--output_fields",
        type=_names,
        default=("row",),
        metavar="NAMES",
        help="what is written: row (the whole row and all predictions), key, names of predictions (default: row)",
    )
    add("--key_field", metavar="FIELD", help="the rows' own key, written for key in --output_fields")
    add("--include_fields", type=_names, default=(), metavar="A,B", help="write only these of the row's fields")
    add("--exclude_fields", type=_names, default=(), metavar="A,B", help="write all of the row's fields but these")
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
