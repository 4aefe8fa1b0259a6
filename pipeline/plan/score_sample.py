"""Scores the first rows before the run. Refuses the input or the model if all of these rows fail."""

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.options.error_limits import FLAG, ErrorLimits, ExceededLimit
from pipeline.plan.probe import ProbeError, probe
from pipeline.plan.read_sample import Head
from pipeline.terminal.amounts import part_of
from pipeline.terminal.messages import at_line, visible
from transforms.errors import ModelError, RunError, SharedError, UsageError
from transforms.formats import foreign
from transforms.formats.base import Block, Reader
from transforms.mapping import partitions, ragged
from transforms.predict import KeyedChunkHandler
from transforms.reasons import Reason
from transforms.records import BadRow, Feature, without
from transforms.saved_model.model import Arrays, Model
from transforms.scoring.bisect import MULTIPLE
from transforms.scoring.groups import by_shape
from transforms.scoring.score import score

ROWS = 100  # most rows of a source
FEWEST_ROWS = 3  # rows to score even if the model is slow
SECONDS = 0.5  # after this time, no further call starts
SHOWN_ROWS = 3  # most bad rows in a message
# TensorFlow's errors that the model causes, not a row, if all rows get the same message -> how to fix the model.
REMEDIES = {
    "FailedPreconditionError": "a table or variable is not initialized: export the model with its initializer",
    "NotFoundError": "a file that the model reads is missing: copy the whole model folder, assets included",
    "UnimplementedError": "this machine cannot run an op of the model: export the model for CPU",
    "PermissionDeniedError": "give yourself the permission to read what the model reads",
    "UnavailableError": "start the service that the model calls, or export the model without it",
}


Scorer = Callable[[Arrays], tuple[int, list[BadRow]]]


class Bad(NamedTuple):
    """A bad row.

    Attributes:
        key: The key of the row, and the number of its line.
        reason: The reason code, a value of `Reason`.
        message: The error message.
    """

    key: str
    reason: str
    message: str


class FirstRows(NamedTuple):
    """The results of the first rows.

    Attributes:
        rows: How many rows were read and scored, bad rows included.
        bad: The bad rows, in order.
        advice: The kind of a source that is no file of rows, and how to convert it; empty if the kind is unknown.
        document: Whether a source is one JSON value over several lines.
        arrays: The last rows that the model was called with, if all rows are bad; else empty.
    """

    rows: int
    bad: list[Bad]
    advice: str
    document: bool
    arrays: Arrays

    def exceeded(self, limits: ErrorLimits) -> ExceededLimit | None:
        """Returns the error limit that these rows would exceed if the input had no other rows; None if they keep it."""
        return limits.exceeded(Counter(one.reason for one in self.bad), self.rows)

    def warning(self, limits: ErrorLimits, *, with_values: bool) -> str:
        """Returns a warning if all of these rows are bad, or more than the limits allow; otherwise an empty text.

        Args:
            limits: The error limits.
            with_values: Whether the warning has the messages of bad rows, and so values of the rows.
        """
        if not with_values:
            hidden = self._replace(bad=[one._replace(message="") for one in self.bad])
            return hidden.warning(limits, with_values=True)
        exceeded = self.exceeded(limits)
        if exceeded is None:
            return f"{self._text}, which {FLAG} allows: {_reasons(self)}" if 0 < self.rows == len(self.bad) else ""
        first = visible(". ".join([_listed(self.bad[:1]), *filter(None, [self.advice])]).rstrip("."))
        return (
            f"{self._text}, and {exceeded.flag} allows fewer: {first}; the run continues, since the rows after these "
            "may be good; keyjoin check shows more of them"
        )

    def check(self, limits: ErrorLimits) -> None:
        """Refuses the input if all of these rows fail.

        Raises:
            UsageError: All rows fail, or a source is one JSON value, and the error limits do not allow that.
        """
        exceeded = self.exceeded(limits)
        if exceeded is not None and (len(self.bad) == self.rows or self.document):
            text = self._above(exceeded)
            raise UsageError(text if self.advice else f"{text}; or allow them all with {FLAG}=1.0")

    def _above(self, exceeded: ExceededLimit) -> str:
        return f"{self._text}, and {exceeded.flag} allows fewer: {_reasons(self)}"

    @property
    def _text(self) -> str:
        return f"{part_of(len(self.bad), self.rows, 'row', of_first=True)} bad"


