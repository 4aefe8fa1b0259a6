"""Exports a `.keras` file to a SavedModel, in a separate process with resource limits.

Loading such a file creates the Python objects that it describes. Keras's safe mode refuses code in the file, but it had
to be fixed more than once. So keyjoin also limits the resources of the process. The process is no sandbox: it has the
rights of the user.
"""

import importlib
import inspect
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from pipeline.compat import startup
from pipeline.model.keras_errors import FLAG, explain
from transforms.errors import UsageError
from transforms.storage.paths import absolute

KERAS = ".keras"
# The releases with the last fix of safe mode. Keras 3.12 gets fixes as long as it supports Python 3.10; 3.13 does not
# support Python 3.10.
OLDEST = (3, 15, 1) if sys.version_info >= (3, 11) else (3, 12, 4)
# Not -m: Python would search the current folder first, and import any module there.
CHILD = "import sys; sys.path[0] = sys.argv[1]; from pipeline.model.keras_export import main; main()"
LOG, ANSWER = "log", "answer"
REFUSED = 2


class Limits(NamedTuple):
    """The resources that the process may use; see setrlimit(2).

    Attributes:
        seconds: Wall time in seconds.
        cpu_seconds: Processor time of all its threads, in seconds.
        memory: Bytes of data that the process allocates. Memory that it only maps does not count, because
            TensorFlow maps a lot of it.
        file: Most bytes of any one file that the process writes.
    """

    seconds: int
    cpu_seconds: int
    memory: int
    file: int

    @classmethod
    def of(cls, size: int) -> "Limits":
        """Returns the limits for a file of `size` bytes: about ten times the measured need of a harmless file."""
        return cls(1800, 3600, (8 << 30) + 16 * size, (1 << 30) + 4 * size)


