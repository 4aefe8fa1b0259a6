"""Checks whether the files of an output are as its run wrote them, and whether its sources are as the run read them.

Each check relies on the earlier ones: `_SUCCESS` proves the manifest, the manifest proves the lists of parts and
sources, and these lists prove all other files. The only files outside of the output that keyjoin opens are the
sources, and it only reads them.
"""

import hashlib
import heapq
import io
import itertools
import math
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import IO, NamedTuple

import msgspec

from pipeline.job.progress import Progress
from pipeline.options.config import shortened
from pipeline.options.run_options import command
from pipeline.run_folder import ledger, manifest, records, statistics
from pipeline.run_folder.names import JOB, MANIFEST, PARTS, SOURCES, STATISTICS, SUCCESS, is_inside
from pipeline.run_folder.place import staged
from pipeline.run_folder.records import Job, Manifest
from pipeline.run_folder.replace import is_ready
from pipeline.run_folder.unexpected_files import check_layout, of_sources
from pipeline.terminal.amounts import with_noun
from pipeline.terminal.exit_codes import Exit
from pipeline.terminal.messages import typed
from pipeline.verification.findings import Finding, Repair
from transforms import formats
from transforms.errors import RunError, UsageError
from transforms.formats.base import Reader
from transforms.read_chunk import checksum_now
from transforms.reasons import DEAD_LETTERS, OWN
from transforms.records import PartReceipt, Source, Unit
from transforms.split_into_chunks import open_plain
from transforms.storage import files, lookup
from transforms.storage.regular import kind_of, not_regular
from transforms.threads import in_threads
from transforms.write_part import written_of
from transforms.write_receipts import read_list

NOT_THERE = "it is not there"


class Record(NamedTuple):
    """The record that a run wrote.

    Attributes:
        manifest: The manifest.
        proven: Whether `_SUCCESS` has the sha256 of this manifest.
    """

    manifest: Manifest
    proven: bool


def read_record(run: str) -> tuple[Record | None, list[Finding]]:
    """Reads `_SUCCESS` and the manifest.

    Returns:
        The record and the findings about it. The record is None if the manifest is missing or damaged: nothing else
        can be checked then.

    Raises:
        UsageError: The folder holds no run, or a run of another version of keyjoin, or one of these files is a link,
            folder or pipe.
        RunError: The run is not complete, or a new result is being put in place.
    """
    check_layout(run)
    success, made, job = (_read(run, name) for name in (SUCCESS, MANIFEST, JOB))
    if success is None and is_ready(run):
        new = records.read(staged(run).work, Manifest)
        again = typed(shortened(command(new.options, run))) if new is not None else "give its keyjoin run command again"
        raise RunError(f"a new result is being put in place in {run}; wait for it, or let this finish it: {again}")
    if success is None and job is not None:
        raise RunError(f"{run} holds an unfinished run; wait for it, or resume it: {_resuming(run, job)}")
    if made is None:
        if success is None:
            raise UsageError(f"{run} holds no run of keyjoin; give the folder that was its --output")
        return None, [Finding(Exit.MISSING, MANIFEST, "the record of the run", NOT_THERE, Repair.MOVE_AWAY)]
    try:
        document = records.decode(made, Manifest)
    except records.OtherVersionError as error:
        raise UsageError(
            f"--run {run} was written by another version of keyjoin: {error}; verify it with that version"
        ) from error
    except ValueError as error:
        return None, [
            Finding(Exit.ALTERED, MANIFEST, "the record of the run", f"it is damaged ({error})", Repair.SCORE_AGAIN)
        ]
    if success is None and document.status != records.COMPLETE:
        raise RunError(f"{run} holds a run that ended without {SUCCESS}: {document.status}; see its {MANIFEST}")
    proven = success == manifest.success_of(made)
    return Record(document, proven), [] if proven else [_unproven(success, made)]


def _resuming(run: str, job: bytes) -> str:
    try:
        return typed(shortened(command(records.decode(job, Job).options, run)))
    except ValueError:
        return f"give its keyjoin run command again ({JOB} is damaged)"