def check_unreadable(heads: Iterable[Head], reader: Reader, limits: ErrorLimits) -> None:
    """Refuses an input if none of its first rows can be read as an object or an Example. It needs no model.

    Args:
        heads: The first rows of sources.
        reader: The reader of their format.
        limits: The error limits.

    Raises:
        UsageError: No row can be read, and the error limits do not allow that.
    """
    first_rows = _check_heads(heads, reader, (), lambda _: (0, []))
    if len(first_rows.bad) == first_rows.rows:
        first_rows.check(limits)


def check_first_rows(
    heads: Iterable[Head], reader: Reader, limits: ErrorLimits, model: Model, handler: KeyedChunkHandler
) -> FirstRows:
    """Scores the first rows in the same way as the run.

    Args:
        heads: The first rows of sources. They are scored source by source, until one source has a good row.
        reader: The reader of their format.
        limits: The error limits.
        model: The model.
        handler: The handler that will call the model in the run.

    Returns:
        Their results.

    Raises:
        UsageError: All rows fail, and the error limits do not allow that. Or the model fails for all inputs.
    """
    first_rows = _check_heads(heads, reader, handler.features, lambda arrays: _score(model, handler, arrays))
    if first_rows.arrays and len(first_rows.bad) == first_rows.rows:
        _check_model(model, handler, first_rows)
    first_rows.check(limits)
    return first_rows


def _check_heads(heads: Iterable[Head], reader: Reader, features: Sequence[Feature], scored: Scorer) -> FirstRows:
    """Reads and scores the first rows, source by source, until one source has a good row."""
    rows, bad, advice, document = 0, list[Bad](), "", False
    arrays: Arrays = {}
    for head in heads:
        first = head.block.take(range(min(ROWS, _planned(head))))
        inputs, unread = partitions.inputs(first, features)
        good = without(len(first.positions), unread)
        count, last, refused, ends = 0, 0, list[BadRow](), time.monotonic() + SECONDS
        for group in by_shape(inputs, features) if inputs.num_rows else ():
            if count >= FEWEST_ROWS and time.monotonic() > ends:
                break  # each shape takes a call of its own, so rows of many shapes take long
            arrays = group.whole
            some, failed = scored(group.arrays)
            if not some:
                break
            count, last = count + some, max(last, int(good[group.numbers[:some].max()]))
            refused += [one._replace(row=int(group.numbers[one.row])) for one in failed]
        if inputs.num_rows and not count:
            return FirstRows(0, [], "", False, {})
        if count < inputs.num_rows:  # the time was over: rows after the last scored one do not count as bad either
            unread = [one for one in unread if one.row < last]
        fresh = sorted([*unread, *(one._replace(row=int(good[one.row])) for one in refused)])
        bad += [Bad(_place(head, first, one.row), one.reason, one.message) for one in fresh]
        rows += len(unread) + count
        if fresh and reader.traits.line_end and not (advice or reader.traits.text_cells):
            document = foreign.is_document(head.text)
            advice = _advice(head) if document or not head.rows else ""
        if len(bad) < rows:
            return FirstRows(rows, bad, advice, document, {})
    return FirstRows(rows, bad, advice, document, arrays)


def _planned(head: Head) -> int:
    """Returns how many of the first rows belong to the run: with `--limit` not all of them do."""
    positions = head.block.positions
    return len(positions) if head.source.end is None else int(np.searchsorted(positions, head.source.end))


