"""Reads a signature of a SavedModel: inputs that rows feed, inputs with one value for all rows, and outputs."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from transforms.compat import tensorflow
from transforms.dtypes import DTYPES
from transforms.errors import UsageError
from transforms.mapping import input_names
from transforms.saved_model import composites, constants, fixed_batch
from transforms.saved_model.composites import Composite
from transforms.saved_model.constants import Constant
from transforms.saved_model.model import RAGGED, Tensor


class UnfitError(ValueError):
    """No row can hold a tensor; the message says why."""


class Signature(NamedTuple):
    """The inputs and outputs of a signature.

    Attributes:
        inputs: The inputs that rows feed, by name.
        constants: The inputs that no row feeds.
        outputs: The outputs that rows can hold, by name.
        unfit: Other output -> why no row can hold it.
        rows: The rows of each call, if the signature fixes them.
        whole: The outputs without a batch dimension. If a call has one row, such an output is the prediction of that
            row.
        composites: The ragged and sparse inputs with their parts, by name.
    """

    inputs: dict[str, Tensor]
    constants: tuple[Constant, ...]
    outputs: dict[str, Tensor]
    unfit: dict[str, str]
    rows: int | None
    whole: frozenset[str]
    composites: dict[str, Composite]


def read(
    graph: Any,
    signature: str,
    values: Iterable[tuple[str, str | None]],
    unfit: Mapping[str, str],
    has_default: Callable[[str], bool],
) -> Signature:
    """Reads a signature.

    Args:
        graph: The `MetaGraphDef`, https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/protobuf/meta_graph.proto.
        signature: The name of the signature.
        values: (input, value) pairs of the constant inputs, see `input_names.resolve`.
        unfit: Output that is already known to be unfit -> why.
        has_default: Returns whether a tensor of the graph has a default, which TensorFlow uses if it is not fed.

    Raises:
        UsageError: keyjoin cannot feed an input, or `values` names an input that does not exist.
    """
    definition = graph.signature_def[signature]
    made = {composite.name: composite for composite in composites.find(graph, signature)}
    parts = {name for composite in made.values() for name in composite.inputs}
    names = sorted((definition.inputs.keys() - parts) | made.keys())
    given = input_names.resolve(constants.FLAG, values, names)
    types = {name: _input_type(name, definition.inputs[name]) for name in names if name not in made}
    sizes_of = {name: sizes for name, (_, sizes) in types.items() if name not in given}
    rows = fixed_batch.rows_of(sizes_of | {name: list(composite.sizes) for name, composite in made.items()})
    keys = composites.dict_keys(graph, signature)
    inputs, kept = {}, []
    for name in names:
        if name in made:
            inputs[name] = _composite(made[name], given)
            continue
        dtype, sizes = types[name]
        tensor, default = definition.inputs[name].name, has_default(definition.inputs[name].name)
        if name not in given and fixed_batch.is_per_row(sizes, rows):
            shape = None if sizes is None else tuple(sizes[1:])
            inputs[name] = Tensor(name, dtype, shape, tensor, has_default=default, dict_key=keys.get(name, ""))
        else:
            whole = None if sizes is None else tuple(sizes)
            kept.append(Constant(name, dtype, whole, tensor, default, given.get(name)))
    outputs, bad, whole_outputs = _outputs(definition, unfit, rows)
    return Signature(inputs, tuple(kept), outputs, bad, rows, whole_outputs, made)


def fixed_rows(definition: Any) -> int | None:
    """Returns the rows that a SignatureDef fixes for each call; None if it takes any number.

    Raises:
        UsageError: It is not known whether a first size counts rows.
    """
    sizes = {}
    for name, info in definition.inputs.items():
        with contextlib.suppress(UnfitError):  # ragged and sparse inputs have no fixed batch
            sizes[name] = _type(info)[1]
    return fixed_batch.rows_of(sizes)


def _composite(composite: Composite, given: Mapping[str, str | None]) -> Tensor:
    if composite.name in given:
        raise UsageError(
            f"--constant {composite.name}: that input is {composite.kind}, and no constant can feed it; give rows a "
            "field of that name"
        )
    name, dtype, sizes, kind = composite.name, composite.dtype, composite.sizes[1:], composite.kind
    rank = len(composite.parts) - 1 if kind == RAGGED else 0
    return Tensor(name, dtype, sizes, composite.parts[0].tensor, kind=kind, ragged_rank=rank)


def _outputs(
    definition: Any, unfit: Mapping[str, str], rows: int | None
) -> tuple[dict[str, Tensor], dict[str, str], frozenset[str]]:
    """Returns the outputs that rows can hold, other outputs -> why not, and the names without a batch dimension."""
    outputs, bad, alone = {}, dict(unfit), set()
    for name in sorted(definition.outputs.keys() - unfit.keys()):
        try:
            outputs[name], is_whole = _output(name, definition.outputs[name], rows)
        except UnfitError as error:
            bad[name] = str(error)
        else:
            alone |= {name} if is_whole else set()
    return outputs, bad, frozenset(alone)


def _input_type(name: str, info: Any) -> tuple[str, list[int | None] | None]:
    try:
        return _type(info)
    except UnfitError as error:
        raise UsageError(
            f"input {name} {error}; export the model with a function that makes {name} of what rows hold"
        ) from error


def _output(name: str, info: Any, rows: int | None) -> tuple[Tensor, bool]:
    """Reads an output.

    Returns:
        The output, and whether it has no batch dimension and is the prediction of the single row of a call.

    Raises:
        UnfitError: No row can hold the output.
    """
    dtype, sizes = _type(info)
    if sizes is None:
        return Tensor(name, dtype, None, info.name), False
    if rows == 1 and (not sizes or sizes[0] not in (None, 1)):
        return Tensor(name, dtype, tuple(sizes), info.name), True
    if not sizes:
        raise UnfitError("is one value for all rows together")
    fixed = None if sizes[0] == rows else sizes[0]
    return Tensor(name, dtype, tuple(sizes[1:]), info.name, fixed), False


def _type(info: Any) -> tuple[str, list[int | None] | None]:
    """Returns the dtype and all sizes of a tensor: None for an open size, and None as sizes for an unknown rank.

    Raises:
        UnfitError: No row can hold the tensor.
    """
    if info.WhichOneof("encoding") != "name":
        raise UnfitError("is a sparse or ragged tensor, and keyjoin needs dense ones")
    dtype = tensorflow.as_dtype(info.dtype).name
    if dtype not in DTYPES:
        raise UnfitError(f"has dtype {dtype}, which a row cannot hold")
    if info.tensor_shape.unknown_rank:
        return dtype, None
    sizes = [None if d.size < 0 else int(d.size) for d in info.tensor_shape.dim]
    if 0 in sizes:
        raise UnfitError(f"of shape {sizes} holds no values")
    return dtype, sizes
