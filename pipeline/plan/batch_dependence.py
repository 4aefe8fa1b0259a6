"""What a row's prediction depends on: sampled rows are scored alone, together, and in other orders before a run."""

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

ROWS = 16  # that are scored alone
LEAST = 3  # rows: to reverse two of them is to exchange them
REPEATS = 2  # of a call, to see whether it gives the same again
BUDGET_SECONDS = 0.5  # for what a slow model can do without
SEE = "see docs/models.md"

Call = Callable[[Positions], Scores]


class Verdict(enum.Enum):
    """What was found, the worst last; the value is what the manifest says."""

    UNKNOWN = "not measured"
    INDEPENDENT = "independent"
    VALUES = "depends on the batch"
    RANDOM = "differs from call to call"
    ORDER = "does not follow the order of the rows"
    EXCHANGED = "does not follow its key"


class Dependence(NamedTuple):
    """What predictions depend on besides their own row.

    Attributes:
        verdict: What was found.
        output: The output that it was found in.
        expected: What one of the rows got there, as text.
        found: What the same row got in another call.
        rows: Sizes of the calls that were made.
    """

    verdict: Verdict
    output: str | None = None
    expected: str | None = None
    found: str | None = None
    rows: tuple[int, ...] = ()

    def document(self) -> dict[str, Any]:
        """As the manifest has it."""
        return {**self._asdict(), "verdict": self.verdict.value}


def pick(rows: Arrays, most: int = ROWS) -> Arrays:
    """Some rows, no two of them alike, spread over those that are given.

    Args:
        rows: Data input -> (rows, …), at least one row.
        most: How many at most.
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


def look(model: Model, contract: Contract, rows: Arrays, size: int) -> tuple[Contract, Dependence]:
    """Finds out what predictions depend on, and settles the shapes that the signature leaves open.

    A model that raises, or is slow, is called less often. Its state may change.

    Args:
        model: The model.
        contract: What its signature takes and gives.
        rows: Data input -> (rows, …), some sampled rows, see `pick`.
        size: Rows of the largest call of the run.

    Returns:
        The contract, with the shapes that predictions have in the run, and what was found.

    Raises:
        UsageError: The shape of an output depends on the rows of the batch.
    """
    asked = probe(model, ModelError)
    call = functools.partial(_call, asked, contract, rows)
    small = size if contract.constant_rows else min(size, MULTIPLE)
    if _is_slow(call, small):
        small = 1
    alone = _alone(call, len(next(iter(rows.values()))), small)
    if not alone:
        return contract, Dependence(Verdict.UNKNOWN)
    contract, alone = _settle(contract, alone)
    call = functools.partial(_call, asked, contract, rows)
    together: list[list[Scores]] = []
    if size > 1:
        # What fails for rows together that do not fail alone is for the run to bisect.
        with contextlib.suppress(ProbeError, RunError):
            together.extend(_together(call, np.array([scores.rows[0] for scores in alone]), max(LEAST, small), size))
        with contextlib.suppress(ProbeError, RunError):  # without the copies that a run fills a call up with
            together.extend([call(scores.rows[:1])] for scores in alone[:LEAST])
    dependence = _worst(contract, call, alone, together, size)
    if contract.key is None and size > 1 and dependence.verdict is not Verdict.ORDER:
        dependence = _worst_of(dependence, _varied(asked, contract, rows, max(LEAST, small), size))
    return contract, dependence


def _call(model: Model, contract: Contract, rows: Arrays, numbers: Positions) -> Scores:
    """Scores rows by their numbers, in one call if all goes well."""
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
    """Scores rows each by itself: in a call with copies of it, as a run does, or with one if the model is slow.

    Returns:
        What each row got that got anything.
    """
    found: list[Scores] = []
    ends = time.monotonic() + BUDGET_SECONDS
    for number in range(count):
        if len(found) >= LEAST and time.monotonic() > ends:
            break
        try:
            scores = call(np.full(copies, number))
        except ProbeError as error:
            if isinstance(error.__cause__, (CrashError, TimeoutExceededError)):
                break  # each of them costs seconds
            continue
        except RunError:
            break  # the run will say what is wrong
        if scores.scored[0]:
            found.append(scores)
    return found


def _is_slow(call: Call, size: int) -> bool:
    """Whether a model takes long for calls with so many rows."""
    with contextlib.suppress(ProbeError, RunError):
        # One row first: so many could take minutes. Twice, since the first call may be slower than all others.
        return (
            min(_seconds(call, 1), _seconds(call, 1)) > BUDGET_SECONDS / LEAST or _seconds(call, size) > BUDGET_SECONDS
        )
    return False


def _seconds(call: Call, size: int) -> float:
    started = time.monotonic()
    call(np.zeros(size, np.int64))
    return time.monotonic() - started


def _settle(contract: Contract, alone: Sequence[Scores]) -> tuple[Contract, list[Scores]]:
    """The shapes of a run, and the rows that have them; one of another rank is a bad row.

    Raises:
        UsageError: An output has another size for another row.
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
    """Scores rows together, so many and as many as in the run, in several orders: the same rows are in one list.

    Raises:
        UsageError: An output has another size than it has for each row alone.
    """
    fastest = math.inf
    for count in sorted({small, max(small, size)}):
        if count > small and fastest * count / small > BUDGET_SECONDS:
            return
        rows = np.resize(numbers, count)
        found = []
        mixed = np.concatenate([rows[1::-1], np.random.default_rng(0).permutation(rows[2:])])
        # A model that moves rows by their places commutes with one of the two orders at most, also if they are few.
        for order in [rows, mixed, np.roll(rows, 1)][: 3 if count == small else 2]:
            started = time.monotonic()
            try:
                found.append(call(order))
            except WidthError as error:
                raise UsageError(str(error)) from error
            fastest = min(fastest, time.monotonic() - started)
        yield found


