"""The manifest: the JSON record of a run; and `_SUCCESS`, which is written last.

`_keyjoin/manifest.json` is as small for a million parts as for one: parts and sources are in files of their own, a
line each, which are written and read without holding them all.
"""

import hashlib
import importlib.metadata
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from pipeline import VERSION
from pipeline.model import check_model
from pipeline.options.run_options import RunOptions
from pipeline.plan.batch_dependence import Dependence
from pipeline.plan.chunk_size import ChunkSize
from pipeline.run_folder import ledger, records
from pipeline.run_folder.names import JOB, MANIFEST, PARTS, PLANNED, SOURCES, SUCCESS, TEMP
from pipeline.run_folder.records import (
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
from pipeline.terminal.warning import only_told
from transforms.errors import RunError
from transforms.model_safety.model_ops import Finding
from transforms.predict import KeyedChunkHandler
from transforms.records import Layout, Source
from transforms.storage import files
from transforms.write_receipts import decode_object, encode, read_lines, read_receipts, to_record

PACKAGES = ("apache-beam", "tensorflow", "pyarrow", "numpy")


class Kept(NamedTuple):
    """What a run chose, so that a resumed run does the same.

    Attributes:
        batch_size: Rows of a call of the model.
        chunk: How large chunks are.
    """

    batch_size: int
    chunk: ChunkSize


def settings(options: RunOptions, name: str) -> Settings:
    """All that an output depends on except its sources, as far as it is known before the model is loaded.

    Args:
        options: What was asked for.
        name: The format of the input.
    """
    versions = {
        "keyjoin": VERSION,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        **_module_versions((*options.model_libraries, *options.custom_objects)),
    }
    sha256 = check_model.identify(options.model, options.model_sha256)
    return Settings(
        options=options, format=name, model=ModelFiles(path=options.model, sha256=sha256), versions=versions
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # The worker's image has TensorFlow without CUDA's kernels, which is a package of its own.
        return importlib.metadata.version(f"{package}-cpu")


def _module_versions(modules: Sequence[str]) -> dict[str, str]:
    """The versions of the packages that modules are in; a module outside of any package has none."""
    if not modules:
        return {}
    packages = importlib.metadata.packages_distributions()
    names = {name for module in modules for name in packages.get(module.partition(".")[0], ())}
    return {name: importlib.metadata.version(name) for name in sorted(names)}


def with_contract(
    before: Settings,
    handler: KeyedChunkHandler,
    layout: Layout,
    chunk: ChunkSize,
    findings: Sequence[Finding],
    dependence: Dependence,
) -> LoadedSettings:
    """Settings, with what is known of the model once it is loaded."""
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
        batch_dependence=msgspec.convert(dependence.document(), BatchDependence),
        batch_size=handler.batch_size,
        chunk_bytes=chunk.bytes,
        chunk_rows=chunk.rows,
    )
    return LoadedSettings(options=before.options, format=before.format, model=model, versions=before.versions)


def kept_of(model: LoadedModel) -> Kept:
    """The sizes that a run recorded of its model."""
    return Kept(model.batch_size, ChunkSize(model.chunk_bytes, model.chunk_rows))


def planned_path(temp: str, digest: str) -> str:
    """Where the list of planned sources is: under its sha256, so that `_keyjoin/job.json` never names another one."""
    return files.join(temp, PLANNED, f"{digest}.jsonl")


def begin(output: str, settings: LoadedSettings, sources: Iterable[Source]) -> None:
    """Writes what is about to run; with `_keyjoin/job.json` the folder is marked as a run's output."""
    listed = b"".join(msgspec.json.encode(source._asdict()) + b"\n" for source in sources)
    digest = hashlib.sha256(listed).hexdigest()
    _write_anew(planned_path(files.join(output, TEMP), digest), listed)
    job = Job(**_fields(settings), sources_sha256=digest)
    _write_anew(files.join(output, JOB), records.encode(job))


def _fields(settings: LoadedSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in LoadedSettings.__struct_fields__}


def read_planned(temp: str, job: Job) -> list[Source] | None:
    """The planned sources of an unfinished run, by its `_keyjoin/job.json`; None if their list is not there whole."""
    path = planned_path(temp, job.sources_sha256)
    found = files.read_small(path, sys.maxsize)  # a line a source, of which there may be millions
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
) -> None:
    """Writes what came of a run: parts, sources, the manifest, then `_SUCCESS` with the manifest's sha256.

    Killed before `_SUCCESS`, the run is unfinished, and all of its parts are found done; killed after it, it is
    complete, whatever is left of `_keyjoin/job.json` and the temporary folder.

    Args:
        output: Output folder.
        settings: All else that the output comes of, see `with_contract`, and what was replayed.
        sources: The input files.
        skipped: Files that are no data by their names.
        totals: The ledger.
        seconds: What it took.
        success: Whether no limit was exceeded.
        mark: The name of the file that is written last; None if there is none.
        keep: Whether what is needed to go on stays, see `clear`.
    """
    written = write_lists(output, files.join(output, TEMP), sources)
    listed = {name: Listed(bytes=made.bytes, crc32c=f"{made.checksum:08x}") for name, made in written.items()}
    document = Manifest(
        **_fields(settings),
        status=records.COMPLETE if success else records.OVER_ERROR_LIMIT,
        totals=totals,
        files=Lists(parts=listed[PARTS], sources=listed[SOURCES]),
        skipped=tuple(skipped),
        seconds=round(seconds, 3),
    )
    text = records.encode(document)
    files.write_whole(files.join(output, MANIFEST), [text])
    if mark is not None:
        write_mark(files.join(output, mark), success_of(text))
    if keep:
        return
    # What came of the run stands whether or not they go.
    with only_told(f"{output} keeps {JOB} or {TEMP}, which the same command removes"):
        clear(output)


