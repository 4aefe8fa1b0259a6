"""Measures the end of a run with many parts, on made-up receipts: its time and its memory.

    python -m benchmarks.end_phase receipts 1000000     reads, checks and lists receipts, as `keyjoin run` does
    python -m benchmarks.end_phase listing 1000000      lists this many parts on a file system that makes up the names

Prints one line of JSON.
"""

import contextlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import msgspec
from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem

from pipeline.compat import startup
from pipeline.run_folder import ledger, manifest
from pipeline.run_folder.names import PARTS
from transforms.records import Chunk, PartReceipt, Source
from transforms.storage import files
from transforms.write_receipts import LISTS, SHARDS, encode, read_receipts

CHUNKS = 1_000  # of each source
CHUNK_BYTES = 64 << 20
PART_BYTES = 75_000_000
ROWS = 459_000
SCHEME = "made"
STATUS = Path("/proc/self/status")


def parts(count: int) -> Iterator[PartReceipt]:
    """Yields the receipts of this many parts, by source and position."""
    for source in sources(count):
        for number, name in enumerate(names(source)):
            start = number * CHUNK_BYTES
            chunks = source.size // CHUNK_BYTES
            made = Chunk(source.path, "", start, start + CHUNK_BYTES, number, chunks, name)
            yield PartReceipt(made, number, ROWS, 0, ROWS, {}, PART_BYTES, number, 0, 0, 4 * ROWS)


def names(source: Source) -> Iterator[str]:
    """Yields the names of a source's parts."""
    chunks = source.size // CHUNK_BYTES
    return (f"{source.stem}-{number:05d}-of-{chunks:05d}{source.suffix}" for number in range(chunks))


def sources(count: int) -> Iterator[Source]:
    """Yields the sources of this many parts."""
    for first in range(0, count, CHUNKS):
        stem = f"year=2026/month=11/part-{first // CHUNKS:05d}"
        size = min(CHUNKS, count - first) * CHUNK_BYTES
        yield Source(f"gs://bucket/houses/{stem}.jsonl", size, stem, ".jsonl")


def write(temp: Path, count: int) -> None:
    """Writes receipts as `WriteReceipts` does in a job without waves, without holding them all in memory."""
    folder = temp / LISTS / f"{0:08d}"
    folder.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        shards: dict[int, Any] = {}
        for part in parts(count):
            shard = google_crc32c.value(part.chunk.part.encode()) % SHARDS
            if shard not in shards:
                shards[shard] = stack.enter_context((folder / f"{shard:02d}.jsonl").open("wb"))
            shards[shard].write(encode(part) + b"\n")


class AllThere(Mapping[str, int]):
    """A listing that has every part, with its size. It takes no memory, so that only the code under test shows."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __getitem__(self, name: str) -> int:
        return PART_BYTES

    def __iter__(self) -> Iterator[str]:
        return (part.chunk.part for part in parts(self._count))

    def __len__(self) -> int:
        return self._count


class MadeFileSystem(FileSystem):
    """Lists made-up parts, as many as the path says (made://1000000/), and refuses every other operation."""

    @classmethod
    def scheme(cls) -> str:
        """Returns the scheme of its paths."""
        return SCHEME

    def join(self, basepath: str, *paths: str) -> str:
        """Returns a path below another one."""
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path: str) -> tuple[str, str]:
        """Returns a path's folder and name."""
        folder, _, name = path.rpartition("/")
        return folder, name

    def has_dirs(self) -> bool:
        """Returns False: like an object store, it has names only."""
        return False

    def _list(self, prefix: str) -> Iterator[FileMetadata]:
        root = prefix.rstrip("/")
        for source in sources(int(re.findall(r"\d+", root)[0])):
            yield from (FileMetadata(f"{root}/{name}", PART_BYTES) for name in names(source))

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise BeamIOError("this file system only lists")

    mkdirs = create = open = copy = rename = exists = size = last_updated = checksum = metadata = delete = _refuse


def receipts(count: int) -> dict[str, Any]:
    """Runs the steps that `pipeline.commands.run` takes after the graph, on this many receipts."""
    with tempfile.TemporaryDirectory(prefix="keyjoin-end-") as folder:
        write(Path(folder), count)
        planned = list(sources(count))
        now = {source.path: source for source in planned}
        before = _forget_peak()
        started = time.monotonic()
        found = sum(1 for _ in ledger.problems(planned, now, read_receipts(folder), AllThere(count), "byte"))
        totals = ledger.total(read_receipts(folder))
        written = manifest.write_lists(folder, folder, planned)
        seconds = time.monotonic() - started
        shard = max(path.stat().st_size for path in Path(folder, LISTS).rglob("*.jsonl"))
    return {
        "parts": count,
        "seconds": round(seconds, 2),
        "peak_bytes_more": _peak() - before,
        "problems": found,
        "totals": msgspec.structs.asdict(totals),
        "parts_list_bytes": written[PARTS].bytes,
        "shard_bytes": shard,
    }


def listing(count: int) -> dict[str, Any]:
    """Lists this many parts through Beam's FileSystems, as on an object store; the time of requests is not included."""
    before = _forget_peak()
    started = time.monotonic()
    found = files.list_below(f"{SCHEME}://{count}")
    seconds = time.monotonic() - started
    right = len(found) == count and all(
        found.get(name) == PART_BYTES for source in sources(count) for name in names(source)
    )
    return {"parts": count, "seconds": round(seconds, 2), "peak_bytes_more": _peak() - before, "right": right}


def _forget_peak() -> int:
    """Resets the peak memory that the kernel counts (Linux only), and returns the memory in use now, in bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s*(\d+) kB$", STATUS.read_text() if STATUS.exists() else "", re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    startup.collect_garbage()  # as in `keyjoin run`
    print(json.dumps({"receipts": receipts, "listing": listing}[sys.argv[1]](int(sys.argv[2]))))