def _varied(model: Model, contract: Contract, rows: Arrays, small: int, size: int) -> Dependence:
    """What is found with other values than those of the sampled rows, of which some outputs may be all alike."""
    call = functools.partial(_call, model, contract, vary(rows))
    with contextlib.suppress(ProbeError, RunError, UsageError):
        together = list(_together(call, np.arange(ROWS), small, size))
        found = _worst(contract, call, [], together, size)
        return found if found.verdict is Verdict.ORDER else Dependence(Verdict.UNKNOWN)
    return Dependence(Verdict.UNKNOWN)


def vary(rows: Arrays) -> Arrays:
    """Rows like those that are given, with values of which no two are alike, in no order.

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
    return (array.astype(np.float64) * factors + (factors - 1)).astype(array.dtype)


def _worst_of(*found: Dependence) -> Dependence:
    return max(found, key=lambda dependence: list(Verdict).index(dependence.verdict))


def _worst(
    contract: Contract, call: Call, alone: Sequence[Scores], together: Sequence[Sequence[Scores]], size: int
) -> Dependence:
    """What was found of the output for which it is worst."""
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
    """Whether the same call gives something else again."""
    before = difference.scores
    with contextlib.suppress(ProbeError, RunError):
        for _ in range(REPEATS):
            # By place, not by row: a row may have several places, and a prediction for each.
            places = np.arange(len(before.rows))
            again = compare(output, before._replace(rows=places), call(before.rows)._replace(rows=places))
            if again is not None:
                return again
    return None


def judge(dependence: Dependence, policy: str) -> None:
    """Refuses a run, or warns of it, for what its predictions depend on.

    Args:
        dependence: What was found.
        policy: `refuse`, `warn` or `allow`.

    Raises:
        UsageError: It is refused.
    """
    output, expected, found = dependence.output, dependence.expected, dependence.found
    if dependence.verdict is Verdict.ORDER:
        raise UsageError(
            f"the model takes no key, and its output {output} does not follow the rows: in two orders of the same "
            f"rows, one of them gets {expected} and {found}; fix the model so that row n of its output is of row n of "
            f"its input, or have it return each row's key beside its prediction, {SEE}"
        )
    if dependence.verdict is Verdict.EXCHANGED:
        raise UsageError(
            f"the model does not return each key beside its own row's output {output}: in two orders of the same rows, "
            f"one of them gets {expected} and {found}, and all values are the same; fix the model so that it moves the "
            f"key as it moves the rows, {SEE}"
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
        raise UsageError(f"{text}; fix the model, or accept it with --batch_dependence=warn, {SEE}")
    if policy == WARN:
        warn(f"{text}; --batch_dependence=refuse stops such a run, {SEE}")
