"""Gathers what a report shows from the files of an output folder."""

import contextlib
import datetime
import enum
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from pipeline.report.drift import Drift, drifts
from pipeline.run_folder import ledger, manifest, records, statistics
from pipeline.run_folder.names import JOB, MANIFEST, PARTS, SOURCES, STATISTICS, TEMP
from pipeline.run_folder.records import Job, Manifest
from transforms import formats
from transforms.errors import RunError, UsageError
from transforms.formats.spec import FormatSpec
from transforms.records import PartReceipt
from transforms.statistics import Statistics
from transforms.storage import files, objects
from transforms.storage.compression import codec_of, open_plain
from transforms.write_part import dead_letters_name
from transforms.write_receipts import RECEIPTS, decode, read_lines, read_list

EXAMPLES = 3  # dead letters of each reason
SAMPLED_BYTES = 4 << 20  # of a part
READ_BYTES = 16 << 20  # of dead letter files, all together
SHOWN_SOURCES = 10
SHOWN_PARTS = 100  # that are searched for rows


class State(enum.Enum):
    """How far a run has come; the value is the text for the report."""

    COMPLETE = "complete"
    OVER_ERROR_LIMIT = "over the error limit: there is no _SUCCESS"
    UNPROVEN = "no _SUCCESS that fits the manifest: verify reports why"
    UNFINISHED = "unfinished: there is no _SUCCESS"


class Letter(NamedTuple):
    """A dead letter, as far as the report shows it.

    Attributes:
        key: The key of the row.
        line: The line of the source at which the row begins; None if it is not known.
        message: The cause.
        row: The row as text, or in base64.
    """

    key: str
    line: int | None
    message: str
    row: str


class SourceTotals(NamedTuple):
    """The ledger of one source."""

    path: str
    rows: int
    joined: int
    bad: int


class Facts(NamedTuple):
    """What is known about a run.

    Attributes:
        output: The output folder.
        state: How far the run has come.
        record: The manifest, or the record of a run that has not ended.
        totals: The ledger; of an unfinished run, that of the parts written so far.
        ended: When the record was written; None if it is not known.
        report_rows: How many joined rows the report may show; 0 to show no value of any row.
        part: The name of the part that `rows` are from.
        rows: Joined rows, each as field -> value.
        dead_letters: Examples of dead letters by reason.
        sources: The ledgers of the first sources.
        other_sources: How many more sources there are.
        statistics: The counts of the values of features and predictions; None if they are not recorded.
        baseline: The output that the run is compared with; None if there is none.
        drift: How far features and predictions moved from the baseline; None if it is not known.
    """

    output: str
    state: State
    record: Manifest | Job
    totals: ledger.Totals
    ended: datetime.datetime | None
    report_rows: int
    part: str
    rows: Sequence[Mapping[str, Any]]
    dead_letters: Mapping[str, Sequence[Letter]]
    sources: Sequence[SourceTotals]
    other_sources: int
    statistics: Statistics | None
    baseline: str | None = None
    drift: Sequence[Drift] | None = None


def gather(output: str, report_rows: int | None = None, baseline: str | None = None) -> Facts:
    """Gathers the facts of a run from its output folder.

    Args:
        output: The output folder.
        report_rows: How many joined rows to show; None for the number that the run was given.
        baseline: The output of another run to compare with; None for the one that the run was given.

    Raises:
        UsageError: A folder holds no run.
        RunError: A file of the run is damaged or cannot be read.
    """
    state, record = _read_record(output)
    shown = record.options.report_rows if report_rows is None else report_rows
    receipts = _receipts(output, ended=isinstance(record, Manifest))
    totals = record.totals if isinstance(record, Manifest) else ledger.total(receipts())
    part, rows = _first_rows(output, receipts(), record.format, shown) if shown else ("", [])
    statistics.check_baseline(baseline)
    counted = statistics.read(output) if isinstance(record, Manifest) else None
    drift = record.drift if isinstance(record, Manifest) else None
    if baseline is not None:
        if counted is None:
            raise UsageError(
                f"{output} has no {STATISTICS} to compare with --baseline: the run is unfinished, or the file is gone; "
                "give the report without --baseline"
            )
        drift = tuple(drifts(counted.columns, statistics.read_statistics(baseline) or ()))
    sources, others = _sources(output) if isinstance(record, Manifest) else ([], 0)
    return Facts(
        output,
        state,
        record,
        totals,
        _written(files.join(output, MANIFEST if isinstance(record, Manifest) else JOB)),
        shown,
        part,
        rows,
        _dead_letters(output, receipts(), totals.dead),
        sources,
        others,
        counted,
        baseline or record.options.baseline,
        drift,
    )


