"""Scores rows of the beginning, the middle and the end of sources, and counts those that would fail in a run."""

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from pipeline.job.graph import Job
from pipeline.plan.read_sample import SomeRows
from pipeline.plan.score_rows import Scored, score_block
from pipeline.plan.spread_sample import SCANNED, picked, read_pieces
from transforms import columns, formats
from transforms.errors import RunError, StoppedError, UsageError
from transforms.line_numbers import Lines
from transforms.records import BadRow, Source
from transforms.saved_model.model import Model
from transforms.scoring.constant import Constants

SECONDS = 10.0  # after this time, no further row is scored
SLOW = 0.5  # seconds; after a call that took less, the next one has twice as many rows
EXAMPLES = 3
SHOWN_VALUES, SHOWN_CHARACTERS = 3, 32


class BadRowExample(msgspec.Struct, frozen=True, kw_only=True):
    """A row that would become a dead letter.

    Attributes:
        key: Its key.
        file: Its source.
        line: The number of its line, from 1; None where rows are not lines.
        reason: The reason code.
        message: The cause, with the value.
    """

    key: str
    file: str
    line: int | None
    reason: str
    message: str


class SampledRows(msgspec.Struct, frozen=True, kw_only=True):
    """The results of the sampled rows.

    Attributes:
        rows: How many rows were read and scored, bad rows included.
        files: How many files have these rows.
        of_files: How many files the input has, empty files not counted.
        places: Which rows of these files were read.
        is_whole: Whether all of them were scored in `SECONDS`.
        bad: How many of them would be dead letters, by reason code.
        examples: A few of them, one of each reason first.
        inputs: Model input -> the value of a good row, as text.
        predictions: Output -> the prediction of that row, as text.
        constant: Output -> the prediction that all rows have, as text, if they all have the same one.
    """

    rows: int
    files: int
    of_files: int
    places: str
    is_whole: bool
    bad: dict[str, int]
    examples: tuple[BadRowExample, ...]
    inputs: dict[str, str]
    predictions: dict[str, str]
    constant: dict[str, str]


def score_spread(sources: Sequence[Source], job: Job, model: Model) -> SampledRows:
    """Reads and scores rows of sources.

    Args:
        sources: The input files.
        job: The settings of the run.
        model: The model, with the outputs that the run needs.

    Raises:
        UsageError: A source cannot be read, or the model fails in a way that would end the run.
    """
    some, reader = picked(sources), formats.load(job.format).reader
    counted = Counted(Lines(reader.traits.line_end))
    try:
        is_whole = _score_in_time(read_pieces(some, reader), job, model, counted)
    except RunError as error:
        raise UsageError(f"the run would end with: {error}") from error
    return SampledRows(
        rows=counted.rows,
        files=len(counted.files),
        of_files=sum(1 for source in sources if source.size),
        places=_places(some),
        is_whole=is_whole,
        bad=dict(sorted(counted.bad.items())),
        examples=counted.examples(),
        inputs=counted.inputs,
        predictions=counted.predictions,
        constant={name: value_text(first) for name, first in counted.constants.found().items()},
    )


def _places(sources: Sequence[Source]) -> str:
    packed, large = sum(1 for s in sources if s.codec), sum(1 for s in sources if not s.codec and s.size > SCANNED)
    whose, are = ("its", "it is") if len(sources) == 1 else ("their", "they are")
    if sources and packed == len(sources):
        return f"{whose} beginning, since {are} compressed"
    notes = [f"only the beginning of {packed} compressed ones"] * bool(packed)
    notes += [f"in {large} large ones those of the first {SCANNED >> 30} GiB, unless rows have numbers"] * bool(large)
    return "; ".join([f"{whose} beginning, middle and end", *notes])


