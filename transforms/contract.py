"""Finds out what a signature takes and gives by calling it: which input takes the key, and where it comes back.

An input takes the key only if it comes back, whatever the data is, and no prediction changes with it.
"""

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt

from transforms.dtypes import STRING
from transforms.errors import ModelError, UsageError
from transforms.model import Arrays, Contract, Echo, Model, Tensor, key_array, key_input

# Vectors of keys, the first as a run sends them. No output that holds numbers of classes, or of the rows of a call,
# consists of keys of both.
KEYS = (np.array([0, 1, 2, 3, 4, 5, 6]), np.array([53, 41, 61, 47, 59, 43, 37]))
ROWS = len(KEYS[0])
# Data to call with: an echo for one of them that is none for another is a computation.
VALUES = ((0, 1, 20011, -30011, 40009), (0, 0, 0), (1, 1, 1), (20011, -30011, 40009))
ALONE = 4  # real rows that are tried alone where some together fail
# Keys just below powers of two. Odd, so that no float rounds them; no two of them are equal in a narrower integer.
BOUNDS = np.array([2**power - 1 - 2 * power for power in (6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 20, 24)])
MOST = int(BOUNDS[-1]) + 1
OWN = 3  # of the rows' own values
# A prediction that stands in another place of its batch may differ by so many times its dtype's resolution.
ULPS = 16

Example = Callable[[Contract], Arrays | None]
OwnKeys = Callable[[Tensor], npt.NDArray[Any] | None]


class _Found(NamedTuple):
    """What an input that could take the key is.

    Attributes:
        echoes: Where the key comes back; empty if it is data.
        most: Rows of a call at most.
        why_data: Why it is data.
        remedy: What to do about it.
        predictions: The outputs that are more than a copy of it, where that is known.
    """

    echoes: tuple[Echo, ...] = ()
    most: int = MOST
    why_data: str = ""
    remedy: str = ""
    predictions: tuple[str, ...] = ()


