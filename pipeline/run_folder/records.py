"""Encodes and decodes the records of a run, `_keyjoin/job.json` and `_keyjoin/manifest.json`, as typed structs.

Decoding is strict, because a file in an output folder may be edited, cut off, or written by another program. A text
that is not exactly a record of this version raises a ValueError. Other modules use the structs, and look up no field
by its name.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import msgspec

from pipeline.options.error_limits import ErrorLimits
from pipeline.options.groups import MAX_CHUNK_BYTES
from pipeline.options.run_options import RunOptions, command, parse_run
from pipeline.plan.batch_dependence import Verdict
from pipeline.report.drift import Drift
from pipeline.run_folder.ledger import Totals
from pipeline.run_folder.names import JOB, MANIFEST, PARTS, SOURCES, STATISTICS
from transforms.errors import RunError
from transforms.formats import FORMATS
from transforms.formats.spec import FormatSpec
from transforms.model_safety.op_kinds import Kind
from transforms.records import Count, Feature
from transforms.storage import files
from transforms.storage.files import Written

SCHEMA_VERSION = 8
VERSION_FIELD = "schema_version"

Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
RunId = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{12}\Z")]
Crc32c = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{8}\Z")]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
Difference = Annotated[float, msgspec.Meta(ge=0)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e300)]
Status = Literal["complete", "over the error limit"]
OVER_ERROR_LIMIT: Status = "over the error limit"  # more bad rows than the limit allows; there is no `_SUCCESS`
COMPLETE: Status = "complete"
BatchSize = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
ChunkBytes = Annotated[int, msgspec.Meta(ge=1, le=MAX_CHUNK_BYTES)]
ChunkRows = Annotated[int, msgspec.Meta(ge=1, le=MAX_CHUNK_BYTES)]


class OtherVersionError(ValueError):
    """The record was written by another version of keyjoin."""


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of all records: immutable, and without unknown fields."""


class Fed(_Strict, frozen=True, kw_only=True, omit_defaults=True):
    """The record of a feature that feeds a model input, see `transforms.records.Feature`."""

    dtype: str
    shape: tuple[Count | None, ...]
    fields: tuple[str, ...]
    is_base64: bool = False
    strict: bool = False
    pad: str | None = None
    inside: tuple[tuple[str, ...], ...] = ()
    missing: tuple[str | None, ...] = ()
    ragged_rank: Count = 0
    is_sparse: bool = False
    in_folder: tuple[bool, ...] = ()

    @classmethod
    def of(cls, feature: Feature) -> "Fed":
        """Makes the record of a feature."""
        return cls(**{name: value for name, value in feature._asdict().items() if name != "name"})

    def feature(self, name: str) -> Feature:
        """Makes the feature that feeds the input `name`."""
        return Feature(name, **msgspec.structs.asdict(self))


class Op(_Strict, frozen=True, kw_only=True):
    """An op that does more than compute, see `transforms.model_safety.model_ops.Finding`."""

    kind: Kind
    op: str
    node: str
    function: str
    part: str
    files: tuple[str, ...]
    times: Count


class Ops(_Strict, frozen=True, kw_only=True):
    """The ops of a model that do more than compute, and the verdict on them."""

    verdict: Literal["computes only", "allowed", "warned"]
    policy: Literal["deny", "warn", "allow"] | None
    findings: tuple[Op, ...]


class BatchDependence(_Strict, frozen=True, kw_only=True):
    """What predictions depend on besides their own row, see `pipeline.plan.batch_dependence.Dependence`."""

    verdict: Verdict
    output: str | None
    expected: str | None
    found: str | None
    rows: tuple[Count, ...]


class ModelFiles(_Strict, frozen=True, kw_only=True):
    """The path of a model, and the sha256 of its files."""

    path: str
    sha256: Sha256


class UsedModel(ModelFiles, frozen=True, kw_only=True):
    """A model, and the features that feed its inputs."""

    inputs: dict[str, Fed]


class LoadedModel(UsedModel, frozen=True, kw_only=True):
    """A loaded model, and how it is called.

    Attributes:
        ops: Its ops that do more than compute.
        signature: The name of its signature.
        key_input: The input that takes the key, or None.
        key_outputs: Output that returns the key -> whether only its last column is the key.
        predictions: Output -> field of the output row.
        output_shapes: Output -> its sizes without the batch dimension; None for an unknown rank.
        output_dtypes: Output -> TensorFlow's name of its dtype.
        batch_size: Most rows of one model call.
    """

    ops: Ops
    signature: str
    key_input: str | None
    key_outputs: dict[str, bool]
    predictions: dict[str, str]
    output_shapes: dict[str, tuple[Count | None, ...] | None]
    output_dtypes: dict[str, str]
    batch_dependence: BatchDependence
    batch_size: BatchSize
    chunk_bytes: ChunkBytes
    chunk_rows: ChunkRows | None


