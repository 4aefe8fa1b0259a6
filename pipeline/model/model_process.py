"""Runs a model in a separate process.

TensorFlow then starts while Beam starts, and computes while rows are parsed. Neither waits for the interpreter lock of
the other. The model process belongs to the process that started it, and ends when that process ends, whatever the
cause. This module imports nothing large, so that a program can start the model process first of all. The code inside
the model process is `pipeline.model.model_server`.
"""

import atexit
import contextlib
import functools
import logging
import os
import pickle
import queue
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from transforms.errors import MemoryShortError, ModelError, RunError, UsageError
from transforms.storage.paths import absolute

if TYPE_CHECKING:
    import numpy.typing as npt

    from transforms.saved_model.loader import Loading
    from transforms.saved_model.model import Model

# Not -m: Python would search the current folder first, and import any module there.
SERVER = "import sys; sys.path[0] = sys.argv[3]; from pipeline.model.model_server import main; main()"
SOCKET, LOG = "socket", "log"
BACKLOG = 128
LONG_PATH, SHORT_FOLDER = 60, "/tmp"  # noqa: S108  a socket's whole path has room for 100 characters
LOG_LINES = 5
COUNT = struct.Struct("<Q")  # the number of arrays that follow a message
# The kinds of answers of the process: a value, or an error to raise in this process.
VALUE, USAGE_ERROR, MODEL_ERROR, OTHER_ERROR = "done", "usage error", "model error", "other error"
MEMORY_ERROR = "memory error"


class EndedError(RunError):
    """The process ended before it answered."""


class LateError(RunError):
    """The process did not answer in time."""


class ModelProcess:
    """A model process. It starts at once, before the model is known that it will load."""

    def __init__(self) -> None:
        """Starts the process."""
        self._most: int | None = None
        self._start()

    def _start(self) -> None:
        # Only this user has access to the folder: any program that reaches the socket can make the process load models.
        where = tempfile.gettempdir()
        self._folder = tempfile.TemporaryDirectory(
            prefix="keyjoin-", dir=where if len(where) < LONG_PATH else SHORT_FOLDER
        )
        self.address = os.path.join(self._folder.name, SOCKET)
        root = Path(__file__).resolve().parents[2]
        with socket.socket(socket.AF_UNIX) as listening, open(os.path.join(self._folder.name, LOG), "wb") as log:
            listening.settimeout(None)  # see `_connect`; the model process would inherit the timeout
            listening.bind(self.address)
            listening.listen(BACKLOG)
            number = listening.fileno()
            self._process = subprocess.Popen(  # noqa: S603  our own module
                [sys.executable, "-c", SERVER, str(number), self._folder.name, str(root)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=None if logging.getLogger().isEnabledFor(logging.INFO) else log,  # None: shown, for --verbose
                pass_fds=[number],
            )
        if self._most is not None:
            self.limit(self._most)

    @property
    def pid(self) -> int:
        """The process id; it changes with each start."""
        return self._process.pid

    def processor_seconds(self) -> float | None:
        """Returns the processor time that the process has used, in seconds; None if the system does not tell."""
        try:
            # proc_pid_stat(5): the name is in parentheses and may hold any character; utime and stime are fields 14, 15
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def limit(self, size: int | None) -> None:
        """Limits the private, writable memory of the process, on Linux. A restarted process has the same limit.

        Args:
            size: The limit in bytes; None for the hard limit of this process.
        """
        import resource

        if size is not None or self._most is not None:
            most = resource.getrlimit(resource.RLIMIT_DATA)[1]
            with contextlib.suppress(ProcessLookupError):  # it ended; the next call reports this
                resource.prlimit(self.pid, resource.RLIMIT_DATA, (most if size is None else size, most))
        self._most = size

    def load(self, folder: str, loading: "Loading", timeout: float | None = None) -> "Model":
        """Loads a model in the process.

        Args:
            folder: The folder of a SavedModel.
            loading: How to load the model.
            timeout: Seconds after which a call raises `LateError`; None waits without a limit.

        Returns:
            The model. Its calls run in the process.

        Raises:
            UsageError: The SavedModel or the signature does not exist, or the model is refused, see
                `transforms.saved_model.loader.load`.
            EndedError: The process ended.
        """
        from transforms.saved_model.model import Model

        with _connect(self.address) as connection:
            question = absolute(folder), loading
            number, inputs, outputs, findings, unfit, traits = _value(*_request(connection, self.address, question))
        return Model(inputs, outputs, _Call(self.address, number, timeout), findings, unfit, **traits)

    def unload(self) -> None:
        """Drops all loaded models with their state and memory. The caller must not call them any more.

        Raises:
            EndedError: The process ended.
        """
        with _connect(self.address) as connection:
            _value(*_request(connection, self.address, (None, None)))

    def restart(self) -> int:
        """Ends the process and starts it anew, without any model.

        Returns:
            The exit code of the ended process, see `subprocess.Popen.returncode`. It may have ended before this call.
        """
        self.close()
        code: int = self._process.returncode
        self._start()
        return code

    def ensure(self) -> None:
        """Starts the process anew if it has ended."""
        if self._process.poll() is not None:
            self.restart()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()


@functools.cache
def process() -> ModelProcess:
    """Returns this process's own model process, which ends when this process ends."""
    started = ModelProcess()
    atexit.register(started.close)
    return started


class _Call:
    """Calls a loaded model. Thread-safe, because each call has its own connection."""

    def __init__(self, address: str, number: int, timeout: float | None) -> None:
        self._address, self._number, self._timeout = address, number, timeout
        self._idle: queue.LifoQueue[Connection] = queue.LifoQueue()

    def __call__(
        self, *arrays: "npt.NDArray[Any]", outputs: Sequence[str] | None = None
    ) -> "Sequence[npt.NDArray[Any]]":
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = _connect(self._address, self._timeout)
        try:
            kind, value = _request(connection, self._address, (self._number, arrays, outputs))
        except BaseException:
            # A late answer may still arrive, and the next call must not take it for its own.
            connection.close()
            raise
        self._idle.put(connection)
        answer: Sequence[npt.NDArray[Any]] = _value(kind, value)
        return answer


def _connect(address: str, timeout: float | None = None) -> Connection:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(None)  # Google's client sets a default timeout for all sockets, and a model call may take long
    if timeout is not None:
        # Not client.settimeout: only Python's socket object knows that timeout. The connection has just the descriptor.
        wait = struct.pack("ll", int(timeout), int(timeout % 1 * 1_000_000))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, wait)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
    try:
        client.connect(address)
    except OSError as error:
        client.close()
        _raise_ended(address, error)
    return Connection(client.detach())


