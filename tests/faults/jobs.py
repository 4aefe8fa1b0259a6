"""The jobs into which faults are injected, and the files that a complete output of each must have."""

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults.attempt import Attempt
from tests.faults.disk import Fault
from tests.faults.forks import Outcome, attempt

RUN_ID = re.compile(rb'"id": "[0-9a-f]{12}"')
LEFT_BEHIND = re.compile(r"^(_keyjoin/(job\.json$|lock$|temp/)|.*\.[0-9a-f]{32}\.tmp$)")  # files that readers ignore
BAD = {2: '{"x": "bad", "n": 2}', 5: "{}", 11: '{"x": [666, 0, 0]}'}
ROWS = [BAD.get(n) or json.dumps({"n": n, "x": [n, 0.5, -n]}) for n in range(13)]
# The same rows for formats with one value a cell.
CELLS = [{"x0": {2: None, 11: 666.0}.get(n, float(n)), "x1": 0.5, "x2": float(-n), "n": n} for n in range(13)]
CELL_FLAGS = ("--features=x0,x1,x2", "--max_bad_rows=0.5", "--chunk_bytes=100")


class Job(NamedTuple):
    """A command with a folder of its own, which is its current folder.

    Attributes:
        folder: Has `in`, `model` and `out`; with `stored`, `objects` takes the place of `in` and `out`.
        flags: Flags of the command.
        stored: Whether input and output are in the object store.
        replays: Whether the command is a replay of the run in `out`.
        replaces: Whether `out` has a complete run that the command replaces.
        input: The input path, relative to the folder or to the bucket.
    """

    folder: Path
    flags: tuple[str, ...]
    stored: bool = False
    replays: bool = False
    replaces: bool = False
    input: str = "in/"

    def argv(self) -> list[str]:
        where = "fault://bucket/" if self.stored else ""
        if self.replays:
            return ["replay", f"--run={where}out", *self.flags]
        return ["run", f"--input={where}{self.input}", f"--output={where}out", "--model=model", *self.flags]

    def run(self, kill_after: float | None = None, **how: Any) -> Outcome:
        """Runs an attempt; `how` holds fields of `Attempt`."""
        return attempt(Attempt(self.argv(), str(self.folder), f"{self.folder}.result", **how), kill_after)

    def fail(self, fault: Fault) -> Outcome:
        """Runs an attempt in which one operation on input or output fails, by its number in `run(at_once=1)`."""
        return self.run(store=fault, at_once=1) if self.stored else self.run(disk=fault, at_once=1)

    def copy(self, folder: Path) -> "Job":
        """The same job in another folder."""
        shutil.copytree(self.folder, folder)
        return self._replace(folder=folder)

    def files(self) -> dict[str, bytes]:
        """All files of the output folder, by name, and its empty folders; without what differs from run to run."""
        if self.stored:
            kept = self.folder / "objects"
            named = {urllib.parse.unquote(path.name): path for path in kept.iterdir()}
            read = {
                name.removeprefix("bucket/out/"): path.read_bytes()
                for name, path in named.items()
                if name.startswith("bucket/out/")
            }
        else:
            output = self.folder / "out"
            read = {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}
            read |= {
                f"{path.relative_to(output)}/": b""
                for path in output.rglob("*")
                if path.is_dir() and not any(path.iterdir())
            }
        return without_times(read)

    def is_complete(self) -> bool:
        return "_SUCCESS" in self.files()


