"""Measures before a run what a row's prediction depends on.

It scores sampled rows alone, together, and in several orders, and compares the predictions of each row.
"""

import contextlib
import enum
import functools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.options.groups import REFUSE, WARN
from pipeline.plan.probe import ProbeError, probe
from pipeline.terminal.warning import warn
from transforms.errors import CrashError, ModelError, RunError, TimeoutExceededError, UsageError
from transforms.mapping import ragged
from transforms.records import Positions
from transforms.saved_model.model import Arrays, Contract, Model
from transforms.saved_model.output_shapes import WidthError, is_open, settled
from transforms.scoring.bisect import MULTIPLE
from transforms.scoring.differences import Difference, Scores, by_neighbours, by_order, compare, exchanged
from transforms.scoring.groups import LATE
from transforms.scoring.score import score

ROWS = 16  # most rows that are scored alone
LEAST = 3  # fewest rows to compare; of only two rows, reversing and exchanging give the same order
REPEATS = 2  # repeats of a call that show whether the model is deterministic
MOST_SECONDS = 0.5  # a call or a series of calls that takes longer is skipped or cut short
DOCS_HINT = "see docs/models.md"

Call = Callable[[Positions], Scores]


class Verdict(enum.Enum):
    """The results of the measurement, the worst last. The values are written to the manifest."""

    UNKNOWN = "not measured"
    INDEPENDENT = "independent"
    VALUES = "depends on the batch"
    RANDOM = "differs from call to call"
    ORDER = "does not follow the order of the rows"
    EXCHANGED = "does not follow its key"


class Dependence(NamedTuple):
    """The result of the measurement: what predictions depend on besides their own row.

    Attributes:
        verdict: The worst verdict of all outputs.
        output: The output with this verdict; None if no output has a difference.
        expected: The prediction of one row in this output, as text.
        found: The prediction of the same row in another call, as text.
        rows: The numbers of rows of the calls, ascending.
    """

    verdict: Verdict
    output: str | None = None
    expected: str | None = None
    found: str | None = None
    rows: tuple[int, ...] = ()

    def document(self) -> dict[str, Any]:
        """Returns the result as the manifest records it."""
        return {**self._asdict(), "verdict": self.verdict.value}


def pick(rows: Arrays, most: int = ROWS) -> Arrays:
    """Picks some rows, evenly spread over the given ones. No two of them are equal.

    Args:
        rows: Data input -> (rows, …), at least one row.
        most: The most rows to pick.

    Returns:
        Data input -> (picked rows, …).
    """
    texts = zip(*([_text(row) for row in array] for array in rows.values()), strict=True)
    firsts: dict[Any, int] = {}
    for number, text in enumerate(texts):
        firsts.setdefault(text, number)
    unlike = np.array(list(firsts.values()))
    taken = unlike[np.linspace(0, len(unlike) - 1, min(most, len(unlike))).astype(np.int64)]
    return {name: _take(array, taken) for name, array in rows.items()}


def _take(array: Any, which: Positions) -> Any:
    return array.take(which) if isinstance(array, LATE) else array[which]


def _text(row: npt.NDArray[Any]) -> Any:
    values = np.asarray(row)
    return tuple(values.reshape(-1)) if values.dtype == object else values.tobytes()


def measure(model: Model, contract: Contract, rows: Arrays, size: int) -> tuple[Contract, Dependence]:
    """Measures what predictions depend on, and determines the output shapes that the signature leaves open.

    A model that is slow or raises errors is called less often. The calls may change the state of the model.

    Args:
        model: The model.
        contract: The inputs and outputs of its signature.
        rows: Data input -> (rows, …), some sampled rows, see `pick`.
        size: Rows of the largest call of the run.

    Returns:
        The contract with the shapes of the predictions in the run, and the result of the measurement.

    Raises:
        UsageError: The shape of an output depends on the rows of the batch.
    """
    probed = probe(model, ModelError)
    call = functools.partial(_call, probed, contract, rows)
    small = size if contract.constant_rows else min(size, MULTIPLE)
    if _is_slow(call, small):
        small = 1
    alone = _alone(call, len(next(iter(rows.values()))), small)
    if not alone:
        return contract, Dependence(Verdict.UNKNOWN)
    contract, alone = _settle(contract, alone)
    call = functools.partial(_call, probed, contract, rows)
    together: list[list[Scores]] = []
    if size > 1:
        # These rows do not fail alone. If they fail together, the run bisects the batch, so the error is ignored here.
        with contextlib.suppress(ProbeError, RunError):
            together.extend(_together(call, np.array([scores.rows[0] for scores in alone]), max(LEAST, small), size))
        with contextlib.suppress(ProbeError, RunError):  # calls without the copies that a run adds
            together.extend([call(scores.rows[:1])] for scores in alone[:LEAST])
    dependence = _worst(contract, call, alone, together, size)
    if contract.key is None and size > 1 and dependence.verdict is not Verdict.ORDER:
        dependence = _worst_of(dependence, _varied(probed, contract, rows, max(LEAST, small), size))
    return contract, dependence


