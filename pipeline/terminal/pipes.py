"""Connects a run to standard input and standard output, where its paths are `-`.

The run writes to a temporary folder. Once it is complete, its rows go to standard output. Everything else that it
prints goes to standard error.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from pipeline.options.run_options import RunOptions
from pipeline.run_folder import records
from pipeline.run_folder.names import PARTS, SUCCESS
from pipeline.run_folder.settle import OverErrorLimitError
from pipeline.terminal.messages import at_line, give_up, show, show_error
from transforms import formats
from transforms.errors import RunError, UsageError
from transforms.formats.base import Writer
from transforms.reasons import DEAD_LETTERS
from transforms.storage import stdin
from transforms.storage.compression import decompressed
from transforms.write_receipts import read_list

PATH = stdin.PATH
Options = TypeVar("Options", bound=RunOptions)
SHOWN = 10  # dead letters that are printed


@contextlib.contextmanager
def connected(options: Options) -> Iterator[Options]:
    """Copies standard input to a source, and gives the run a temporary output folder.

    When the block ends without an error, it writes the joined rows to standard output. The folder is kept only if it
    has dead letters.

    Args:
        options: The options of a run.

    Yields:
        The options with which to run.

    Raises:
        UsageError: `-` is not the only input, or standard input is a terminal.
        RunError: The run exceeds an error limit.
    """
    with contextlib.ExitStack() as stack:
        if PATH in options.input:
            stack.enter_context(_input(options.input))
        if options.output != PATH:
            yield options
            return
        rows = sys.stdout
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        folder = tempfile.mkdtemp(prefix="keyjoin-output-")
        stack.callback(_remove, folder)
        try:
            yield dataclasses.replace(options, output=folder)
        except OverErrorLimitError as error:
            raise RunError(
                f"{error.exceeded}; raise the error limit, or repair model or rows, and give the command again; no row "
                "was written"
            ) from error
        if not os.path.exists(os.path.join(folder, SUCCESS)):  # `check` writes nothing
            return
        try:
            for block in joined(folder):
                rows.buffer.write(block)
            rows.buffer.flush()
        except BrokenPipeError:  # the reader, such as `head`, has all that it needs
            give_up(rows)


def _input(paths: Sequence[str]) -> contextlib.AbstractContextManager[None]:
    if len(paths) > 1:
        raise UsageError(f"--input - is standard input, and {len(paths) - 1} more inputs are named; name - alone")
    if sys.stdin.isatty():
        raise UsageError("--input - is standard input, which is a terminal; write cat FILE | keyjoin run --input - …")
    stream: IO[bytes] = sys.stdin.buffer
    return stdin.copied(stream)


def _remove(folder: str) -> None:
    """Removes an output folder, unless it has dead letters. Then prints the first ones, and where they are."""
    found = sorted(Path(folder, DEAD_LETTERS).glob("**/*.jsonl"))
    if not found:
        if os.path.exists(os.path.join(folder, SUCCESS)):  # its name was printed, with the commands for it
            show(f"keyjoin: {folder} is removed; give a folder as --output to keep the report and to verify")
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.ExitStack() as stack:
        opened = (stack.enter_context(path.open(encoding="utf-8")) for path in found)
        lines = itertools.islice(itertools.chain.from_iterable(opened), SHOWN)
        for letter in map(json.loads, lines):
            show_error(f"{at_line(letter['key'], letter['line'])}: {letter['reason']}: {letter['message']}")
    kept = os.path.join(folder, DEAD_LETTERS)
    show_error(f"keyjoin: the dead letters are kept in {kept}; remove {folder} when you have read them")


def joined(folder: str) -> Iterator[bytes]:
    """Yields the rows of a complete output as one file, decompressed, with one header.

    Args:
        folder: The output folder.

    Raises:
        RunError: The folder has no complete output.
    """
    document = records.read(folder, records.Manifest)
    if document is None:
        raise RunError(f"{folder} has no manifest; run again")
    fmt = formats.load(document.format.of_parts)
    names = [part.chunk.part for part in read_list(os.path.join(folder, PARTS))]
    parts = (_content(os.path.join(folder, name)) for name in names)
    if fmt.reader.unit == "row":
        yield from _merged(list(parts), fmt.writer)
        return
    for number, part in enumerate(parts):
        yield _body(part, fmt.writer) if number else part


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return decompressed(path, file.read())


def _merged(parts: Sequence[bytes], writer: Writer) -> Iterator[bytes]:
    """Merges parts whose format has a header or footer that depends on all rows."""
    first, numbered = 0, []
    for part in parts:
        rows = len(writer.read_back(part).positions)
        numbered.append((part, np.arange(first, first + rows)))
        first += rows
    yield from writer.merge(numbered) if len(numbered) > 1 else parts


def _body(part: bytes, writer: Writer) -> bytes:
    """Returns the bytes of the rows, without the header of the part."""
    block = writer.read_back(part)
    if not block.header:
        return part
    return part[int(block.positions[0]) :] if len(block.positions) else b""