def _place(head: Head, block: Block, row: int) -> str:
    """Returns a row's key, and the number of its line if the source is a text."""
    lines = block.line_numbers([row])
    return at_line(f"{head.source.path}#{block.positions[row]}", lines[0] + 1 if lines else None)


def _advice(head: Head) -> str:
    kind, path, codec = foreign.by_text(head.text), head.source.path, head.source.codec
    return f"{path}: {foreign.refusal(kind, path, codec)}" if kind else ""


def _score(model: Model, handler: KeyedChunkHandler, arrays: Arrays) -> tuple[int, list[BadRow]]:
    """Scores rows for about half a second. Once a batch fails, it scores them one by one.

    Returns:
        How many rows were scored, and the bad rows among them.
    """
    count, at, bad = len(next(iter(arrays.values()))), 0, list[BadRow]()
    size, ends = min(handler.batch_size, MULTIPLE), time.monotonic() + SECONDS
    with contextlib.suppress(ProbeError, RunError):  # proves nothing about a row, or the run reports it
        while at < count and (at < FEWEST_ROWS or time.monotonic() < ends):
            some = {name: array[at : at + size] for name, array in arrays.items()}
            try:
                found = _call(model, handler, some, ModelError if size > 1 else SharedError)
            except ProbeError:
                if size == 1:
                    raise
                size = 1
                continue
            bad += [one._replace(row=at + one.row) for one in found]
            at += len(next(iter(some.values())))
    return at, bad


def _call(model: Model, handler: KeyedChunkHandler, rows: Arrays, ends: type[ModelError]) -> list[BadRow]:
    count, probed = len(next(iter(rows.values()))), probe(model, ends)
    size, keep = handler.batch_size, handler.keep_non_finite
    return score(probed, handler.contract, rows, count, size, keep_non_finite=keep).bad


def _check_model(model: Model, handler: KeyedChunkHandler, first_rows: FirstRows) -> None:
    """Refuses a model that fails with the same message for all first rows and for rows of zeros and ones.

    Raises:
        UsageError: The model is refused.
    """
    words = {one.message for one in first_rows.bad}
    said = next(iter(words))
    remedy = REMEDIES.get(said.split(":")[0])
    if remedy is None or len(words) > 1:
        return
    for arrays in _made_up(first_rows.arrays):
        found = _call(model, handler, arrays, SharedError)
        if [one.message for one in found] != [said]:
            return

    raise UsageError(f"the model fails whatever it is called with: {visible(said)}; {remedy}")


def _made_up(arrays: Arrays) -> Iterator[Arrays]:
    """Yields a row of zeros, then a row of ones, each as data input -> (1, …)."""
    for value in (0, 1):
        fill = functools.partial(_filled, value)
        yield {name: ragged.with_values(array[:1], fill) for name, array in arrays.items()}


def _filled(value: int, array: Any) -> Any:
    """Makes an array of zeros or ones of the same shape and dtype. For strings, these are empty strings and "1"."""
    return np.full_like(array, (b"1" if value else b"") if array.dtype == object else value)


def _reasons(first_rows: FirstRows) -> str:
    """Describes some bad rows, one of each reason first, and says how to fix them."""
    firsts: dict[str, Bad] = {}
    for one in first_rows.bad:
        firsts.setdefault(one.reason, one)
    others = [one for one in first_rows.bad if one != firsts[one.reason]]
    shown = [*firsts.values(), *others][:SHOWN_ROWS]
    remedies = [reason.remedy for reason in Reason if any(one.reason == reason.value for one in shown)]
    return visible(f"{_listed(shown)}. {first_rows.advice or ' '.join(remedies)}".rstrip("."))


def _listed(rows: Iterable[Bad]) -> str:
    return "; ".join(f"{one.key} {one.reason}{f': {one.message}' if one.message else ''}" for one in rows)