def _read(run: str, name: str) -> bytes | None:
    path, own = files.join(run, name), files.join(run, OWN)
    if files.is_local(run) and os.path.lexists(own) and kind_of(own) != "a folder":
        raise UsageError(not_regular(own))
    if not _is_regular(path):
        raise UsageError(f"{path} is no file; move it away")
    return files.read_small(path)


def _is_regular(path: str) -> bool:
    """Returns False for links, folders and pipes. Returns True for a missing file, which the caller reports."""
    return not files.is_local(path) or not os.path.lexists(path) or stat.S_ISREG(os.lstat(path).st_mode)


def _unproven(success: bytes | None, made: bytes) -> Finding:
    """Makes the finding for a manifest that `_SUCCESS` does not prove: which of the two files is altered or missing."""
    if success is None:
        return Finding(Exit.MISSING, SUCCESS, f"the sha256 of {MANIFEST}", NOT_THERE, Repair.READ_BACK)
    found = re.search(rb'^\{\n "manifest_sha256": "([0-9a-f]{64})"\n\}\n\Z', success)
    if found is None:
        return Finding(Exit.ALTERED, SUCCESS, f"the sha256 of {MANIFEST}", "it holds something else", Repair.READ_BACK)
    there = hashlib.sha256(made).hexdigest()
    return Finding(Exit.ALTERED, MANIFEST, f"sha256 {found[1].decode()}", f"it has {there}", Repair.READ_BACK)


def check_lists(run: str, document: Manifest) -> Iterator[Finding]:
    """Compares the size and checksum of the lists of parts and sources with the manifest, and then their contents."""
    damaged = False
    for name, written in document.files.items():
        for finding in compare(run, name, written, Repair.SCORE_AGAIN):
            damaged = True
            yield finding
    if not damaged:
        try:
            yield from _check_ledger(run, document)
        except RunError as error:  # a line is not a receipt
            yield Finding(Exit.ALTERED, PARTS, "a receipt a line", str(error), Repair.SCORE_AGAIN)


def compare(run: str, name: str, written: files.Written, repair: Repair = Repair.REBUILD) -> Iterator[Finding]:
    """Reads a file and compares its size and checksum with what the run wrote.

    Args:
        run: The output folder.
        name: The file, relative to the output folder.
        written: The size and checksum that the run recorded.
        repair: The repair for the file if it is missing or altered.
    """
    path = files.join(run, name)
    if not _is_regular(path):
        yield Finding(Exit.ALTERED, name, "a file", "it is none", repair)
        return
    found = files.read_back(path)
    if found is None:
        yield Finding(Exit.MISSING, name, _bytes(written.bytes), NOT_THERE, repair)
    elif found.bytes != written.bytes:
        yield Finding(Exit.ALTERED, name, _bytes(written.bytes), f"it has {_bytes(found.bytes)}", repair)
    elif found != written:
        expected = f"crc32c {written.checksum:08x}"
        yield Finding(Exit.ALTERED, name, expected, f"it has {found.checksum:08x}", repair)


def _bytes(count: int) -> str:
    return with_noun(count, "byte")


def _check_ledger(run: str, document: Manifest) -> Iterator[Finding]:
    """Adds up the receipts again.

    The chunks must cover each source without a gap, and each row must be joined or a dead letter.

    Raises:
        UsageError: The name of a part leads out of the output.
        RunError: A line is not a receipt.
    """
    parts = ledger.by_source(_named_inside(run, read_list(files.join(run, PARTS))))
    unit = formats.load(document.format).reader.unit
    with files.open_own(files.join(run, SOURCES)) as listed:
        for line, group in itertools.zip_longest(listed, parts):
            source = None if line is None else _source(line)
            if source is None or group is None or source.path != group[0]:
                names = "the sources of the parts, in order"
                yield Finding(Exit.ALTERED, SOURCES, names, "it has others", Repair.SCORE_AGAIN)
                return
            path, receipts = group
            totals = ledger.total(receipts)
            for problem in _gaps(source, receipts, unit):
                yield Finding(Exit.ALTERED, PARTS, f"all bytes and rows of {path}", problem, Repair.SCORE_AGAIN)
            if line.rstrip(b"\n") != msgspec.json.encode({**source._asdict(), **msgspec.structs.asdict(totals)}):
                yield Finding(
                    Exit.ALTERED, SOURCES, f"the totals of the parts of {path}", "it has others", Repair.SCORE_AGAIN
                )
    if document.totals != ledger.total(read_list(files.join(run, PARTS))):
        yield Finding(Exit.ALTERED, MANIFEST, "the totals of all parts", "it has others", Repair.SCORE_AGAIN)
    if statistics.added(read_list(files.join(run, PARTS))) != files.read_small(files.join(run, STATISTICS)):
        yield Finding(Exit.ALTERED, STATISTICS, "the statistics of all parts", "it has others", Repair.SCORE_AGAIN)


