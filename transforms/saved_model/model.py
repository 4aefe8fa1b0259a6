"""The model: what its signature takes and gives, and calling it. `transforms.saved_model.loader` loads one."""

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
SEARCHES = 8  # rows that fail alone and of which copies are tried
KEY_DTYPES = ("int32", "int64", "float32", STRING)


class Tensor(NamedTuple):
    """An input or output of a signature.

    Attributes:
        name: In the signature.
        dtype: TensorFlow's name of it.
        shape: Without the batch dimension; None for a size that is not fixed, and for an unknown rank.
        tensor: Name in the graph.
        fixed_rows: The first size of an output, where the signature fixes it: it does not follow the rows of a call.
        is_parsed: Whether an input holds serialized tf.Examples, which the model parses.
        has_default: Whether the graph has a value for an input that is not fed.
        kind: `ragged` or `sparse` for an input that is; empty for a dense tensor.
        ragged_rank: How many levels of its lists may have different lengths, for a ragged input; the first is the row.
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
        outputs: The outputs that are computed: those that are written, and those where the key comes back.
        key: The input that takes the key, or None.
        echoes: Where the key comes back; empty exactly if `key` is None.
        most: Rows of a call at most: so many keys are told apart when they come back.
        why_data: Why the input that could take the key is data; empty if there is no such input, or it takes the key.
        constant_rows: Whether every call of a run has the same number of rows: the model is compiled anew for each
            other number.
        rows: Rows of each call, where the signature fixes them.
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
        """The outputs that are predictions, without the key."""
        kinds = dict(self.echoes)
        return tuple(
            _without_last_column(t) if kinds.get(t.name) else t for t in self.outputs if kinds.get(t.name, True)
        )


def _without_last_column(tensor: Tensor) -> Tensor:
    if not tensor.shape:
        return tensor
    width = tensor.shape[0]
    return tensor._replace(shape=(None if width is None else width - 1,))


class Room:
    """How many rows a call of a model may have, as far as this process has found out.

    Attributes:
        rows: Rows of a call.
        alone: Whether there is memory for one call at a time only.
        copies_failed: Whether so many copies of a row failed that does not fail alone, or with fewer.
        takes_one: Whether a call of one row did not fail.
        needs_copies: Whether a row that fails alone did not fail with copies of it.
        sizes: Shapes of inputs -> prediction -> the shape that it has for them.
    """

    def __init__(self) -> None:
        """Begins without bounds."""
        self.rows, self.alone, self.copies_failed = sys.maxsize, False, False
        self.takes_one, self.needs_copies, self._searches = False, False, 0
        self.sizes: dict[Any, dict[str, tuple[int, ...]]] = {}

    def is_searched(self) -> bool:
        """Whether copies of one more row that fails alone are worth a try: the first few are, then fewer and fewer."""
        self._searches += not self.needs_copies
        return self._searches <= SEARCHES or self._searches & (self._searches - 1) == 0


class Model:
    """A signature of a SavedModel, ready to be called. Thread-safe.

    Attributes:
        inputs: All inputs, by name.
        outputs: The outputs that are computed, by name.
        call: From the inputs' arrays, in order, to the outputs' arrays, in order; those named by `outputs`, if given.
        findings: What it does besides computing.
        unfit: Output that no row can hold -> why.
        stateful: Whether a call may change what later ones give.
        weights: Bytes of the variables that take part in each row, see `transforms.saved_model.weights`.
        compiled: What XLA compiles of it, for each shape of its inputs; None if nothing.
        rows: Rows of each call, where the signature fixes them.
        constants: The inputs that no row feeds.
        room: How many rows a call may have.
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
        self.room, self._gate = Room(), Gate()

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

    def only(self, names: Iterable[str]) -> "Model":
        """The model, which computes some of its outputs.

        Args:
            names: The outputs.
        """
        chosen = {name: self.outputs[name] for name in names}
        if chosen.keys() == self.outputs.keys():
            return self
        call = functools.partial(self.call, outputs=tuple(chosen))
        return Model(self.inputs, chosen, call, self.findings, self.unfit, **self.traits)

    @property
    def traits(self) -> dict[str, Any]:
        """What its graph says of it, as keywords of a model that is called in another way."""
        names = ("stateful", "weights", "compiled", "rows", "constants")
        return {name: getattr(self, name) for name in names}


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


def key_array(keys: npt.NDArray[Any], key: Tensor) -> npt.NDArray[Any]:
    """Keys as the model's key input wants them: (batch,) or (batch, 1).

    Args:
        keys: Whole numbers, or values in the input's own dtype.
        key: The input.
    """
    if key.dtype == STRING:
        made: npt.NDArray[Any] = keys if keys.dtype == object else np.array([b"%d" % k for k in keys], object)
    else:
        made = keys.astype(key.dtype)
    return made.reshape(-1, 1) if key.shape == (1,) else made


def filled_up(array: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    """Rows filled up with copies of the last one: its values are valid for the model, zeros may not be.

    Args:
        array: At least one row and at most so many: (…, …).
        rows: How many there are to be.
    """
    if len(array) == rows:
        return array
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])
