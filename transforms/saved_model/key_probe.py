"""Detects whether an input takes the key: calls the model with several vectors of keys for the same data.

A model with a key returns each vector unchanged, and its predictions do not depend on the keys.
"""

import contextlib
import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt

from transforms.dtypes import STRING
from transforms.errors import ModelError, UsageError
from transforms.saved_model.echoed_keys import column, rows_at, strange_keys
from transforms.saved_model.model import Arrays, Echo, Model, Tensor, key_array
from transforms.scoring.align import ordinals

# Two vectors of keys; the first is the one that a run sends. An output of class numbers or row numbers may contain only
# keys of the first vector. In the call with the second vector, it then does not contain only keys of that one.
KEYS = (np.array([1, 2, 3, 4, 5, 6, 7]), np.array([53, 41, 61, 47, 59, 43, 37]))
ROWS = len(KEYS[0])
# Made-up data for the calls. An output that equals the key for some of this data and not for other data is a
# computation, and does not return the key.
VALUES = ((0, 1, 20011, -30011, 40009), (0, 0, 0), (1, 1, 1), (20011, -30011, 40009))
ALONE = 4  # real rows to call one at a time if a call with several rows fails
# Keys just below powers of two. They are odd: a float dtype that holds one exactly holds every smaller key exactly.
# No two of them become equal in a narrower integer dtype.
BOUNDS = np.array([2**power - 1 - 2 * power for power in (6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 20, 24)])
MOST = int(BOUNDS[-1])
OWN = 3  # how many of the rows' own values are sent as keys
OWN_ROWS = 96  # most rows of the calls with the rows' own values; a call of a run has at least as many
OWN_CALLS = 16  # most of these calls, if each call of the run has one row
# Keys of other sizes than those in `KEYS`, even and odd: a model may react only to keys in some range.
SPREAD = (97, 258, 1009, 10006, 1000003, -8, -97, -1010, -10007)
FRACTIONS = (0.25, 0.5, 0.75)
NOISE = 30  # a difference counts only if it is this many times as large as between two calls with the same keys
# If a row is at another position in its batch, its prediction may differ by this many times the dtype's resolution.
ULPS = 16


class Found(NamedTuple):
    """The result of the probe: whether the input takes the key or is data.

    Attributes:
        echoes: Where the model returns the key; empty if the input is data.
        most: The most rows of a call.
        why_data: Why the input is data; empty if it takes the key.
        remedy: What the user can do if the input is data.
        predictions: The outputs that are not just a copy of the input. Empty if this is not known.
    """

    echoes: tuple[Echo, ...] = ()
    most: int = MOST
    why_data: str = ""
    remedy: str = ""
    predictions: tuple[str, ...] = ()


class _Probe(NamedTuple):
    """Some rows, and the model's answers for them with two vectors of keys."""

    data: Arrays
    answers: tuple[Arrays, Arrays]
    keys: tuple[npt.NDArray[Any], npt.NDArray[Any]]

    @property
    def rows(self) -> int:
        return len(next(iter(self.data.values())))

    def in_order(self, echo: Echo) -> bool:
        """Whether the model returned all rows in the order in which they were sent."""
        rows = [(row, row) for row in range(self.rows)]
        return all(
            list(rows_at(answer, echo, keys).items()) == rows
            for answer, keys in zip(self.answers, self.keys, strict=True)
        )


class _KeyRefusedError(Exception):
    """The model raises an error for some keys, and accepts other keys with the same data."""


class ProbedModel:
    """Calls a model with chosen keys.

    Attributes:
        model: The model.
        key: The input that may take the key.
        rows: The rows of a call.
        wanted: The outputs that the run writes; empty if it writes all.
    """

    def __init__(self, model: Model, key: Tensor, rows: int, wanted: Collection[str] = ()) -> None:
        """Takes the attributes."""
        self.model, self.key, self.rows, self.wanted = model, key, rows, wanted

    def __call__(self, data: Arrays, keys: npt.NDArray[Any]) -> Arrays:
        """Calls the model.

        Args:
            data: Data input -> (rows, …).
            keys: Whole numbers, or values in the key input's dtype, (rows,).

        Returns:
            Output -> (batch, …).

        Raises:
            ModelError: The model raises.
        """
        return self.model({**data, self.key.name: key_array(keys, self.key)})

    def probes(self, candidates: Sequence[Arrays]) -> Iterator[_Probe]:
        """Calls the model with the first candidate and both vectors of keys; if this fails, with each other candidate.

        Args:
            candidates: Data input -> (rows, …). Rows are repeated or cut to `rows` rows.

        Raises:
            _KeyRefusedError: The model accepts the first vector of keys and raises an error for the second one.
        """
        for number, arrays in enumerate(candidates):
            data = {name: np.resize(array, (self.rows, *array.shape[1:])) for name, array in arrays.items()}
            first, second = (keys[: self.rows] for keys in KEYS)
            try:
                answer = self(data, first)
            except ModelError:
                continue
            try:
                yield _Probe(data, (answer, self(data, second)), (first, second))
            except ModelError as error:
                raise _KeyRefusedError(error) from error
            if number == 0:
                return