class Run(_Strict, frozen=True, kw_only=True):
    """Identifies a run on a remote runner among the runs of its folder.

    Attributes:
        id: The run's id. The graph of the run holds it too, and the job has it as a label.
        name: The name of the job, on Dataflow.
        project: The project of the job, on Dataflow.
        region: The region of the job, on Dataflow.
    """

    id: RunId
    name: str | None = None
    project: str | None = None
    region: str | None = None


class Replay(_Strict, frozen=True, kw_only=True):
    """One replay of a run."""

    model: UsedModel
    versions: dict[str, str]
    rows_sha256: Sha256 | None
    dead_letters: Count
    joined: Count


class Audit(_Strict, frozen=True, kw_only=True):
    """The result of `--audit`: random rows that were scored alone after the run.

    Attributes:
        rows: How many rows were scored.
        equal: How many have exactly the prediction in their part.
        close: How many have it but for the last digits, see `transforms.scoring.rescore.agree`.
        largest_difference: The largest absolute difference between finite floats.
    """

    rows: Count
    equal: Count
    close: Count
    largest_difference: Difference


class Settings(_Strict, frozen=True, kw_only=True):
    """The settings that an output depends on, as far as they are known before the model is loaded.

    The sources are not among them.

    Attributes:
        options: The options of the run.
        format: The format of the input and of the parts.
        model: The model.
        versions: The versions of keyjoin, Python, and the packages that the output depends on.
    """

    options: RunOptions
    format: FormatSpec
    model: ModelFiles
    versions: dict[str, str]


class Estimate(_Strict, frozen=True, kw_only=True):
    """The estimate that a run makes at its start, beside which the manifest has what the run took.

    Attributes:
        seconds: The duration of the run.
        memory: Bytes of memory of a local run; None for a remote runner, or if it is not known.
        output_bytes: The size of all parts.
    """

    seconds: Seconds
    memory: Count | None
    output_bytes: Count


Range = tuple[Amount, Amount]  # the least and the most that is expected


class JobCost(_Strict, frozen=True, kw_only=True):
    """What a job on Dataflow takes. A range is the least and the most that is expected.

    Attributes:
        workers: The number of workers.
        machine_type: Their machine type.
        hours: The duration of the job.
        vcpu_hours: The vCPUs of all workers, for the duration of the job.
        price: The price of all; None if the price of an item is unknown.
        currency: The currency of the price.
        unknown: The items without a price.
        prices: Where the prices are from, with their date.
        fed_share: The share of the accelerators' peak that the rows can feed, see `pipeline.job.cost.fed_share`; None
            without an accelerator, and if it is unknown.
    """

    workers: Count
    machine_type: str
    hours: Range
    vcpu_hours: Range
    price: Range | None
    currency: str
    unknown: tuple[str, ...]
    prices: str
    fed_share: Amount | None = None


class LoadedSettings(Settings, frozen=True, kw_only=True, omit_defaults=True):
    """The settings with the loaded model, and what else a run knows at its start.

    Attributes:
        model: The loaded model.
        lineage: The ids of the runs that scored the rows, as `--lineage` writes them: the run's, then those of its
            additions and replays. Empty without it.
        estimate: What the run was expected to take; None if its first rows could not be measured.
        cost: What the job was expected to take on Dataflow; None on other runners.
        run: The identity of a run on a remote runner, or of one that replaces an output.
        replays: The replays so far.
    """

    model: LoadedModel
    lineage: tuple[RunId, ...] = ()
    estimate: Estimate | None = None
    cost: JobCost | None = None
    run: Run | None = None
    replays: tuple[Replay, ...] = ()

    def settings(self) -> "LoadedSettings":
        """Returns only the settings of a record."""
        return LoadedSettings(**{name: getattr(self, name) for name in LoadedSettings.__struct_fields__})


class Job(LoadedSettings, frozen=True, kw_only=True, omit_defaults=True):
    """`_keyjoin/job.json`, the record of a run that has begun.

    Attributes:
        sources_sha256: The sha256 of the list of planned sources, which is also the name of the list.
    """

    sources_sha256: Sha256


class Listed(_Strict, frozen=True, kw_only=True):
    """The size of a list in bytes, and its crc32c in hexadecimal digits."""

    bytes: Count
    crc32c: Crc32c


class Lists(_Strict, frozen=True, kw_only=True, rename={"parts": PARTS, "sources": SOURCES, "statistics": STATISTICS}):
    """The lists of parts and of sources beside a manifest, and the statistics of all rows."""

    parts: Listed
    sources: Listed
    statistics: Listed

    def items(self) -> Iterator[tuple[str, Written]]:
        """Yields the name of each file, with its size and checksum."""
        for name, listed in ((PARTS, self.parts), (SOURCES, self.sources), (STATISTICS, self.statistics)):
            yield name, Written(listed.bytes, int(listed.crc32c, 16))


Point = tuple[Seconds, Count, Count]


