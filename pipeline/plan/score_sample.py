"""Scores the first rows before the run: refuses an input or a model for which all of them fail, and warns of many."""

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
from pipeline.terminal.messages import at_line, visible
from pipeline.terminal.warning import warn
from transforms.errors import ModelError, RunError, SharedError, UsageError
from transforms.formats import foreign
from transforms.formats.base import Block, Reader
from transforms.mapping import ragged
from transforms.predict import KeyedChunkHandler
from transforms.reasons import Reason
from transforms.records import BadRow, Feature, without
from transforms.saved_model.model import Arrays, Model
from transforms.scoring.bisect import MULTIPLE
from transforms.scoring.groups import by_shape
from transforms.scoring.score import score

ROWS = 100  # of a source
FEWEST_ROWS = 3  # that the model is called with, however slow it is
SECONDS = 0.5
SHOWN_ROWS = 3
# Errors of TensorFlow that tell of the model, and not of a row, where every row gets the same words.
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
        key: Its key, and the number of its line.
        reason: A `Reason` value.
        message: What was found.
    """

    key: str
    reason: str
    message: str


class Looked(NamedTuple):
    """What the first rows came to.

    Attributes:
        rows: How many were looked at.
        bad: Those that are bad, in order.
        advice: What kind of file a source is, if it is not one of rows; empty if that is not known.
        document: Whether a source is one JSON value, whatever its lines are.
        arrays: The last rows that were called, all of which the model refused; empty if there are none.
    """

    rows: int
    bad: list[Bad]
    advice: str
    document: bool
    arrays: Arrays

    def exceeded(self, limits: ErrorLimits) -> ExceededLimit | None:
        """The limit that would be exceeded if there were no other rows."""
        return limits.exceeded(Counter(one.reason for one in self.bad), self.rows)


def check_unreadable(heads: Iterable[Head], reader: Reader, limits: ErrorLimits) -> None:
    """Refuses an input of which no first row is an object or an Example, before anything is known of the model.

    Raises:
        UsageError: The limits do not allow that.
    """
    looked = _look(heads, reader, (), lambda _: (0, []))
    if len(looked.bad) == looked.rows:
        _judge(looked, limits)


def check_first_rows(
    heads: Iterable[Head], reader: Reader, limits: ErrorLimits, model: Model, handler: KeyedChunkHandler
) -> None:
    """Scores the first rows as the run will.

    Args:
        heads: The beginnings of sources: one after the other is looked at until one has a good row.
        reader: Of their format.
        limits: How many rows may be bad.
        model: The model.
        handler: How it is called.

    Raises:
        UsageError: All of them fail and the limits do not allow that, or the model fails whatever it is called with.
    """
    looked = _look(heads, reader, handler.features, lambda arrays: _score(model, handler, arrays))
    if looked.arrays and len(looked.bad) == looked.rows:
        _check_model(model, handler, looked)
    _judge(looked, limits)


def _look(heads: Iterable[Head], reader: Reader, features: Sequence[Feature], scored: Scorer) -> Looked:
    """Looks at the first rows of one source after the other, until one has a good row."""
    rows, bad, advice, document = 0, list[Bad](), "", False
    arrays: Arrays = {}
    for head in heads:
        first = head.block.take(range(min(ROWS, len(head.block.positions))))
        inputs, unread = first.inputs(features)
        count, refused, ends = 0, list[BadRow](), time.monotonic() + SECONDS
        for group in by_shape(inputs, features) if inputs.num_rows else ():
            if count >= FEWEST_ROWS and time.monotonic() > ends:
                break  # rows of many shapes are many calls
            arrays = group.whole
            some, failed = scored(group.arrays)
            if not some:
                break
            count += some
            refused += [one._replace(row=int(group.numbers[one.row])) for one in failed]
        if inputs.num_rows and not count:
            return Looked(0, [], "", False, {})
        good = without(len(first.positions), unread)
        fresh = sorted([*unread, *(one._replace(row=int(good[one.row])) for one in refused)])
        bad += [Bad(_place(head, first, one.row), one.reason, one.message) for one in fresh]
        rows += len(unread) + count
        if fresh and reader.traits.line_end and not advice:
            document = foreign.is_document(head.text)
            advice = _advice(head) if document or not head.rows else ""
        if len(bad) < rows:
            return Looked(rows, bad, advice, document, {})
    return Looked(rows, bad, advice, document, arrays)


def _place(head: Head, block: Block, row: int) -> str:
    """A row's key, and the number of its line in a text."""
    lines = block.line_numbers([row])
    return at_line(f"{head.source.path}#{block.positions[row]}", lines[0] + 1 if lines else None)


