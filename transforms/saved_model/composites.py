"""Finds the ragged and sparse inputs of a signature, and makes the tensors of their parts from rows.

A SavedModel names the parts of an input x as x, x_1 and x_2. The signature does not say that they belong together. The
object graph does, because it has the types with which the signature's function was traced. See
`saved_object_graph.proto` and `struct.proto` in
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

COLLECTION = "keyjoin_composite_inputs"  # the collection of a wrapped model's graph that lists its composite inputs


class Part(NamedTuple):
    """A tensor that is a part of a composite input: its name in the graph, and TensorFlow's name of its dtype."""

    tensor: str
    dtype: str


class Composite(NamedTuple):
    """A ragged or sparse input.

    Attributes:
        name: The name that the model's author gave it.
        kind: `ragged` or `sparse`.
        dtype: TensorFlow's name of the dtype of its values.
        sizes: Its shape, with the batch dimension; None for an open size.
        parts: The tensors of a ragged input are the values, then the row splits of each ragged dimension, the
            outermost first. The tensors of a sparse input are the indices, the values and the dense shape.
        inputs: The names of the parts in the signature.
    """

    name: str
    kind: str
    dtype: str
    sizes: tuple[int | None, ...]
    parts: tuple[Part, ...]
    inputs: tuple[str, ...]

    def tensors(self, rows: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Makes the tensors of the parts from rows.

        Args:
            rows: An array of rows, (rows, …), all of one shape; or records of `ragged.records` or `SparseRows`.

        Returns:
            The tensors, in the order of `parts`.

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
        if None in self.sizes[1:]:  # as tf.io.VarLenFeature does: each value of a list has an entry, even if it is 0
            there = np.ones(rows.shape, np.bool_)
        else:  # as tf.sparse.from_dense does: zeros and empty strings have no entry
            there = np.asarray(rows != (b"" if self.dtype == STRING else 0), np.bool_)
        return [np.argwhere(there), rows[there], np.array(rows.shape, np.int64)]


class WithComposites:
    """Makes the parts of a signature's ragged and sparse inputs, and calls it with them."""

    def __init__(self, call: Any, composites: Sequence[Composite | None]) -> None:
        """Wraps a call.

        Args:
            call: Takes the arrays of all parts and dense inputs, and returns the arrays of the outputs.
            composites: The composite of each input that rows feed, in order; None for a dense input.
        """
        self._call, self._composites = call, composites

    def __call__(self, *arrays: npt.NDArray[Any], outputs: Sequence[str] | None = None) -> Sequence[npt.NDArray[Any]]:
        """Calls the signature.

        Args:
            arrays: The arrays of the inputs that rows feed, then those of constants.
            outputs: The names of the outputs to compute; None for all.
        """
        fed: list[npt.NDArray[Any]] = []
        for composite, array in zip(self._composites, arrays, strict=False):
            fed += [array] if composite is None else composite.tensors(array)
        answer: Sequence[npt.NDArray[Any]] = self._call(*fed, *arrays[len(self._composites) :], outputs=outputs)
        return answer


class _Spec(NamedTuple):
    """The type with which a function was traced for one input, and the number of the input's tensors.

    The key is that of the dict which holds the input, if the function takes one.
    """

    kind: str
    shape: Any
    dtype: int
    tensors: int
    key: str = ""


def find(graph: Any, signature: str) -> list[Composite]:
    """Finds the ragged and sparse inputs of a signature.

    Args:
        graph: The MetaGraphDef proto.
        signature: The name of the signature.

    Raises:
        UsageError: An input has a kind, a dtype or a shape that rows cannot feed.
    """
    inputs = graph.signature_def[signature].inputs
    encoded = {name: info for name, info in inputs.items() if info.WhichOneof("encoding") != "name"}
    found = [_encoded(name, encoded[name]) for name in sorted(encoded)]
    return found + [_traced(spec, names, inputs) for spec, names in _parts(graph, signature)] + _kept(graph, signature)


def keep(graph: Any) -> None:
    """Records in a graph which inputs of its signatures are ragged or sparse.

    A copy of a model needs this if it lacks the functions of the object graph. The signatures stay unchanged, so that
    online clients can continue to feed the parts. TensorFlow's loaders ignore collections that they do not know.

    Args:
        graph: The MetaGraphDef proto, changed in place.
    """
    kept: dict[str, list[Composite]] = {}
    for signature in graph.signature_def:
        with contextlib.suppress(UsageError):  # rows cannot feed this signature of the original model either
            kept[signature] = [one for one in find(graph, signature) if len(one.inputs) > 1]
    if any(kept.values()):
        graph.collection_def[COLLECTION].bytes_list.value[:] = [msgspec.json.encode(kept)]


def _kept(graph: Any, signature: str) -> list[Composite]:
    """Reads the composites of a signature that `keep` recorded.

    Raises:
        UsageError: The record is damaged.
    """
    try:
        texts = graph.collection_def[COLLECTION].bytes_list.value if COLLECTION in graph.collection_def else ()
        kept = [msgspec.json.decode(text, type=dict[str, list[Composite]]) for text in texts]
    except msgspec.MsgspecError as error:
        raise UsageError(f"the model's collection {COLLECTION} is damaged: {error}; wrap the model again") from error
    return [composite for one in kept for composite in one.get(signature, [])]


def _encoded(name: str, info: Any) -> Composite:
    """Reads an input whose parts the signature names, as signatures of TensorFlow 1 do."""
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
    """Makes a composite, if rows can feed it.

    Args:
        name: The name of the input.
        kind: `ragged`, `sparse`, or the class of another type spec.
        number: TensorFlow's number of the dtype; 0 if unknown.
        shape: The TensorShapeProto, or None.
        parts: The tensors of the input.
        names: The names of the parts in the signature.

    Raises:
        UsageError: Rows cannot feed it.
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


def dict_keys(graph: Any, signature: str) -> dict[str, str]:
    """Finds the inputs that the function of a signature takes in a dict. The signature may number them instead.

    Args:
        graph: The MetaGraphDef proto.
        signature: The name of the signature.

    Returns:
        Dense input -> its key in the dict, if that is another text.
    """
    arguments = _arguments(graph, signature)
    return {names[0]: spec.key for spec, names in arguments if not spec.kind and spec.key not in ("", names[0])}


def _parts(graph: Any, signature: str) -> Iterator[tuple[_Spec, list[str]]]:
    return ((spec, names) for spec, names in _arguments(graph, signature) if spec.kind)


def _arguments(graph: Any, signature: str) -> Iterator[tuple[_Spec, list[str]]]:
    """Yields the type and the signature's input names of each argument of the signature's function.

    The types are those with which the function was traced.
    """
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    by_tensor = {info.name.partition(":")[0]: name for name, info in graph.signature_def[signature].inputs.items()}
    traced = graph.object_graph_def.concrete_functions
    for outer in graph.graph_def.node:
        wrapper = functions.get(outer.attr["f"].func.name) if outer.op in PLAIN_CALLS else None
        if wrapper is None:
            continue
        # The signature's function passes its arguments to the traced function, in the order of the traced function.
        given = [by_tensor.get(name.partition(":")[0]) for name in outer.input]
        arguments = [argument.name for argument in wrapper.signature.input_arg]
        own = dict(zip(arguments, given, strict=False))
        if not any(given):  # the call belongs to another signature
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
        if some and len(some) == spec.tensors:
            yield spec, some


def _specs(value: Any, key: str = "") -> Iterator[_Spec]:
    """Yields the tensors and type specs of a structured value, in the order in which a function takes them.

    Args:
        value: The StructuredValue proto.
        key: The key of the value, if a dict holds it.
    """
    kind = value.WhichOneof("kind")
    if kind in ("list_value", "tuple_value"):
        for one in getattr(value, kind).values:
            yield from _specs(one)
    elif kind == "dict_value":
        fields: Mapping[str, Any] = value.dict_value.fields
        for name in sorted(fields):
            yield from _specs(fields[name], name)
    elif kind == "named_tuple_value":
        for pair in value.named_tuple_value.values:
            yield from _specs(pair.value)
    elif kind in ("tensor_spec_value", "bounded_tensor_spec_value"):
        yield _Spec("", None, 0, 1, key)
    elif kind == "type_spec_value":
        yield _spec(value.type_spec_value)


def _spec(proto: Any) -> _Spec:
    """Reads a TypeSpecProto. If it is neither ragged nor sparse, the kind is the name of its class."""
    name = proto.type_spec_class_name
    kind = {"RaggedTensorSpec": RAGGED, "SparseTensorSpec": SPARSE}.get(name, name)
    state = proto.type_state.tuple_value.values
    shape = next((one.tensor_shape_value for one in state if one.WhichOneof("kind") == "tensor_shape_value"), None)
    dtype = next((one.tensor_dtype_value for one in state if one.WhichOneof("kind") == "tensor_dtype_value"), 0)
    return _Spec(kind, shape, dtype, proto.num_flat_components)
