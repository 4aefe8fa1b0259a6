"""The inside of the model process: loads models and calls them; see `pipeline.model.model_process`."""

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
    DONE,
    MEMORY_ERROR,
    MODEL_ERROR,
    OTHER_ERROR,
    USAGE_ERROR,
    receive,
    send,
    unpack,
)
from transforms.errors import MemoryShortError, ModelError, UsageError
from transforms.saved_model.loader import load
from transforms.saved_model.model import Model

_NUMBERS = itertools.count()  # of models; never given twice, so that no call reaches another model than it meant


def serve(listener: socket.socket, folder: str) -> NoReturn:
    """Answers every connection in a thread of its own, until the process that started this one is gone.

    Args:
        listener: Where connections come in.
        folder: What is deleted then.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # whole groups of processes are sent it; the other one decides
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
    """Loads a signature of a folder, calls a loaded model with arrays, or drops all that were loaded."""
    try:
        which, what, *outputs = unpack(question)
        if which is None:
            models.clear()
            gc.collect()
            return DONE, None
        if isinstance(which, int):
            return DONE, models[which].call(*what, outputs=outputs[0])
        model = load(which, what)
        number = next(_NUMBERS)
        models[number] = model
        return DONE, (number, model.inputs, model.outputs, model.findings, model.unfit, model.traits)
    except UsageError as error:
        return USAGE_ERROR, str(error)
    except (MemoryShortError, MemoryError) as error:
        return MEMORY_ERROR, str(error) or "no memory for the batch"
    except ModelError as error:
        return MODEL_ERROR, str(error)
    except Exception:  # noqa: BLE001  whatever it is, it has to reach the one who asked
        return OTHER_ERROR, traceback.format_exc()


def main() -> NoReturn:
    """The process, from its arguments: the number of the listening socket, the folder to delete at the end."""
    startup.begin()
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
