"""Isolation: a model whose process is started again when it ends, so that a crash costs the call and not the run."""

import functools
import signal
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.model.model_process import EndedError, LateError, ModelProcess, process
from transforms.errors import CrashError, ModelError, RunError, TimeoutExceededError

if TYPE_CHECKING:
    import numpy.typing as npt

    from transforms.saved_model.loader import Loading
    from transforms.saved_model.model import Model

# Halving a batch down to a row takes up to 26 of them. A start takes seconds: a model that crashes whatever it
# is called with should not take the night.
MOST_CRASHES = 60


class Isolated:
    """Calls a model in a process that is started again when it ends. Thread-safe.

    Which call ended it, if several were going on, only the caller can find out: by making them one by one.
    """

    def __init__(self, owner: ModelProcess, folder: str, loading: "Loading", timeout: float | None) -> None:
        """Takes what starts, and what is loaded there each time.

        Args:
            owner: The process.
            folder: A SavedModel.
            loading: How it is loaded.
            timeout: Seconds after which a call ends the process; None waits for ever.
        """
        self._process, self._timeout = owner, timeout
        self._load = functools.partial(owner.load, folder, loading, timeout)
        self._changing = threading.Lock()
        self._model: Model | None = None  # None until it is loaded, again after each end
        self._crashes = 0  # since the last answer

    def load(self) -> "Model":
        """Loads the model.

        Raises:
            UsageError: There is no SavedModel, or no such signature.
            RunError: The process ended.
        """
        from transforms.saved_model.model import Model

        loaded = self._running()
        return Model(loaded.inputs, loaded.outputs, self, loaded.findings, loaded.unfit, **loaded.traits)

    def __call__(
        self, *arrays: "npt.NDArray[Any]", outputs: Sequence[str] | None = None
    ) -> "Sequence[npt.NDArray[Any]]":
        """Calls the model, for all of its outputs or some.

        Raises:
            CrashError: The process ended meanwhile.
            TimeoutExceededError: The model did not answer in time.
            RunError: The process ended too often, or did not come up again.
        """
        model = self._running()
        try:
            answer = model.only(model.outputs if outputs is None else outputs).call(*arrays)
        except LateError as error:
            self._end(model)
            raise TimeoutExceededError(f"no answer within --batch_timeout={self._timeout:g} seconds") from error
        except EndedError as error:
            raise CrashError(f"the process of the model ended{_how(self._end(model))}") from error
        except ModelError:
            self._crashes = 0
            raise
        self._crashes = 0
        return answer

    def _running(self) -> "Model":
        with self._changing:
            if self._crashes >= MOST_CRASHES:
                raise RunError(
                    f"the process of the model ended {self._crashes} times without one answer between: whatever the "
                    "model is called with, it crashes, or takes longer than --batch_timeout; try it with "
                    "`keyjoin predict`"
                )
            if self._model is None:
                self._model = self._load()
            return self._model

    def _end(self, model: "Model") -> int | None:
        """Ends the process, starts it anew, and gives the exit code, to the first of the calls that were going on."""
        with self._changing:
            if self._model is not model:
                return None
            self._model = None
            self._crashes += 1
            return self._process.restart()


def _how(code: int | None) -> str:
    """How a process ended, by its exit code.

    >>> _how(-6), _how(-9), _how(3)
    (' with SIGABRT', ' with SIGKILL, as when memory runs out', ' with exit code 3')
    """
    if code is None:
        return ""
    if code >= 0:
        return f" with exit code {code}"
    name = signal.Signals(-code).name
    return f" with {name}{', as when memory runs out' * (name == 'SIGKILL')}"


@functools.cache
def shared(folder: str, loading: "Loading") -> "Model":
    """The model in this process's own model process, loaded there once."""
    return process().load(folder, loading)


@functools.cache
def isolated(folder: str, loading: "Loading", timeout: float | None) -> "Model":
    """The same, in a process that is started again when it ends."""
    return Isolated(process(), folder, loading, timeout).load()


def forget() -> None:
    """Has models loaded anew, in a process that runs: an earlier command may have found others at their places."""
    process().ensure()
    _clear()


def renew() -> None:
    """Has models loaded anew, in the state that they were saved in; those that were loaded are dropped."""
    process().ensure()
    process().unload()
    _clear()


def _clear() -> None:
    shared.cache_clear()
    isolated.cache_clear()
