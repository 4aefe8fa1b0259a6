"""A `.keras` file becomes a SavedModel: in a process of its own, with limits.

Loading such a file makes Python objects of what it says. Keras's safe mode refuses code in it, and had to be mended
more than once, so what it may use up is limited besides. The process is no sandbox: it is this user's.
"""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from pipeline import startup
from transforms.errors import UsageError
from transforms.paths import absolute

KERAS = ".keras"
# Where safe mode was last mended: 3.12 is mended as long as it serves Python 3.10, which 3.13 no longer does.
OLDEST = (3, 15, 1) if sys.version_info >= (3, 11) else (3, 12, 4)
# Not -m, which would import what lies in the current folder first, whatever that is.
CHILD = "import sys; sys.path[0] = sys.argv[1]; from pipeline.keras_export import main; main()"
LOG, ANSWER = "log", "answer"
REFUSED = 2
CONFIGURATION = "config.json"  # in a `.keras` file
# How safe mode says what it refuses: a word of that -> what stands in the layer's configuration.
REQUESTED = re.compile("Requested the (?P<what>.*?) ?[.] This carries a potential risk")
FILE = re.compile("Vocabulary file: '(.*?)'")
MARKS = {
    "lambda": '"__lambda__"',
    "TFSMLayer": '"TFSMLayer"',
    "vocabulary": '"vocabulary": "',
    "torch.nn.Module": '"TorchModuleWrapper"',
}
GRAPH_NODE = re.compile(r"\{\{.*?\}\}")  # where TensorFlow says that an error is from


class Limits(NamedTuple):
    """What the process may use up; see setrlimit(2).

    Attributes:
        seconds: Wall time.
        cpu_seconds: Processor time, of all its threads.
        memory: Bytes of data: what it asks for, not what it maps, of which TensorFlow maps a lot.
        file: Bytes of any file that it writes.
    """

    seconds: int
    cpu_seconds: int
    memory: int
    file: int

    @classmethod
    def of(cls, size: int) -> "Limits":
        """The limits for a file of so many bytes: about ten times what an honest one was seen to need."""
        return cls(1800, 3600, (8 << 30) + 16 * size, (1 << 30) + 4 * size)


def export_keras(path: str, folder: str, limits: Limits | None = None) -> None:
    """Writes the SavedModel of a `.keras` file.

    Args:
        path: The file.
        folder: Where to, not there yet.
        limits: What that may use up; by default as much as a file of its size may.

    Raises:
        UsageError: The file is missing, damaged, holds code, has layers that Keras does not know, or takes more
            than the limits allow.
    """
    if not os.path.isfile(path):
        raise UsageError(f"no model at {path}; give a {KERAS} file or the folder of a SavedModel")
    limits = limits or Limits.of(os.path.getsize(path))
    root = str(Path(__file__).resolve().parents[1])
    with tempfile.TemporaryDirectory(prefix="keyjoin-keras-") as work:
        given = json.dumps([path, absolute(path), absolute(folder), *limits])
        with open(os.path.join(work, LOG), "wb") as log:
            child = subprocess.Popen(  # noqa: S603  our own module
                [sys.executable, "-c", CHILD, root, given],
                cwd=work,  # what the file names by a relative path is not the user's
                env={**os.environ, "KERAS_BACKEND": "tensorflow"},
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
            raise UsageError(_said(path, code, work, limits))


def _said(path: str, code: int, work: str, limits: Limits) -> str:
    """Why the process failed: its own answer, or what ended it."""
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
    """The process, from its arguments: its limits, the file, and where to."""
    shown, path, folder, _, *limits = json.loads(sys.argv[2])
    _limit(*limits)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    startup.begin()
    try:
        _export(shown, path, folder)
    except UsageError as error:
        Path(ANSWER).write_text(str(error), encoding="utf-8", errors="backslashreplace")
        os._exit(REFUSED)
    sys.stdout.flush()
    os._exit(0)


def _leave_with_parent() -> None:
    # Not sys.stdin, whose lock would be held when the process ends by itself.
    while os.read(0, 1):
        pass
    os._exit(1)


def _limit(cpu_seconds: int, memory: int, file: int) -> None:
    # Not the number of processes, which counts all of this user's; nor the address space, see `Limits.memory`.
    for kind, limit in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_FSIZE, file),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        # The soft limit on processor time ends it with a signal of its own, the hard one does not say why.
        later = hard if kind == resource.RLIMIT_CPU else least
        resource.setrlimit(kind, (least, later))


def _export(shown: str, path: str, folder: str) -> None:
    startup.import_tensorflow()
    import keras

    from transforms.saved_model import quiet

    if tuple(int(part) for part in keras.__version__.split(".")[:3]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise UsageError(
            f"Keras {keras.__version__} loads {KERAS} files less safely than {oldest}; install keras>={oldest}"
        )
    try:
        with quiet():
            # Not compiled, because predicting needs neither optimizer nor loss, which may be the user's own.
            model = keras.models.load_model(path, compile=False, safe_mode=True)
            model.export(folder, format="tf_saved_model", verbose=False)
    except Exception as error:  # Keras raises whatever the file's content leads it to.
        raise UsageError(_unsafe(shown, path, error) or _keras_message(shown, error)) from error


def _unsafe(shown: str, path: str, error: Exception) -> str | None:
    """What Keras's safe mode refuses, and in which layer; None if the error is another one."""
    refused = REQUESTED.search(" ".join(str(error).split()))
    if refused is None:
        return None
    what, file = refused["what"].replace("`", ""), FILE.search(str(error))
    if file:
        what += f", {file[1]!r}"
    mark = next((mark for word, mark in MARKS.items() if word in what), None)
    return (
        f"{shown} is refused by Keras's safe mode{_layer_with(path, mark) if mark else ''}, because of the {what}; "
        "where you trust the file, export it yourself with model.export(FOLDER) and give that folder"
    )


def _layer_with(path: str, mark: str) -> str:
    """The innermost layer in whose configuration a text is, as a part of a sentence."""
    with zipfile.ZipFile(path) as archive:
        configuration = json.loads(archive.read(CONFIGURATION))
    for layer in _layers(configuration):
        if mark in json.dumps(layer):
            return f" for the layer {layer['config'].get('name')!r} ({layer.get('class_name')})"
    return ""


def _layers(value: Any) -> Iterator[dict[str, Any]]:
    """The layers of a configuration, those inside of a layer before it."""
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _layers(inner)
    if isinstance(value, dict) and isinstance(value.get("config"), dict) and "name" in value["config"]:
        yield value


def _keras_message(path: str, error: Exception) -> str:
    # Keras puts the whole configuration before the cause.
    cause = GRAPH_NODE.sub("", str(error).rpartition("Exception encountered:")[2])
    cause = " ".join(cause.split()) or type(error).__name__
    return (
        f"{path} cannot be exported: {textwrap.shorten(cause, 200, placeholder='…').rstrip('.')}; check the "
        "file, or export the model with model.export(FOLDER) where its layers are defined and give the folder"
    )
