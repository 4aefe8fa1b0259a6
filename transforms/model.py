"""The SavedModel: what its signature takes and gives, how its key comes back, and calling it.

Models are loaded as TensorFlow Serving loads them, as a graph in a session: that works for every
SavedModel, also those of the Keras 2 years with their optimizer, which `tf.saved_model.load` refuses.
TensorFlow is imported inside of functions, so that commands which need no model start at once, and module
by module, so that the model process can do without the rest of it (`pipeline.startup.import_session`).
"""

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transforms import model_ops, model_state
from transforms.dtypes import DTYPES, STRING
from transforms.errors import MemoryShortError, ModelError, UsageError, nearest
from transforms.gate import Gate

Arrays = Mapping[str, npt.NDArray[Any]]

KEY = "key"
# What a call computes on. As many calls go on at a time as there are cores; on all, TensorFlow multiplies in smaller
# blocks, which took a third more processor time, and last digits depended on the batch (docs/performance.md).
ONE_CORE = 1
ALL_CORES = 0
MESSAGE = 300  # characters of a model's error that are kept
KEY_DTYPES = ("int32", "int64", "float32", STRING)
# Two vectors of keys that no model returns by chance; exact in float32.
PROBE_KEYS = (np.array([1009, 2003, 3001]), np.array([4001, 6007, 5003]))
# Data to ask with: what is an echo for one of them and not for another is a computation.
PROBE_VALUES = ((0, 0, 0), (1, 1, 1), (20011, -30011, 40009))


