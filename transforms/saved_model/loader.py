"""Loads a signature of a SavedModel.

It loads a model as TensorFlow Serving does, as a graph in a session. This works for every SavedModel, also for
models of Keras 2 that were saved with their optimizer, which `tf.saved_model.load` refuses.
TensorFlow is imported inside functions, so that commands without a model start quickly. It is imported module by
module, so that the model process does not import all of it (`pipeline.compat.startup.import_session`).
"""

import contextlib
import functools
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt

from transforms.compat import tensorflow
from transforms.dtypes import STRING
from transforms.errors import MemoryShortError, ModelError, UsageError
from transforms.model_safety import model_ops, model_state
from transforms.model_safety.graph_walk import Walk
from transforms.saved_model import compiled, example_inputs, model_paths, tags, unsigned
from transforms.saved_model.composites import Composite, Part, WithComposites
from transforms.saved_model.connect import ensure_values
from transforms.saved_model.constants import Constant, WithConstants, fed
from transforms.saved_model.fixed_batch import FixedBatch
from transforms.saved_model.libraries import import_libraries, remedy_for
from transforms.saved_model.model import Call, Model, Tensor
from transforms.saved_model.signature import Signature
from transforms.saved_model.signature import read as read_signature
from transforms.saved_model.weights import weights
from transforms.threads import THREADS

# Cores of a call. A run makes as many concurrent calls as there are cores. If each call used all cores, TensorFlow
# would multiply in smaller blocks: this took a third more processor time, and the last digits of a prediction depended
# on the batch (benchmarks/NOTES.md).
ONE_CORE = 1
ALL_CORES = 0
GRAPH_ERROR = "Graph execution error:"  # most messages of TensorFlow begin with this text, which adds no information
MESSAGE = 300  # a longer error message of a model is cut to this many characters
UNKNOWN_OP = re.compile("Op type not registered '(.+?)'")  # in TensorFlow's message
NO_GRAPH = "MetaGraphDef associated with tags"  # in TensorFlow's message if no graph has exactly the given tags


class Loading(NamedTuple):
    """Options of loading a SavedModel.

    Attributes:
        signature: The name of the signature.
        policy: What to do with a model that does more than compute, see `model_ops.judge`.
        cores: The number of cores that a call may use. The first model that a process loads decides it for all models.
        libraries: Python modules that register the model's own ops, see `libraries.import_libraries`.
        constants: (input, value) pairs of inputs with one value for all rows. The value is a text, or None for an
            input that keeps its default.
        tf32: Whether a GPU may round the factors of float32 products to 10 bits (TF32), as TensorFlow does by
            default. It applies to all models of the process.
    """

    signature: str = "serving_default"
    policy: str | None = None
    cores: int = ONE_CORE
    libraries: tuple[str, ...] = ()
    constants: tuple[tuple[str, str | None], ...] = ()
    tf32: bool = False

    def with_constants(self, more: Sequence[tuple[str, str | None]]) -> "Loading":
        """Returns the same options with more constants."""
        return self._replace(constants=(*self.constants, *more))


DEFAULT = Loading()


def load(folder: str, loading: Loading = DEFAULT) -> Model:
    """Checks what the ops of a SavedModel do, and then loads a signature.

    Args:
        folder: The folder of the SavedModel.
        loading: How to load it.

    Raises:
        UsageError: The folder is no SavedModel, it lacks the signature, a library is missing, or TensorFlow cannot
            load the model. Or its ops are refused, or it was exported for other devices. Or keyjoin cannot feed an
            input, or each output reads a variable without a value.
    """
    import_libraries(loading.libraries)
    signature = loading.signature
    check_folder(folder)
    with _loading(folder):
        loader = tensorflow.SavedModelLoader(folder)
        described = loader.get_meta_graph_def_from_tags([tags.SERVE])
    unsigned.check(described, folder, signature)
    # Checks the graph in memory, which is loaded next. The file could have changed since it was read.
    findings = model_ops.find(described, folder, signature)
    model_ops.judge(folder, findings, loading.policy)
    walk = Walk(described)
    places = list(walk.reach(model_ops.signature_part(described, signature)))
    reached = [node for _, node in places]
    stateful = model_state.changes_state(node for node in reached if node.op not in walk.functions)
    unfit = ensure_values(walk, folder, signature, reached)
    graph = tensorflow.Graph()
    session = _session(graph, loading)
    program = compiled.find(places, walk.functions)
    if program:
        compiled.check_devices(folder, program, {device.device_type for device in session.list_devices()})
    with graph.as_default(), _loading(folder):
        loader.load(session, [tags.SERVE])
    read = read_signature(described, signature, loading.constants, unfit, functools.partial(_has_default, graph))
    if any(node.op in example_inputs.PARSING for node in reached):
        texts = {name: tensor.tensor for name, tensor in read.inputs.items() if tensor.dtype == STRING}
        for name in example_inputs.find(walk, texts):
            read.inputs[name] = read.inputs[name]._replace(is_parsed=True)
    size = weights(described.graph_def, [t.tensor for t in read.outputs.values()])
    traits: dict[str, Any] = {"stateful": stateful, "weights": size, "compiled": program}
    traits |= {"rows": read.rows, "constants": read.constants}
    return Model(read.inputs, read.outputs, _call(session, read), findings, read.unfit, **traits)


