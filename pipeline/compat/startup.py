"""Starts a process fast, and hides what libraries print during their import.

Importing TensorFlow and Beam takes most of the time of a small run (docs/performance.md). With KEYJOIN_COMPAT=off
keyjoin imports all of both, as their documentation says, and does not hide what they print; see `pipeline.compat`.
"""

import contextlib
import ctypes
import gc
import importlib.abc
import importlib.util
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NoReturn

from transforms import compat, threads
from transforms.errors import UsageError
from transforms.saved_model.libraries import import_libraries

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
BEAM_EXTRAS = ("apitools", "google.cloud", "pandas", "pymongo")  # optional packages: Beam also works without them


def use_utf8() -> None:
    """Restarts the program in Python's UTF-8 mode if Python would read and write names in ASCII.

    Keys, rows and models are UTF-8. Python uses ASCII in the locale C if PYTHONUTF8=0 switches its own UTF-8 mode off.
    """
    if sys.getfilesystemencoding() == "ascii":
        os.environ["PYTHONUTF8"] = "1"  # for processes that this one starts
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606  this very program


def check_temporary() -> None:
    """Checks that there is a folder for temporary files.

    Raises:
        UsageError: There is no such folder.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UsageError(f"there is no folder for temporary files: {error}; name one with TMPDIR") from error


def begin() -> None:
    """Sets up the environment, memory and garbage collector; must run before any large library is imported."""
    # The C++ part of TensorFlow reads this once. Nothing that it logs is useful to a user.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # The threads of NumPy's linear algebra spin for a tenth of a second when they start, and keyjoin does not use them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Each of Google's libraries warns that Python 3.10 is old. The locked versions work on it.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"google\.api_core")
    # Imports create a million objects and free none. Searching them for garbage takes a fifth of the time.
    gc.disable()
    _keep_memory()


def print_logs() -> None:
    """Makes TensorFlow and Beam print their messages, for --verbose; must run before they are imported."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
    logging.basicConfig(level=logging.INFO)


def _keep_memory() -> None:
    """Makes the process keep the memory of large buffers, and reuse it for the next chunk.

    Otherwise it returns the memory to the system after each chunk, and requests it again. The system clears new memory
    page by page at first use: reading the bytes of a chunk took five times as long.
    """
    # Arrow reads this when it is imported. Its own allocator returns memory to the system within milliseconds.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        # Not every C library has mallopt. See mallopt(3).
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        # One arena for all threads: an arena of another thread has no room for a buffer as large as a chunk.
        libc.mallopt(M_ARENA_MAX, 1)


def import_tensorflow() -> None:
    """Imports TensorFlow, and hides the lines that its C++ part prints before it reads its log level.

    Raises:
        ImportError: TensorFlow cannot be imported. The hidden lines are printed then.
    """
    if not compat.is_on():
        import tensorflow
    elif "tensorflow" not in sys.modules:
        # TensorFlow imports Keras only to define `tf.keras`. Scoring a SavedModel does not need Keras.
        with _silence(), _without("keras"):
            import tensorflow  # noqa: F401
    collect_garbage()


def import_session(libraries: Sequence[str] = ()) -> None:
    """Imports only the modules of TensorFlow that load and call a graph, for a process that does nothing else.

    `import tensorflow` runs the package's `__init__`, which imports about 1,700 more modules and takes three times as
    long. This function puts the package into `sys.modules` without running its `__init__`, so that its modules find
    each other. A library of `libraries` may import more of TensorFlow.

    Args:
        libraries: Python modules that register a model's own ops.

    Raises:
        ImportError: TensorFlow is not installed, or cannot be imported.
        UsageError: A library cannot be imported.
    """
    if not compat.is_on():
        import_tensorflow()
        import_libraries(libraries)
        return
    if "tensorflow" not in sys.modules:
        spec = importlib.util.find_spec("tensorflow")
        if spec is None:
            raise ImportError("TensorFlow is not installed")
        sys.modules["tensorflow"] = importlib.util.module_from_spec(spec)
    with _silence():
        from tensorflow.python.client import session  # noqa: F401
        from tensorflow.python.saved_model import loader_impl  # noqa: F401

        import_libraries(libraries)
    collect_garbage()


def import_beam(argv: Sequence[str]) -> None:
    """Imports Beam, and for a local run hides Beam's optional packages (`BEAM_EXTRAS`) from it.

    A run is local if no argument is a URL or names a runner: its files and its runner are then on this machine. The
    optional packages are two fifths of the modules that Beam would import.

    Args:
        argv: The command's arguments.
    """
    is_remote = any("://" in arg or arg.startswith("--runner") for arg in argv)
    is_verbose = logging.getLogger().isEnabledFor(logging.INFO)  # Beam would report the packages that are hidden
    if is_remote or is_verbose or not compat.is_on():
        import apache_beam

        return
    with _without(*BEAM_EXTRAS), _unlogged():
        import apache_beam  # noqa: F401
    import_arrow()
    from pipeline.compat.beam import speed_up

    speed_up()


def import_arrow() -> None:
    """Imports Arrow, and makes it work without pandas for the rest of the process.

    Arrow looks for pandas only once, when the first array is made. Importing pandas takes 0.4 s.
    """
    with _without("pandas") if compat.is_on() else contextlib.nullcontext():
        import pyarrow as pa

        pa.array(())
    pa.set_cpu_count(threads.THREADS)  # Arrow's default is all processors of the machine


def collect_garbage() -> None:
    """Switches garbage collection on, after the large imports. It skips all objects that exist by then."""
    gc.freeze()
    gc.enable()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except UsageError:  # its message is complete without the hidden output
            raise
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """An import finder that makes some packages look as if they were not installed.

    It must come before all other finders.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        """Finds only these packages; the finders after this one look for all others."""
        return ModuleSpec(fullname, self) if fullname in self._names else None

    def exec_module(self, module: ModuleType) -> NoReturn:
        """Raises the error that Python raises for a package that is not installed."""
        name = module.__name__
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    """Makes some packages look as if they were not installed, for imports in the block.

    After the block they can be imported again.
    """
    # A package may be in `sys.modules` already: as an empty namespace, or because other code has imported it.
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    absent = _Absent(names)
    sys.meta_path.insert(0, absent)
    try:
        yield
    finally:
        sys.meta_path.remove(absent)
        sys.modules.update(before)


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Hides log messages in the block, which report the packages that `_without` hides.

    Without a handler on the root logger, the first message would also set up logging to standard error.
    """
    root, nothing = logging.getLogger(), logging.NullHandler()
    root.addHandler(nothing)
    try:
        yield
    finally:
        root.removeHandler(nothing)