class Tensor(NamedTuple):
    """An input or output of a signature.

    Attributes:
        name: In the signature.
        dtype: TensorFlow's name of it.
        shape: Without the batch dimension; None for a size that is not fixed, and for an unknown rank.
        tensor: Name in the graph.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    tensor: str


class Echo(NamedTuple):
    """Where the key comes back.

    Attributes:
        output: Name of the output.
        last_column: Whether it is the last column of that output, the rest of which is a prediction.
    """

    output: str
    last_column: bool


class Contract(NamedTuple):
    """What a signature takes and gives.

    Attributes:
        signature: Its name.
        inputs: Data inputs.
        outputs: All outputs.
        key: The input that takes the key, or None.
        echo: Where the key comes back; None exactly if `key` is.
    """

    signature: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    key: Tensor | None
    echo: Echo | None

    @property
    def predictions(self) -> tuple[Tensor, ...]:
        """The outputs that are predictions, without the key."""
        return tuple(map(self._without_key, filter(self._is_prediction, self.outputs)))

    def _is_prediction(self, output: Tensor) -> bool:
        return self.echo is None or output.name != self.echo.output or self.echo.last_column

    def _without_key(self, output: Tensor) -> Tensor:
        if self.echo is None or output.name != self.echo.output or not output.shape:
            return output
        width = output.shape[0]
        return output._replace(shape=(None if width is None else width - 1,))


class Room:
    """What a call of a model has memory for, as far as this process has found out.

    Attributes:
        rows: Rows of a call.
        alone: Whether there is memory for one call at a time only.
    """

    def __init__(self) -> None:
        """Begins without bounds."""
        self.rows, self.alone = sys.maxsize, False


class Model:
    """A signature of a SavedModel, ready to be called. Thread-safe.

    Attributes:
        inputs: All inputs, by name.
        outputs: All outputs, by name.
        call: From the inputs' arrays, in order, to the outputs' arrays, in order.
        findings: What it does besides computing.
        stateful: Whether a call may change what later ones give.
        room: What it has memory for.
    """

    def __init__(
        self,
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        call: Callable[..., Sequence[npt.NDArray[Any]]],
        findings: Sequence[model_ops.Finding] = (),
        *,
        stateful: bool = False,
    ) -> None:
        """Takes the attributes."""
        self.inputs, self.outputs, self.call, self.findings = dict(inputs), dict(outputs), call, tuple(findings)
        self.stateful, self.room, self._gate = stateful, Room(), Gate()

    def __call__(self, arrays: Arrays, *, alone: bool = False) -> dict[str, npt.NDArray[Any]]:
        """Calls the signature.

        Args:
            arrays: Input -> (batch, …).
            alone: Whether no other call may go on meanwhile.

        Returns:
            Output -> (batch, …).

        Raises:
            ModelError: The model raises.
        """
        with self._gate.enter(alone=alone):
            answer = self.call(*[arrays[name] for name in self.inputs])
        return dict(zip(self.outputs, answer, strict=True))


def load(folder: str, signature: str, policy: str | None = None, cores: int = ONE_CORE) -> Model:
    """Loads a signature of a SavedModel, once it is known what its ops do.

    Args:
        folder: The SavedModel's.
        signature: Name of the signature.
        policy: What happens to a model that does more than compute, see `model_ops.judge`.
        cores: On how many a call may compute; the first model that a process loads decides for all.

    Raises:
        UsageError: There is no SavedModel, no such signature, it does what it must not, or it has inputs or
            outputs that rows cannot feed or hold.
    """
    from tensorflow.core.protobuf.config_pb2 import ConfigProto
    from tensorflow.python.client.session import Session
    from tensorflow.python.framework.ops import Graph
    from tensorflow.python.saved_model import loader_impl, tag_constants

    check_folder(folder)
    tags = [tag_constants.SERVING]
    with _loading(folder):
        loader = loader_impl.SavedModelLoader(folder)
        described = loader.get_meta_graph_def_from_tags(tags)
    signatures = described.signature_def
    if signature not in signatures:
        known = sorted(name for name in signatures if not name.startswith("__"))
        raise UsageError(f"{folder} has no signature {signature}{nearest(signature, known)}; it has {known}")
    # The very graph that is loaded next, not the file again, which could be another one by then.
    findings = model_ops.find(described, folder, signature)
    model_ops.judge(folder, findings, policy)
    stateful = model_state.changes_state(described, signature)
    graph = Graph()
    session = Session(graph=graph, config=ConfigProto(intra_op_parallelism_threads=cores))
    with graph.as_default(), _loading(folder):
        loader.load(session, tags)
    definition = signatures[signature]
    inputs = {name: _tensor(name, definition.inputs[name], "input") for name in sorted(definition.inputs)}
    outputs = {name: _tensor(name, definition.outputs[name], "output") for name in sorted(definition.outputs)}
    call = session.make_callable([t.tensor for t in outputs.values()], [t.tensor for t in inputs.values()])
    return Model(inputs, outputs, functools.partial(_call, call), findings, stateful=stateful)


@contextlib.contextmanager
def _loading(folder: str) -> Iterator[None]:
    """Turns what TensorFlow raises for a model that it cannot load into one line."""
    from tensorflow.python.framework.errors_impl import OpError

    try:
        with quiet():
            yield
    except (OSError, RuntimeError, ValueError, OpError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(f"{folder}: cannot be loaded: {first}; check it with saved_model_cli") from error


def _call(call: Callable[..., Sequence[npt.NDArray[Any]]], *arrays: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
    from tensorflow.python.framework.errors_impl import OpError, ResourceExhaustedError

    try:
        return call(*arrays)
    except OpError as error:
        # That a graph raised it goes without saying.
        said = " ".join(error.message.removeprefix("Graph execution error:").split())
        made = MemoryShortError if isinstance(error, ResourceExhaustedError) else ModelError
        raise made(f"{type(error).__name__}: {said}"[:MESSAGE]) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps TensorFlow's deprecation notices about its own functions from the user."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def check_folder(folder: str) -> None:
    """Looks whether a folder is a SavedModel's.

    Raises:
        UsageError: It is not, or not there.
    """
    if not os.path.exists(folder):
        raise UsageError(f"no model at {folder}; give the folder that holds saved_model.pb, or a .keras file")
    if any(os.path.isfile(os.path.join(folder, f"saved_model.{kind}")) for kind in ("pb", "pbtxt", "cpb")):
        return
    versions = sorted(int(v) for v in os.listdir(folder) if v.isdigit()) if os.path.isdir(folder) else []
    hint = (
        f"give one of its versions, {os.path.join(folder, str(versions[-1]))}"
        if versions
        else ("give the folder that holds saved_model.pb, or a .keras file")
    )
    raise UsageError(f"{folder} is not a SavedModel: it has no saved_model.pb; {hint}")


def _tensor(name: str, info: Any, kind: str) -> Tensor:
    from tensorflow.python.framework.dtypes import as_dtype

    if info.WhichOneof("encoding") != "name":
        raise UsageError(f"{kind} {name} is a sparse or ragged tensor; keyjoin needs dense ones: wrap the model")
    dtype = as_dtype(info.dtype).name
    if dtype not in DTYPES:
        raise UsageError(f"{kind} {name} has dtype {dtype}, which a row cannot hold; wrap the model")
    if info.tensor_shape.unknown_rank:
        return Tensor(name, dtype, None, info.name)
    sizes = [None if d.size < 0 else int(d.size) for d in info.tensor_shape.dim]
    if not sizes or (sizes[0] is not None and kind == "input"):
        raise UsageError(f"{kind} {name} of shape {sizes} has no free batch dimension; export the model with one")
    if 0 in sizes:
        raise UsageError(f"{kind} {name} of shape {sizes} holds no values; export the model without it")
    return Tensor(name, dtype, tuple(sizes[1:]), info.name)


def key_input(model: Model, name: str | None) -> Tensor | None:
    """The input that may take the key: the one named, or one called `key`.

    Raises:
        UsageError: The named one is not there, or cannot hold a key.
    """
    if name is not None and name not in model.inputs:
        raise UsageError(f"the model has no input {name}{nearest(name, list(model.inputs))}; see --key_input")
    found = model.inputs.get(name or KEY)
    if found is not None and found.dtype in KEY_DTYPES and found.shape in ((), (1,), None):
        return found
    if name is not None:
        raise UsageError(f"input {name} cannot take a key: it is not one of {KEY_DTYPES} a row")
    return None


def find_contract(
    model: Model,
    signature: str,
    key_name: str | None = None,
    example: Callable[[tuple[Tensor, ...]], Arrays | None] = lambda _: None,
) -> Contract:
    """Finds out where the key comes back, by asking the model.

    The output, or the last column of one, that holds different vectors of keys, with whatever data, is the
    echo. An input called `key` that does not come back is data.

    Args:
        model: The model.
        signature: Its signature.
        key_name: The input that takes the key, if it is not called `key`.
        example: Gives three real rows for data inputs, or None.

    Raises:
        UsageError: The named input does not come back, or the model gives no prediction.
    """
    key = key_input(model, key_name)
    echo = _ask(model, key, example) if key is not None else None
    if key_name is not None and echo is None:
        raise UsageError(f"input {key_name} does not come back in any output; see `keyjoin wrap`")
    key = key if echo is not None else None
    data = tuple(t for t in model.inputs.values() if t != key)
    contract = Contract(signature, data, tuple(model.outputs.values()), key, echo)
    if not contract.predictions or not data:
        raise UsageError(f"signature {signature} has no {'predictions' if data else 'data inputs'} besides its key")
    return contract


def _ask(model: Model, key: Tensor, example: Callable[[tuple[Tensor, ...]], Arrays | None]) -> Echo | None:
    """The output that gives the key back whatever the data is: x + key does so only where x is 0."""
    data = tuple(t for t in model.inputs.values() if t != key)
    found = []
    for arrays in [*(_made_up(data, values) for values in PROBE_VALUES), example(data)]:
        if arrays is None:
            continue
        try:
            answers = [model({**arrays, key.name: key_array(keys, key)}) for keys in PROBE_KEYS]
        except ModelError:
            continue
        found.append(_echo(answers))
    if found:
        return found[0] if all(echo == found[0] for echo in found) else None
    # The model raises for all that it was asked; what is told by name is verified with each batch.
    named = model.outputs.get(key.name)
    return Echo(key.name, last_column=False) if named is not None and named.dtype == key.dtype else None


def _made_up(tensors: Sequence[Tensor], values: Sequence[int]) -> Arrays:
    """Three rows, each of one value, of size 1 where the model leaves it open."""
    made = {}
    for tensor in tensors:
        shape = (3, *(size or 1 for size in tensor.shape or ()))
        rows = np.array(values).reshape(3, *[1] * (len(shape) - 1))
        if tensor.dtype == STRING:
            texts = np.array([str(value).encode() if value else b"" for value in values], object).reshape(rows.shape)
            made[tensor.name] = np.broadcast_to(texts, shape)
        else:
            made[tensor.name] = np.broadcast_to(rows.astype(tensor.dtype), shape)
    return made


def _echo(answers: Sequence[Arrays]) -> Echo | None:
    for name in answers[0]:
        found = [answer[name] for answer in answers]
        if all(a.ndim == 1 or (a.ndim == 2 and a.shape[1] == 1) for a in found):
            if all(_holds(a, keys) for a, keys in zip(found, PROBE_KEYS, strict=True)):
                return Echo(name, last_column=False)
        elif all(a.ndim == 2 for a in found) and all(
            _holds(a[:, -1], keys) for a, keys in zip(found, PROBE_KEYS, strict=True)
        ):
            return Echo(name, last_column=True)
    return None


def _holds(values: npt.NDArray[Any], keys: npt.NDArray[np.int64]) -> bool:
    """Whether values are keys: in any order, and some may be missing or repeated."""
    expected = {str(k).encode() for k in keys} if values.dtype == object else set(keys.tolist())
    return values.size > 0 and set(values.reshape(-1).tolist()) <= expected


def key_array(keys: npt.NDArray[np.int64], key: Tensor) -> npt.NDArray[Any]:
    """Keys as the model's key input wants them: (batch,) or (batch, 1)."""
    if key.dtype == STRING:
        made: npt.NDArray[Any] = np.array([b"%d" % k for k in keys], object)
    else:
        made = keys.astype(key.dtype)
    return made.reshape(-1, 1) if key.shape == (1,) else made