def _call(model: Model, contract: Contract, rows: Arrays, numbers: Positions) -> Scores:
    """Scores rows by their numbers, in one call unless the call fails."""
    count = len(numbers)
    arrays = {name: array[numbers] for name, array in rows.items()}
    found = score(model, contract, arrays, count, count, keep_non_finite=True)
    scored = np.ones(count, np.bool_)
    scored[[bad.row for bad in found.bad]] = False
    outputs = {}
    for name, array in found.outputs.items():
        outputs[name] = np.zeros((count, *array.shape[1:]), array.dtype)
        outputs[name][scored] = array
    return Scores(numbers, scored, outputs)


def _alone(call: Call, count: int, copies: int) -> list[Scores]:
    """Scores each row alone, in a call with copies of it, because a run adds copies, too.

    Args:
        call: Scores rows by their numbers.
        count: How many rows there are.
        copies: How many copies of a row a call has; 1 if the model is slow.

    Returns:
        The calls whose row got a prediction.
    """
    found: list[Scores] = []
    ends = time.monotonic() + MOST_SECONDS
    for number in range(count):
        if len(found) >= LEAST and time.monotonic() > ends:
            break
        try:
            scores = call(np.full(copies, number))
        except ProbeError as error:
            if isinstance(error.__cause__, (CrashError, TimeoutExceededError)):
                break  # each crash or timeout costs seconds
            continue
        except RunError:
            break  # the run reports this error
        if scores.scored[0]:
            found.append(scores)
    return found


def _is_slow(call: Call, size: int) -> bool:
    """Returns whether a model is too slow for calls with `size` rows."""
    with contextlib.suppress(ProbeError, RunError):
        # One row first, because `size` rows could take minutes. Twice, because the first call may be the slowest.
        return min(_seconds(call, 1), _seconds(call, 1)) > MOST_SECONDS / LEAST or _seconds(call, size) > MOST_SECONDS
    return False


def _seconds(call: Call, size: int) -> float:
    started = time.monotonic()
    call(np.zeros(size, np.int64))
    return time.monotonic() - started


def _settle(contract: Contract, alone: Sequence[Scores]) -> tuple[Contract, list[Scores]]:
    """Determines the output shapes of a run, and excludes the rows whose output has another rank: they are bad rows.

    Returns:
        The contract with these shapes, and the calls of the other rows.

    Raises:
        UsageError: The size of an output differs from row to row.
    """
    shapes, kept = {}, list(alone)
    for output in filter(is_open, contract.predictions):
        ranks = Counter(scores.outputs[output.name].ndim for scores in kept)
        rank = ranks.most_common(1)[0][0]
        kept = [scores for scores in kept if scores.outputs[output.name].ndim == rank]
        found = list({scores.outputs[output.name].shape[1:]: None for scores in kept})
        if len(found) > 1:
            raise UsageError(
                f"output {output.name} has the shape {list(found[0])} for one sampled row and {list(found[1])} for "
                "another: its size depends on the rows of the batch, and would change from part to part; fix its size "
                "in the model, or leave it out with --output_fields"
            )
        shapes[output.name] = found[0]
    return settled(contract, shapes), kept


def _together(call: Call, numbers: Positions, small: int, size: int) -> Iterator[list[Scores]]:
    """Scores rows together in several orders, first in calls of `small` rows, then in calls as large as in the run.

    It skips the large calls if they would take too long.

    Args:
        call: Scores rows by their numbers.
        numbers: The numbers of the rows. They are repeated to fill a call.
        small: Rows of the small calls.
        size: Rows of the large calls.

    Yields:
        For each size, the calls. They have the same rows in several orders.

    Raises:
        UsageError: An output has another size than for the rows alone.
    """
    fastest = math.inf
    for count in sorted({small, max(small, size)}):
        if count > small and fastest * count / small > MOST_SECONDS:
            return
        rows = np.resize(numbers, count)
        found = []
        mixed = np.concatenate([rows[1::-1], np.random.default_rng(0).permutation(rows[2:])])
        # A model that moves rows by position stays undetected in an order that its move commutes with. It commutes
        # with at most one of the two orders, even for few rows.
        for order in [rows, mixed, np.roll(rows, 1)][: 3 if count == small else 2]:
            started = time.monotonic()
            try:
                found.append(call(order))
            except WidthError as error:
                raise UsageError(str(error)) from error
            fastest = min(fastest, time.monotonic() - started)
        yield found


def _varied(model: Model, contract: Contract, rows: Arrays, small: int, size: int) -> Dependence:
    """Repeats the check of the order with varied values.

    An output may be equal for all sampled rows, and equal values do not show that the model moves rows.

    Returns:
        The result if the output does not follow the order of the rows, else a result with the verdict `UNKNOWN`.
    """
    call = functools.partial(_call, model, contract, vary(rows))
    with contextlib.suppress(ProbeError, RunError, UsageError):
        together = list(_together(call, np.arange(ROWS), small, size))
        found = _worst(contract, call, [], together, size)
        return found if found.verdict is Verdict.ORDER else Dependence(Verdict.UNKNOWN)
    return Dependence(Verdict.UNKNOWN)