def write_mark(path: str, text: bytes) -> None:
    """Writes `_SUCCESS`, or what stands for it.

    Raises:
        RunError: It cannot be written, and is not there.
    """
    try:
        files.write_whole(path, [text])
    except RunError:
        # The error is no proof that it is not there, and if it is, the run is complete.
        if files.read_small(path) != text:
            raise


def clear(output: str) -> None:
    """Removes what is needed only to go on: first what says that there is something to go on from, then that."""
    files.delete_tree(files.join(output, JOB))
    files.delete_tree(files.join(output, TEMP))


def success_of(text: bytes) -> bytes:
    """What stands in `_SUCCESS` beside a manifest of that text."""
    return records.as_text({"manifest_sha256": hashlib.sha256(text).hexdigest()})


def is_complete(output: str, mark: str = SUCCESS) -> bool:
    """Whether a folder has a `_SUCCESS`, or what stands for it, and it is that of its manifest."""
    success = files.read_small(files.join(output, mark))
    if success is None:
        return False
    made = files.read_small(files.join(output, MANIFEST))
    return made is not None and success == success_of(made)


def write_lists(output: str, temp: str, planned: Iterable[Source]) -> dict[str, files.Written]:
    """Writes the lists of parts and of sources, a line each, from the receipts in a run's temporary folder."""
    by_path = {source.path: source for source in planned}
    sources: list[bytes] = []  # no more than the plan holds anyhow; parts are never held

    def parts() -> Iterator[bytes]:
        for path, receipts in ledger.by_source(read_receipts(temp)):
            totals = ledger.total(receipts)
            sources.append(msgspec.json.encode({**by_path[path]._asdict(), **msgspec.structs.asdict(totals)}))
            yield from map(encode, receipts)

    lists = {PARTS: parts(), SOURCES: sources}  # in this order: the first fills the second
    return {name: files.write_whole(files.join(output, name), files.in_blocks(made)) for name, made in lists.items()}


def read_sources(path: str) -> Iterator[Source]:
    """The sources in a file, a line each, as `_keyjoin/sources.jsonl` has them.

    Raises:
        RunError: A line is damaged.
    """
    return read_lines(path, decode_source)


def decode_source(line: bytes) -> Source:
    """The source of a line.

    Raises:
        ValueError: It is none.
    """
    totals = frozenset(ledger.Totals.__struct_fields__)  # which the lines of `_keyjoin/sources.jsonl` have besides
    fields = {name: value for name, value in decode_object(line).items() if name not in totals}
    made: Source = to_record(Source, fields)
    return made


def _write_anew(path: str, text: bytes) -> None:
    """Writes a file unless it is there: on an object store a write that fails may cost what was there before."""
    if files.read_small(path, len(text)) != text:
        files.write_whole(path, [text])