def _request(connection: Connection, address: str, question: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        send(connection, question)
        answer: tuple[str, Any] = unpack(receive(connection))
    except BlockingIOError as error:
        raise LateError("the model did not answer in time") from error
    except (EOFError, OSError) as error:
        _raise_ended(address, error)
    return answer


def send(connection: Connection, value: Any) -> None:
    """Sends a value to the other process. Its arrays are sent directly from their memory, without a copy."""
    arrays: list[pickle.PickleBuffer] = []
    text = pickle.dumps(value, pickle.HIGHEST_PROTOCOL, buffer_callback=arrays.append)
    connection.send_bytes(COUNT.pack(len(arrays)) + text)
    for array in arrays:
        connection.send_bytes(array.raw())


def receive(connection: Connection) -> list[bytes]:
    """Receives a value from the other process, still packed."""
    text = connection.recv_bytes()
    return [text, *(connection.recv_bytes() for _ in range(*COUNT.unpack_from(text)))]


def unpack(received: list[bytes]) -> Any:
    """Unpacks a received value. The arrays in it are read-only."""
    text, *arrays = received
    return pickle.loads(memoryview(text)[COUNT.size :], buffers=arrays)  # noqa: S301  from our own process


def _value(kind: str, value: Any) -> Any:
    if kind == VALUE:
        return value
    if kind == USAGE_ERROR:
        raise UsageError(value)
    if kind == MODEL_ERROR:
        raise ModelError(value)
    if kind == MEMORY_ERROR:
        raise MemoryShortError(value)
    raise RuntimeError(value)


def _raise_ended(address: str, error: Exception) -> NoReturn:
    said = []
    with contextlib.suppress(OSError):  # the log is gone if the process was restarted meanwhile
        said = Path(address).with_name(LOG).read_text(errors="replace").split("\n")[-LOG_LINES:]
    raise EndedError(
        f"the process of the model ended ({' '.join(' '.join(said).split()) or 'it said nothing'}); "
        "it may have run out of memory, or the model crashed: try a smaller --batch_size, or --isolate, which finds "
        "the rows that it crashes for"
    ) from error