def without_times(read: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files without what differs between runs of the same command, or with copies of the sources.

    That is: durations and other measurements, how many rows the check of batches scored in its time, run ids, versions
    of sources, checksums that depend on them, and the report, which shows some.
    """
    read = {name: text for name, text in read.items() if name != "_keyjoin/report.html"}
    read = {name: RUN_ID.sub(b"", text) if name.endswith("_keyjoin/job.json") else text for name, text in read.items()}
    if not {"_keyjoin/manifest.json", "_SUCCESS"} <= read.keys():
        return dict(read)
    digest = hashlib.sha256(read["_keyjoin/manifest.json"]).hexdigest()
    document = json.loads(read["_keyjoin/manifest.json"])
    del document["seconds"], document["files"]["_keyjoin/sources.jsonl"]
    document.pop("measured", None)
    document.pop("estimate", None)
    document["model"]["batch_dependence"].pop("rows", None)
    document.pop("run", None)  # the id of a run that replaced a complete output
    named = digest.encode() in read["_SUCCESS"]
    sources = re.sub(rb'"version":"[^"]*"', b'"version":""', read.get("_keyjoin/sources.jsonl", b""))
    read = {**read, "_keyjoin/sources.jsonl": sources}
    return {
        **read,
        "_keyjoin/manifest.json": json.dumps(document).encode(),
        "_SUCCESS": b"named" if named else b"of another",
    }


def make(folder: Path, content: Mapping[str, bytes], *flags: str, stored: bool = False) -> Job:
    """Makes a job over these sources: name -> bytes."""
    for name, text in {"model/saved_model.pb": b"see tests/faults/attempt.py", **content}.items():
        path = folder / (name if name.startswith("model/") else f"in/{name}")
        if stored and path.parts[len(folder.parts)] == "in":
            path = folder / "objects" / urllib.parse.quote(f"bucket/in/{name}", safe="")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
        os.utime(path, (1e9, 1e9))
    return Job(folder, flags, stored)


def small(folder: Path, *, stored: bool = False) -> Job:
    """Two sources, one of them gzip in a sub-folder; some rows fail on reading, some in the model."""
    data = ("\n".join(ROWS) + "\n").encode()
    content = {"a.jsonl": data, "sub/b.jsonl.gz": gzip.compress(data[:200], mtime=0)}
    return make(folder, content, "--max_bad_rows=0.5", stored=stored)


def parquet(folder: Path, *, stored: bool = False) -> Job:
    """A source of Parquet with several row groups; some rows fail on reading, some in the model."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(CELLS), file, row_group_size=5)
    return make(folder, {"a.parquet": file.getvalue()}, *CELL_FLAGS, stored=stored)


def avro(folder: Path, *, stored: bool = False) -> Job:
    """A source of Avro with several blocks; some rows fail on reading, some in the model."""
    kinds = {name: ["null", "double"] for name in ("x0", "x1", "x2")} | {"n": "long"}
    schema = {"type": "record", "name": "r", "fields": [{"name": n, "type": kind} for n, kind in kinds.items()]}
    file = io.BytesIO()
    fastavro.writer(file, schema, CELLS, "deflate", sync_interval=60, sync_marker=bytes(16))
    return make(folder, {"a.avro": file.getvalue()}, *CELL_FLAGS, stored=stored)


def delimited(folder: Path, *, stored: bool = False) -> Job:
    """A source of CSV, in which some rows fail on reading, some in the model."""
    cells = [[str(value) for value in row.values()] for row in CELLS]
    lines = "".join(",".join(row) + "\n" for row in [list(CELLS[0]), *cells])
    return make(folder, {"a.csv": lines.encode()}, *CELL_FLAGS, stored=stored)


def replaying(folder: Path, *, stored: bool = False, chunk_bytes: int = 1 << 20) -> Job:
    """A replay of a run of `small` with all of its bad rows repaired, except those that the model refuses."""
    ran = small(folder, stored=stored)
    ran = ran._replace(flags=(*ran.flags, f"--chunk_bytes={chunk_bytes}"))
    done = ran.run()
    assert done.code == 0, done.said
    texts = (text for name, text in ran.files().items() if name.startswith("_keyjoin/dead_letters/") and text)
    dead_letters = [json.loads(line) for text in texts for line in text.splitlines()]
    repaired = [{"key": one["key"], "row": {"x": [1, 2, 3]}} for one in dead_letters if one["reason"] != "model_error"]
    assert 0 < len(repaired) < len(dead_letters)
    (folder / "repaired.jsonl").write_text("".join(json.dumps(line) + "\n" for line in repaired))
    return ran._replace(flags=("--rows=repaired.jsonl",), replays=True)


def overwriting(folder: Path, *, stored: bool = False, chunk_bytes: int = 1 << 20) -> Job:
    """A run with `--overwrite` over other rows, with other parts, which replaces a run of `small`."""
    ran = _complete(folder, stored=stored)
    _write(ran, "a.jsonl", ("\n".join(ROWS[::-1] * 3) + "\n").encode())
    return ran._replace(flags=(*ran.flags, f"--chunk_bytes={chunk_bytes}", "--overwrite"))


def adding(folder: Path, *, stored: bool = False) -> Job:
    """A run with `--incremental` that adds the rows of two new files to a run of `small`."""
    ran = _complete(folder, stored=stored)
    for name in ("c.jsonl", "sub/d.jsonl"):
        _write(ran, name, ("\n".join(ROWS[::-1]) + "\n").encode())
    return ran._replace(flags=(*ran.flags, "--incremental"))


def _complete(folder: Path, *, stored: bool) -> Job:
    ran = small(folder, stored=stored)
    done = ran.run()
    assert done.code == 0, done.said
    return ran._replace(replaces=True)


def _write(job: Job, name: str, text: bytes) -> None:
    path = job.folder / "in" / name
    if job.stored:
        path = job.folder / "objects" / urllib.parse.quote(f"bucket/in/{name}", safe="")
    path.write_bytes(text)
    os.utime(path, (2e9, 2e9))