class _Probe(NamedTuple):
    """Some rows, and what the model answers for them with each of `KEYS`."""

    data: Arrays
    answers: tuple[Arrays, Arrays]

    @property
    def rows(self) -> int:
        return len(next(iter(self.data.values())))

    def in_order(self, echo: Echo) -> bool:
        """Whether all rows came back as they were sent."""
        rows = [(row, row) for row in range(self.rows)]
        return all(
            list(_places(answer, echo, keys).items()) == rows
            for answer, keys in zip(self.answers, self.keys, strict=True)
        )

    @property
    def keys(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        return KEYS[0][: self.rows], KEYS[1][: self.rows]


class _KeyRefusedError(Exception):
    """The model raises for some keys, and for others not, with the same data."""


def find_contract(
    model: Model,
    signature: str,
    key_name: str | None = None,
    example: Example = lambda _: None,
    own_keys: OwnKeys = lambda _: None,
    *,
    wanted: Collection[str] = (),
    alone: bool = False,
) -> Contract:
    """Finds out what takes the key, and where it comes back, by calling the model with several vectors of keys.

    An output, or the last column of one, that holds different vectors of keys, with whatever data, is an echo. An
    input called `key` that does not come back, or that a prediction depends on, is data.

    Args:
        model: The model.
        signature: Its signature.
        key_name: The input that takes the key, if it is not called `key`.
        example: Gives some real rows for the data inputs of a contract, or None.
        own_keys: Gives the rows' own values of the field that is called as the key input, or None.
        wanted: The outputs that are written; none if all are.
        alone: Whether each call of the run has one row.

    Raises:
        UsageError: The named input is data, an output is not one value a row, or the model gives no prediction.
    """
    key = key_input(model, key_name)
    data = tuple(t for t in model.inputs.values() if t != key)
    found = _Found()
    if key is not None and data:
        rows = example(Contract(signature, data, ()))
        found = _find(_Asked(model, key, 1 if alone else ROWS, wanted), data, rows, own_keys(key))
    if key_name is not None and found.why_data:
        raise UsageError(f"--key_input={key_name}: {found.why_data}; {found.remedy}")
    if found.echoes and key is not None:
        contract = Contract(signature, data, (), key, found.echoes, found.most)
    else:
        contract = Contract(signature, tuple(model.inputs.values()), (), why_data=found.why_data)
    contract = contract._replace(outputs=_needed(model, contract, wanted or found.predictions, alone=alone))
    if not contract.predictions or not data:
        raise UsageError(f"signature {signature} has no {'predictions' if data else 'data inputs'} besides its key")
    _check_outputs(model, contract, example(contract), alone=alone)
    return contract


def unfit(model: Model, *, alone: bool = False) -> dict[str, str]:
    """Output that is not one value a row by the signature -> why.

    Args:
        model: The model.
        alone: Whether each call of the run has one row.
    """
    fixed = {
        name: f"has {tensor.fixed_rows} values for any number of rows"
        for name, tensor in model.outputs.items()
        if tensor.fixed_rows is not None and not (alone and tensor.fixed_rows == 1)
    }
    return {**model.unfit, **fixed}


def _needed(model: Model, contract: Contract, wanted: Collection[str], *, alone: bool) -> tuple[Tensor, ...]:
    """The outputs that are written, and the echoes.

    Raises:
        UsageError: No row can hold one of them.
    """
    echoes, bad = dict(contract.echoes), unfit(model, alone=alone)
    if not any(echoes.get(name, True) for name in wanted):
        wanted = [*model.outputs, *model.unfit]
    for name in wanted:
        if name in bad:
            raise _not_per_row(model, name, bad[name], bad)
    return tuple(tensor for name, tensor in model.outputs.items() if name in wanted or name in echoes)


def _not_per_row(model: Model, name: str, why: str, bad: Collection[str]) -> UsageError:
    good = [other for other in model.outputs if other != name and other not in bad]
    leave_out = f", or leave it out of a run with --output_fields row,{','.join(good)}" if good else ""
    return UsageError(f"output {name} {why}: it is not one a row; export the model without it{leave_out}")


def _check_outputs(model: Model, contract: Contract, rows: Arrays | None, *, alone: bool) -> None:
    """Calls the model with two numbers of copies of a row: each output has to follow them.

    Copies, since a model may drop some rows and not others. Where it raises or drops them, or where an output does
    not follow, other rows are tried, and made-up ones.

    Raises:
        UsageError: An output followed for none of them.
    """
    called = model.only([tensor.name for tensor in contract.outputs])
    counts = [1] if alone else _odd_sizes(model, contract)
    refused = None
    for arrays in [*([] if rows is None else _each(rows)), *(_made_up(contract.inputs, [value]) for value in (1, 0))]:
        try:
            if all(_follow(called, contract, arrays, count) for count in counts):
                return
        except UsageError as error:
            refused = refused or error
        except ModelError:
            continue
    if refused is not None:
        raise refused


def _odd_sizes(model: Model, contract: Contract) -> list[int]:
    """Two odd numbers of rows that are no fixed size of the signature."""
    tensors = (*model.inputs.values(), *contract.outputs)
    fixed = {size for tensor in tensors for size in (tensor.fixed_rows, *(tensor.shape or ()))}
    return list(itertools.islice((size for size in itertools.count(3, 2) if size not in fixed), 2))


def _follow(called: Model, contract: Contract, arrays: Arrays, count: int) -> bool:
    """Whether the outputs have one value for each of so many rows; False also where the model drops the rows.

    Raises:
        ModelError: The model raises.
        UsageError: An output has another number of values.
    """
    fed = {name: np.resize(array, (count, *array.shape[1:])) for name, array in arrays.items()}
    if contract.key is not None:
        fed[contract.key.name] = key_array(np.arange(count), contract.key)
    answer = called(fed)
    lengths = {name: len(array) if array.ndim else 1 for name, array in answer.items()}
    beside = [name for name, last_column in contract.echoes if not last_column] or list(dict(contract.echoes))
    expected = lengths[beside[0]] if beside else count
    for name, length in lengths.items():
        if length and length != expected:
            raise _not_per_row(called, name, f"has {length} values for {expected} rows", [name])
    return all(lengths.values())


class _Asked:
    """A model that is called with chosen keys.

    Attributes:
        model: The model.
        key: Its key input.
        rows: Rows of a call.
        wanted: The outputs that are written; none if all are.
    """

    def __init__(self, model: Model, key: Tensor, rows: int, wanted: Collection[str] = ()) -> None:
        """Takes the attributes."""
        self.model, self.key, self.rows, self.wanted = model, key, rows, wanted

    def __call__(self, data: Arrays, keys: npt.NDArray[Any]) -> Arrays:
        """The model's answer.

        Raises:
            ModelError: The model raises.
        """
        return self.model({**data, self.key.name: key_array(keys, self.key)})

    def probes(self, candidates: Sequence[Arrays]) -> Iterator[_Probe]:
        """What the model answers for the first candidate; where it raises, for each of the others.

        Raises:
            _KeyRefusedError: It raises for one vector of keys only.
        """
        for number, arrays in enumerate(candidates):
            data = {name: np.resize(array, (self.rows, *array.shape[1:])) for name, array in arrays.items()}
            first, second = (keys[: self.rows] for keys in KEYS)
            try:
                answer = self(data, first)
            except ModelError:
                continue
            try:
                yield _Probe(data, (answer, self(data, second)))
            except ModelError as error:
                raise _KeyRefusedError(error) from error
            if number == 0:
                return


def _find(asked: _Asked, data: tuple[Tensor, ...], rows: Arrays | None, own: npt.NDArray[Any] | None) -> _Found:
    name = asked.key.name
    candidates = [[_made_up(data, values) for values in VALUES], [] if rows is None else [rows, *_each(rows)]]
    try:
        probes = [probe for some in candidates for probe in asked.probes(some)]
    except _KeyRefusedError as error:
        why = f"the model raises for some values of its input {name}, and for others not ({error})"
        return _Found(why_data=why, remedy=OWN_FIELD)
    echoes = _echoes(asked, probes)
    if not echoes:
        return _Found(why_data=f"input {name} does not come back in any output", remedy="see `keyjoin wrap`")
    found = {echo: _most(asked, echo, probes) for echo in echoes}
    wide = tuple(echo for echo, most in found.items() if most)
    if not wide:
        why = f"input {name} comes back in output {echoes[0].output} only where it is below {BOUNDS[0]}"
        return _Found(why_data=why, remedy="see `keyjoin wrap`")
    for number, probe in enumerate(reversed(probes)):  # of real rows first
        if output := _changed(asked, wide, probe, _unusual(asked.key, own) if number == 0 else []):
            why = f"output {output} changes with the model's input {name}"
            _check_order(wide, probes, why)
            copies = [echo.output for echo in wide if not echo.last_column]
            others = tuple(output for output in (*asked.model.outputs, *asked.model.unfit) if output not in copies)
            return _Found(why_data=why, remedy=OWN_FIELD, predictions=others)
    return _Found(wide, min(found[echo] for echo in wide))


def _check_order(echoes: Sequence[Echo], probes: Sequence[_Probe], why: str) -> None:
    """Refuses a model whose key is data and that gives rows back in another order, which nothing tells then.

    Raises:
        UsageError: It is refused.
    """
    for probe, echo in itertools.product(probes, echoes):
        for answer, keys in zip(probe.answers, probe.keys, strict=True):
            places = list(_places(answer, echo, keys).values())
            if places != sorted(places):
                raise UsageError(
                    f"{why}, and the model does not give rows back in their order: no row's prediction can be told; "
                    "export the model with a key of its own beside that input"
                )


OWN_FIELD = "it is data, not a key: leave out --key_input, so that the rows' own field feeds it"


def _made_up(tensors: Sequence[Tensor], values: Sequence[int]) -> Arrays:
    """Rows each of one value, of size 1 where the model leaves it open."""
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


def _each(rows: Arrays) -> list[Arrays]:
    count = min(ALONE, len(next(iter(rows.values()))))
    return [{name: array[row : row + 1] for name, array in rows.items()} for row in range(count)]


def _echoes(asked: _Asked, probes: Sequence[_Probe]) -> tuple[Echo, ...]:
    """The outputs that give the key back whatever the data is: x + key does so only where x is 0."""
    found, by_name = [], Echo(asked.key.name, last_column=False)
    for name, last_column in itertools.product(asked.model.outputs, (False, True)):
        echo = Echo(name, last_column)
        votes = [vote for probe in probes if (vote := _vote(probe, echo)) is not None]
        if votes and all(votes):
            found.append(echo)
        # The model raises, or drops all rows, whatever it is called with; each batch is verified anyhow.
        unseen = not votes and all(_column(a[name], echo) is not None for probe in probes for a in probe.answers)
        if unseen and echo == by_name and asked.model.outputs[name].dtype == asked.key.dtype:
            found.append(echo)
    return tuple(found)


def _vote(probe: _Probe, echo: Echo) -> bool | None:
    """Whether an output gives the key back; None where the model drops all rows, or a bad row changes its rank."""
    votes = []
    for answer, keys in zip(probe.answers, probe.keys, strict=True):
        values = _column(answer[echo.output], echo)
        if values is None:
            return None
        votes += [not strange_keys(answer, echo, keys)] if len(values) else []
    return all(votes) if len(votes) == len(probe.answers) or not all(votes) else None


def _column(array: npt.NDArray[Any], echo: Echo) -> npt.NDArray[Any] | None:
    """The values that may be keys; None if the array has another shape."""
    if array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1):
        return None if echo.last_column else array.reshape(-1)
    return array[:, -1] if array.ndim == 2 and array.shape[1] and echo.last_column else None