class Measured(_Strict, frozen=True, kw_only=True):
    """What the attempt that completed a run measured on this machine. Earlier attempts are not included.

    Attributes:
        startup_seconds: Seconds from the start of the command until the first chunk could start.
        timeline: At most 120 points: seconds since the start of the command, rows scored until then, and their bytes
            in the sources.
        peak_memory: The most bytes that keyjoin's process and the model's process had resident, added; None if the
            system does not tell.
    """

    startup_seconds: Seconds
    timeline: Annotated[tuple[Point, ...], msgspec.Meta(max_length=120)]
    peak_memory: Count | None


class Manifest(LoadedSettings, frozen=True, kw_only=True, omit_defaults=True):
    """`_keyjoin/manifest.json`, the record of a run that has ended.

    Attributes:
        status: `complete`, or `over the error limit` for a run with more bad rows than its limit.
        totals: The ledger.
        files: The lists of parts and of sources.
        skipped: Input files that were skipped because their names mark them as no data.
        seconds: The duration of the run.
        audit: The result of `--audit`; None without it, and after a replay.
        measured: What was measured; None for a run on a remote runner.
        drift: How far features and predictions moved from `--baseline`; None without it, and if it cannot be read.
    """

    status: Status
    totals: Totals
    files: Lists
    skipped: tuple[str, ...]
    seconds: Seconds
    audit: Audit | None = None
    measured: Measured | None = None
    drift: tuple[Drift, ...] | None = None


Record = TypeVar("Record", Job, Manifest)


def to_json(value: Any) -> Any:
    """Converts a record, or a part of one, to dicts, lists and plain values."""
    return json.loads(json.dumps(msgspec.to_builtins(value, str_keys=True, enc_hook=_encode_other)))


def encode(record: Job | Manifest) -> bytes:
    """Encodes a record as the text of its file."""
    return as_text({VERSION_FIELD: SCHEMA_VERSION, **to_json(record)})


def as_text(document: dict[str, Any]) -> bytes:
    """Encodes JSON as the text of a whole file."""
    return json.dumps(document, indent=1, ensure_ascii=True).encode() + b"\n"


def decode(text: bytes, kind: type[Record]) -> Record:
    """Decodes the record of a text.

    Raises:
        OtherVersionError: The text is a record of another version of keyjoin.
        ValueError: The text is no record.
    """
    if len(text) > files.SMALL_BYTES:
        raise ValueError(f"it has more than {files.SMALL_BYTES:,} bytes, and no run writes so many")
    try:
        document = json.loads(text, parse_constant=_refuse)
        version = document.pop(VERSION_FIELD, None) if isinstance(document, dict) else None
        if type(version) is not int:  # `isinstance` would accept a bool
            raise ValueError(f"it has no {VERSION_FIELD}")
        if version != SCHEMA_VERSION:
            raise OtherVersionError(f"it has {VERSION_FIELD} {version}, not {SCHEMA_VERSION}")
        found: Record = msgspec.convert(document, kind, str_keys=True, dec_hook=_decode_other)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ValueError(str(error)) from error
    _check_options(found.options, document["options"])
    for path in (found.model.path, *(replay.model.path for replay in found.replays)):
        _check_words([path])
    for name in (found.format.name, found.format.of_parts.name):
        if name not in FORMATS:
            raise ValueError(f"there is no format {name!r}")
    if (found.model.key_input is None) != (not found.model.key_outputs):
        raise ValueError("it has a key_input or key_outputs without the other")
    return found


_NAMES: Mapping[type, str] = {Job: JOB, Manifest: MANIFEST}


def read(output: str, kind: type[Record]) -> Record | None:
    """Reads the record of an output folder; None if there is none.

    Raises:
        RunError: The record is damaged, or another version of keyjoin wrote it.
    """
    path = files.join(output, _NAMES[kind])
    text = files.read_small(path)
    try:
        return None if text is None else decode(text, kind)
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); run again with --overwrite") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _check_options(options: RunOptions, given: dict[str, Any]) -> None:
    """Refuses options that no command line gives.

    Their types are right, but a value is out of range, or is spelled as keyjoin never spells it.
    """
    unknown = given.keys() - {field.name for field in dataclasses.fields(RunOptions)}
    if unknown:
        raise ValueError(f"there is no option {min(unknown)}")
    alike = dataclasses.replace(options, overwrite=False, incremental=False)
    words = command(options, options.output)
    _check_words(words)
    if parse_run(words[2:], "keyjoin run") != (alike, []):
        raise ValueError("no command line gives its options")


def _check_words(words: Sequence[str]) -> None:
    """Refuses texts that cannot be a word of a command line, and so cannot be a path."""
    for word in words:
        if "\0" in word:
            raise ValueError(f"{word!r} has a NUL character")
        os.fsencode(word)


def _encode_other(value: Any) -> Any:
    if isinstance(value, ErrorLimits):
        return value.texts()
    raise NotImplementedError(type(value))


def _decode_other(kind: type, value: Any) -> Any:
    if kind is ErrorLimits:
        return ErrorLimits.recorded(msgspec.convert(value, dict[str, str]))
    raise NotImplementedError(kind)
