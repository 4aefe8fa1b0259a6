"""Writes and reads the manifest, which is the JSON record of a run, and `_SUCCESS`, which is written last.

The size of `_keyjoin/manifest.json` does not depend on the number of parts. Parts and sources are listed in two
separate files, one a line. keyjoin writes and reads the list of parts without holding all of it in memory.
"""

import hashlib
import importlib.metadata
import itertools
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from pipeline import VERSION
from pipeline.model import check_model
from pipeline.options.flag import flags_of
from pipeline.options.run_options import RunOptions
from pipeline.plan.batch_dependence import Dependence
from pipeline.plan.chunk_size import ChunkSize
from pipeline.plan.layout import RUN
from pipeline.report.drift import Drift, drifts
from pipeline.run_folder import ledger, records, statistics
from pipeline.run_folder.names import JOB, MANIFEST, PARTS, PLANNED, SOURCES, STATISTICS, SUCCESS, TEMP
from pipeline.run_folder.records import (
    Audit,
    BatchDependence,
    Fed,
    Job,
    Listed,
    Lists,
    LoadedModel,
    LoadedSettings,
    Manifest,
    ModelFiles,
    Ops,
    Settings,
)
from pipeline.terminal.warning import errors_as_warnings
from transforms.errors import RunError
from transforms.formats.spec import FormatSpec
from transforms.model_safety.model_ops import Finding
from transforms.predict import KeyedChunkHandler
from transforms.records import Layout, PartReceipt, Source
from transforms.statistics import Merging
from transforms.storage import files
from transforms.write_receipts import decode_object, encode, read_lines, read_receipts, to_record

PACKAGES = ("apache-beam", "tensorflow", "pyarrow", "numpy")


class Kept(NamedTuple):
    """The sizes and types that a run chose, so that a resumed run uses the same ones.

    Attributes:
        batch_size: Most rows of one model call.
        chunk: The size of a chunk.
        schema: If parts have another format than the sources: the types of a row's own fields, see `FormatSpec`.
    """

    batch_size: int
    chunk: ChunkSize
    schema: str = ""


