"""A model in a process of its own.

TensorFlow then starts while Beam does, and computes while rows are parsed: neither waits for the other's
interpreter lock. The process belongs to the one that started it and ends with it, however that ends.
To be able to start it first of all, this module imports nothing large; `pipeline.model.model_server` is its inside.
"""

import atexit
import contextlib
import functools
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

# Not -m, which would import what lies in the current folder first, whatever that is.
SERVER = "import sys; sys.path[0] = sys.argv[3]; from pipeline.model.model_server import main; main()"
SOCKET, LOG = "socket", "log"
BACKLOG = 128
LONG_PATH, SHORT_FOLDER = 60, "/tmp"  # noqa: S108  a socket's whole path has room for 100 characters
LOG_LINES = 5
COUNT = struct.Struct("<Q")  # of the arrays that follow a message
# What the process answers with: a value, or an error to be raised here.
DONE, USAGE_ERROR, MODEL_ERROR, OTHER_ERROR = "done", "usage error", "model error", "other error"
MEMORY_ERROR = "memory error"


class EndedError(RunError):
    """The process ended before it answered."""


class LateError(RunError):
    """The process did not answer in time."""


class ModelProcess:
    """The process; it starts at once, before it is known which model it will load."""

    def __init__(self) -> None:
        """Starts it."""
        self._most: int | None = None
        self._start()

    def _start(self) -> None:
        # A folder for this user alone: who can reach the socket can have models loaded.
        where = tempfile.gettempdir()
        self._folder = tempfile.TemporaryDirectory(
            prefix="keyjoin-", dir=where if len(where) < LONG_PATH else SHORT_FOLDER
        )
        self.address = os.path.join(self._folder.name, SOCKET)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(None)  # see `_connect`; the other process would inherit it
        self._socket.bind(self.address)
        self._socket.listen(BACKLOG)
        number = self._socket.fileno()
        root = Path(__file__).resolve().parents[2]
        with open(os.path.join(self._folder.name, LOG), "wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  our own module
                [sys.executable, "-c", SERVER, str(number), self._folder.name, str(root)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[number],
            )
        self._socket.close()
        if self._most is not None:
            self.limit(self._most)

    @property
    def pid(self) -> int:
        """Its number; another one after each start."""
        return self._process.pid

    def limit(self, size: int | None) -> None:
        """Bounds its private, writable memory, on Linux; also after it is started anew.

        Args:
            size: Bytes, or None for as many as this process may have.
        """
        import resource

        if size is not None or self._most is not None:
            most = resource.getrlimit(resource.RLIMIT_DATA)[1]
            with contextlib.suppress(ProcessLookupError):  # it ended; who calls it will be told
                resource.prlimit(self.pid, resource.RLIMIT_DATA, (most if size is None else size, most))
        self._most = size

    def load(self, folder: str, loading: "Loading", timeout: float | None = None) -> "Model":
        """Loads a model there.

        Args:
            folder: A SavedModel.
            loading: How it is loaded.
            timeout: Seconds after which a call raises `LateError`; None waits for ever.

        Returns:
            The model, called there.

        Raises:
            UsageError: There is no such SavedModel or signature, or it is refused, see
                `transforms.saved_model.loader.load`.
            EndedError: The process ended.
        """
        from transforms.saved_model.model import Model

        with _connect(self.address) as connection:
            question = absolute(folder), loading
            number, inputs, outputs, findings, unfit, traits = _value(*_ask(connection, self.address, question))
        return Model(inputs, outputs, _Call(self.address, number, timeout), findings, unfit, **traits)

    def unload(self) -> None:
        """Drops the models that it has loaded, with their state and memory; they must not be called any more.

        Raises:
            EndedError: The process ended.
        """
        with _connect(self.address) as connection:
            _value(*_ask(connection, self.address, (None, None)))

    def restart(self) -> int:
        """Ends it, and starts it anew, without any model.

        Returns:
            What it ended with, see `subprocess.Popen.returncode`; it may have ended before.
        """
        self.close()
        code: int = self._process.returncode
        self._start()
        return code

    def ensure(self) -> None:
        """Starts it anew if it has ended."""
        if self._process.poll() is not None:
            self.restart()

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()


@functools.cache
def process() -> ModelProcess:
    """This process's own model process, which ends with it."""
    started = ModelProcess()
    atexit.register(started.close)
    return started


class _Call:
    """Calls a loaded model; thread-safe: each call has a connection to itself."""

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
            kind, value = _ask(connection, self._address, (self._number, arrays, outputs))
        except BaseException:
            # An answer may still come: nobody must take it for the next question's.
            connection.close()
            raise
        self._idle.put(connection)
        answer: Sequence[npt.NDArray[Any]] = _value(kind, value)
        return answer


def _connect(address: str, timeout: float | None = None) -> Connection:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(None)  # Google's client sets a default for all sockets, and a model may take its time
    if timeout is not None:
        # Not client.settimeout, which Python keeps to itself: the connection knows the descriptor only.
        wait = struct.pack("ll", int(timeout), int(timeout % 1 * 1_000_000))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, wait)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
    try:
        client.connect(address)
    except OSError as error:
        client.close()
        _raise_ended(address, error)
    return Connection(client.detach())


def _ask(connection: Connection, address: str, question: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        send(connection, question)
        answer: tuple[str, Any] = unpack(receive(connection))
    except BlockingIOError as error:
        raise LateError("the model did not answer in time") from error
    except (EOFError, OSError) as error:
        _raise_ended(address, error)
    return answer


def send(connection: Connection, value: Any) -> None:
    """Sends a value to the other process; its arrays go as they lie, without a copy of them."""
    arrays: list[pickle.PickleBuffer] = []
    text = pickle.dumps(value, pickle.HIGHEST_PROTOCOL, buffer_callback=arrays.append)
    connection.send_bytes(COUNT.pack(len(arrays)) + text)
    for array in arrays:
        connection.send_bytes(array.raw())


def receive(connection: Connection) -> list[bytes]:
    """What the other process sent, still packed."""
    text = connection.recv_bytes()
    return [text, *(connection.recv_bytes() for _ in range(*COUNT.unpack_from(text)))]


def unpack(received: list[bytes]) -> Any:
    """The value that was sent; arrays in it cannot be written to."""
    text, *arrays = received
    return pickle.loads(memoryview(text)[COUNT.size :], buffers=arrays)  # noqa: S301  from our own process


def _value(kind: str, value: Any) -> Any:
    if kind == DONE:
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
    with contextlib.suppress(OSError):  # it is gone if the process was started again meanwhile
        said = Path(address).with_name(LOG).read_text(errors="replace").split("\n")[-LOG_LINES:]
    raise EndedError(
        f"the process of the model ended ({' '.join(' '.join(said).split()) or 'it said nothing'}); "
        "it may have run out of memory, or the model crashed: try a smaller --batch_size, or --isolate, which finds "
        "the rows that it crashes for"
    ) from error