def strange_keys(answer: Arrays, echo: Echo, keys: npt.NDArray[Any]) -> list[Any]:
    """What an echo gives back that was never sent.

    Args:
        answer: The model's answer.
        echo: Where the key comes back.
        keys: What was sent, (batch,).
    """
    values = _column(answer[echo.output], echo)
    known = set() if values is None else set(_sent(keys, values))
    return [] if values is None else [value for value in _plain(values) if value not in known]


def _plain(values: npt.NDArray[Any]) -> list[Any]:
    found: list[Any] = values.reshape(-1).tolist()
    return found


def _sent(keys: npt.NDArray[Any], values: npt.NDArray[Any]) -> list[Any]:
    """Keys as they would stand among values: whole numbers in strings are spelled out."""
    sent = keys.tolist()
    return [key if isinstance(key, bytes) else b"%d" % key for key in sent] if values.dtype == object else sent


def _places(answer: Arrays, echo: Echo, keys: npt.NDArray[Any]) -> dict[int, int]:
    """Row that was sent -> where its prediction is, for each key that came back once."""
    values = _column(answer[echo.output], echo)
    if values is None:
        return {}
    given = _plain(values)
    return {row: given.index(key) for row, key in enumerate(_sent(keys, values)) if given.count(key) == 1}


def _most(asked: _Asked, echo: Echo, probes: Sequence[_Probe]) -> int:
    """How many keys, from 0 on, an echo holds at least: what is cast to uint16 on its way wraps around."""
    if asked.rows == 1 or not probes:
        return MOST
    probe = probes[-1]
    kept = sorted(_places(probe.answers[0], echo, probe.keys[0])) or [0]
    # The largest one alone, which is all for most models; then as many as the model answers for.
    for keys in (BOUNDS[-1:], *(BOUNDS[:end] for end in range(len(BOUNDS), 0, -1))):
        rows = np.resize(kept, len(keys))
        with contextlib.suppress(ModelError):
            answer = asked({name: array[rows] for name, array in probe.data.items()}, keys)
            exact = _places(answer, echo, keys)
            if len(keys) > 1 or exact:
                most = int(keys[max(exact)]) + 1 if exact else 0
                return most if answer[echo.output].size else MOST
    return MOST  # the model raises for all of them, as it will in the run