def _named_inside(run: str, parts: Iterable[PartReceipt]) -> Iterator[PartReceipt]:
    for part in parts:
        if not is_inside(part.chunk.part):
            raise UsageError(
                f"{run}: {PARTS} names {part.chunk.part!r}, which is no part in it; do not trust this output"
            )
        yield part


def _source(line: bytes) -> Source | None:
    try:
        return manifest.decode_source(line)
    except ValueError:
        return None


def _gaps(source: Source, receipts: list[PartReceipt], unit: Unit) -> Iterator[str]:
    yield from ledger.gaps(source.path, receipts, unit)
    end = receipts[-1].chunk.end
    if source.extent(unit) not in (None, end):
        yield f"{end} of {source.extent(unit)} {unit}s were read"
    for part in receipts:
        if part.rows != part.joined + sum(part.dead.values()):
            yield f"{part.chunk.part} has {part.joined} joined and {part.dead} dead of {part.rows} rows"
        if max(part.filled.values(), default=0) > part.joined:
            yield f"{part.chunk.part} has {part.joined} joined rows, and defaults in {part.filled}"


def check_names(run: str) -> Iterator[Finding]:
    """Compares names and sizes of all files with the list of parts.

    The list must be correct: `check_lists` checks it before.
    """
    there = files.list_below(run)
    for part in read_list(files.join(run, PARTS)):
        for name, written in written_of(part):
            size = there.pop(name, None)
            if size is None:
                yield Finding(Exit.MISSING, name, _bytes(written.bytes), NOT_THERE, Repair.REBUILD)
            elif not _is_regular(files.join(run, name)):
                yield Finding(Exit.ALTERED, name, "a file", "it is none", Repair.REBUILD)
            elif size != written.bytes:
                yield Finding(Exit.ALTERED, name, _bytes(written.bytes), f"it has {_bytes(size)}", Repair.REBUILD)
    unnamed = [name for name in there if _is_read(name)]
    ours = of_sources(unnamed, manifest.read_sources(files.join(run, SOURCES)) if unnamed else ())
    for name in unnamed:
        size, repair = there[name], Repair.REBUILD if name in ours else Repair.MOVE
        yield Finding(Exit.ALTERED, name, "no such file", f"it has {_bytes(size)} that no receipt names", repair)


def _is_read(name: str) -> bool:
    """Returns whether a reader of the output would take a file for joined rows or dead letters.

    Readers skip files and folders whose names begin with _ or a point.
    """
    steps = name.removeprefix(f"{DEAD_LETTERS}/").split("/")
    return not any(step.startswith(("_", ".")) for step in steps)


class Sample(NamedTuple):
    """The parts whose contents are read.

    Attributes:
        is_picked: Returns whether a part is one of them.
        parts: How many there are.
        bytes: The size of these parts and of their chunks.
    """

    is_picked: Callable[[PartReceipt], bool]
    parts: int
    bytes: int


def sample(run: str, share: float, totals: ledger.Totals) -> Sample:
    """Picks a share of the parts, at least one. Picks by a hash of their names, so always the same parts.

    Args:
        run: The output folder.
        share: The share of the parts, above 0 and up to 1.
        totals: The totals of all parts.
    """
    if share >= 1:
        return Sample(lambda _: True, totals.parts, totals.written_bytes + totals.read_bytes)
    sizes = ((part.chunk.part, part.bytes + part.chunk.nbytes) for part in read_list(files.join(run, PARTS)))
    count = math.ceil(share * totals.parts)
    picked = dict(heapq.nsmallest(count, sizes, key=lambda part: hashlib.sha256(part[0].encode()).digest()))
    return Sample(lambda part: part.chunk.part in picked, count, sum(picked.values()))


