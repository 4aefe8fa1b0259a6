"""Refuses an output path that is no folder, has unexpected files, or overlaps the input or the model."""

import os
from collections.abc import Sequence

from pipeline.options.run_options import RunOptions
from pipeline.run_folder.unexpected_files import SMALL_CHUNK, check_files, check_names
from pipeline.run_folder.writable import nearest
from transforms.errors import UsageError
from transforms.records import Source
from transforms.storage import files, globs, lookup, sources


def check_output(options: RunOptions, found: Sequence[Source]) -> None:
    """Checks the output path against the file system, the input and the model.

    It refuses an output that is no folder or has unexpected files. It also refuses one that lies where the input is
    searched for, contains an input file, or overlaps the model.

    Args:
        options: The options of the run.
        found: The input files.

    Raises:
        UsageError: The output is refused, or its file system cannot be reached.
    """
    lookup.check_reachable(options.output)
    folders = check_files(options.output)
    output = _absolute(options.output)
    for pattern in options.input:
        folder = _absolute(pattern)
        if not sources.is_glob(pattern) and _inside(output, folder) and not any(s.path == pattern for s in found):
            raise UsageError(f"--output {options.output} lies inside of the input {pattern}; choose another folder")
        if "**" in pattern and _inside(output, _absolute(globs.fixed_folder(pattern))):
            raise UsageError(f"--output {options.output} lies where {pattern} is searched; choose another folder")
    for source in found:
        if _inside(_absolute(source.path), output):
            raise UsageError(f"--output {options.output} holds the input {source.path}; choose another folder")
    if files.is_local(options.output) and not os.path.isdir(there := nearest(options.output)):
        raise UsageError(f"--output {options.output}: {there} is not a folder; choose another place")
    check_names(options.output, found, options.chunk_bytes or SMALL_CHUNK, folders)
    output, model = _absolute(options.output), _absolute(options.model)
    if _inside(model, output) or _inside(output, model):
        raise UsageError(f"--output {options.output} and --model {options.model} lie in each other; choose another")


def _absolute(path: str) -> str:
    return os.path.realpath(path) if files.is_local(path) else path.rstrip("/")


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