def _changed(asked: _Asked, echoes: Sequence[Echo], probe: _Probe, others: Sequence[Any]) -> str | None:
    """The first prediction that changes with the key alone; what changes without it, too, proves nothing."""
    for keys, answer in itertools.chain([(probe.keys[1], probe.answers[1])], _other_answers(asked, probe, others)):
        names = list(_differing(echoes, probe, answer, keys))
        names = [name for name in names if not asked.wanted or name in asked.wanted]
        if names:
            with contextlib.suppress(ModelError):
                again = asked(probe.data, probe.keys[0])
                random = set(_differing(echoes, probe, again, probe.keys[0]))
                names = [name for name in names if name not in random]
        if names:
            return names[0]
    return None


def _other_answers(asked: _Asked, probe: _Probe, values: Sequence[Any]) -> Iterator[tuple[npt.NDArray[Any], Arrays]]:
    """Answers for other keys; for each of them alone where the model raises."""
    for start in range(0, len(values), probe.rows):
        some = values[start : start + probe.rows]
        for chosen in (some, *([value] for value in some)):
            keys = _filled(asked.key, chosen, probe.rows)
            try:
                yield keys, asked(probe.data, keys)
            except ModelError:
                continue
            if len(chosen) == len(some):
                break


def _unusual(key: Tensor, own: npt.NDArray[Any] | None) -> list[Any]:
    """The rows' own values, and large and negative keys."""
    if key.dtype == STRING:
        usual: list[Any] = [b"%d" % BOUNDS[-1], b"-1", b""]
    else:
        whole = np.issubdtype(key.dtype, np.integer)
        usual = [BOUNDS[-1], -1, np.iinfo(key.dtype).max if whole else np.finfo(key.dtype).max]
    given = [] if own is None else own[own == own].reshape(-1).tolist()  # not NaN
    return list(dict.fromkeys([*list(dict.fromkeys(given))[:OWN], *usual]))


