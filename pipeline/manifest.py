"""The manifest: the JSON record of a run; and `_SUCCESS`, which is written last.

`_manifest.json` is as small for a million parts as for one: parts and sources are in files of their own, a
line each, which are written and read without holding them all.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from pipeline import VERSION, ledger, model_check
from pipeline.names import JOB, MANIFEST, PARTS, PLANNED, SOURCES, SUCCESS, TEMP
from pipeline.options import RunOptions
from pipeline.sweep import Sweep
from pipeline.warning import only_told
from transforms import files
from transforms.errors import RunError
from transforms.model_ops import Finding
from transforms.predict import KeyedChunkHandler
from transforms.receipts import encode, read_lines, read_receipts
from transforms.records import Feature, Layout, Source

SCHEMA_VERSION = 4
SETTINGS = ("options", "format", "model", "versions")
REPLAYS = "replays"
OVER_BUDGET = "over budget"  # the status of a run that had more bad rows than it may, and has no `_SUCCESS`
PACKAGES = ("apache-beam", "tensorflow", "pyarrow", "numpy")


def settings(options: RunOptions, name: str) -> dict[str, Any]:
    """All that an output comes of but its sources, as far as it is known before the model is loaded.

    Args:
        options: What was asked for.
        name: The format of the input.

    Returns:
        JSON: `options`, `format`, `model`, `versions`.
    """
    asked = {**dataclasses.asdict(options), "max_bad_rows": options.max_bad_rows.texts()}
    found = {
        "options": asked,
        "format": name,
        "model": {"path": options.model, "sha256": model_check.identify(options.model, options.model_sha256)},
        "versions": {
            "keyjoin": VERSION,
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
    }
    return _as_json(found)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # The worker's image has TensorFlow without CUDA's kernels, which is a package of its own.
        return importlib.metadata.version(f"{package}-cpu")


def with_contract(
    before: dict[str, Any], handler: KeyedChunkHandler, layout: Layout, swept: Sweep, findings: Sequence[Finding]
) -> dict[str, Any]:
    """Settings, with what is known of the model once it is loaded."""
    contract = handler.contract
    model = {
        **before["model"],
        "ops": model_check.document(findings, before["options"]["model_ops"]),
        "signature": contract.signature,
        "key_input": contract.key.name if contract.key else None,
        "key_output": contract.echo.output if contract.echo else None,
        "key_last_column": contract.echo.last_column if contract.echo else None,
        "inputs": {f.name: feature_document(f) for f in handler.features},
        "predictions": dict(layout.predictions),
        "batch_size": handler.batch_size,
        "rows_per_second_by_batch_size": swept.rates,
    }
    return {**before, "model": _as_json(model)}


def feature_document(feature: Feature) -> dict[str, Any]:
    """What feeds an input, for the manifest; `feature_of` reads it."""
    told = {"is_base64": True} if feature.is_base64 else {}
    return {"dtype": feature.dtype, "shape": feature.shape, "fields": feature.fields, **told}


def feature_of(name: str, document: Mapping[str, Any]) -> Feature:
    """What fed an input, from the manifest."""
    is_base64 = document.get("is_base64", False)
    return Feature(name, document["dtype"], tuple(document["shape"]), tuple(document["fields"]), is_base64)


def batch_of(model: Mapping[str, Any]) -> Sweep:
    """The batch size that a run recorded of its model, and why it was picked."""
    rates = {int(size): rate for size, rate in model["rows_per_second_by_batch_size"].items()}
    return Sweep(model["batch_size"], rates)


def with_replays(settings: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, with what was replayed of a run by its `_job.json` or `_manifest.json`."""
    return {**settings, REPLAYS: document[REPLAYS]} if REPLAYS in document else dict(settings)


def settings_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a `_job.json` or `_manifest.json`."""
    return with_replays({name: document[name] for name in SETTINGS}, document)


def planned_path(temp: str, digest: str) -> str:
    """Where the list of planned sources is: under its sha256, so that `_job.json` never names another one."""
    return files.join(temp, PLANNED, f"{digest}.jsonl")


def begin(output: str, settings: Mapping[str, Any], sources: Iterable[Source]) -> None:
    """Writes what is about to run; with `_job.json` the folder is marked as a run's output."""
    listed = b"".join(msgspec.json.encode(source._asdict()) + b"\n" for source in sources)
    digest = hashlib.sha256(listed).hexdigest()
    _write_anew(planned_path(files.join(output, TEMP), digest), listed)
    document = {"schema_version": SCHEMA_VERSION, **settings, "sources_sha256": digest}
    _write_anew(files.join(output, JOB), _as_text(document))