def _advice(head: Head) -> str:
    kind, path, packed = foreign.by_text(head.text), head.source.path, head.source.is_gzip
    return f"{path}: {foreign.refusal(kind, path, packed=packed)}" if kind else ""


def _score(model: Model, handler: KeyedChunkHandler, arrays: Arrays) -> tuple[int, list[BadRow]]:
    """Scores rows for about half a second, one by one once a batch fails.

    Returns:
        How many rows were scored, and the bad ones among them.
    """
    count, at, bad = len(next(iter(arrays.values()))), 0, list[BadRow]()
    size, ends = min(handler.batch_size, MULTIPLE), time.monotonic() + SECONDS
    with contextlib.suppress(ProbeError, RunError):  # no proof, or the run will say what is wrong
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


def _check_model(model: Model, handler: KeyedChunkHandler, looked: Looked) -> None:
    """Refuses a model that fails with the same words for all rows, and for rows that are made up.

    Raises:
        UsageError: It does.
    """
    words = {one.message for one in looked.bad}
    said = next(iter(words))
    remedy = REMEDIES.get(said.split(":")[0])
    if remedy is None or len(words) > 1:
        return
    for arrays in _made_up(looked.arrays):
        found = _call(model, handler, arrays, SharedError)
        if [one.message for one in found] != [said]:
            return

    raise UsageError(f"the model fails whatever it is called with: {visible(said)}; {remedy}")


def _made_up(arrays: Arrays) -> Iterator[Arrays]:
    """Rows of other values."""
    for value in (0, 1):
        fill = functools.partial(_filled, value)
        yield {name: ragged.with_values(array[:1], fill) for name, array in arrays.items()}


def _filled(value: int, array: Any) -> Any:
    """An array of one value, whatever its dtype: of texts, none and a 1."""
    return np.full_like(array, (b"1" if value else b"") if array.dtype == object else value)


def _judge(looked: Looked, limits: ErrorLimits) -> None:
    """Refuses rows that all fail, and warns where more of them fail than the limits allow.

    Raises:
        UsageError: All fail, and the limits do not allow that.
    """
    exceeded, all_bad = looked.exceeded(limits), len(looked.bad) == looked.rows
    if not looked.bad or not (exceeded or all_bad):
        return
    text = f"{len(looked.bad)} of the first {looked.rows} rows are bad"
    if exceeded is None:
        warn(f"{text}, which {FLAG} allows: {_reasons(looked)}")
        return
    text = f"{text}, and {exceeded.flag} allows fewer: {_reasons(looked)}"
    if all_bad or looked.document:
        raise UsageError(text if looked.advice else f"{text}; or allow them all with {FLAG}=1.0")
    warn(f"{text}; the run continues, since the rows after these may be good")


def _reasons(looked: Looked) -> str:
    """Some bad rows, of different reasons where there are any, and what to do."""
    firsts: dict[str, Bad] = {}
    for one in looked.bad:
        firsts.setdefault(one.reason, one)
    others = [one for one in looked.bad if one != firsts[one.reason]]
    shown = [*firsts.values(), *others][:SHOWN_ROWS]
    remedies = [reason.remedy for reason in Reason if any(one.reason == reason.value for one in shown)]
    told = "; ".join(f"{one.key} {one.reason}: {one.message}" for one in shown)
    return visible(f"{told}. {looked.advice or ' '.join(remedies)}".rstrip("."))