def export_keras(path: str, folder: str, custom_objects: Sequence[str] = (), *, limits: Limits | None = None) -> None:
    """Exports a `.keras` file to a SavedModel.

    Args:
        path: The path of the file.
        folder: The folder of the SavedModel; it must not exist yet.
        custom_objects: Modules that define the model's own layers. The process imports them, also from the current
            folder.
        limits: The resources that the process may use; None for the limits of a file of this size.

    Raises:
        UsageError: The file is missing, damaged, holds code, has layers that Keras does not know, or needs more
            than the limits allow. Or a module cannot be imported.
    """
    if not os.path.isfile(path):
        raise UsageError(f"no model at {path}; give a {KERAS} file or the folder of a SavedModel")
    limits = limits or Limits.of(os.path.getsize(path))
    root = str(Path(__file__).resolve().parents[2])
    with tempfile.TemporaryDirectory(prefix="keyjoin-keras-") as work:
        given = json.dumps([path, absolute(path), absolute(folder), absolute("."), custom_objects, *limits])
        with open(os.path.join(work, LOG), "wb") as log:
            child = subprocess.Popen(  # noqa: S603  our own module
                [sys.executable, "-c", CHILD, root, given],
                cwd=work,  # so a relative path in the file names no file of the user
                # Keras then ignores the backend and the other settings of ~/.keras/keras.json: only the file decides.
                env={**os.environ, "KERAS_BACKEND": "tensorflow", "KERAS_HOME": work},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            code = child.wait(limits.seconds)
        except subprocess.TimeoutExpired as error:
            raise UsageError(_exceeded(path, f"{limits.seconds} s")) from error
        finally:
            child.kill()
            child.communicate()
        if code:
            raise UsageError(_error_text(path, code, work, limits))


def check_custom_objects(model: str, modules: Sequence[str]) -> None:
    """Refuses `--custom_objects` for a model that is no `.keras` file.

    Args:
        model: The path of the model.
        modules: The modules that `--custom_objects` names.

    Raises:
        UsageError: Modules are given for a SavedModel.
    """
    if modules and not model.endswith(KERAS):
        raise UsageError(
            f"{FLAG}={','.join(modules)} is for the layers of a {KERAS} file, and {model} is none; leave it out, or "
            "name modules that register ops with --model_libraries"
        )


def _error_text(path: str, code: int, work: str, limits: Limits) -> str:
    """Explains why the process failed: by its own answer, or by what ended it."""
    answer, log = Path(work, ANSWER), Path(work, LOG)
    if code == REFUSED and answer.exists():
        return answer.read_text(errors="replace")
    if code == -signal.SIGXCPU:
        return _exceeded(path, f"{limits.cpu_seconds} s of processor time")
    errors = [line for line in log.read_text(errors="replace").splitlines() if "Error" in line]
    last = textwrap.shorten(errors[-1], 200) if errors else "it did not say why"
    return (
        f"{path} cannot be exported: the process that loads it ended with {code} ({last}); it may have needed more "
        f"memory than {limits.memory >> 20} MiB; where you trust the file, export it yourself with "
        "model.export(FOLDER) and give that folder"
    )


def _exceeded(path: str, limit: str) -> str:
    return (
        f"{path} cannot be exported: loading it takes more than {limit}; where you trust the file, export it "
        "yourself with model.export(FOLDER) and give that folder"
    )


def main() -> NoReturn:
    """Runs the export inside the process. The arguments have the limits, the file, and the folder to write."""
    shown, path, folder, current, custom_objects, _, *limits = json.loads(sys.argv[2])
    _limit(*limits)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    startup.begin()
    try:
        _export(shown, path, folder, current, custom_objects)
    except UsageError as error:
        Path(ANSWER).write_text(str(error), encoding="utf-8", errors="backslashreplace")
        os._exit(REFUSED)
    sys.stdout.flush()
    os._exit(0)


def _leave_with_parent() -> None:
    # Not sys.stdin: this thread would hold its lock when the process ends by itself.
    while os.read(0, 1):
        pass
    os._exit(1)


def _limit(cpu_seconds: int, memory: int, file: int) -> None:
    # No limit on the number of processes, which counts all processes of the user. No limit on the address space, see
    # `Limits.memory`.
    for kind, limit in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_FSIZE, file),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        # The soft limit on processor time ends the process with SIGXCPU. The hard limit would not show the reason.
        later = hard if kind == resource.RLIMIT_CPU else least
        resource.setrlimit(kind, (least, later))


def _export(shown: str, path: str, folder: str, current: str = "", custom_objects: Sequence[str] = ()) -> None:
    startup.import_tensorflow()
    import keras

    from transforms.saved_model.loader import quiet

    if tuple(int(part) for part in keras.__version__.split(".")[:3]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise UsageError(
            f"Keras {keras.__version__} loads {KERAS} files less safely than {oldest}; install keras>={oldest}"
        )
    known = _import(custom_objects, current)
    try:
        with quiet():
            # Not compiled: predicting needs neither optimizer nor loss, and their classes may be the user's own.
            model = keras.models.load_model(path, known, compile=False, safe_mode=True)
            model.export(folder, format="tf_saved_model", verbose=False)
    except Exception as error:  # The content of the file decides which error Keras raises.
        raise UsageError(explain(shown, path, error, custom_objects)) from error


def _import(modules: Sequence[str], current: str) -> dict[str, Any]:
    """Returns the classes and functions that modules define, by name. Keras itself finds the registered ones.

    Raises:
        UsageError: A module cannot be imported.
    """
    if modules:
        sys.path.append(current)  # last, so that no other import is taken from this folder
    found: dict[str, Any] = {}
    for name in modules:
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit) as error:  # the module's own code may raise any error
            said = textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder="…")
            raise UsageError(
                f"{FLAG}: {name} cannot be imported: {said}; run keyjoin in the folder that holds the module, or "
                "install the package that has it"
            ) from error
        for key, value in vars(module).items():
            own = f"{getattr(value, '__module__', '')}.".startswith(f"{name}.")
            if own and (inspect.isclass(value) or inspect.isfunction(value)):
                found[key] = value
    return found
