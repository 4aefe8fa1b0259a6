"""Loads and calls models inside the model process; see `pipeline.model.model_process`."""

import gc
import itertools
import os
import shutil
import signal
import socket
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from pipeline.compat import startup
from pipeline.model.model_process import (
    MEMORY_ERROR,
    MODEL_ERROR,
    OTHER_ERROR,
    USAGE_ERROR,
    VALUE,
    receive,
    send,
    unpack,
)
from transforms.errors import MemoryShortError, ModelError, UsageError
from transforms.saved_model.loader import load
from transforms.saved_model.model import Model

_NUMBERS = itertools.count()  # of models; never used twice, so that no call reaches a wrong model


def serve(listener: socket.socket, folder: str) -> NoReturn:
    """Answers each connection in its own thread, until the process that started this one has ended.

    Args:
        listener: The socket that accepts connections.
        folder: The folder to delete at the end.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # whole process groups get the signal; the parent decides when this ends
    threading.Thread(target=_leave_with_parent, args=(folder,), daemon=True).start()
    startup.import_session()
    models: dict[int, Model] = {}
    while True:
        connection = Connection(listener.accept()[0].detach())
        threading.Thread(target=_answer_all, args=(connection, models), daemon=True).start()


def _leave_with_parent(folder: str) -> None:
    sys.stdin.buffer.read()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _answer_all(connection: Connection, models: dict[int, Model]) -> None:
    while True:
        try:
            question = receive(connection)
        except (EOFError, OSError):
            return
        try:
            send(connection, _answer(question, models))
        except MemoryError:
            send(connection, (MEMORY_ERROR, "no memory for the answer of the model"))


def _answer(question: list[bytes], models: dict[int, Model]) -> tuple[str, Any]:
    """Loads a signature of a folder, calls a loaded model with arrays, or drops all loaded models."""
    try:
        which, what, *outputs = unpack(question)
        if which is None:
            models.clear()
            gc.collect()
            return VALUE, None
        if isinstance(which, int):
            return VALUE, models[which].call(*what, outputs=outputs[0])
        model = load(which, what)
        number = next(_NUMBERS)
        models[number] = model
        return VALUE, (number, model.inputs, model.outputs, model.findings, model.unfit, model.traits)
    except UsageError as error:
        return USAGE_ERROR, str(error)
    except (MemoryShortError, MemoryError) as error:
        return MEMORY_ERROR, str(error) or "no memory for the batch"
    except ModelError as error:
        return MODEL_ERROR, str(error)
    except Exception:  # noqa: BLE001  any other error must reach the caller, too
        return OTHER_ERROR, traceback.format_exc()


def main() -> NoReturn:
    """Runs the model process.

    Its arguments are the descriptor of the listening socket and the folder to delete at the end.
    """
    startup.begin()
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
