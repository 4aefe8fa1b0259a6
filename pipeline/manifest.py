"""The manifest: the JSON record of a run; and `_SUCCESS`, which is written last.

`_manifest.json` is as small for a million parts as for one: parts and sources are in files of their own, a
line each, which are written and read without holding them all.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from pipeline import VERSION, ledger, model_check
from pipeline.names import JOB, MANIFEST, PARTS, SOURCES, SUCCESS
from pipeline.options import RunOptions
from pipeline.preflight import Plan
from transforms import files
from transforms.receipts import read_receipts
from transforms.records import PartReceipt
from transforms.write import letters_name

SCHEMA_VERSION = 2
PACKAGES = ("apache-beam", "tensorflow", "pyarrow", "numpy")


def begin(options: RunOptions, plan: Plan) -> None:
    """Writes what is about to run, before anything else: it marks the folder as a run's output."""
    _write(options.output, JOB, {"schema_version": SCHEMA_VERSION, **_what(options, plan)})


def commit(options: RunOptions, plan: Plan, totals: ledger.Totals, seconds: float, *, success: bool) -> None:
    """Writes what came of a run: parts, sources, the manifest, then `_SUCCESS` with the manifest's sha256.

    Args:
        options: What was asked for.
        plan: What was run.
        totals: The ledger.
        seconds: What it took.
        success: Whether `_SUCCESS` is written.
    """
    written = write_lists(options.output, plan.job.temp)
    document = {
        "schema_version": SCHEMA_VERSION,
        "status": "complete" if success else "over budget",
        **_what(options, plan),
        "totals": totals._asdict(),
        "files": {name: {"bytes": made.bytes, "crc32c": f"{made.checksum:08x}"} for name, made in written.items()},
        "skipped": plan.skipped,
        "seconds": round(seconds, 3),
    }
    text = _write(options.output, MANIFEST, document)
    files.delete_tree(plan.job.temp)
    files.delete_tree(files.join(options.output, JOB))
    if success:
        _write(options.output, SUCCESS, {"manifest_sha256": hashlib.sha256(text).hexdigest()})


def write_lists(output: str, temp: str) -> dict[str, files.Written]:
    """Writes the lists of parts and of sources, a line each, from the receipts in a run's temporary folder."""
    sources: list[dict[str, Any]] = []  # no more than the plan holds anyhow; parts are never held

    def parts() -> Iterator[dict[str, Any]]:
        for path, receipts in ledger.by_source(read_receipts(temp)):
            sources.append({"source": path, **ledger.total(receipts)._asdict()})
            yield from map(_part, receipts)

    lists = {PARTS: parts(), SOURCES: sources}  # in this order: the first fills the second
    return {name: files.write_whole(files.join(output, name), _lines(made)) for name, made in lists.items()}


def _write(output: str, name: str, document: dict[str, Any]) -> bytes:
    text = json.dumps(document, indent=1, ensure_ascii=True).encode() + b"\n"
    files.write_whole(files.join(output, name), [text])
    return text


def _what(options: RunOptions, plan: Plan) -> dict[str, Any]:
    handler = plan.job.handler
    return {
        "options": {**dataclasses.asdict(options), "max_bad_rows": str(options.max_bad_rows)},
        "format": plan.job.format,
        "model": {
            "path": options.model,
            "sha256": plan.sha256,
            "ops": model_check.document(plan.findings, options.model_ops),
            "signature": handler.contract.signature,
            "key_input": handler.contract.key.name if handler.contract.key else None,
            "key_output": handler.contract.echo.output if handler.contract.echo else None,
            "inputs": {f.name: {"dtype": f.dtype, "shape": f.shape, "fields": f.fields} for f in handler.features},
            "predictions": dict(plan.job.layout.predictions),
            "batch_size": handler.batch_size,
            "rows_per_second_by_batch_size": plan.sweep.rates,
        },
        "versions": {
            "keyjoin": VERSION,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
    }


def _lines(documents: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    return files.in_blocks(map(msgspec.json.encode, documents))


def _part(part: PartReceipt) -> dict[str, Any]:
    return {
        "name": part.chunk.part,
        "key": part.chunk.key,
        "start": part.chunk.start,
        "end": part.chunk.end,
        "rows": part.rows,
        "joined": part.joined,
        "dead": part.dead,
        "bytes": part.bytes,
        "crc32c": f"{part.checksum:08x}",
        "dead_letters": letters_name(part.chunk.part) if part.dead else None,
    }