def _read_record(output: str) -> tuple[State, Manifest | Job]:
    made = records.read(output, Manifest)
    if made is not None and manifest.is_complete(output):
        return State.COMPLETE, made
    if made is not None and made.status == records.OVER_ERROR_LIMIT:
        return State.OVER_ERROR_LIMIT, made
    begun = records.read(output, Job)
    if begun is not None:
        return State.UNFINISHED, begun
    if made is not None:
        return State.UNPROVEN, made
    raise UsageError(f"{output} holds no run of keyjoin; give the folder that was its --output")


def _receipts(output: str, *, ended: bool) -> Callable[[], Iterator[PartReceipt]]:
    """Returns a function that yields the receipts of a run's parts, from its list or from its temporary folder."""
    if ended:
        return lambda: read_list(files.join(output, PARTS))
    folder = files.join(output, TEMP, RECEIPTS)
    names = sorted(files.list_below(folder))
    return lambda: (part for name in names for part in _receipt(files.below(folder, name)))


def _receipt(path: str) -> Iterator[PartReceipt]:
    """Yields the receipt of a file; nothing if the file is damaged or gone, because such a receipt proves nothing."""
    found = files.read_small(path)
    if found is not None:
        with contextlib.suppress(ValueError):
            yield decode(found)


def _written(path: str) -> datetime.datetime | None:
    """Returns when a file was last written, in UTC."""
    with contextlib.suppress(OSError):
        if files.is_local(path):
            seconds = os.stat(path).st_mtime
        else:
            seconds = max(
                (found.last_updated_in_seconds for found in objects.look_up(objects.literal(path))), default=0.0
            )
        if seconds:
            return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return None


def _first_rows(
    output: str, parts: Iterable[PartReceipt], spec: FormatSpec, most: int
) -> tuple[str, list[dict[str, Any]]]:
    """Reads the first rows of the first part that has rows.

    Returns:
        The name of the part, and its rows.

    Raises:
        RunError: The part cannot be read.
    """
    reader = formats.load(spec.of_parts).reader
    for part in itertools.islice(parts, SHOWN_PARTS):
        name = part.chunk.part
        if not part.joined:
            continue
        try:
            with files.open_own(files.below(output, name)) as stored:
                codec = codec_of(name)
                block = reader.sample(open_plain(stored, codec) if codec else stored, SAMPLED_BYTES)
        except FileNotFoundError:
            continue  # an unfinished run that replaces an output has its parts there
        return name, block.values()[:most]
    return "", []


def _sources(output: str) -> tuple[list[SourceTotals], int]:
    """Returns the ledgers of the first sources, and the number of the others."""
    found: list[SourceTotals] = []
    others = 0
    for line in read_lines(files.join(output, SOURCES), _Source.decode):
        if len(found) < SHOWN_SOURCES:
            found.append(SourceTotals(line.path, line.rows, line.joined, sum(line.dead.values())))
        else:
            others += 1
    return found, others


class _Source(msgspec.Struct):
    """The fields of a line of `_keyjoin/sources.jsonl` that the report shows."""

    path: str
    rows: int
    joined: int
    dead: dict[str, int]

    @classmethod
    def decode(cls, line: bytes) -> "_Source":
        return msgspec.json.decode(line, type=cls)


class _Letter(msgspec.Struct):
    """The fields of a dead letter that the report shows."""

    key: str
    line: int | None
    reason: str
    message: str
    row: str


def _dead_letters(output: str, parts: Iterable[PartReceipt], counts: Mapping[str, int]) -> dict[str, list[Letter]]:
    """Reads examples of dead letters: the first ones of each reason, within the first `READ_BYTES`.

    Raises:
        RunError: A dead letter is damaged.
    """
    found: dict[str, list[Letter]] = defaultdict(list)
    wanted = {reason: min(count, EXAMPLES) for reason, count in counts.items()}
    left = READ_BYTES
    for part in parts:
        missing = {reason for reason, most in wanted.items() if len(found[reason]) < most}
        if not missing:
            break
        if not missing & part.dead.keys():
            continue
        path = files.below(output, dead_letters_name(part.chunk.part))
        try:
            for line in _lines(path):
                left -= len(line)
                letter = _decoded(path, line)
                if len(found[letter.reason]) < wanted.get(letter.reason, 0):
                    found[letter.reason].append(Letter(letter.key, letter.line, letter.message, letter.row))
                if left <= 0:
                    return dict(found)
        except FileNotFoundError:
            continue  # an unfinished run that replaces an output has its dead letters there
    return dict(found)


def _lines(path: str) -> Iterator[bytes]:
    with files.open_own(path) as listed:
        yield from listed


def _decoded(path: str, line: bytes) -> _Letter:
    try:
        return msgspec.json.decode(line, type=_Letter)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}; verify --read_data=100% names what is altered") from error