def find_key(
    probed: ProbedModel,
    data: tuple[Tensor, ...],
    rows: Arrays | None,
    own: npt.NDArray[Any] | None,
    whole: Arrays | None = None,
) -> Found:
    """Detects whether an input takes the key, and where the model returns the key.

    Args:
        probed: The model and the input.
        data: The other inputs.
        rows: Data input -> (rows, …), some real rows; or None.
        own: The rows' own values of the field with the input's name; or None.
        whole: Input -> (rows, …), some real rows with these own values; or None.

    Raises:
        UsageError: The input is data, and the model returns rows in another order.
    """
    name = probed.key.name
    candidates = [[made_up(data, values) for values in VALUES], [] if rows is None else [rows, *each(rows)]]
    try:
        probes = [probe for some in candidates for probe in probed.probes(some)]
    except _KeyRefusedError as error:
        why = f"the model raises for some values of its input {name}, and for others not ({error})"
        return Found(why_data=why, remedy=OWN_FIELD)
    echoes = _echoes(probed, probes)
    if not echoes:
        return Found(why_data=f"input {name} does not come back in any output", remedy="see `keyjoin wrap`")
    found = {echo: _most(probed, echo, probes) for echo in echoes}
    wide = tuple(echo for echo, most in found.items() if most)
    if not wide:
        why = f"input {name} comes back in output {echoes[0].output} only where it is below {BOUNDS[0]}"
        return Found(why_data=why, remedy="see `keyjoin wrap`")
    for number, probe in enumerate([*reversed(probes), *_own_probes(probed, whole)]):  # the last probes have real rows
        if output := _changed(probed, wide, probe, _unusual(probed.key, own) if number == 0 else []):
            why = f"output {output} changes with the model's input {name}"
            _check_order(wide, probes, why)
            copies = [echo.output for echo in wide if not echo.last_column]
            others = tuple(output for output in (*probed.model.outputs, *probed.model.unfit) if output not in copies)
            return Found(why_data=why, remedy=OWN_FIELD, predictions=others)
    return Found(wide, min(found[echo] for echo in wide))


def _check_order(echoes: Sequence[Echo], probes: Sequence[_Probe], why: str) -> None:
    """Refuses a model whose input is data and that returns rows in another order.

    Without a key, nothing shows which prediction belongs to which row.

    Raises:
        UsageError: The model returns rows in another order.
    """
    for probe, echo in itertools.product(probes, echoes):
        for answer, keys in zip(probe.answers, probe.keys, strict=True):
            places = list(rows_at(answer, echo, keys).values())
            if places != sorted(places):
                raise UsageError(
                    f"{why}, and the model does not give rows back in their order: no row's prediction can be told; "
                    "export the model with a key of its own beside that input"
                )


OWN_FIELD = "it is data, not a key: leave out --key_input, so that the rows' own field feeds it"


def made_up(tensors: Sequence[Tensor], values: Sequence[int]) -> Arrays:
    """Makes rows that each consist of one value. Sizes that the model leaves open are 1.

    Args:
        tensors: The inputs.
        values: The value of each row. For strings, 0 gives the empty text, and other values give their digits.

    Returns:
        Input -> (values, …), in the input's dtype.
    """
    made = {}
    for tensor in tensors:
        shape = (len(values), *(size or 1 for size in tensor.shape or ()))
        rows = np.array(values).reshape(len(values), *[1] * (len(shape) - 1))
        if tensor.dtype == STRING:
            texts = np.array([str(value).encode() if value else b"" for value in values], object).reshape(rows.shape)
            made[tensor.name] = np.broadcast_to(texts, shape)
        else:
            made[tensor.name] = np.broadcast_to(rows.astype(tensor.dtype), shape)
    return made


