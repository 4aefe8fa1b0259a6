"""The ledger: the counts that must add up before a run is called complete."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from transforms.formats import GZIP
from transforms.records import PartReceipt, Source
from transforms.write import letters_name


class Totals(NamedTuple):
    """Sums over parts.

    Attributes:
        rows: Rows read.
        joined: Rows in parts.
        dead: Dead letters by reason code.
        blank: Lines that are not rows.
        read_bytes: Bytes of the sources, decompressed.
        written_bytes: Bytes of the parts.
        shuffled_bytes: Bytes of predictions that crossed the join.
    """

    rows: int
    joined: int
    dead: dict[str, int]
    blank: int
    read_bytes: int
    written_bytes: int
    shuffled_bytes: int

    @property
    def bad(self) -> int:
        """Dead letters."""
        return sum(self.dead.values())


def total(parts: Iterable[PartReceipt]) -> Totals:
    """Adds up receipts."""
    listed = list(parts)
    dead: Counter[str] = Counter()
    for part in listed:
        dead.update(part.dead)
    return Totals(
        sum(p.rows for p in listed),
        sum(p.joined for p in listed),
        dict(sorted(dead.items())),
        sum(p.blank for p in listed),
        sum(p.chunk.end - p.chunk.start for p in listed),
        sum(p.bytes for p in listed),
        sum(p.shuffled for p in listed),
    )


def by_source(parts: Iterable[PartReceipt]) -> dict[str, list[PartReceipt]]:
    """Receipts by source, in order of position."""
    grouped: dict[str, list[PartReceipt]] = {}
    for part in sorted(parts, key=lambda p: (p.chunk.source, p.chunk.number)):
        grouped.setdefault(part.chunk.source, []).append(part)
    return grouped


def problems(
    planned: Sequence[Source], now: Mapping[str, int], parts: Sequence[PartReceipt], written: Mapping[str, int]
) -> list[str]:
    """Why a run is not complete; empty if it is.

    Args:
        planned: The sources as they were before the run.
        now: Sizes of the sources after it.
        parts: The receipts.
        written: Sizes of the files in the output folder, by name.
    """
    grouped = by_source(parts)
    found = [f"{s.path} was not read at all" for s in planned if s.path not in grouped]
    sizes = {source.path: source.size for source in planned}
    for path, receipts in grouped.items():
        found += _gaps(path, receipts)
        if path not in now:
            found.append(f"{path} disappeared during the run")
            continue
        read = receipts[-1].chunk.end
        if sizes.get(path, now[path]) != now[path] or (not path.endswith(GZIP) and read != now[path]):
            found.append(f"{path} changed during the run: {read} bytes were read, it has {now[path]} now")
    for part in parts:
        found += _missing(part, written)
        if part.rows != part.joined + sum(part.dead.values()):
            found.append(f"{part.chunk.part}: {part.rows} rows read, {part.joined} joined and {part.dead} dead letters")
    return found


def _gaps(path: str, receipts: Sequence[PartReceipt]) -> list[str]:
    chunks = [part.chunk for part in receipts]
    numbers = [chunk.number for chunk in chunks]
    if numbers != list(range(chunks[0].parts)):
        return [f"{path}: chunks {numbers} of {chunks[0].parts} were written"]
    position = 0
    for chunk in chunks:
        if chunk.start != position:
            return [f"{path}: bytes {position} to {chunk.start} were read by no chunk, or by two"]
        position = chunk.end
    return []


def _missing(part: PartReceipt, written: Mapping[str, int]) -> list[str]:
    expected = {part.chunk.part: part.bytes}
    if part.dead:
        expected[letters_name(part.chunk.part)] = part.dead_bytes
    return [
        f"{name} has {written.get(name, 'no')} bytes, {size} were written"
        for name, size in expected.items()
        if written.get(name) != size
    ]
