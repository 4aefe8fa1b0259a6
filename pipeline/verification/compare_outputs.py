"""Compares the predictions of two complete outputs over the same sources, row by row."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, NamedTuple

import numpy as np

from pipeline.job.progress import Phase, Progress
from pipeline.plan.layout import make_layout
from pipeline.run_folder import ledger, manifest
from pipeline.run_folder.names import PARTS, SOURCES
from pipeline.run_folder.records import Manifest
from pipeline.terminal.messages import typed
from pipeline.verification.check_files import check_lists, check_names, read_record
from transforms import formats
from transforms.comparison.match_rows import Matched, Piece, match_rows
from transforms.comparison.read_predictions import Outputs, find_outputs, read_predictions
from transforms.comparison.tally import Place, Tally
from transforms.comparison.tolerance import EXACT, Tolerance
from transforms.errors import RunError, UsageError, nearest
from transforms.formats.base import Reader
from transforms.records import PartReceipt, Positions, Source
from transforms.replay_part import load_scored, part_bytes, read_dead_letters
from transforms.split_into_chunks import open_plain
from transforms.storage import files
from transforms.write_receipts import read_list

SHOWN_KEYS = 5
Receipts = Sequence[PartReceipt]


class Output(NamedTuple):
    """A complete output.

    Attributes:
        path: The output folder.
        label: What the comparison calls it: the folder, or the model that was scored for the comparison.
        document: Its manifest.
        reader: The reader of its sources.
        outputs: Where the predictions are in its parts.
        sources: Its sources, in the order of its parts.
    """

    path: str
    label: str
    document: Manifest
    reader: Reader
    outputs: Outputs
    sources: tuple[Source, ...]


class Alone:
    """Counts the rows that have predictions in one of the two outputs only.

    Attributes:
        rows: The number of rows.
        first: The first of them: the part, the number of its first row in the source, the number of the row.
    """

    def __init__(self) -> None:
        """Starts without rows."""
        self.rows, self.first = 0, list[tuple[PartReceipt, int, int]]()

    def add(self, piece: Piece) -> None:
        """Adds rows."""
        self.rows += len(piece.numbers)
        some = piece.numbers[: SHOWN_KEYS - len(self.first)].tolist()
        self.first += [(piece.part, piece.first, number) for number in some]


class Comparison(NamedTuple):
    """How two outputs differ.

    Attributes:
        outputs: The outputs.
        rows: How many rows have predictions in both.
        tallies: The differences of each prediction that both have.
        alone: The rows that have predictions in one of them only.
        names: The predictions that one of them has only.
    """

    outputs: tuple[Output, Output]
    rows: int
    tallies: tuple[Tally, ...]
    alone: tuple[Alone, Alone]
    names: tuple[list[str], list[str]]

    @property
    def is_same(self) -> bool:
        """Whether both have the same predictions for the same rows, and all are within their tolerance."""
        return all(one.is_same for one in self.tallies) and not (any(self.names) or any(a.rows for a in self.alone))


def open_output(path: str) -> Output:
    """Reads the record of an output, and checks that it is complete, as `verify` does without reading contents.

    Raises:
        UsageError: The folder holds no complete run, or a file is missing, altered or unexpected.
        RunError: A list is damaged.
    """
    record, found = read_record(path)
    if record is not None and not found:
        found = list(check_lists(path, record.manifest)) or list(check_names(path))
    if record is None or found:
        first = found[0]
        raise UsageError(
            f"{path} is not what its run wrote: {first.name} is {first.kind.title}: expected {first.expected}; "
            f"{first.found}; see {typed(['keyjoin', 'verify', '--run', path])}"
        )
    document = record.manifest
    fmt, model, options = formats.load(document.format), document.model, document.options
    features = [fed.feature(name) for name, fed in model.inputs.items()]
    layout = make_layout(options, options.written_error_field, list(model.predictions), [], fmt, features)
    outputs = find_outputs(fmt.writer, layout, model.output_shapes, model.output_dtypes)
    sources = tuple(manifest.read_sources(files.join(path, SOURCES)))
    return Output(path, path, document, fmt.reader, outputs, sources)


def compare_outputs(one: Output, other: Output, tolerances: Mapping[str, Tolerance], progress: Progress) -> Comparison:
    """Compares two outputs. It holds one part of each at a time.

    Args:
        one: The first output.
        other: The second output.
        tolerances: How far the values of a prediction may differ, by its name. The empty name is for all others.
        progress: Counts the bytes of the parts.

    Raises:
        UsageError: The outputs have other sources, or no prediction of the same name, or a tolerance names none.
        RunError: A part is not what its run wrote, or a source with dead letters is not what the runs read.
    """
    names = _shared_names(one, other, tolerances)
    check_same_sources(one, other)
    shapes = {feature.name: feature.shape for side in (one, other) for feature in side.outputs.all}
    default = tolerances.get("", EXACT)
    has_nan = all(side.outputs.has_nan for side in (one, other))
    tallies = []
    for name in names:
        is_vector = len(shapes[name]) == 1 and shapes[name] != (1,)
        tallies.append(Tally(name, tolerances.get(name, default), is_vector=is_vector, has_nan=has_nan))
    alone, rows = (Alone(), Alone()), 0
    both = [side.document.totals for side in (one, other)]
    progress.expect(Phase.COMPARING, sum(t.written_bytes for t in both), sum(t.parts for t in both))
    for matched in _matched(one, other, progress):
        left, right = matched.both
        rows += len(left.numbers)
        for tally in tallies:
            place = Place(left.numbers, left.part, left.first)
            tally.add(left.columns[tally.name], right.columns[tally.name], place)
        for counted, piece in zip(alone, matched.alone, strict=True):
            counted.add(piece)
    rest = tuple(sorted(set(side.outputs.names) - set(names)) for side in (one, other))
    return Comparison((one, other), rows, tuple(tallies), alone, (rest[0], rest[1]))


def _shared_names(one: Output, other: Output, tolerances: Mapping[str, Tolerance]) -> list[str]:
    names = [name for name in one.outputs.names if name in other.outputs.names]
    if not names:
        raise UsageError(
            f"{one.label} has the predictions {one.outputs.names} and {other.label} has {other.outputs.names}; write "
            "them with the same names, see --rename"
        )
    unknown = next((name for name in tolerances if name and name not in names), None)
    if unknown is not None:
        raise UsageError(
            f"--tolerance names {unknown}, which is none of the predictions {names}{nearest(unknown, names)}"
        )
    return names


def check_same_sources(one: Output, other: Output) -> None:
    """Checks that two outputs were made from the same rows.

    Raises:
        UsageError: They were not, or it cannot be shown. The message names the sources.
    """
    both = [{source.path: source for source in side.sources} for side in (one, other)]
    only = [sorted(both[at].keys() - both[1 - at].keys()) for at in (0, 1)]
    for side, paths in zip((one, other), only, strict=True):
        if paths:
            more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
            raise UsageError(f"only {side.path} has the source {paths[0]}{more}; score the same sources")
    for name, what in (("name", "format"), ("delimiter",) * 2, ("quote",) * 2, ("has_header", "header")):
        read = [getattr(side.document.format, name) for side in (one, other)]
        if read[0] != read[1]:
            first, second = ("the default" if value == "" else repr(value) for value in read)
            raise UsageError(f"the sources were read with {what}: {first} and {second}; score them alike")
    for path, parts in _by_source(one, other):
        problem = _other_rows(both[0][path], both[1][path], *parts)
        if problem:
            raise UsageError(f"{path}: {problem}; score the same sources again")


def _other_rows(one: Source, other: Source, parts: Receipts, others: Receipts) -> str | None:
    """Returns why two runs over a source of this name may have read other rows; None if they read the same."""
    if one.size != other.size:
        return f"it had {one.size:,} bytes in one run, and {other.size:,} in the other"
    chunks = [[(p.chunk.start, p.chunk.end, p.rows) for p in some] for some in (parts, others)]
    if one.written != other.written and chunks[0] != chunks[1]:
        return "it was written again between the runs, and cut into other chunks, so their checksums are not comparable"
    sums = [[p.input_checksum for p in some] for some in (parts, others)]
    if chunks[0] == chunks[1] and sums[0] != sums[1]:
        return "it had other content in one run than in the other"
    rows = [sum(p.rows for p in some) for some in (parts, others)]
    return None if rows[0] == rows[1] else f"it had {rows[0]:,} rows in one run, and {rows[1]:,} in the other"


def _by_source(one: Output, other: Output) -> Iterator[tuple[str, tuple[Receipts, Receipts]]]:
    """Yields each source with its receipts in both outputs, which have the same sources."""
    listed = [ledger.by_source(read_list(files.join(side.path, PARTS))) for side in (one, other)]
    if [s.path for s in one.sources] == [s.path for s in other.sources]:
        pairs = zip(*listed, strict=True)
    else:  # the inputs were given in another order
        pairs = zip(*(sorted(groups, key=lambda group: group[0]) for groups in listed), strict=True)
    for (path, parts), (_, others) in pairs:
        yield path, (parts, others)


def _matched(one: Output, other: Output, progress: Progress) -> Iterator[Matched]:
    both = [{source.path: source for source in side.sources} for side in (one, other)]
    for path, (parts, others) in _by_source(one, other):
        with contextlib.ExitStack() as stack:
            opened = [_Opened(side[path], stack) for side in both]
            left, right = _pieces(one, parts, opened[0], progress), _pieces(other, others, opened[1], progress)
            yield from match_rows(left, right)


class _Opened:
    """Opens a source when it is first needed. Only parts with dead letters need it."""

    def __init__(self, source: Source, stack: contextlib.ExitStack) -> None:
        self.source, self._stack = source, stack
        self._file: IO[bytes] | None = None

    def file(self) -> IO[bytes]:
        """Returns the source, decompressed.

        Raises:
            RunError: It cannot be opened.
        """
        if self._file is None:
            try:
                self._file = self._stack.enter_context(open_plain(self.source))
            except OSError as error:
                raise RunError(
                    f"{self.source.path} cannot be read: {error}; it tells the places of rows beside dead letters: put "
                    "it back, or give compare in the folder where the run was started"
                ) from error
        return self._file


def _pieces(side: Output, parts: Receipts, opened: _Opened, progress: Progress) -> Iterator[Piece]:
    first = 0
    for part in parts:
        numbers = np.delete(np.arange(part.rows), _dead_rows(side, part, opened))
        columns = read_predictions(part_bytes(part, side.path), numbers, part.rows, side.outputs)
        progress.add(part.bytes, 1)
        yield Piece(first, numbers + first, columns, part)
        first += part.rows


def _dead_rows(side: Output, part: PartReceipt, opened: _Opened) -> Positions:
    """Returns the numbers of a part's dead letters among the rows of its chunk."""
    positions = np.array([letter.position for letter in read_dead_letters(part, side.path)], np.int64)
    if not len(positions):
        return positions
    if side.reader.unit == "row":
        return positions - part.chunk.start
    block = load_scored(opened.file(), part, side.reader)
    return np.searchsorted(block.positions, positions).astype(np.int64)


class RowKeys:
    """Finds the keys of rows of an output. It reads the rows of a chunk at most once."""

    def __init__(self, side: Output) -> None:
        """Keeps the output."""
        self._side, self._positions = side, dict[str, Positions | None]()

    def key(self, part: PartReceipt, first: int, number: int) -> str:
        """Returns the key of a row. If its source is not what it was, returns the source and the number of the row.

        Args:
            part: The part that has the row.
            first: The number of the first row of the part in its source, from 0.
            number: The number of the row in its source, from 0.
        """
        chunk = part.chunk
        if self._side.reader.unit == "row":
            return f"{chunk.source}#{chunk.start + number - first}"
        if chunk.part not in self._positions:
            self._positions[chunk.part] = self._read(part)
        positions = self._positions[chunk.part]
        return (
            f"{chunk.source}, row {number + 1:,}"
            if positions is None
            else f"{chunk.source}#{positions[number - first]}"
        )

    def _read(self, part: PartReceipt) -> Positions | None:
        source = next(source for source in self._side.sources if source.path == part.chunk.source)
        try:
            with open_plain(source) as file:
                return load_scored(file, part, self._side.reader).positions
        except (OSError, RunError):
            return None