class Counted:
    """The results of the rows that were scored so far.

    Attributes:
        rows: How many rows there are, bad rows included.
        files: The paths of their sources.
        bad: How many rows would be dead letters, by reason code.
        inputs: Model input -> the value of a good row, as text.
        predictions: Output -> the prediction of that row, as text.
        constants: Finds outputs that have the same prediction for all rows.
    """

    def __init__(self, lines: Lines) -> None:
        """Starts without rows.

        Args:
            lines: Counts the lines of sources, for examples.
        """
        self.rows, self.files = 0, set[str]()
        self.bad: Counter[str] = Counter()
        self.inputs: dict[str, str] = {}
        self.predictions: dict[str, str] = {}
        self.constants = Constants()
        self._lines = lines
        self._firsts: dict[str, BadRowExample] = {}
        self._others: list[BadRowExample] = []

    def add(self, rows: SomeRows, scored: Scored) -> None:
        """Adds rows.

        Args:
            rows: The rows.
            scored: Their results.
        """
        self.rows += scored.rows
        self.files.add(rows.source.path)
        self.bad.update(one.reason for one in scored.bad)
        self.constants.add(scored.inputs, scored.predictions)
        for one in scored.bad:
            if one.reason not in self._firsts:
                self._firsts[one.reason] = self._example(rows, one)
            elif len(self._others) < EXAMPLES:
                self._others.append(self._example(rows, one))
        if not self.predictions and scored.predictions.num_rows:
            self.inputs = _first_values(scored.inputs)
            self.predictions = _first_values(scored.predictions)

    def _example(self, rows: SomeRows, bad: BadRow) -> BadRowExample:
        block, path = rows.block, rows.source.path
        if rows.chunk is None:
            lines: Sequence[int | None] = [line + 1 for line in block.line_numbers([bad.row]) or ()] or [None]
        else:
            lines = self._lines.numbers(rows.chunk, block, [bad.row])
        key = f"{path}#{block.positions[bad.row]}"
        return BadRowExample(key=key, file=path, line=lines[0], reason=bad.reason, message=bad.message)

    def examples(self) -> tuple[BadRowExample, ...]:
        """Returns a few bad rows, one of each reason first."""
        return tuple([*self._firsts.values(), *self._others][:EXAMPLES])


def _score_in_time(pieces: Iterable[SomeRows], job: Job, model: Model, counted: Counted) -> bool:
    """Scores rows in calls that grow as long as they are fast. Returns whether all rows were scored in time."""
    ends, step = time.monotonic() + SECONDS, 1

    def refused(_: str, __: int, ___: BadRow) -> None:
        if counted.rows and time.monotonic() > ends:
            raise StoppedError

    for piece in pieces:
        at, count = 0, len(piece.block.positions)
        while at < count:
            began = time.monotonic()
            if counted.rows and began > ends:
                return False
            some = piece._replace(block=piece.block.take(range(at, min(at + step, count))))
            scored = score_block(some.block, job, model, refused)
            if scored is None:
                return False
            counted.add(some, scored)
            at += step
            step = step * 2 if time.monotonic() - began < SLOW else max(1, step // 2)
    return True


def _first_values(batch: pa.RecordBatch) -> dict[str, str]:
    return {name: value_text(batch[name].slice(0, 1)) for name in batch.schema.names}


def value_text(value: pa.Array) -> str:
    """Writes the value of one record as text, shortened.

    Args:
        value: A column with the record only.

    >>> value_text(pa.array([[1.5, 2.0]], pa.list_(pa.float32(), 2)))
    '[1.5, 2.0]'
    >>> value_text(pa.array([[1, 2, 3, 4, 5]])), value_text(pa.array([b"text"]))
    ('[1, 2, 3, … 5 values]', '"text"')
    """
    if pa.types.is_struct(value.type):
        return _shortened(str(value[0].as_py()))
    flat = columns.flat_values(value)
    shown = [_item(item) for item in itertools.islice(_texts(flat), SHOWN_VALUES)]
    if not columns.is_list(value.type):
        return shown[0]
    more = [f"… {len(flat):,} values"] * (len(flat) > SHOWN_VALUES)
    return f"[{', '.join([*shown, *more])}]"


def _texts(flat: pa.Array) -> Iterator[Any]:
    head = flat.slice(0, SHOWN_VALUES)
    if columns.is_bytes(head.type) or pa.types.is_boolean(head.type):
        return iter(head.to_pylist())
    texts = head.cast(pa.string()).to_pylist()  # the shortest text that reads back as the same float
    return (f"{text}.0" if pa.types.is_floating(head.type) and text.lstrip("-").isdigit() else text for text in texts)


def _item(item: Any) -> str:
    if isinstance(item, bytes):
        try:
            return json.dumps(_shortened(item.decode()), ensure_ascii=False)
        except UnicodeDecodeError:
            return f"{len(item):,} bytes"
    return str(item).lower() if isinstance(item, bool) else str(item)


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