def each(rows: Arrays) -> list[Arrays]:
    """Returns the first `ALONE` rows, each as a batch of one row."""
    count = min(ALONE, len(next(iter(rows.values()))))
    return [{name: array[row : row + 1] for name, array in rows.items()} for row in range(count)]


def _own_probes(probed: ProbedModel, whole: Arrays | None) -> list[_Probe]:
    """Calls the model with real rows twice: with ordinals as keys, and with the rows' own values as keys.

    These calls detect two kinds of models: those with a lookup table that knows only few values, and those with a
    prediction that depends on the key of only some rows.
    """
    if whole is None:
        return []
    own = whole[probed.key.name].reshape(-1)
    # Each value once, so that a returned value belongs to one row. NaN is excluded, because it does not equal itself.
    rows = list({value: row for row, value in reversed(list(enumerate(own.tolist()))) if value == value}.values())[::-1]
    for size in (OWN_ROWS, ROWS) if probed.rows > 1 else (1,):
        found = []
        for start in range(0, min(len(rows), OWN_CALLS * size if size == 1 else OWN_ROWS), size):
            some = rows[start : start + size]
            data = {name: array[some] for name, array in whole.items() if name != probed.key.name}
            sent = ordinals(len(some))
            with contextlib.suppress(ModelError):
                answers = probed(data, sent), probed(data, own[some])
                found.append(_Probe(data, answers, (sent, own[some])))
        if found:
            return found
    return []


def _echoes(probed: ProbedModel, probes: Sequence[_Probe]) -> tuple[Echo, ...]:
    """Finds the outputs that return the key for all data. An output such as x + key returns it only where x is 0."""
    found, by_name = [], Echo(probed.key.name, last_column=False)
    for name, last_column in itertools.product(probed.model.outputs, (False, True)):
        echo = Echo(name, last_column)
        votes = [vote for probe in probes if (vote := _vote(probe, echo)) is not None]
        if votes and all(votes):
            found.append(echo)
        # Every probe failed or returned no rows, so nothing was measured. An output with the name and dtype of the key
        # input is trusted here, because the run verifies the keys of each batch.
        unseen = not votes and all(column(a[name], echo) is not None for probe in probes for a in probe.answers)
        if unseen and echo == by_name and probed.model.outputs[name].dtype == probed.key.dtype:
            found.append(echo)
    return tuple(found)


def _vote(probe: _Probe, echo: Echo) -> bool | None:
    """Returns whether an output returns the key in a probe.

    None if this is unknown: the model dropped all rows, or a bad row changed the rank of the output.
    """
    votes = []
    for answer, keys in zip(probe.answers, probe.keys, strict=True):
        values = column(answer[echo.output], echo)
        if values is None:
            return None
        votes += [not strange_keys(answer, echo, keys)] if len(values) else []
    return all(votes) if len(votes) == len(probe.answers) or not all(votes) else None


def _most(probed: ProbedModel, echo: Echo, probes: Sequence[_Probe]) -> int:
    """Finds how many keys, counted from 1, an output surely returns unchanged.

    A model may cast keys to a narrower dtype: in uint16, large keys wrap around.
    """
    if probed.rows == 1 or not probes:
        return MOST
    probe = probes[-1]
    kept = sorted(rows_at(probe.answers[0], echo, probe.keys[0])) or [0]
    # First only the largest key, which is enough for most models. Then all keys, and fewer until a call succeeds.
    for keys in (BOUNDS[-1:], *(BOUNDS[:end] for end in range(len(BOUNDS), 0, -1))):
        rows = np.resize(kept, len(keys))
        with contextlib.suppress(ModelError):
            answer = probed({name: array[rows] for name, array in probe.data.items()}, keys)
            exact = rows_at(answer, echo, keys)
            if len(keys) > 1 or exact:
                most = int(keys[max(exact)]) if exact else 0
                return most if answer[echo.output].size else MOST
    return MOST  # every call failed; the same calls fail in the run, too


def _changed(probed: ProbedModel, echoes: Sequence[Echo], probe: _Probe, others: Sequence[Any]) -> str | None:
    """Returns the first prediction that changes if only the keys change; None if there is none.

    A prediction that changes about as much between two calls with the same keys proves nothing.
    """
    for keys, answer in itertools.chain([(probe.keys[1], probe.answers[1])], _other_answers(probed, probe, others)):
        sizes = dict(_differing(echoes, probe, answer, keys))
        names = [name for name in sizes if not probed.wanted or name in probed.wanted]
        if names:
            with contextlib.suppress(ModelError):
                again = probed(probe.data, probe.keys[0])
                noise = dict(_differing(echoes, probe, again, probe.keys[0]))
                names = [name for name in names if name not in noise or sizes[name] > NOISE * noise[name]]
        if names:
            return names[0]
    return None