def read_planned(temp: str, document: Mapping[str, Any]) -> list[Source] | None:
    """The sources that an unfinished run was to read, by its `_job.json`; None if their list is not there whole."""
    path = planned_path(temp, document["sources_sha256"])
    found = files.read_small(path)
    if found is None or hashlib.sha256(found).hexdigest() != document["sources_sha256"]:
        return None
    return list(read_sources(path))


def commit(
    output: str,
    settings: Mapping[str, Any],
    sources: Iterable[Source],
    skipped: Sequence[str],
    totals: ledger.Totals,
    seconds: float,
    *,
    success: bool,
    keep: bool = False,
) -> None:
    """Writes what came of a run: parts, sources, the manifest, then `_SUCCESS` with the manifest's sha256.

    Killed before `_SUCCESS`, the run is unfinished, and all of its parts are found done; killed after it, it is
    complete, whatever is left of `_job.json` and the temporary folder.

    Args:
        output: Output folder.
        settings: All else that the output comes of, see `with_contract`, and what was replayed.
        sources: The input files.
        skipped: Files that are no data by their names.
        totals: The ledger.
        seconds: What it took.
        success: Whether `_SUCCESS` is written.
        keep: Whether what is needed to go on stays, see `clear`.
    """
    written = write_lists(output, files.join(output, TEMP), sources)
    document = {
        "schema_version": SCHEMA_VERSION,
        "status": "complete" if success else OVER_BUDGET,
        **settings,
        "totals": totals._asdict(),
        "files": {name: {"bytes": made.bytes, "crc32c": f"{made.checksum:08x}"} for name, made in written.items()},
        "skipped": skipped,
        "seconds": round(seconds, 3),
    }
    text = _write(output, MANIFEST, document)
    if success:
        _write_success(files.join(output, SUCCESS), success_of(text))
    if keep:
        return
    # What came of the run stands whether or not they go.
    with only_told(f"{output} keeps {JOB} or {TEMP}, which the same command removes"):
        clear(output)


def _write_success(path: str, text: bytes) -> None:
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
    return _as_text({"manifest_sha256": hashlib.sha256(text).hexdigest()})


def write_lists(output: str, temp: str, planned: Iterable[Source]) -> dict[str, files.Written]:
    """Writes the lists of parts and of sources, a line each, from the receipts in a run's temporary folder."""
    by_path = {source.path: source for source in planned}
    sources: list[bytes] = []  # no more than the plan holds anyhow; parts are never held

    def parts() -> Iterator[bytes]:
        for path, receipts in ledger.by_source(read_receipts(temp)):
            totals = ledger.total(receipts)
            sources.append(msgspec.json.encode({**by_path[path]._asdict(), **totals._asdict()}))
            yield from map(encode, receipts)

    lists = {PARTS: parts(), SOURCES: sources}  # in this order: the first fills the second
    return {name: files.write_whole(files.join(output, name), files.in_blocks(made)) for name, made in lists.items()}


def read_sources(path: str) -> Iterator[Source]:
    """The sources in a file, a line each, as `_sources.jsonl` has them.

    Raises:
        RunError: A line is damaged.
    """
    return read_lines(path, decode_source)


def decode_source(line: bytes) -> Source:
    """The source of a line.

    Raises:
        ValueError: It is none.
    """
    fields = msgspec.json.decode(line, type=dict[str, Any])
    try:
        return msgspec.convert([fields[name] for name in Source._fields], Source)
    except KeyError as error:
        raise ValueError(f"it has no {error}") from error


def _write(output: str, name: str, document: dict[str, Any]) -> bytes:
    text = _as_text(document)
    files.write_whole(files.join(output, name), [text])
    return text


def _as_text(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=True).encode() + b"\n"


def _write_anew(path: str, text: bytes) -> None:
    """Writes a file unless it is there: on an object store a write that fails may cost what was there before."""
    if files.read_small(path) != text:
        files.write_whole(path, [text])


def _as_json(document: dict[str, Any]) -> dict[str, Any]:
    """As it is read back: two of them can be compared."""
    found: dict[str, Any] = json.loads(json.dumps(document))
    return found
