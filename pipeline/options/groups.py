"""Declares the flags of the commands in groups.

The options of a command inherit the groups that it needs, and a function takes only the groups that it reads. To add a
flag, add a field to one of these classes, see `pipeline.options.flag`.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from pipeline.options import kinds
from pipeline.options.error_limits import ErrorLimits
from pipeline.options.flag import SWITCH, flag
from transforms.mapping import name_lists
from transforms.model_safety.model_ops import POLICIES

BATCH_DEPENDENCE = REFUSE, WARN, ALLOW = "refuse", "warn", "allow"
UNION = "union"
MAX_CHUNK_BYTES = 1 << 30  # one Arrow buffer and one Beam element hold this much without problems
CONSTANT_HELP = "gives a model input one value for all rows: a number, true, false, text, or a JSON list"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeOptions:
    """Python modules to import with a model; every command that loads a model has these flags."""

    topic: ClassVar[str] = "Trust in the model"
    model_libraries: tuple[str, ...] = flag(
        kinds.MODULES,
        "Python modules that register the model's own ops, such as tensorflow_text; keyjoin imports them, which runs "
        "their code",
        metavar="A,B",
    )
    custom_objects: tuple[str, ...] = flag(
        kinds.MODULES,
        "Python modules that define own layers of a .keras file, also in the current folder; keyjoin imports them, "
        "which runs their code",
        metavar="A,B",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrustOptions(CodeOptions):
    """How far keyjoin trusts a model; every command that accepts any model has these flags."""

    topic: ClassVar[str] = "Trust in the model"
    model_ops: str | None = flag(
        kinds.choice(*POLICIES),
        "what keyjoin does with a model that does more than compute: deny refuses it, warn warns, allow prints nothing "
        "(default: refuse ops that write files, use the network or are unknown; warn of the others)",
        may_change=True,
    )
    model_sha256: str | None = flag(
        kinds.SHA256,
        "accept only the model with this sha256, which keyjoin inspect prints",
        metavar="HEX",
        may_change=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions(TrustOptions):
    """Which model and signature to call, and how."""

    topic: ClassVar[str] = "Model"
    model: str = flag(
        kinds.MODEL,
        "SavedModel folder, or a .keras file",
        required=True,
        metavar="DIR",
        may_change=True,
        brief="SavedModel folder, or a .keras file",
    )
    signature: str = flag(
        kinds.TEXT,
        "signature to call (default: %(default)s)",
        default="serving_default",
        metavar="NAME",
        brief="signature to call (default: serving_default)",
    )
    key_input: str | None = flag(
        kinds.TEXT,
        "model input that takes the key (default: the one called key, if the model returns it and no prediction "
        "changes with it)",
        metavar="NAME",
    )
    constant: Mapping[str, str] = flag(
        kinds.CONSTANTS, CONSTANT_HELP, metavar="INPUT=VALUE", brief="one value of a model input for all rows"
    )
    tf32: bool = flag(
        SWITCH,
        "let a GPU round the factors of float32 products to 10 bits, as TensorFlow does by default: faster, less exact",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """Which files a run reads, and which folder it writes."""

    topic: ClassVar[str] = "Input and output"
    input: tuple[str, ...] = flag(
        kinds.INPUTS,
        "files, globs or folders; may be repeated; or - for standard input",
        required=True,
        metavar="GLOB",
        may_change=True,
        brief="files, globs or folders; - is standard input",
    )
    output: str = flag(
        kinds.OUTPUT,
        "folder for the joined rows; new or empty; or - for standard output",
        required=True,
        metavar="DIR",
        may_change=True,
        brief="new or empty folder; - is standard output",
    )
    limit: int | None = flag(
        kinds.whole(),
        "score only the first N rows of the input, in a run of their own (default: all rows)",
        metavar="N",
        brief="score only the first N rows",
    )
    overwrite: bool = flag(
        SWITCH,
        "replace the output of an earlier run, finished or not",
        in_command=False,
        may_change=True,
        brief="replace the output of an earlier run",
    )
    incremental: bool = flag(
        SWITCH,
        "score only files that are new since the earlier run, and add their parts",
        in_command=False,
        may_change=True,
        brief="score only files that are new",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FieldOptions:
    """Which fields of a row feed the model's inputs."""

    topic: ClassVar[str] = "From rows to the model"
    features: tuple[str | name_lists.Path, ...] = flag(
        kinds.COLUMNS,
        "scalar fields of the row that make up one matrix input, a.b.c inside of objects too; or a JSON array, "
        '["A", ["a", "b.c"]]',
        metavar="A,B,C",
        brief="fields that make up one matrix input",
    )
    input_map: Mapping[str, str | name_lists.Path] = flag(
        kinds.FIELDS,
        "feeds a model input from a field of another name, or from a.b.c inside objects; or a JSON object, "
        '{"INPUT": "FIELD", "OTHER": ["a", "b.c"]}',
        metavar="INPUT=FIELD",
        brief="feed a model input from a field",
    )
    missing: Mapping[str, str] = flag(
        kinds.VALUES,
        "gives a value, such as 0 or nan, to a field that is missing or null; or a JSON object of such values "
        "(default: such a row is a dead letter)",
        metavar="FIELD=VALUE",
        brief="value for a field that is missing or null",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValueOptions:
    """How keyjoin converts values of rows to the types and shapes of the model's inputs."""

    topic: ClassVar[str] = "From rows to the model"
    pad: tuple[str, ...] = flag(
        kinds.PADDING,
        "pads a model input of open size to the longest row of each call, with this value (default: calls have rows "
        "of one shape, without padding)",
        metavar="INPUT=VALUE",
    )
    strict_types: bool = flag(
        SWITCH,
        "accept only JSON numbers, and for integers only those without a point or exponent (default: also strings "
        "and whole floats, as in proto3's JSON mapping)",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputOptions(FieldOptions, ValueOptions):
    """How a run reads rows, and which of their fields feed the model."""

    topic: ClassVar[str] = "Format of the input"
    format: str | None = flag(
        kinds.FORMAT,
        "format of the input files (default: from their names)",
        metavar="NAME",
        brief="format of the input (default: from the names)",
    )
    record_field: str | None = flag(
        kinds.TEXT,
        "name of a field that holds each whole TFRecord record, as bytes, for a model input of strings: images, own "
        "protos (default: a record is a tf.train.Example, and its features are the fields)",
        metavar="NAME",
    )
    columns: tuple[str, ...] = flag(
        kinds.NAMES,
        "names of the columns of CSV or TSV files without a header, in order (default: the first record names them)",
        metavar="A,B,C",
    )
    delimiter: str | None = flag(
        kinds.DELIMITER,
        "character between the cells of CSV or TSV, or tab (default: a comma, a tab for TSV)",
        metavar="CHAR",
    )
    quote: str | None = flag(
        kinds.QUOTE,
        'character around cells of CSV or TSV that hold delimiters or newlines, or none (default: ")',
        metavar="CHAR",
    )
    null_values: tuple[str, ...] = flag(
        kinds.NAMES,
        "cells of CSV or TSV that hold no value, besides empty cells, such as NA,NULL; they stay in the output",
        metavar="A,B",
        brief="cells of CSV or TSV without a value: NA,NULL",
    )
    max_row_bytes: int | None = flag(
        kinds.size(MAX_CHUNK_BYTES),
        "longest record of CSV or TSV; a longer one fails the run, because a stray quote may have opened it (default: "
        "67108864)",
        metavar="SIZE",
    )
    schema_drift: str = flag(
        kinds.choice(REFUSE, UNION),
        "what keyjoin does if files have other columns, other types or another order than the first file: refuse "
        "them, or union, where each part has the columns of its file, or with --output_format the columns of all files "
        "(default: %(default)s)",
        default=REFUSE,
    )
    partition_fields: bool = flag(
        SWITCH,
        "the folders of a file, such as date=2026-11-27, give its rows fields that may feed the model; parts stay in "
        "folders of the same names",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """In which format, and with which fields of a row and which predictions, a run writes its parts."""

    topic: ClassVar[str] = "Format of the output"
    output_format: str | None = flag(
        kinds.FORMAT,
        "format of the parts (default: that of the input, whose rows are then copied)",
        metavar="NAME",
        brief="format of the parts (default: as the input)",
    )
    output_fields: tuple[str, ...] = flag(
        kinds.NAMES,
        "what to write, in this order: row (the whole row and all predictions), or names of the row's fields, of "
        "predictions, and key (default: row)",
        default=("row",),
        metavar="NAMES",
        brief="what to write: row, key, names of fields",
    )
    key_field: str | None = flag(
        kinds.TEXT,
        "field of the row to write as key, with key in --output_fields (default: keyjoin's key)",
        metavar="FIELD",
    )
    include_fields: tuple[str, ...] = flag(
        kinds.NAMES, "write only these fields of the row", metavar="A,B", brief="write only these fields of the row"
    )
    exclude_fields: tuple[str, ...] = flag(
        kinds.NAMES, "write all fields of the row except these", metavar="A,B", brief="write all fields except these"
    )
    prediction_logs: bool = flag(
        SWITCH,
        "for TFRecord: write PredictionLogs as BulkInferrer of TFX does, with the record as the request and the "
        "predictions as the response (default: tf.train.Examples)",
    )
    prediction_prefix: str = flag(
        kinds.TEXT,
        "prefix for the names of predictions, for rows that have fields of these names",
        default="",
        metavar="TEXT",
    )
    lineage: bool = flag(
        SWITCH,
        "add to each output row its key, the id of the run that scored it (keyjoin_run), and the sha256 of the model "
        "(keyjoin_model)",
    )
    rename: Mapping[str, str] = flag(
        kinds.RENAMES,
        "gives a prediction another name",
        metavar="PREDICTION=NAME",
        brief="give a prediction another name",
    )
    scalars: bool = flag(
        SWITCH,
        "in JSON Lines, write a prediction of one value a row as 8.06 instead of [8.06]; CSV, Parquet and Avro always "
        "have it so",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """How a run calls the model, and how large a chunk of a file is."""

    topic: ClassVar[str] = "Model calls"
    batch_size: int | None = flag(
        kinds.whole(1 << 24),
        "most rows of a model call (default: from the size of a row)",
        metavar="ROWS",
        brief="most rows of a model call",
    )
    batch_dependence: str = flag(
        kinds.choice(*BATCH_DEPENDENCE),
        "what keyjoin does if a prediction depends on the other rows of its batch, or differs from call to call: "
        "refuse the model, warn, or allow it (default: %(default)s)",
        default=WARN,
        may_change=True,
    )
    dedup: bool = flag(
        SWITCH,
        "score rows of a chunk that have equal inputs once, and give all of them the prediction; for rows that repeat "
        "and slow models",
    )
    isolate: bool = flag(
        SWITCH,
        "restart the model's process after a crash; rows that crash it become dead letters",
        may_change=True,
        brief="restart the model's process after a crash",
    )
    batch_timeout: float | None = flag(
        kinds.SECONDS,
        "with --isolate: longest time of a model call (default: no limit)",
        metavar="SECONDS",
        may_change=True,
    )
    audit: int | None = flag(
        kinds.whole(),
        "after the run, score this many random rows again, each alone, and fail the run if a prediction in a part is "
        "not the one of its row (default: none)",
        metavar="ROWS",
        may_change=True,
        brief="after the run, check so many rows, each alone",
    )
    chunk_bytes: int | None = flag(
        kinds.size(MAX_CHUNK_BYTES),
        "about how much of a file becomes one part (default: 67108864; less if predictions are large)",
        metavar="SIZE",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalOptions:
    """How much memory a run on this machine may use."""

    topic: ClassVar[str] = "Memory on this machine"
    wave_bytes: int = flag(
        kinds.size(),
        "about how many bytes of input and predictions a local run scores before it writes, which limits its memory; "
        "an input of less than twice as much is scored at once (default: %(default)s)",
        default=1 << 28,
        metavar="SIZE",
        in_template=False,
        may_change=True,
    )
    max_memory: int | None = flag(
        kinds.size(),
        "memory limit of a local run, both processes together; keyjoin refuses a run that needs more (default: no "
        "limit)",
        metavar="SIZE",
        in_template=False,
        may_change=True,
        brief="refuse a run that needs more, such as 4GB",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TerminalOptions:
    """What a run prints."""

    topic: ClassVar[str] = "Terminal"

    progress: str = flag(
        kinds.choice("auto", "bar", "lines", "json", "off"),
        "how standard error shows the progress: bar, for a terminal; lines of key=value from time to time; json, one "
        "event a line; or off (default: auto, which is bar on a terminal, and lines otherwise or with CI set)",
        default="auto",
        metavar="HOW",
        in_template=False,
        may_change=True,
        brief="auto, bar, lines, json or off (default: auto)",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CostOptions:
    """How long a run may take, and what it may cost."""

    topic: ClassVar[str] = "Time and cost"
    max_hours: float | None = flag(
        kinds.AMOUNT,
        "longest time of a run on this machine or on Dataflow; keyjoin refuses a run that it estimates to take longer "
        "(default: no limit)",
        metavar="HOURS",
        may_change=True,
        brief="refuse a run that takes longer, as estimated",
    )
    max_cost: float | None = flag(
        kinds.AMOUNT,
        "highest price of a job on Dataflow, in the currency of the prices; keyjoin refuses a job that it estimates to "
        "cost more (default: no limit)",
        metavar="AMOUNT",
        may_change=True,
        brief="refuse a job on Dataflow that costs more",
    )
    prices: str | None = flag(
        kinds.PATH,
        "JSON file with your prices of Dataflow, as keyjoin check shows them (default: list prices, with their date)",
        metavar="FILE",
        in_template=False,
        may_change=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BadRowOptions:
    """How many rows may be bad, which predictions make a row bad, and where bad rows are written."""

    topic: ClassVar[str] = "Bad rows"
    max_bad_rows: ErrorLimits = flag(
        kinds.ERROR_LIMITS,
        "error limits: bad rows that a complete run may have, a number, or a ratio, 0.05 or 5%% (default: 0.01), and "
        "those of a reason, `0.01,model_error=0`; may be repeated",
        metavar="LIMITS",
        may_change=True,
        brief="most bad rows: 10, 0.01, 5% (default: 0.01)",
    )
    bad_rows: str = flag(
        kinds.choice("apart", "null"),
        "where bad rows are written: apart, in _keyjoin/dead_letters/; null: also in the parts, in their place, with "
        "null predictions and an error (default: %(default)s)",
        default="apart",
        brief="where bad rows are written (default: apart)",
    )
    error_field: str | None = flag(
        kinds.TEXT,
        "with --bad_rows=null: name of the field with the error of a row (default: error)",
        metavar="NAME",
    )
    canary: int | None = flag(
        kinds.whole(),
        "score the first N rows before the run, and end with exit code 1 if they exceed the error limits or an output "
        "is the same for all of them (default: no such rows)",
        metavar="N",
        may_change=True,
        brief="score N rows first, and stop if they fail",
    )
    non_finite: str = flag(
        kinds.choice("reject", "keep"),
        "what keyjoin does with NaN and infinite predictions: reject makes the row a dead letter, keep writes null in "
        "JSON (default: %(default)s)",
        default="reject",
        brief="NaN and infinite predictions (default: reject)",
    )

    @property
    def written_error_field(self) -> str | None:
        """The field of a part that holds the error of a bad row; None if parts have no bad rows."""
        return (self.error_field or "error") if self.bad_rows == "null" else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """How the result of a run is described, and which earlier run it is compared with."""

    topic: ClassVar[str] = "Report"

    baseline: str | None = flag(
        kinds.PATH,
        "the --output of a finished run: measures how far the distributions of features and predictions moved from "
        "that run, prints and records it (default: none)",
        metavar="DIR",
        may_change=True,
        brief="earlier output to compare distributions with",
    )
    report_rows: int = flag(
        kinds.whole(least=0),
        "joined rows that _keyjoin/report.html shows, at most 50; 0 for private data: the report and what the run "
        "prints then show no value, message or text of any row (default: %(default)s)",
        default=5,
        metavar="ROWS",
        may_change=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoteOptions:
    """Options that only a run on a remote runner has."""

    topic: ClassVar[str] = "Remote runners"
    accelerator: str | None = flag(
        kinds.ACCELERATOR,
        "accelerator of the workers that predict, and no others: type:nvidia-l4;count:1 (default: none)",
        metavar="HINT",
        brief="such as type:nvidia-l4;count:1",
    )
    detach: bool = flag(
        SWITCH,
        "on Dataflow: end the command once the job is submitted; the job commits by itself, and the same command "
        "follows it",
        in_template=False,
        may_change=True,
        brief="on Dataflow: do not wait for the job",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigOptions:
    """A file that has the other flags. keyjoin reads it before it reads the other flags."""

    topic: ClassVar[str] = "Job file"

    config: str | None = flag(
        kinds.CONFIG,
        "file with flags, .yaml or .toml, or the output folder of a run to repeat; a flag of the command line beats it",
        metavar="FILE",
        brief="file with flags, or output of a run to repeat",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerbosityOptions:
    """How much every command prints. keyjoin reads these flags before it reads those of the command."""

    topic: ClassVar[str] = "Messages"

    quiet: bool = flag(
        SWITCH,
        "print only warnings and errors, also no progress; rows, predictions, JSON, job files and scripts are still "
        "written",
        short="-q",
        in_template=False,
        brief="print only warnings and errors",
    )
    verbose: bool = flag(
        SWITCH,
        "also print the messages of Beam and TensorFlow that keyjoin hides otherwise",
        short="-v",
        in_template=False,
        brief="also print messages of Beam and TensorFlow",
    )
