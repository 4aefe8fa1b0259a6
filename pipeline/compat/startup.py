"""Starts a process fast, and keeps what libraries print while they are imported from the user.

Most of a small run is the import of TensorFlow and Beam (docs/performance.md). With KEYJOIN_COMPAT=off all of both is
imported, as their documentation says, and what they print is printed; see `pipeline.compat`.
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
BEAM_EXTRAS = ("apitools", "google.cloud", "pandas", "pymongo")  # packages that Beam itself can do without


def use_utf8() -> None:
    """Starts the program anew where Python reads and writes names in ASCII: keys, rows and models are UTF-8.

    That is so in the locale C where PYTHONUTF8=0 keeps Python from its own remedy.
    """
    if sys.getfilesystemencoding() == "ascii":
        os.environ["PYTHONUTF8"] = "1"  # for the processes that this one starts
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606  this very program


def check_temporary() -> None:
    """Looks for a folder for temporary files.

    Raises:
        UsageError: There is none.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UsageError(f"there is no folder for temporary files: {error}; name one with TMPDIR") from error


def begin() -> None:
    """Comes first, before anything large is imported."""
    # TensorFlow's C++ part reads this once, and has nothing to say to a user.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Threads of NumPy's algebra, which nothing here uses, turn in circles for a tenth of a second once they are made.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Google's libraries say of each of them that Python 3.10 is old; the locked ones work on it.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"google\.api_core")
    # Imports make a million objects that all stay: to look for garbage among them takes a fifth of the time.
    gc.disable()
    _keep_memory()


def _keep_memory() -> None:
    """Has large buffers reused rather than given back to the system and asked for again, chunk after chunk.

    Fresh memory is cleared page by page as it is touched: reading a chunk's bytes took five times as long.
    """
    # Read by Arrow when it is imported; its own allocator gives memory back within milliseconds.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        # Not in every C library. See mallopt(3).
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        # Other threads' own arenas hold nothing as large as a chunk.
        libc.mallopt(M_ARENA_MAX, 1)


def import_tensorflow() -> None:
    """Imports TensorFlow, without the lines that its C++ part prints before its log level is read.

    Raises:
        ImportError: It cannot be imported; what it printed is printed then.
    """
    if not compat.is_on():
        import tensorflow
    elif "tensorflow" not in sys.modules:
        # TensorFlow imports Keras only to fill in `tf.keras`; scoring a SavedModel needs none.
        with _silence(), _without("keras"):
            import tensorflow  # noqa: F401
    collect_garbage()


def import_session(libraries: Sequence[str] = ()) -> None:
    """Imports of TensorFlow only what loads a graph and calls it: for a process that does no more than that.

    Libraries import the rest of it.

    `import tensorflow` runs the package's `__init__`, which imports some 1,700 modules more and takes three
    times as long. The package stands there without it, so that its modules find each other.

    Args:
        libraries: Modules that register a model's own ops.

    Raises:
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
    """Imports Beam; for files and a runner on this machine as it is where its extras are not installed.

    These are two fifths of the modules that come along otherwise.

    Args:
        argv: The command's arguments.
    """
    is_remote = any("://" in arg or arg.startswith("--runner") for arg in argv)
    if is_remote or not compat.is_on():
        import apache_beam

        return
    with _without(*BEAM_EXTRAS), _unlogged():
        import apache_beam  # noqa: F401
    import_arrow()
    from pipeline.compat.beam import speed_up

    speed_up()


def import_arrow() -> None:
    """Imports Arrow as it is where there is no pandas, and stays so.

    It looks for pandas once, when the first array is made, and importing it takes 0.4 s.
    """
    with _without("pandas") if compat.is_on() else contextlib.nullcontext():
        import pyarrow as pa

        pa.array(())
    pa.set_cpu_count(threads.THREADS)  # Arrow counts the processors of the machine


def collect_garbage() -> None:
    """From here on, once all that is large is imported."""
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
        except UsageError:  # which says all that there is to say
            raise
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Comes before all other finders; some packages are found, and cannot be imported."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        """Finds these packages; leaves every other one to the finders after it."""
        return ModuleSpec(fullname, self) if fullname in self._names else None

    def exec_module(self, module: ModuleType) -> NoReturn:
        """Says what Python says of a package that is not installed."""
        name = module.__name__
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    """Keeps what is imported meanwhile from importing packages that it can do without; later they are there as ever."""
    # An empty namespace, or somebody else's import.
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
    """Keeps what is logged meanwhile, of packages that are absent, from the user; nor is a log set up for it."""
    root, nothing = logging.getLogger(), logging.NullHandler()
    root.addHandler(nothing)
    try:
        yield
    finally:
        root.removeHandler(nothing)
