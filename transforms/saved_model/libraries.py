"""Imports the Python modules that register a model's custom ops with TensorFlow."""

import contextlib
import importlib
import importlib.util
import sys
import threading
from collections.abc import Sequence

from transforms.compat import tensorflow
from transforms.errors import UsageError, nearest
from transforms.model_safety.op_packages import PACKAGES, find_package

FLAG = "--model_libraries"
MESSAGE = 300  # a longer error message of a library is cut to this many characters
_importing = threading.Lock()  # a worker's threads may load models at the same time
_imported: dict[str, None] = {}  # imported modules, in the order in which they were given
_registered: set[str] = set()  # ops of these modules; never removed, because TensorFlow's registry keeps them, too


def import_libraries(names: Sequence[str]) -> None:
    """Imports libraries, each one once in a process.

    Args:
        names: Modules that register ops when they are imported, such as `tensorflow_text`.

    Raises:
        UsageError: A module is not installed, or cannot be imported.
    """
    with _importing:
        for name in names:
            if name in _imported:
                continue
            if not _is_installed(name):
                raise UsageError(_missing(name))
            _import_tensorflow()
            before = _ops()
            _import(name)
            _registered.update(_ops() - before)
            _imported[name] = None


def is_registered(op: str) -> bool:
    """Returns whether one of the imported libraries registered the op."""
    return op in _registered


def remedy_for(ops: Sequence[str]) -> str:
    """Describes what to do about ops that TensorFlow does not know, as the end of a message about the first of them.

    Args:
        ops: The names of the ops, at least one.
    """
    first = find_package(ops[0])
    if first is None:
        return f"name the Python module that registers that op with {FLAG}=MODULE, or export the model without it"
    if not first.module:
        return f"it is an op of {first.name}, which does not fit TensorFlow {_version()}: export the model without it"
    if first.module in _imported:
        return f"the installed {first.name} has no such op: install another release, or export the model without it"
    needed = {p for p in map(find_package, ops) if p is not None and p.module and p.module not in _imported}
    absent = sorted(p.name for p in needed if not _is_installed(p.module))
    named = ",".join([*_imported, *sorted(p.module for p in needed)])
    return f"it is an op of {first.name}: {f'{_install(absent)}, and ' if absent else ''}give {FLAG}={named}"


def _is_installed(name: str) -> bool:
    """Returns whether the top-level package of a module is installed.

    It does not look for the module in the package, because this would import the package.
    """
    first = name.partition(".")[0]
    return first in sys.modules or importlib.util.find_spec(first) is not None


def _install(packages: Sequence[str]) -> str:
    """Makes the `pip install` command for packages whose release numbers follow those of TensorFlow.

    The command fixes the release, because a newer one would install another release of TensorFlow.
    """
    minor = ".".join(_version().split(".")[:2])
    return " ".join(["pip install", *(f"'{name}=={minor}.*'" for name in packages)])


def _missing(name: str) -> str:
    said = f"{FLAG}: there is no module {name}"
    workers = "workers need it, too, see docs/image.md"
    known = {package.module: package.name for package in PACKAGES if package.module}
    if name in known:
        return f"{said}; {_install([known[name]])}; {workers}"
    # The message does not guess the name of a package, because a stranger may have registered that name.
    own = "install the package that has it, or name the folder of your own module in PYTHONPATH"
    return f"{said}{nearest(name, list(known))}; {own}; {workers}"


def _import_tensorflow() -> None:
    """Imports all of TensorFlow, which libraries need.

    In the model process, only a part of it may be imported so far, see `pipeline.compat.startup`.
    """
    import tensorflow

    if not hasattr(tensorflow, "__version__"):
        tensorflow.__spec__.loader.exec_module(tensorflow)


def _import(name: str) -> None:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is only for the results of commands
            importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a library's own code may raise any error
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(_missing(name)) from error
        said = " ".join(f"{type(error).__name__}: {error}".split())[:MESSAGE]
        raise UsageError(
            f"{FLAG}: {name} cannot be imported: {said}; install a release of it that fits TensorFlow {_version()}"
        ) from error


def _version() -> str:
    return str(tensorflow.VERSION)


def _ops() -> frozenset[str]:
    """Returns the ops that TensorFlow knows in this process."""
    from tensorflow.core.framework.op_def_pb2 import OpList

    known = OpList.FromString(tensorflow.get_buffer(tensorflow.get_all_ops()))
    return frozenset(op.name for op in known.op)