def _session(graph: Any, loading: Loading) -> Any:
    from tensorflow.core.protobuf.config_pb2 import ConfigProto

    tensorflow.enable_tf32(loading.tf32)  # a setting of the whole process; kernels read it at each call
    # Soft placement, as in TensorFlow Serving: a model may name devices of the machine that exported it.
    config = ConfigProto(
        intra_op_parallelism_threads=loading.cores or THREADS,
        inter_op_parallelism_threads=THREADS,
        allow_soft_placement=True,
    )
    return tensorflow.Session(graph=graph, config=config)


def _has_default(graph: Any, tensor: str) -> bool:
    return bool(graph.get_tensor_by_name(tensor).op.type == "PlaceholderWithDefault")


def _parts(composite: Composite | None, tensor: Tensor) -> Sequence[Tensor | Part]:
    return [tensor] if composite is None else composite.parts


def _call(session: Any, read: Signature) -> Call:
    """Makes the function that calls a signature, see `Model.call`."""
    given = [constant for constant in read.constants if constant.value is not None]
    parts = [part for name, one in read.inputs.items() for part in _parts(read.composites.get(name), one)]
    call: Call = _Session(session, [*parts, *given], read.outputs)
    if read.composites:
        call = WithComposites(call, [read.composites.get(name) for name in read.inputs])
    if given:
        call = WithConstants(call, [fed(constant) for constant in given])
    return FixedBatch(call, read.rows, list(read.outputs), read.whole) if read.rows else call


@contextlib.contextmanager
def _loading(folder: str) -> Iterator[None]:
    """Turns an error of TensorFlow while it loads a model into a `UsageError` of one line."""
    try:
        with quiet():
            yield
    except (OSError, RuntimeError, ValueError, tensorflow.OpError) as error:
        first = _first_line(error)
        unknown = UNKNOWN_OP.search(first)
        if NO_GRAPH in first:
            raise UsageError(tags.refusal(folder, tags.of(tensorflow.parse_saved_model(folder)))) from error
        remedy = remedy_for([unknown[1]]) if unknown else "copy the whole folder of the model again, or save it again"
        raise UsageError(f"{folder}: cannot be loaded: {first}; {remedy}") from error


def _first_line(error: BaseException) -> str:
    """Returns the first line of the first error.

    After this error, TensorFlow tries other ways to restore the variables, and raises errors for these, too.
    """
    while isinstance(error.__context__, tensorflow.OpError):
        error = error.__context__
    lines = [line.strip() for line in str(error).removeprefix(GRAPH_ERROR).splitlines()]
    return next(filter(None, lines), type(error).__name__)


class _Session:
    """Calls a signature of a graph in a session. Thread-safe."""

    def __init__(self, session: Any, inputs: Sequence[Tensor | Part | Constant], outputs: Mapping[str, Tensor]) -> None:
        self._fetched = {name: tensor.tensor for name, tensor in outputs.items()}
        self._fed = [tensor.tensor for tensor in inputs]
        self._callable = functools.cache(lambda fetched: session.make_callable(list(fetched), self._fed))

    def __call__(self, *arrays: npt.NDArray[Any], outputs: Sequence[str] | None = None) -> Sequence[npt.NDArray[Any]]:
        fetched = tuple(self._fetched[name] for name in (self._fetched if outputs is None else outputs))
        try:
            answer: Sequence[npt.NDArray[Any]] = self._callable(fetched)(*arrays)
        except tensorflow.OpError as error:
            said = " ".join(error.message.removeprefix(GRAPH_ERROR).split())
            made = MemoryShortError if isinstance(error, tensorflow.ResourceExhaustedError) else ModelError
            raise made(f"{type(error).__name__}: {said}"[:MESSAGE]) from error
        return answer


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides TensorFlow's deprecation warnings about its own functions, which a user cannot act on."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def check_folder(folder: str) -> None:
    """Checks that a folder is a SavedModel.

    Args:
        folder: The path of the folder.

    Raises:
        UsageError: The folder does not exist, or is no SavedModel.
    """
    if not os.path.isdir(folder) or not model_paths.is_saved_model(os.listdir(folder)):
        raise UsageError(model_paths.refusal(folder))
