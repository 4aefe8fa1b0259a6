"""Ragged and sparse inputs: finds which tensors of a signature are parts of one, and makes these parts of rows.

A SavedModel names the parts of an input x as x, x_1, x_2 and says nowhere in the signature that they belong together.
What its function was traced with does, in the object graph, see `saved_object_graph.proto` and `struct.proto` in
https://github.com/tensorflow/tensorflow/tree/v2.21.0/tensorflow/core/protobuf
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from transforms.compat import tensorflow
from transforms.dtypes import DTYPES, STRING
from transforms.errors import UsageError
from transforms.mapping import ragged, sparse
from transforms.model_safety.graph_walk import PLAIN_CALLS
from transforms.saved_model.model import RAGGED, SPARSE

COLLECTION = "keyjoin_composite_inputs"  # where a wrapped model's graph says which inputs are ragged or sparse


class Part(NamedTuple):
    """A tensor that is a part of an input: its name in the graph, and TensorFlow's name of its dtype."""

    tensor: str
    dtype: str


class Composite(NamedTuple):
    """A ragged or sparse input.

    Attributes:
        name: What its author called it.
        kind: `ragged` or `sparse`.
        dtype: Of its values.
        sizes: All of its sizes, None for an open one.
        parts: Ragged: values, then the splits of each ragged dimension, the outermost first. Sparse: indices, values,
            dense shape.
        inputs: What the signature calls the parts.
    """

    name: str
    kind: str
    dtype: str
    sizes: tuple[int | None, ...]
    parts: tuple[Part, ...]
    inputs: tuple[str, ...]

    def tensors(self, rows: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """The parts of rows.

        Args:
            rows: (rows, …), all of one shape.

        >>> x = Composite("x", RAGGED, "float32", (None, None), (Part("", ""), Part("", "int64")), ())
        >>> [part.tolist() for part in x.tensors(np.array([[1, 2], [3, 4]]))]
        [[1, 2, 3, 4], [0, 2, 4]]
        """
        return self._ragged(rows) if self.kind == RAGGED else self._sparse(rows)

    def _ragged(self, rows: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        levels = len(self.parts) - 1
        splits = zip(ragged.splits(rows, levels), self.parts[1:], strict=True)
        return [ragged.flat_values(rows, levels), *(one.astype(part.dtype) for one, part in splits)]

    def _sparse(self, rows: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        if rows.dtype.names is not None:
            return sparse.tensors(rows)
        if None in self.sizes[1:]:  # as tf.io.VarLenFeature: each value of a list is there
            there = np.ones(rows.shape, np.bool_)
        else:  # as tf.sparse.from_dense
            there = np.asarray(rows != (b"" if self.dtype == STRING else 0), np.bool_)
        return [np.argwhere(there), rows[there], np.array(rows.shape, np.int64)]


class WithComposites:
    """Calls a signature, and makes the parts of its ragged and sparse inputs."""

    def __init__(self, call: Any, composites: Sequence[Composite | None]) -> None:
        """Takes the call, and for each input what it is; None for a dense one."""
        self._call, self._composites = call, composites

    def __call__(self, *arrays: npt.NDArray[Any], outputs: Sequence[str] | None = None) -> Sequence[npt.NDArray[Any]]:
        """Calls it; constants follow the arrays of rows."""
        fed: list[npt.NDArray[Any]] = []
        for composite, array in zip(self._composites, arrays, strict=False):
            fed += [array] if composite is None else composite.tensors(array)
        answer: Sequence[npt.NDArray[Any]] = self._call(*fed, *arrays[len(self._composites) :], outputs=outputs)
        return answer


class _Spec(NamedTuple):
    """What a function was traced with in one place: an input of so many tensors."""

    kind: str
    shape: Any
    dtype: int
    tensors: int


def find(graph: Any, signature: str) -> list[Composite]:
    """The ragged and sparse inputs of a signature.

    Args:
        graph: The `MetaGraphDef`.
        signature: Name of the signature.

    Raises:
        UsageError: One of them is of a kind, a dtype or a rank that rows cannot feed.
    """
    inputs = graph.signature_def[signature].inputs
    encoded = {name: info for name, info in inputs.items() if info.WhichOneof("encoding") != "name"}
    found = [_encoded(name, encoded[name]) for name in sorted(encoded)]
    return found + [_traced(spec, names, inputs) for spec, names in _parts(graph, signature)] + _kept(graph, signature)


def keep(graph: Any) -> None:
    """Writes into a graph which inputs of its signatures are ragged or sparse, for a copy without the functions.

    The signatures stay as they are, so that who feeds the parts online goes on doing so. TensorFlow's loaders ignore a
    collection that they do not know.

    Args:
        graph: The `MetaGraphDef`, changed in place.
    """
    kept: dict[str, list[Composite]] = {}
    for signature in graph.signature_def:
        with contextlib.suppress(UsageError):  # rows cannot feed that signature of the original either
            kept[signature] = [one for one in find(graph, signature) if len(one.inputs) > 1]
    if any(kept.values()):
        graph.collection_def[COLLECTION].bytes_list.value[:] = [msgspec.json.encode(kept)]


def _kept(graph: Any, signature: str) -> list[Composite]:
    """What `keep` wrote of a signature.

    Raises:
        UsageError: It is damaged.
    """
    try:
        texts = graph.collection_def[COLLECTION].bytes_list.value if COLLECTION in graph.collection_def else ()
        kept = [msgspec.json.decode(text, type=dict[str, list[Composite]]) for text in texts]
    except msgspec.MsgspecError as error:
        raise UsageError(f"the model's collection {COLLECTION} is damaged: {error}; wrap the model again") from error
    return [composite for one in kept for composite in one.get(signature, [])]


def _encoded(name: str, info: Any) -> Composite:
    """An input whose parts the signature names itself, as those of TensorFlow 1 do."""
    if info.WhichOneof("encoding") == "coo_sparse":
        coo = info.coo_sparse
        tensors = ((coo.indices_tensor_name, "int64"), (coo.values_tensor_name, _dtype(info.dtype)))
        parts = [Part(*one) for one in (*tensors, (coo.dense_shape_tensor_name, "int64"))]
        return _checked(name, SPARSE, info.dtype, info.tensor_shape, parts, [name])
    spec = _spec(info.composite_tensor.type_spec)
    parts = [Part(one.name, _dtype(one.dtype)) for one in info.composite_tensor.components]
    return _checked(name, spec.kind, spec.dtype, spec.shape, parts, [name])


def _traced(spec: _Spec, names: Sequence[str], inputs: Any) -> Composite:
    parts = [Part(inputs[name].name, _dtype(inputs[name].dtype)) for name in names]
    return _checked(names[0], spec.kind, spec.dtype, spec.shape, parts, names)


def _dtype(number: int) -> str:

    return tensorflow.as_dtype(number).name if number else ""


def _checked(name: str, kind: str, number: int, shape: Any, parts: Sequence[Part], names: Sequence[str]) -> Composite:
    """The input, if rows can feed it.

    Raises:
        UsageError: They cannot.
    """
    dtype, rank = _dtype(number), len(shape.dim) if shape is not None and not shape.unknown_rank else 0
    why = ""
    if kind not in (RAGGED, SPARSE):
        why = f"is a {kind}"
    elif dtype not in DTYPES:
        why = f"is {kind} of dtype {dtype}"
    elif rank < (len(parts) if kind == RAGGED else 1 + 1) or (kind == RAGGED and len(parts) == 1):
        why = f"is {kind} of an unknown number of dimensions"
    elif shape.dim[0].size >= 0:
        why = f"is {kind} and has no free batch dimension"
    if why:
        raise UsageError(
            f"the model's input {name} {why}, which rows cannot feed; export the model with a dense input, or with a "
            "tf.RaggedTensorSpec or tf.SparseTensorSpec of known rank"
        )
    sizes = tuple(None if dim.size < 0 else int(dim.size) for dim in shape.dim)
    return Composite(name, kind, dtype, sizes, tuple(parts), tuple(names))


def _parts(graph: Any, signature: str) -> Iterator[tuple[_Spec, list[str]]]:
    """The inputs of several tensors, by what the function of a signature was traced with, each with its tensors."""
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    by_tensor = {info.name.partition(":")[0]: name for name, info in graph.signature_def[signature].inputs.items()}
    traced = graph.object_graph_def.concrete_functions
    for outer in graph.graph_def.node:
        wrapper = functions.get(outer.attr["f"].func.name) if outer.op in PLAIN_CALLS else None
        if wrapper is None:
            continue
        # The signature's function hands its own arguments on, in the order of the function that it was made of.
        given = [by_tensor.get(name.partition(":")[0]) for name in outer.input]
        arguments = [argument.name for argument in wrapper.signature.input_arg]
        own = dict(zip(arguments, given, strict=False))
        if not any(given):  # it is another signature's
            continue
        for inner in wrapper.node_def:
            if inner.op in PLAIN_CALLS and inner.attr["f"].func.name in traced:
                specs = list(_specs(traced[inner.attr["f"].func.name].canonicalized_input_signature))
                names = [own.get(name.partition(":")[0]) for name in inner.input]
                yield from _grouped(specs, names)
                return


def _grouped(specs: Sequence[_Spec], names: Sequence[str | None]) -> Iterator[tuple[_Spec, list[str]]]:
    first = 0
    for spec in specs:
        some = [name for name in names[first : first + spec.tensors] if name is not None]
        first += spec.tensors
        if spec.kind and len(some) == spec.tensors:
            yield spec, some


def _specs(value: Any) -> Iterator[_Spec]:
    """The tensors and type specs of a structured value, in the order in which a function takes them."""
    kind = value.WhichOneof("kind")
    if kind in ("list_value", "tuple_value"):
        for one in getattr(value, kind).values:
            yield from _specs(one)
    elif kind == "dict_value":
        fields: Mapping[str, Any] = value.dict_value.fields
        for name in sorted(fields):
            yield from _specs(fields[name])
    elif kind == "named_tuple_value":
        for pair in value.named_tuple_value.values:
            yield from _specs(pair.value)
    elif kind in ("tensor_spec_value", "bounded_tensor_spec_value"):
        yield _Spec("", None, 0, 1)
    elif kind == "type_spec_value":
        yield _spec(value.type_spec_value)


def _spec(proto: Any) -> _Spec:
    """A `TypeSpecProto`; the kind is its class where that is neither ragged nor sparse."""
    name = proto.type_spec_class_name
    kind = {"RaggedTensorSpec": RAGGED, "SparseTensorSpec": SPARSE}.get(name, name)
    state = proto.type_state.tuple_value.values
    shape = next((one.tensor_shape_value for one in state if one.WhichOneof("kind") == "tensor_shape_value"), None)
    dtype = next((one.tensor_dtype_value for one in state if one.WhichOneof("kind") == "tensor_dtype_value"), 0)
    return _Spec(kind, shape, dtype, proto.num_flat_components)
