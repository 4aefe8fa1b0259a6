"""Identifies a model by its sha256 before it is loaded, copies it, and reports its ops that do more than compute."""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from typing import IO, Any

from pipeline.model.keras_export import KERAS
from pipeline.options.groups import ModelOptions
from pipeline.terminal import warning
from transforms.errors import RunError, UsageError
from transforms.model_safety.model_ops import ALLOW, Finding
from transforms.saved_model.loader import ONE_CORE, Loading, check_folder
from transforms.storage import files

BLOCK_BYTES = 1 << 22
SHOWN = 10


def loading(options: ModelOptions, cores: int = ONE_CORE) -> Loading:
    """Makes the arguments of loading a model from the options of a command.

    Args:
        options: The options of the command.
        cores: The number of cores that a model call may use.
    """
    libraries, constants = options.model_libraries, tuple(options.constant.items())
    return Loading(options.signature, options.model_ops, cores, libraries, constants, options.tf32)


def identify(model: str, pinned: str | None) -> str:
    """Computes the sha256 of a model, and checks it against the expected one.

    Args:
        model: A SavedModel folder or a `.keras` file.
        pinned: The sha256 that the model has to have; None accepts any.

    Raises:
        UsageError: The sha256 is another one, the path is no model, or the model cannot be read.
    """
    if files.is_local(model) and not (model.endswith(KERAS) and os.path.isfile(model)):
        check_folder(model)  # before every file of a folder that is no model is read
    try:
        found = fingerprint(model)
    except OSError as error:
        raise UsageError(f"{model} cannot be read: {error}; repair the model, or give another one") from error
    if pinned not in (None, found):
        raise UsageError(
            f"{model} has the sha256 {found}, not {pinned} as --model_sha256 says; it is another model, or was "
            "changed: give the right one, or its own sha256 once you trust it"
        )
    return found


def fingerprint(model: str) -> str:
    """Computes the sha256 over the names and contents of a model's files, in order of name.

    Raises:
        UsageError: A file is no regular file.
        OSError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for name, path in files_of(model):
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        content = hashlib.sha256()
        with files.open_raw(path) as file:
            for block in _blocks(file):
                content.update(block)
        digest.update(content.digest())
    return digest.hexdigest()


def files_of(model: str) -> Iterator[tuple[str, str]]:
    """Yields names and paths of a model's files, in order of name. If the model is a single file, its name is a dot.

    Raises:
        UsageError: A file is no regular file, or its name leads out of the model.
    """
    return _local(model) if files.is_local(model) else _stored(model)


def _stored(model: str) -> Iterator[tuple[str, str]]:
    names = files.list_below(model)
    outside = next((name for name in names if ".." in name.split("/")), None)
    if outside is not None:  # an object can have such a name, and its copy would be outside of the model's folder
        raise UsageError(f"{files.join(model, outside)} lies outside of the model by its name; remove it from there")
    yield from ((name, files.join(model, name)) for name in names) if names else [(".", model)]


def _local(model: str) -> Iterator[tuple[str, str]]:
    for path in [model] if os.path.isfile(model) else sorted(_files(model)):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(f"{path} is neither a file nor a folder; remove it from the model")
        yield os.path.relpath(path, model), path


def _files(model: str) -> Iterator[str]:
    """Yields the files of a folder. It follows links to folders, as TensorFlow does, and visits no folder twice."""
    seen = set()
    for folder, folders, names in os.walk(model, onerror=_refuse, followlinks=True):
        seen.add(os.path.realpath(folder))
        folders[:] = sorted(name for name in folders if os.path.realpath(os.path.join(folder, name)) not in seen)
        yield from (os.path.join(folder, name) for name in names)


def copy(path: str, target: str) -> None:
    """Copies a file, or a folder and all below it, to this machine or from it.

    Args:
        path: The file or the folder.
        target: The path of the copy.

    Raises:
        RunError: It cannot be copied, or its content on the file system is not the content that was copied.
    """
    for name, source in files_of(path):
        place = target if name == os.curdir else files.join(target, *name.split("/"))
        try:
            with files.open_raw(source) as file:
                copied = files.write_whole(place, _blocks(file))
        except OSError as error:
            raise RunError(f"{source} cannot be read: {error}; {files.remedy(error)}, and run again") from error
        # The files of a model may be links.
        if files.read_back(os.path.realpath(source) if files.is_local(source) else source) != copied:
            raise RunError(f"{source} changed while it was copied, or was copied otherwise than it is; run again")


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(BLOCK_BYTES):
        yield block


def _refuse(error: OSError) -> None:
    """Raises an error of `os.walk`, which would ignore it and skip the folder.

    A sha256 over only some of the files would not identify the model.
    """
    raise UsageError(f"{error.filename} cannot be listed: {error}; see that it can be read") from error


def warn(model: str, findings: Sequence[Finding], policy: str | None) -> None:
    """Warns on standard error of ops that do more than compute. Prints nothing if the policy allows such ops."""
    if policy == ALLOW:
        return
    for finding in findings[:SHOWN]:
        warning.warn(f"{model}: {finding}")
    if len(findings) > SHOWN:
        warning.warn(f"{model}: and {len(findings) - SHOWN} more such ops")


def document(findings: Sequence[Finding], policy: str | None) -> dict[str, Any]:
    """Makes the record of ops that do more than compute, for the manifest and `inspect --json`."""
    return {
        "verdict": "computes only" if not findings else "allowed" if policy == ALLOW else "warned",
        "policy": policy,
        "findings": [{**finding._asdict(), "kind": finding.kind.value} for finding in findings],
    }