def vary(rows: Arrays) -> Arrays:
    """Makes `ROWS` rows that resemble the given ones. Their values differ from row to row, and are in random order.

    Args:
        rows: Data input -> (rows, …), at least one row.

    Returns:
        Data input -> (`ROWS`, …).
    """
    numbers = np.random.default_rng(0).permutation(ROWS)
    whole = {name: array[:] for name, array in rows.items()}
    many = {name: np.resize(array, (ROWS, *array.shape[1:])) for name, array in whole.items()}
    return {name: ragged.with_values(array, lambda one: _with(one, numbers)) for name, array in many.items()}


def _with(array: npt.NDArray[Any], numbers: Positions) -> npt.NDArray[Any]:
    each = numbers.reshape(-1, *[1] * (array.ndim - 1))
    if array.dtype == object:
        return np.frompyfunc(lambda text, number: b"%b %d" % (text, number), 2, 1)(array, each)
    if array.dtype.kind == "b":
        return array
    if array.dtype.kind in "iu":
        return array + each.astype(array.dtype)
    factors = 0.5 + 1.5 * each / ROWS
    with np.errstate(over="ignore"):  # a value near the dtype's largest one becomes infinite
        return (array.astype(np.float64) * factors + (factors - 1)).astype(array.dtype)


def _worst_of(*found: Dependence) -> Dependence:
    return max(found, key=lambda dependence: list(Verdict).index(dependence.verdict))


def _worst(
    contract: Contract, call: Call, alone: Sequence[Scores], together: Sequence[Sequence[Scores]], size: int
) -> Dependence:
    """Compares the calls for each output, and returns the result of the output with the worst verdict."""
    calls = [*([scores] for scores in alone), *together]
    rows = tuple(sorted({len(scores.rows) for same in calls for scores in same}))
    is_measured = any(len(same) > 1 and len(same[0].rows) >= min(size, MULTIPLE) for same in together)
    found = [Dependence(Verdict.INDEPENDENT if is_measured or size == 1 else Verdict.UNKNOWN, rows=rows)]
    for output in contract.predictions:
        verdict = Verdict.ORDER if contract.key is None else Verdict.VALUES
        difference = by_order(output.name, calls)
        if difference is None and alone:
            verdict, difference = Verdict.VALUES, by_neighbours(output.name, alone, [same[0] for same in together])
        if difference is None:
            continue
        if contract.key is not None and (of_another := exchanged(output.name, together)) is not None:
            verdict, difference = Verdict.EXCHANGED, of_another
        again = _again(call, output.name, difference)
        if again is not None:
            verdict, difference = Verdict.RANDOM, again
        found.append(Dependence(verdict, output.name, difference.expected, difference.found, rows))
    return _worst_of(*found)


def _again(call: Call, output: str, difference: Difference) -> Difference | None:
    """Repeats a call. Returns a difference if its predictions change, and None if they stay the same."""
    before = difference.scores
    with contextlib.suppress(ProbeError, RunError):
        for _ in range(REPEATS):
            # Compares by place, not by row: a row may occur at several places, with a prediction at each.
            places = np.arange(len(before.rows))
            again = compare(output, before._replace(rows=places), call(before.rows)._replace(rows=places))
            if again is not None:
                return again
    return None


def judge(dependence: Dependence, policy: str) -> None:
    """Refuses the run or warns, if predictions depend on more than their own row.

    Args:
        dependence: The result of the measurement.
        policy: `refuse`, `warn` or `allow`. Outputs that do not follow their rows or keys are refused in any case.

    Raises:
        UsageError: The run is refused.
    """
    output, expected, found = dependence.output, dependence.expected, dependence.found
    if dependence.verdict is Verdict.ORDER:
        raise UsageError(
            f"the model takes no key, and its output {output} does not follow the rows: in two orders of the same "
            f"rows, one of them gets {expected} and {found}; fix the model so that row n of its output is of row n of "
            f"its input, or have it return each row's key beside its prediction, {DOCS_HINT}"
        )
    if dependence.verdict is Verdict.EXCHANGED:
        raise UsageError(
            f"the model does not return each key beside its own row's output {output}: in two orders of the same rows, "
            f"one of them gets {expected} and {found}, and all values are the same; fix the model so that it moves the "
            f"key as it moves the rows, {DOCS_HINT}"
        )
    if dependence.verdict is Verdict.RANDOM:
        text = (
            f"the model is not deterministic: called again with the same rows, its output {output} is {found} where it "
            f"was {expected}, so the same command gives another result, and it is not known whether predictions depend "
            "on the batch"
        )
    elif dependence.verdict is Verdict.VALUES:
        text = (
            f"predictions depend on the other rows of the batch: in one call, output {output} of a sampled row is "
            f"{expected}, in another one {found}; the result changes with --batch_size and the order of the rows"
        )
    else:
        return
    if policy == REFUSE:
        raise UsageError(f"{text}; fix the model, or accept it with --batch_dependence=warn, {DOCS_HINT}")
    if policy == WARN:
        warn(f"{text}; --batch_dependence=refuse stops such a run, {DOCS_HINT}")