def settings(options: RunOptions, spec: FormatSpec) -> Settings:
    """Collects the settings that an output depends on, as far as they are known before the model is loaded.

    The sources are not among them.

    Args:
        options: The options of the run.
        spec: The format of the input and of the parts.
    """
    versions = {
        "keyjoin": VERSION,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        **_module_versions((*options.model_libraries, *options.custom_objects)),
    }
    sha256 = check_model.identify(options.model, options.model_sha256)
    return Settings(
        options=options, format=spec, model=ModelFiles(path=options.model, sha256=sha256), versions=versions
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # The worker's image has TensorFlow without CUDA's kernels, which is a separate package.
        return importlib.metadata.version(f"{package}-cpu")


def _module_versions(modules: Sequence[str]) -> dict[str, str]:
    """Returns the versions of the packages that hold the modules. A module outside any package has no version."""
    if not modules:
        return {}
    packages = importlib.metadata.packages_distributions()
    names = {name for module in modules for name in packages.get(module.partition(".")[0], ())}
    return {name: importlib.metadata.version(name) for name in sorted(names)}


def with_contract(
    before: Settings,
    spec: FormatSpec,
    handler: KeyedChunkHandler,
    layout: Layout,
    chunk: ChunkSize,
    findings: Sequence[Finding],
    dependence: Dependence,
) -> LoadedSettings:
    """Adds the facts about the loaded model to the settings, and the format as it was planned."""
    contract = handler.contract
    model = LoadedModel(
        path=before.model.path,
        sha256=before.model.sha256,
        ops=msgspec.convert(check_model.document(findings, before.options.model_ops), Ops),
        signature=contract.signature,
        key_input=contract.key.name if contract.key else None,
        key_outputs={echo.output: echo.last_column for echo in contract.echoes},
        inputs={f.name: Fed.of(f) for f in handler.features},
        predictions=dict(layout.predictions),
        output_shapes={t.name: t.shape for t in contract.predictions},
        output_dtypes={t.name: t.dtype for t in contract.predictions},
        batch_dependence=msgspec.convert(dependence.document(), BatchDependence),
        batch_size=handler.batch_size,
        chunk_bytes=chunk.bytes,
        chunk_rows=chunk.rows,
    )
    return LoadedSettings(
        options=before.options,
        format=spec,
        model=model,
        versions=before.versions,
        lineage=tuple(value for name, value in layout.lineage if name == RUN),
    )


def run_id(settings: Settings, sources: Sequence[Source]) -> str:
    """Returns the id of a run that `--lineage` writes into rows: 12 hexadecimal digits of a sha256.

    It is that of the options that may change an output, the model's files and the sources. So the same command on the
    same files has the same id, and writes the same bytes, on each runner and after a resume.
    """
    options = records.to_json(settings.options)
    kept = {name: options[name] for name, flag in flags_of(RunOptions).items() if not flag.may_change}
    document = [kept, settings.model.sha256, [(one.path, one.size, *one.written) for one in sorted(sources)]]
    return hashlib.sha256(records.as_text({"": document})).hexdigest()[:12]


def kept_of(record: LoadedSettings) -> Kept:
    """Returns the sizes and types that a run recorded."""
    model = record.model
    return Kept(model.batch_size, ChunkSize(model.chunk_bytes, model.chunk_rows), record.format.schema)


def planned_path(temp: str, digest: str) -> str:
    """Returns the path of the list of planned sources.

    The list is named by its sha256, so `_keyjoin/job.json` never refers to the list of another run.
    """
    return files.join(temp, PLANNED, f"{digest}.jsonl")


def begin(output: str, settings: LoadedSettings, sources: Iterable[Source]) -> None:
    """Records the run that is about to start. `_keyjoin/job.json` marks the folder as the output of a run."""
    listed = b"".join(msgspec.json.encode(source._asdict()) + b"\n" for source in sources)
    digest = hashlib.sha256(listed).hexdigest()
    _write_anew(planned_path(files.join(output, TEMP), digest), listed)
    job = Job(**_fields(settings), sources_sha256=digest)
    _write_anew(files.join(output, JOB), records.encode(job))


def _fields(settings: LoadedSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in LoadedSettings.__struct_fields__}


def read_planned(temp: str, job: Job) -> list[Source] | None:
    """Reads the planned sources that `_keyjoin/job.json` refers to; None if their list is missing or not whole."""
    path = planned_path(temp, job.sources_sha256)
    found = files.read_small(path, sys.maxsize)  # one line for each source; there may be millions
    if found is None or hashlib.sha256(found).hexdigest() != job.sources_sha256:
        return None
    return list(read_sources(path))


def commit(
    output: str,
    settings: LoadedSettings,
    sources: Iterable[Source],
    skipped: Sequence[str],
    totals: ledger.Totals,
    seconds: float,
    *,
    success: bool,
    mark: str | None,
    keep: bool = False,
    audit: Audit | None = None,
    measured: records.Measured | None = None,
) -> None:
    """Records the result of a run: the lists of parts and of sources, the statistics, the manifest, then `_SUCCESS`.

    `_SUCCESS` holds the manifest's sha256. If the run is killed before `_SUCCESS` is written, it is unfinished, and a
    resumed run finds all parts finished. If it is killed after that, it is complete, even if `_keyjoin/job.json` and
    the temporary folder are still there.

    Args:
        output: Output folder.
        settings: The settings that the output depends on, see `with_contract`, and the replays.
        sources: The input files.
        skipped: Input files that were skipped because their names mark them as no data.
        totals: The ledger.
        seconds: The duration of the run.
        success: Whether no error limit is exceeded.
        mark: The name of the file that is written last; None to write no such file.
        keep: Whether to keep the files that a resume needs, see `clear`.
        audit: The result of `--audit`; None without it.
        measured: What was measured, if the run was on this machine.
    """
    written = write_lists(output, files.join(output, TEMP), sources)
    listed = {name: Listed(bytes=made.bytes, crc32c=f"{made.checksum:08x}") for name, made in written.items()}
    document = Manifest(
        **_fields(settings),
        status=records.COMPLETE if success else records.OVER_ERROR_LIMIT,
        totals=totals,
        files=Lists(parts=listed[PARTS], sources=listed[SOURCES], statistics=listed[STATISTICS]),
        skipped=tuple(skipped),
        seconds=round(seconds, 3),
        audit=audit,
        measured=measured,
        drift=_drift(output, settings.options.baseline),
    )
    text = records.encode(document)
    files.write_whole(files.join(output, MANIFEST), [text])
    if mark is not None:
        write_mark(files.join(output, mark), success_of(text))
    if keep:
        return
    # The result is already recorded, so a failure to remove these files is only a warning.
    with errors_as_warnings(f"{output} keeps {JOB} or {TEMP}, which the same command removes"):
        clear(output)


def _drift(output: str, baseline: str | None) -> tuple[Drift, ...] | None:
    """Compares the statistics of an output with those of `--baseline`. Prints a warning if that cannot be read."""
    if baseline is None:
        return None
    found = None
    with errors_as_warnings(f"drift from {baseline} is not measured"):
        base = statistics.read_statistics(baseline)
        if base is None:
            raise RunError(f"{baseline} has no {STATISTICS}")
        found = tuple(drifts(statistics.read_statistics(output) or (), base))
    return found


def write_mark(path: str, text: bytes) -> None:
    """Writes `_SUCCESS`, or `_keyjoin/ready` for a staged result.

    Raises:
        RunError: The file cannot be written, and is not there.
    """
    try:
        files.write_whole(path, [text])
    except RunError:
        # The file may be there in spite of the error. If it is, the run is complete.
        if files.read_small(path) != text:
            raise


def clear(output: str) -> None:
    """Removes the files that only a resume needs.

    `_keyjoin/job.json` marks a run that can be resumed, so it is removed before the temporary folder.
    """
    files.delete_tree(files.join(output, JOB))
    files.delete_tree(files.join(output, TEMP))


def success_of(text: bytes) -> bytes:
    """Returns the content of `_SUCCESS` for a manifest with the given text."""
    return records.as_text({"manifest_sha256": hashlib.sha256(text).hexdigest()})


def is_complete(output: str, mark: str = SUCCESS) -> bool:
    """Returns whether a folder has the file `mark`, such as `_SUCCESS`, and that file matches the manifest."""
    success = files.read_small(files.join(output, mark))
    if success is None:
        return False
    made = files.read_small(files.join(output, MANIFEST))
    return made is not None and success == success_of(made)


def write_lists(output: str, temp: str, planned: Iterable[Source]) -> dict[str, files.Written]:
    """Writes the lists of parts and of sources, one a line, and the statistics.

    All of them are made from the receipts in a run's temporary folder.
    """
    by_path = {source.path: source for source in planned}
    merging, sources = Merging(), list[bytes]()  # as many sources as the plan already holds in memory

    def parts() -> Iterator[bytes]:  # one receipt at a time, since a receipt has the statistics of its part
        for path, receipts in itertools.groupby(read_receipts(temp), key=lambda part: part.chunk.source):
            bare: list[PartReceipt] = []
            for part in receipts:
                statistics.add(merging, [part])
                bare.append(part._replace(statistics=()))
                yield encode(part)
            totals = ledger.total(bare)
            sources.append(msgspec.json.encode({**by_path[path]._asdict(), **msgspec.structs.asdict(totals)}))

    def counts() -> Iterator[bytes]:
        yield statistics.encode(merging.result())

    # In this order: writing the parts fills the others.
    lists = {PARTS: files.in_blocks(parts()), SOURCES: files.in_blocks(sources), STATISTICS: counts()}
    return {name: files.write_whole(files.join(output, name), made) for name, made in lists.items()}


def read_sources(path: str) -> Iterator[Source]:
    """Reads sources from a file with one source a line, such as `_keyjoin/sources.jsonl`.

    Raises:
        RunError: A line is damaged.
    """
    return read_lines(path, decode_source)


def decode_source(line: bytes) -> Source:
    """Decodes the source of a line.

    Raises:
        ValueError: The line holds no source.
    """
    totals = frozenset(ledger.Totals.__struct_fields__)  # also in each line of `_keyjoin/sources.jsonl`
    fields = {name: value for name, value in decode_object(line).items() if name not in totals}
    made: Source = to_record(Source, {"codec_suffix": None, "end": None, **fields})
    return made


def _write_anew(path: str, text: bytes) -> None:
    """Writes a file unless it already has the given text.

    The check avoids needless writes: on an object store, a failed write may destroy the earlier content.
    """
    if files.read_small(path, len(text)) != text:
        files.write_whole(path, [text])