def check_content(
    run: str, is_picked: Callable[[PartReceipt], bool], known: Collection[str], reader: Reader, progress: Progress
) -> Iterator[Finding]:
    """Compares the checksums of parts, their dead letters, and the chunks of the sources that they were made from.

    Args:
        run: The output folder.
        is_picked: Returns whether a part is checked.
        known: Names of files that already have a finding; they are not read.
        reader: The reader of the sources' format.
        progress: Counts the bytes of parts and chunks.
    """

    def compared(part: PartReceipt) -> list[Finding]:
        found = [one for name, size in written_of(part) if name not in known for one in compare(run, name, size)]
        progress.add(part.bytes, 1)
        return found

    for found in in_threads(compared, filter(is_picked, read_list(files.join(run, PARTS)))):
        yield from found
    sources = manifest.read_sources(files.join(run, SOURCES))
    groups = ledger.by_source(read_list(files.join(run, PARTS)))
    both = ((source, list(filter(is_picked, group[1]))) for source, group in zip(sources, groups, strict=True))
    for found in in_threads(
        lambda pair: list(check_source(*pair, reader, progress)), (pair for pair in both if pair[1])
    ):
        yield from found


def check_source(
    source: Source, receipts: Sequence[PartReceipt], reader: Reader, progress: Progress | None = None
) -> Iterator[Finding]:
    """Reads chunks of a source again, and compares their checksums with the receipts of their parts.

    Args:
        source: The source.
        receipts: Receipts of parts that were made from the source, in the order of their chunks.
        reader: The reader of the source's format.
        progress: Counts the bytes of the chunks; None if something else is counted.
    """
    found = lookup.match(source.path)
    if [file.path for file in found] != [source.path]:
        yield Finding(Exit.MISSING, source.path, _bytes(source.size), NOT_THERE, Repair.SOURCE)
    elif found[0].size_in_bytes != source.size:
        size = _bytes(found[0].size_in_bytes)
        yield Finding(Exit.ALTERED, source.path, _bytes(source.size), f"it has {size}", Repair.SOURCE)
    else:
        # A run is complete only if each source was still the planned file at the end of the run. So a source with the
        # same time and version was not written since. If its bytes differ, the run itself read other bytes.
        is_same = (found[0].last_updated_in_seconds, found[0].version) == source.written
        repair = Repair.MISREAD if is_same else Repair.SOURCE
        try:
            with open_plain(source) as file:
                for part in receipts:
                    yield from _check_chunk(file, part, reader, repair)
                    if progress is not None:
                        progress.add(part.chunk.nbytes)
                is_last = receipts[-1].chunk.number == receipts[-1].chunk.parts - 1
                if source.codec and source.end is None and is_last and _goes_on(file, reader):
                    yield Finding(Exit.ALTERED, source.path, "the end of the file", "it goes on", Repair.SOURCE)
        except OSError as error:
            yield Finding(Exit.ALTERED, source.path, "a readable file", f"{error}", Repair.SOURCE)


def _goes_on(file: IO[bytes], reader: Reader) -> bool:
    """Reads a compressed source to its end, which checks what it has there. Tells whether it has more rows.

    Only where positions are bytes, the file ends where the last chunk ends. A footer may follow rows.
    """
    if reader.unit == "byte":
        return bool(file.read(1))
    file.seek(0, io.SEEK_END)
    return False


def _check_chunk(file: IO[bytes], part: PartReceipt, reader: Reader, repair: Repair) -> Iterator[Finding]:
    chunk, found = part.chunk, checksum_now(file, part.chunk, reader)
    if found != part.input_checksum:
        where = f"crc32c {part.input_checksum:08x} of {reader.unit}s {chunk.start} to {chunk.end}"
        has = "it ends before" if found is None else f"it has {found:08x}"
        yield Finding(Exit.ALTERED, chunk.source, where, has, repair)
