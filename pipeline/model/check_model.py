"""Which model it is, and what it does besides computing: checked before it is loaded, told, and kept."""

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
    """How the model of some options is loaded.

    Args:
        options: The command's.
        cores: On how many a call may compute.
    """
    libraries, constants = options.model_libraries, tuple(options.constant.items())
    return Loading(options.signature, options.model_ops, cores, libraries, constants, options.tf32)


def identify(model: str, pinned: str | None) -> str:
    """The sha256 of a model, which is the one that it has to be.

    Args:
        model: SavedModel folder or `.keras` file.
        pinned: The sha256 that it has to have, if one was given.

    Raises:
        UsageError: It is another model, none, or cannot be read.
    """
    if files.is_local(model) and not (model.endswith(KERAS) and os.path.isfile(model)):
        check_folder(model)  # before all of some other folder is read
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
    """sha256 over a model's files: their names and contents, in order of name.

    Raises:
        UsageError: One of them is no regular file.
        OSError: One cannot be read.
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
    """Names and paths of a model's files, in order of name; the name of a single file is a dot.

    Raises:
        UsageError: One of them is no regular file, or lies outside of the model by its name.
    """
    return _local(model) if files.is_local(model) else _stored(model)


def _stored(model: str) -> Iterator[tuple[str, str]]:
    names = files.list_below(model)
    outside = next((name for name in names if ".." in name.split("/")), None)
    if outside is not None:  # an object can be called so, and would be copied to outside of the model's folder
        raise UsageError(f"{files.join(model, outside)} lies outside of the model by its name; remove it from there")
    yield from ((name, files.join(model, name)) for name in names) if names else [(".", model)]


def _local(model: str) -> Iterator[tuple[str, str]]:
    for path in [model] if os.path.isfile(model) else sorted(_files(model)):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(f"{path} is neither a file nor a folder; remove it from the model")
        yield os.path.relpath(path, model), path


def _files(model: str) -> Iterator[str]:
    """The files of a folder, also behind links to folders, since TensorFlow follows them; no folder twice."""
    seen = set()
    for folder, folders, names in os.walk(model, onerror=_refuse, followlinks=True):
        seen.add(os.path.realpath(folder))
        folders[:] = sorted(name for name in folders if os.path.realpath(os.path.join(folder, name)) not in seen)
        yield from (os.path.join(folder, name) for name in names)


def copy(path: str, target: str) -> None:
    """Copies a file, or a folder and all below it, to this machine or from it.

    Args:
        path: A file or a folder.
        target: What it is called there.

    Raises:
        RunError: It cannot be copied, or what was read is not what the file system has.
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
    """What `os.walk` calls with an error, which it would keep to itself: a sha256 of some of the files is none."""
    raise UsageError(f"{error.filename} cannot be listed: {error}; see that it can be read") from error


def warn(model: str, findings: Sequence[Finding], policy: str | None) -> None:
    """Says on standard error what a model does besides computing; nothing if the policy allows it."""
    if policy == ALLOW:
        return
    for finding in findings[:SHOWN]:
        warning.warn(f"{model}: {finding}")
    if len(findings) > SHOWN:
        warning.warn(f"{model}: and {len(findings) - SHOWN} more such ops")


def document(findings: Sequence[Finding], policy: str | None) -> dict[str, Any]:
    """What a model does besides computing, as the manifest and `inspect --json` have it."""
    return {
        "verdict": "computes only" if not findings else "allowed" if policy == ALLOW else "warned",
        "policy": policy,
        "findings": [{**finding._asdict(), "kind": finding.kind.value} for finding in findings],
    }