def _filled(key: Tensor, values: Sequence[Any], count: int) -> npt.NDArray[Any]:
    """Values, and as many usual keys that are none of them."""
    usual = key_array(KEYS[0], key._replace(shape=())).tolist()
    chosen = [*values, *(value for value in usual if value not in values)][:count]
    return np.array(chosen, object if key.dtype == STRING else key.dtype)


def _differing(echoes: Sequence[Echo], probe: _Probe, other: Arrays, keys: npt.NDArray[Any]) -> Iterator[str]:
    """Predictions of another answer that differ from the probe's first one for the same row."""
    kinds, one = dict(echoes), probe.answers[0]
    whole = next((echo for echo in echoes if not echo.last_column), echoes[0])
    for name in one:
        if not kinds.get(name, True):
            continue
        echo = Echo(name, True) if name in kinds else whole
        first, second = _places(one, echo, probe.keys[0]), _places(other, echo, keys)
        if probe.in_order(echo) and other[echo.output].shape[:1] == keys.shape:
            second = first  # also keys that a narrow echo does not hold
        rows = [row for row in first if row in second]
        places = [[at[row] for row in rows] for at in (first, second)]
        if any(not _reach(answer[name], at) for answer, at in zip((one, other), places, strict=True)):
            continue  # not one value a row
        ends = slice(None, -1 if name in kinds else None)
        left, right = (a[name][at][..., ends] for a, at in zip((one, other), places, strict=True))
        if not _equal(left, right, moved=places[0] != places[1]):
            yield name


def _reach(array: npt.NDArray[Any], places: Sequence[int]) -> bool:
    return array.ndim > 0 and all(place < len(array) for place in places)


def _equal(one: npt.NDArray[Any], other: npt.NDArray[Any], *, moved: bool) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype == object or one.dtype.kind in "biu":
        return bool((one == other).all())
    # Matrix kernels treat rows by their place in a batch, in the last digit.
    near = ULPS * float(ml_dtypes.finfo(one.dtype).eps) if moved else 0.0  # type: ignore[no-untyped-call]
    return np.allclose(one.astype(np.float64), other.astype(np.float64), rtol=near, atol=near, equal_nan=True)
