"""Runs a model in a process that restarts when it ends, so that a crash costs one call and not the run."""

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

# Bisecting a batch down to a row takes up to 26 crashes. After each crash, a start takes seconds. The limit stops a
# model that crashes on every call before it takes the whole night.
MOST_CRASHES = 60


class Isolated:
    """Calls a model in a process that restarts when it ends. Thread-safe.

    If several calls were running when the process ended, this class does not know which of them ended it. The caller
    can detect it by repeating the calls one by one.
    """

    def __init__(self, owner: ModelProcess, folder: str, loading: "Loading", timeout: float | None) -> None:
        """Stores the process, and the model that it loads after each start.

        Args:
            owner: The process.
            folder: The folder of a SavedModel.
            loading: How to load the model.
            timeout: Seconds after which a call without an answer ends the process; None waits without a limit.
        """
        self._process, self._timeout = owner, timeout
        self._load = functools.partial(owner.load, folder, loading, timeout)
        self._changing = threading.Lock()
        self._model: Model | None = None  # None before it is loaded, and again after each end of the process
        self._crashes = 0  # since the last answer

    def load(self) -> "Model":
        """Loads the model.

        Raises:
            UsageError: The folder is no SavedModel, or the signature does not exist.
            RunError: The process ended.
        """
        from transforms.saved_model.model import Model

        loaded = self._running()
        return Model(loaded.inputs, loaded.outputs, self, loaded.findings, loaded.unfit, **loaded.traits)

    def __call__(
        self, *arrays: "npt.NDArray[Any]", outputs: Sequence[str] | None = None
    ) -> "Sequence[npt.NDArray[Any]]":
        """Calls the model, for all of its outputs or for the given ones.

        Raises:
            CrashError: The process ended during the call.
            TimeoutExceededError: The model did not answer in time.
            RunError: The process ended too often, or did not restart.
        """
        model = self._running()
        try:
            answer = model.only(model.outputs if outputs is None else outputs).call(*arrays)
        except LateError as error:
            self._end(model)
            raise TimeoutExceededError(f"no answer within --batch_timeout={self._timeout:g} seconds") from error
        except EndedError as error:
            raise CrashError(f"the process of the model ended{_exit_text(self._end(model))}") from error
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
        """Ends the process and starts it anew, once for all calls that were running.

        Returns:
            The exit code, for the first of these calls; None for the others.
        """
        with self._changing:
            if self._model is not model:
                return None
            self._model = None
            self._crashes += 1
            return self._process.restart()


def _exit_text(code: int | None) -> str:
    """Describes how a process ended, by its exit code.

    >>> _exit_text(-6), _exit_text(-9), _exit_text(3)
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
    """Returns the model, loaded once in this process's own model process."""
    return process().load(folder, loading)


@functools.cache
def isolated(folder: str, loading: "Loading", timeout: float | None) -> "Model":
    """Does the same as `shared`, but the model's process restarts when it ends."""
    return Isolated(process(), folder, loading, timeout).load()


def forget() -> None:
    """Makes later calls load their models anew, in a process that runs.

    An earlier command may have loaded other models from the same paths.
    """
    process().ensure()
    _clear()


def renew() -> None:
    """Drops the loaded models. Later calls load them anew, in the state in which they were saved."""
    process().ensure()
    process().unload()
    _clear()


def _clear() -> None:
    shared.cache_clear()
    isolated.cache_clear()
