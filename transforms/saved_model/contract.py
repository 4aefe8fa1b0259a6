"""Finds the contract of a signature by calling it: which input takes the key, and which outputs are written.

An input takes the key only if an output returns it for any data, and no prediction changes with it. An output is
written only if it has one value for each row.
"""

import contextlib
import itertools
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.errors import ModelError, UnfitOutputError, UsageError
from transforms.saved_model.key_probe import ROWS, Found, ProbedModel, each, find_key, made_up
from transforms.saved_model.model import Arrays, Contract, Model, Tensor, key_array, key_input
from transforms.scoring.align import ordinals

Example = Callable[[Contract], Arrays | None]
OwnKeys = Callable[[Tensor], npt.NDArray[Any] | None]


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
    """Finds the input that takes the key, and the outputs that return it.

    keyjoin calls the model with several vectors of keys. An output, or its last column, is an echo if it returns each
    of these vectors for any data. An input called `key` is data if no output returns it, or if a prediction depends
    on it.

    Args:
        model: The model.
        signature: The name of its signature.
        key_name: The input that takes the key, if it is not called `key`.
        example: Takes a contract, and returns arrays of some sampled rows for its data inputs, or None.
        own_keys: Takes the key input, and returns the rows' own values of the field of that name, or None.
        wanted: The names of the outputs to write; empty for all.
        alone: Whether each call of the run has one row.

    Returns:
        The contract.

    Raises:
        UsageError: The named input is data, or the signature fixes the batch of a model with a key. Also if an output
            does not have one value for each row, or the model gives no prediction.
    """
    alone = alone or model.rows == 1
    key = key_input(model, key_name)
    data = tuple(t for t in model.inputs.values() if t != key)
    found = Found()
    if key is not None and data:
        rows = example(Contract(signature, data, ()))
        whole = None
        with contextlib.suppress(UsageError):  # the rows have no field of the key's name, or it does not fit the input
            whole = example(Contract(signature, tuple(model.inputs.values()), ()))
        probed = ProbedModel(model, key, 1 if alone else ROWS, wanted)
        found = find_key(probed, data, rows, own_keys(key), whole)
    if key_name is not None and found.why_data:
        raise UsageError(f"--key_input={key_name}: {found.why_data}; {found.remedy}")
    if found.echoes and key is not None:
        _check_rows(model)
        contract = Contract(signature, data, (), key, found.echoes, found.most)
    else:
        contract = Contract(signature, tuple(model.inputs.values()), (), why_data=found.why_data)
    constant_rows = model.compiled is not None or (model.rows or 1) > 1
    contract = contract._replace(constant_rows=constant_rows)
    contract = contract._replace(rows=model.rows, most=min(contract.most, model.rows or contract.most))
    contract = contract._replace(outputs=_needed(model, contract, wanted or found.predictions, alone=alone))
    is_fed = bool(data) or key_name is None  # if the model's only input happens to be called `key`, it is data
    if not contract.predictions or not is_fed:
        raise UsageError(f"signature {signature} has no {'predictions' if is_fed else 'data inputs'} besides its key")
    _check_outputs(model, contract, example(contract), alone=alone)
    return contract


def _check_rows(model: Model) -> None:
    """Refuses a model that takes a key and has a batch fixed to several rows.

    keyjoin would have to fill up the batch with copies of a row, which would have the same key.

    Raises:
        UsageError: The signature fixes the batch to several rows.
    """
    if model.rows not in (None, 1):
        raise UsageError(
            f"the model takes a key, and its signature fixes its batch to {model.rows} rows, so that a call would be "
            "filled up with rows of the same key; export the model with a free batch dimension, or without the key"
        )


def unfit(model: Model, *, alone: bool = False) -> dict[str, str]:
    """Finds the outputs that, by the signature, do not have one value for each row.

    Args:
        model: The model.
        alone: Whether each call of the run has one row.

    Returns:
        Output -> reason.
    """
    fixed = {
        name: f"has {tensor.fixed_rows} values for any number of rows"
        for name, tensor in model.outputs.items()
        if tensor.fixed_rows is not None and not (alone and tensor.fixed_rows == 1)
    }
    return {**model.unfit, **fixed}


def _needed(model: Model, contract: Contract, wanted: Collection[str], *, alone: bool) -> tuple[Tensor, ...]:
    """Returns the outputs that the run computes: those that it writes, and the echoes.

    Raises:
        UsageError: An output does not have one value for each row.
    """
    echoes, bad = dict(contract.echoes), unfit(model, alone=alone)
    if not any(echoes.get(name, True) for name in wanted):
        wanted = [*model.outputs, *model.unfit]
    for name in wanted:
        if name in bad:
            is_single = name in model.outputs and model.outputs[name].fixed_rows == 1
            raise _not_per_row(model, contract, name, bad[name], bad, is_single=is_single)
    return tuple(tensor for name, tensor in model.outputs.items() if name in wanted or name in echoes)


def _not_per_row(
    model: Model, contract: Contract, name: str, why: str, bad: Collection[str], *, is_single: bool
) -> UnfitOutputError:
    has_prediction = dict(contract.echoes)
    others = [o for o in model.outputs if o != name and o not in bad and has_prediction.get(o, True)]
    message = f"output {name} {why}: it cannot be written; export the model without it"
    return UnfitOutputError(message, others, is_single=is_single)


def _check_outputs(model: Model, contract: Contract, rows: Arrays | None, *, alone: bool) -> None:
    """Checks that each output has one value for each row, by calling the model with two batch sizes.

    A batch holds copies of one row, because a model may drop some rows and keep others. The check passes with the
    first row whose outputs all have the right number of values. It tries the sampled rows first, then made-up rows.

    Args:
        model: The model.
        contract: The contract, with the outputs to check.
        rows: Data input -> sampled rows, (rows, …), or None.
        alone: Whether each call of the run has one row. If so, the only batch size is 1.

    Raises:
        UsageError: An output has a wrong number of values, and no row passes.
    """
    called = model.only([tensor.name for tensor in contract.outputs])
    counts = [1] if alone else _odd_sizes(model, contract)
    refused = None
    for arrays in [*([] if rows is None else each(rows)), *(made_up(contract.inputs, [value]) for value in (1, 0))]:
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
    """Returns two odd batch sizes that differ from every fixed size of the signature."""
    tensors = (*model.inputs.values(), *contract.outputs)
    fixed = {size for tensor in tensors for size in (tensor.fixed_rows, *(tensor.shape or ()))}
    return list(itertools.islice((size for size in itertools.count(3, 2) if size not in fixed), 2))


def _follow(called: Model, contract: Contract, arrays: Arrays, count: int) -> bool:
    """Whether each output has one value for each row of a batch. False if the model drops the rows.

    Args:
        called: The model, which computes the outputs of the contract.
        contract: The contract.
        arrays: Data input -> the row to copy, (1, …).
        count: The batch size.

    Raises:
        ModelError: The model raises.
        UsageError: An output has another number of values.
    """
    fed = {name: np.resize(array, (count, *array.shape[1:])) for name, array in arrays.items()}
    if contract.key is not None:
        fed[contract.key.name] = key_array(ordinals(count), contract.key)
    answer = called(fed)
    lengths = {name: len(array) if array.ndim else 1 for name, array in answer.items()}
    beside = [name for name, last_column in contract.echoes if not last_column] or list(dict(contract.echoes))
    expected = lengths[beside[0]] if beside else count
    for name, length in lengths.items():
        if length and length != expected:
            raise _not_per_row(
                called, contract, name, f"has {length} values for {expected} rows", [name], is_single=length == 1
            )
    return all(lengths.values())