def _other_answers(
    probed: ProbedModel, probe: _Probe, values: Sequence[Any]
) -> Iterator[tuple[npt.NDArray[Any], Arrays]]:
    """Yields other keys and the model's answers for them. If a call fails, it sends these keys one at a time."""
    for start in range(0, len(values), probe.rows):
        some = values[start : start + probe.rows]
        for chosen in (some, *([value] for value in some)):
            keys = _filled(probed.key, chosen, probe.rows)
            try:
                yield keys, probed(probe.data, keys)
            except ModelError:
                continue
            if len(chosen) == len(some):
                break


def _unusual(key: Tensor, own: npt.NDArray[Any] | None) -> list[Any]:
    """Returns the rows' own values, keys of many sizes, negative keys, and for floats fractions."""
    if key.dtype == STRING:
        usual: list[Any] = [b"%d" % BOUNDS[-1], b"-1", b"", *(b"%d" % key for key in SPREAD)]
    else:
        whole = np.issubdtype(key.dtype, np.integer)
        usual = [BOUNDS[-1], -1, np.iinfo(key.dtype).max if whole else np.finfo(key.dtype).max, *SPREAD]
        usual += () if whole else FRACTIONS
    given = [] if own is None else own[own == own].reshape(-1).tolist()  # not NaN
    return list(dict.fromkeys([*list(dict.fromkeys(given))[:OWN], *usual]))


def _filled(key: Tensor, values: Sequence[Any], count: int) -> npt.NDArray[Any]:
    """Makes a vector of `count` keys: the values first, then usual keys that are not among them."""
    usual = key_array(KEYS[0], key._replace(shape=())).tolist()
    chosen = [*values, *(value for value in usual if value not in values)][:count]
    return np.array(chosen, object if key.dtype == STRING else key.dtype)


def _differing(
    echoes: Sequence[Echo], probe: _Probe, other: Arrays, keys: npt.NDArray[Any]
) -> Iterator[tuple[str, float]]:
    """Yields the predictions that differ between the probe's first answer and another one, and by how much.

    It compares the predictions of the same row.
    """
    kinds, one = dict(echoes), probe.answers[0]
    whole = next((echo for echo in echoes if not echo.last_column), echoes[0])
    for name in one:
        if not kinds.get(name, True):
            continue
        echo = Echo(name, True) if name in kinds else whole
        first, second = rows_at(one, echo, probe.keys[0]), rows_at(other, echo, keys)
        if probe.in_order(echo) and other[echo.output].shape[:1] == keys.shape:
            second = first  # by position, so that rows count whose keys a narrow dtype does not hold
        rows = [row for row in first if row in second]
        places = [[at[row] for row in rows] for at in (first, second)]
        if any(not _reach(answer[name], at) for answer, at in zip((one, other), places, strict=True)):
            continue  # the output does not have one value for each row
        ends = slice(None, -1 if name in kinds else None)
        left, right = (a[name][at][..., ends] for a, at in zip((one, other), places, strict=True))
        if not _equal(left, right, moved=places[0] != places[1]):
            yield name, _distance(left, right)


def _reach(array: npt.NDArray[Any], places: Sequence[int]) -> bool:
    return array.ndim > 0 and all(place < len(array) for place in places)


def _distance(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Returns the largest difference between two arrays of floats.

    It is infinite for other dtypes, for different shapes, and if a difference is NaN.
    """
    if one.shape != other.shape or one.dtype == object or one.dtype.kind in "biu":
        return float("inf")
    apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
    return float("inf") if np.isnan(apart).any() else float(apart.max(initial=0.0))


def _equal(one: npt.NDArray[Any], other: npt.NDArray[Any], *, moved: bool) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype == object or one.dtype.kind in "biu":
        return bool((one == other).all())
    # In matrix kernels, the last digit of a row's result depends on the position of the row in the batch.
    near = ULPS * float(ml_dtypes.finfo(one.dtype).eps) if moved else 0.0  # type: ignore[no-untyped-call]
    return np.allclose(one.astype(np.float64), other.astype(np.float64), rtol=near, atol=near, equal_nan=True)
