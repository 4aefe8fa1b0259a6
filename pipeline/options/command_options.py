"""Declares the flags of the commands beside `run` and `check`, and makes their parsers.

A command line is read before the command is imported, so that help and refusals need neither Beam nor TensorFlow.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from pipeline.options import kinds
from pipeline.options.flag import SWITCH, flag
from pipeline.options.groups import (
    CONSTANT_HELP,
    CodeOptions,
    FieldOptions,
    ModelOptions,
    TerminalOptions,
    TrustOptions,
    ValueOptions,
)
from pipeline.options.parser import OptionsParser
from pipeline.options.run_options import check_parser, run_parser
from pipeline.run_folder.names import SUCCESS
from transforms.comparison.tolerance import Tolerance
from transforms.errors import UsageError


def _run(brief: str | None = None) -> Any:
    """Declares the flag that names a finished run."""
    return flag(kinds.PATH, "the --output of the run", required=True, metavar="DIR", positional=True, brief=brief)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerificationOptions(CodeOptions):
    """The options that select the checks."""

    run: str = _run("the --output of the run")
    read_data: float | None = flag(
        kinds.SHARE,
        "also read this share of the parts, dead letters and sources, and compare checksums: 5%%, 0.05, 100%%",
        metavar="SHARE",
        brief="also read this share of all contents: 5%, 100%",
    )
    rescore: int | None = flag(
        kinds.whole(),
        "also score this many rows again, each alone, with --model",
        metavar="N",
        brief="also score so many rows again, with --model",
    )
    model: str | None = flag(
        kinds.MODEL, "the model of the run, for --rescore", metavar="DIR", brief="the model of the run, for --rescore"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscardOptions:
    """The option for an output that is not what its run wrote."""

    discard: bool = flag(
        SWITCH,
        f"delete {SUCCESS} if files of the output are missing or altered: keyjoin run then reads all files back and "
        "rebuilds the wrong ones",
        brief=f"delete {SUCCESS} if the output is not right",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyOptions(VerificationOptions, DiscardOptions, TerminalOptions):
    """The options of `verify`."""

    def __post_init__(self) -> None:
        """Checks that `--rescore` and `--model` are given together.

        Raises:
            UsageError: One of them is given without the other.
        """
        if self.rescore is None and self.model is not None:
            raise UsageError("--model is for --rescore=N; give it, too")
        if self.rescore is not None and self.model is None:
            raise UsageError("--rescore calls the model of the run, and a model is code: name it with --model=DIR")


def verify_parser() -> OptionsParser[VerifyOptions]:
    """Returns the parser of `verify`."""
    return OptionsParser(
        VerifyOptions,
        "keyjoin verify",
        "Checks whether an output is still what its run wrote; only --discard changes anything.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonOptions:
    """The options for the form of the output."""

    json: bool = flag(SWITCH, "print JSON instead of a table", brief="print JSON instead of a table")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectOptions(ModelOptions, JsonOptions):
    """The options of `inspect`."""


def inspect_parser() -> OptionsParser[InspectOptions]:
    """Returns the parser of `inspect`."""
    return OptionsParser(InspectOptions, "keyjoin inspect", "Shows what a model takes and gives.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WrapOptions(TrustOptions):
    """The options of `wrap`."""

    model: str = flag(kinds.MODEL, "SavedModel folder, or a .keras file", required=True, metavar="IN")
    output: str = flag(
        kinds.OUTPUT, "folder for the SavedModel with the key; new or empty", required=True, metavar="OUT"
    )
    style: Literal["function", "functional"] = flag(
        kinds.choice("function", "functional"), "how the key comes back (default: %(default)s)", default="function"
    )
    signature: str = flag(
        kinds.TEXT, "signature that gets the key (default: %(default)s)", default="serving_default", metavar="NAME"
    )


def wrap_parser() -> OptionsParser[WrapOptions]:
    """Returns the parser of `wrap`."""
    return OptionsParser(
        WrapOptions,
        "keyjoin wrap",
        "Adds a key to a trained model. The other signatures stay as they are.",
        epilog="styles:\n"
        "  function    another output `key`; a single other output is called `prediction`\n"
        "  functional  one output `prediction_with_key`; its last column is the key, in\n"
        "              float32",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """The option for the file of the request."""

    instances: str = flag(
        kinds.PATH,
        "the request; - is standard input (default)",
        default="-",
        metavar="FILE",
        brief="the request; - is standard input (default)",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictOptions(ModelOptions, FieldOptions, ValueOptions, RequestOptions):
    """The options of `predict`."""


def predict_parser() -> OptionsParser[PredictOptions]:
    """Returns the parser of `predict`."""
    return OptionsParser(PredictOptions, "keyjoin predict", 'Answers {"instances": […]} with {"predictions": […]}.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayOptions(TrustOptions, FieldOptions, TerminalOptions):
    """The options of `replay`."""

    run: str = _run("the --output of the run")
    rows: str | None = flag(
        kinds.PATH,
        "fixed rows: lines like those of dead letters; keyjoin reads key and row",
        metavar="FILE",
        brief="fixed rows: lines like those of dead letters",
    )
    model: str | None = flag(
        kinds.MODEL,
        "another model with the same predictions (default: the run's own, unchanged)",
        metavar="DIR",
        brief="another model (default: the run's own, unchanged)",
    )
    constant: Mapping[str, str] = flag(
        kinds.CONSTANTS, CONSTANT_HELP, metavar="INPUT=VALUE", brief="one value of a model input for all rows"
    )


def replay_parser() -> OptionsParser[ReplayOptions]:
    """Returns the parser of `replay`."""
    return OptionsParser(
        ReplayOptions,
        "keyjoin replay",
        "Scores the dead letters of a run again, and writes the rows that now succeed into their parts.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareOptions(TerminalOptions):
    """The options of `compare`."""

    tolerance: Mapping[str, Tolerance] = flag(
        kinds.TOLERANCES,
        "how far two values may differ and count as the same, for all predictions or for one, which is then named: "
        "1e-5, score=1e-5; with %% relative to the larger value: score=0.1%% (default: values are equal; NaN equals "
        "NaN)",
        metavar="[NAME=]VALUE",
        brief="how far values may differ: 1e-5, score=0.1%",
    )
    json: bool = flag(SWITCH, "print all figures as one JSON object", brief="print one JSON object")
    report: str | None = flag(
        kinds.PAGE,
        "HTML page to write, with the figures and with charts; it replaces an earlier page (default: none)",
        metavar="FILE.html",
        brief="HTML page to write",
    )
    model_b: str | None = flag(
        kinds.MODEL,
        "another model: scores the rows of --input with --model and with this model, into temporary folders, with the "
        "flags of run",
        metavar="DIR",
        brief="another model, for the rows of --input",
    )


def compare_parser() -> OptionsParser[CompareOptions]:
    """Returns the parser of `compare`."""
    return OptionsParser(
        CompareOptions,
        "keyjoin compare",
        "Compares the predictions of two complete outputs over the same sources, or of two models.",
        usage="%(prog)s OUT_A OUT_B [flags]\n       %(prog)s --model DIR --model_b DIR --input GLOB [flags of run]",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PageOptions:
    """The options of `report`."""

    run: str = _run()
    report_rows: int | None = flag(
        kinds.whole(least=0),
        "joined rows that the report shows, at most 50; 0: no value, message or text of any row (default: as the run "
        "was given)",
        metavar="ROWS",
    )
    baseline: str | None = flag(
        kinds.PATH,
        "the --output of another finished run: shows how far features and predictions moved from it (default: the "
        "--baseline of the run)",
        metavar="DIR",
    )


def report_parser() -> OptionsParser[PageOptions]:
    """Returns the parser of `report`."""
    return OptionsParser(PageOptions, "keyjoin report", "Makes the report of an output again, and prints it as text.")


def parsers() -> Mapping[str, OptionsParser[Any]]:
    """Returns the parser of each command that has flags."""
    return {
        "run": run_parser("keyjoin run"),
        "check": check_parser("keyjoin check"),
        "config": run_parser("keyjoin config"),
        "replay": replay_parser(),
        "verify": verify_parser(),
        "compare": compare_parser(),
        "report": report_parser(),
        "inspect": inspect_parser(),
        "wrap": wrap_parser(),
        "predict": predict_parser(),
    }
