"""Describes the inputs and outputs of a signature, and calls it. `transforms.saved_model.loader` loads a model."""

import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transforms.dtypes import STRING
from transforms.errors import UsageError, nearest
from transforms.model_safety import model_ops
from transforms.saved_model.compiled import Compiled
from transforms.saved_model.constants import Constant
from transforms.saved_model.gate import Gate

Arrays = Mapping[str, npt.NDArray[Any]]
Call = Callable[..., Sequence[npt.NDArray[Any]]]  # see `Model.call`

KEY = "key"
RAGGED, SPARSE = "ragged", "sparse"  # kinds of inputs that are not dense
SEARCHES = 8  # how many of the first rows that fail alone are retried with copies
KEY_DTYPES = ("int32", "int64", "float32", STRING)


class Tensor(NamedTuple):
    """An input or output of a signature.

    Attributes:
        name: The name in the signature.
        dtype: TensorFlow's name of the dtype.
        shape: The sizes without the batch dimension, None for a size that is not fixed. None for an unknown rank.
        tensor: The name of the tensor in the graph.
        fixed_rows: The first size of an output, if the signature fixes it to another number than the rows of a call.
        is_parsed: Whether an input holds serialized tf.Examples, which the model parses.
        has_default: Whether the graph has a default for this input, which TensorFlow uses if the input is not fed.
        kind: `ragged` or `sparse` for such an input; empty for a dense tensor.
        ragged_rank: For a ragged input, how many levels of its lists may have different lengths. The first level is
            the list of a row.
        dict_key: If the function of the signature takes a dict, the input's key in it; empty if it is the name.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    tensor: str
    fixed_rows: int | None = None
    is_parsed: bool = False
    has_default: bool = False
    kind: str = ""
    ragged_rank: int = 0
    dict_key: str = ""


class Echo(NamedTuple):
    """The place in the outputs where the model returns the key.

    Attributes:
        output: The name of the output.
        last_column: Whether the key is the last column of that output. The other columns are then a prediction.
    """

    output: str
    last_column: bool


class Contract(NamedTuple):
    """The inputs and outputs of a signature, and how it handles the key.

    Attributes:
        signature: The name of the signature.
        inputs: The data inputs.
        outputs: The outputs to compute: those that the run writes, and those that return the key.
        key: The input that takes the key, or None.
        echoes: Where the model returns the key; empty if and only if `key` is None.
        most: The most rows of a call. The model can return this many keys without making two of them equal.
        why_data: Why the input that could take the key is data. Empty if no input could take the key, or one does.
        constant_rows: Whether every call of a run has the same number of rows. Such a model is compiled again for
            each other number.
        rows: The rows of each call, if the signature fixes them.
    """

    signature: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    key: Tensor | None = None
    echoes: tuple[Echo, ...] = ()
    most: int = sys.maxsize
    why_data: str = ""
    constant_rows: bool = False
    rows: int | None = None

    @property
    def predictions(self) -> tuple[Tensor, ...]:
        """The outputs that are predictions, without the column or the output of the key."""
        kinds = dict(self.echoes)
        return tuple(
            _without_last_column(t) if kinds.get(t.name) else t for t in self.outputs if kinds.get(t.name, True)
        )


def _without_last_column(tensor: Tensor) -> Tensor:
    if not tensor.shape:
        return tensor
    width = tensor.shape[0]
    return tensor._replace(shape=(None if width is None else width - 1,))


class CallLimits:
    """The limits of a model's calls that this process has detected so far.

    Attributes:
        rows: The most rows of a call.
        alone: Whether the memory is enough for only one call at a time.
        copies_failed: Whether a filled call with copies of one row failed, and the row alone or fewer copies succeeded.
        takes_one: Whether a call of one row succeeded.
        needs_copies: Whether a row failed alone, and a call with copies of it succeeded.
        sizes: Shapes of inputs -> prediction -> its shape for these inputs.
    """

    def __init__(self) -> None:
        """Starts without limits."""
        self.rows, self.alone, self.copies_failed = sys.maxsize, False, False
        self.takes_one, self.needs_copies, self._searches = False, False, 0
        self.sizes: dict[Any, dict[str, tuple[int, ...]]] = {}

    def is_searched(self) -> bool:
        """Decides whether to retry one more row that failed alone, in a call with copies of it.

        It counts its calls: each of the first `SEARCHES` rows is retried, then only rows 16, 32, 64 and so on. Once
        copies helped, every row is.
        """
        self._searches += not self.needs_copies
        return self._searches <= SEARCHES or self._searches & (self._searches - 1) == 0


class Model:
    """A signature of a SavedModel, ready to be called. Thread-safe.

    Attributes:
        inputs: All inputs except constants, by name. The key input is one of them.
        outputs: The outputs to compute, by name.
        call: A function from the inputs' arrays to the outputs' arrays, both in order. Its keyword argument `outputs`
            names the outputs to compute; without it, all are computed.
        findings: The ops of the model that do more than compute.
        unfit: Output that no row can hold -> why.
        stateful: Whether a call may change the outputs of later calls.
        weights: The bytes of the variables that take part in each row, see `transforms.saved_model.weights`.
        compiled: What XLA compiles of the model for each shape of its inputs; None if nothing.
        rows: The rows of each call, if the signature fixes them.
        constants: The inputs that no row feeds.
        limits: The limits of a call that this process has detected.
    """

    def __init__(
        self,
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        call: Call,
        findings: Sequence[model_ops.Finding] = (),
        unfit: Mapping[str, str] | None = None,
        *,
        stateful: bool = False,
        weights: int = 0,
        compiled: Compiled | None = None,
        rows: int | None = None,
        constants: Sequence[Constant] = (),
    ) -> None:
        """Takes the attributes."""
        self.weights, self.compiled, self.rows, self.constants = weights, compiled, rows, tuple(constants)
        self.inputs, self.outputs, self.call, self.findings = dict(inputs), dict(outputs), call, tuple(findings)
        self.unfit, self.stateful = dict(unfit or {}), stateful
        self.limits, self._gate = CallLimits(), Gate()

    def __call__(self, arrays: Arrays, *, alone: bool = False) -> dict[str, npt.NDArray[Any]]:
        """Calls the signature.

        Args:
            arrays: Input -> (batch, …), in the input's dtype.
            alone: Whether no other call may run at the same time.

        Returns:
            Output -> (batch, …).

        Raises:
            ModelError: The model raises.
        """
        with self._gate.enter(alone=alone):
            answer = self.call(*[arrays[name] for name in self.inputs])
        return dict(zip(self.outputs, answer, strict=True))

    def only(self, names: Iterable[str]) -> "Model":
        """Returns the same model, which computes only some of its outputs.

        Args:
            names: The names of the outputs to compute.
        """
        chosen = {name: self.outputs[name] for name in names}
        if chosen.keys() == self.outputs.keys():
            return self
        call = functools.partial(self.call, outputs=tuple(chosen))
        return Model(self.inputs, chosen, call, self.findings, self.unfit, **self.traits)

    @property
    def traits(self) -> dict[str, Any]:
        """The attributes that come from the graph, as keyword arguments for a `Model` with another `call`."""
        names = ("stateful", "weights", "compiled", "rows", "constants")
        return {name: getattr(self, name) for name in names}


def key_input(model: Model, name: str | None) -> Tensor | None:
    """Returns the input that may take the key: the one named `name`, or by default the one named `key`.

    Args:
        model: The model.
        name: The name of the input, as given with `--key_input`; None for the default.

    Returns:
        The input. None if `name` is None and the model has no input `key` that can hold one key for each row.

    Raises:
        UsageError: The input `name` does not exist, or cannot hold a key.
    """
    if name is not None and name not in model.inputs:
        raise UsageError(f"the model has no input {name}{nearest(name, list(model.inputs))}; see --key_input")
    found = model.inputs.get(name or KEY)
    if found is not None and found.dtype in KEY_DTYPES and found.shape in ((), (1,), None):
        return found
    if name is not None:
        raise UsageError(f"input {name} cannot take a key: it is not one of {KEY_DTYPES} a row")
    return None


def key_array(keys: npt.NDArray[Any], key: Tensor) -> npt.NDArray[Any]:
    """Converts keys to the dtype and shape of the model's key input.

    Args:
        keys: Whole numbers, or values in the input's own dtype, (batch,).
        key: The key input.

    Returns:
        (batch,) or (batch, 1), in the input's dtype; an object array of bytes for strings.
    """
    if key.dtype == STRING:
        made: npt.NDArray[Any] = keys if keys.dtype == object else np.array([b"%d" % k for k in keys], object)
    else:
        made = keys.astype(key.dtype)
    return made.reshape(-1, 1) if key.shape == (1,) else made


def filled_up(array: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    """Fills an array up to a number of rows with copies of its last row.

    The copies have values that are valid for the model. Zeros may not be valid.

    Args:
        array: (1 to `rows`, …).
        rows: The number of rows of the result.

    Returns:
        (rows, …).
    """
    if len(array) == rows:
        return array
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])
