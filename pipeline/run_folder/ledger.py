"""Adds up the receipts of a run into the ledger, and checks it.

A run counts as complete only if the counts in its ledger add up.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from transforms.records import Code, Count, PartReceipt, Source, Unit
from transforms.write_part import written_of


class Totals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The totals of a run, summed over its parts.

    Attributes:
        rows: Rows that were read.
        joined: Rows that were written to parts.
        dead: Dead letters by reason code.
        blank: Blank lines, which are not rows.
        read_bytes: Bytes of the sources after decompression.
        written_bytes: Bytes of the parts.
        parts: The number of parts.
        shuffled_bytes: Bytes of receipts and predictions that passed through the join.
        replayed: Rows in parts that were dead letters before a replay.
        filled: Joined rows in which a field has its default, by field.
        saved: Rows that took the prediction of a row with equal inputs, with `--dedup`.
    """

    rows: Count
    joined: Count
    dead: dict[Code, Count]
    blank: Count
    read_bytes: Count
    written_bytes: Count
    parts: Count
    shuffled_bytes: Count
    replayed: Count
    filled: dict[str, Count]
    saved: Count = 0

    @property
    def bad(self) -> int:
        """The number of dead letters."""
        return sum(self.dead.values())


def total(parts: Iterable[PartReceipt]) -> Totals:
    """Adds up receipts into totals."""
    dead: Counter[str] = Counter()
    filled: Counter[str] = Counter()
    rows = joined = blank = read = written = count = shuffled = replayed = saved = 0
    for part in parts:
        if part.dead:
            dead.update(part.dead)
        if part.filled:
            filled.update(part.filled)
        rows += part.rows
        joined += part.joined
        blank += part.blank
        read += part.chunk.nbytes
        written += part.bytes
        count += 1
        shuffled += part.shuffled
        replayed += part.replayed
        saved += part.saved
    by_reason, by_field = dict(sorted(dead.items())), dict(sorted(filled.items()))
    return Totals(rows, joined, by_reason, blank, read, written, count, shuffled, replayed, by_field, saved)


def by_source(parts: Iterable[PartReceipt]) -> Iterator[tuple[str, list[PartReceipt]]]:
    """Yields each source with its receipts, in order of their position in the source, and without their statistics.

    All receipts of a source are in memory at a time. Their statistics would take 45 KB for each.

    Args:
        parts: The receipts. Those of one source must follow each other.
    """
    for path, receipts in itertools.groupby(parts, key=lambda part: part.chunk.source):
        bare = (part._replace(statistics=()) for part in receipts)
        yield path, sorted(bare, key=lambda part: part.chunk.number)


def problems(
    planned: Sequence[Source],
    now: Mapping[str, Source],
    parts: Iterable[PartReceipt],
    written: Mapping[str, int],
    unit: Unit,
) -> Iterator[str]:
    """Yields the reasons why a run is not complete; none if it is complete.

    Args:
        planned: The sources, as they were before the run.
        now: The sources after the run, by path.
        parts: The receipts. Those of one source must follow each other.
        written: The files in the output folder: name -> size in bytes.
        unit: The unit of positions in the sources.
    """
    before = {source.path: source for source in planned}
    unread = dict(before)
    for path, receipts in by_source(parts):
        unread.pop(path, None)
        yield from gaps(path, receipts, unit)
        yield from _changed(path, before.get(path), now.get(path), receipts[-1].chunk.end, unit)
        for part in receipts:
            for name, made in written_of(part):
                if written.get(name) != made.bytes:
                    yield f"{name} has {written.get(name, 'no')} bytes, {made.bytes} were written"
            if part.rows != part.joined + sum(part.dead.values()):
                yield f"{part.chunk.part}: {part.rows} rows read, {part.joined} joined and {part.dead} dead letters"
    yield from (f"{path} was not read at all" for path in unread)


def _changed(path: str, before: Source | None, now: Source | None, end: int, unit: Unit) -> Iterator[str]:
    if before is None:
        yield f"{path} was read and not planned"
    elif now is None:
        yield f"{path} disappeared during the run"
    elif before.size != now.size or now.extent(unit) not in (None, end):
        yield f"{path} changed during the run: {end} {unit}s were read, it has {now.size} now"
    elif before.written != now.written:
        yield f"{path} changed during the run: it was written again, touched or replaced"


def gaps(path: str, receipts: Sequence[PartReceipt], unit: Unit) -> list[str]:
    """Returns the first position where the chunks of a source have a gap or overlap; an empty list if there is none."""
    chunks = [part.chunk for part in receipts]
    numbers = [chunk.number for chunk in chunks]
    if numbers != list(range(chunks[0].parts)):
        return [f"{path}: chunks {numbers} of {chunks[0].parts} were written"]
    position = 0
    for chunk in chunks:
        if chunk.start != position:
            return [f"{path}: {unit}s {position} to {chunk.start} were read by no chunk, or by two"]
        position = chunk.end
    return []
