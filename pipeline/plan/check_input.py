"""Refuses input files that cannot be read. These checks do not open the files."""

import json
import os
from collections.abc import Sequence

from transforms.errors import UsageError
from transforms.records import Source
from transforms.storage import files, stdin
from transforms.storage.objects import Stored


def check_not_empty(found: Sequence[Source]) -> None:
    """Refuses compressed files of 0 bytes, which a failed copy leaves behind. Any other empty file has no rows.

    Raises:
        UsageError: There is such a compressed file.
    """
    for source in found:
        if not source.size and (codec := source.codec):
            raise UsageError(
                f"{source.path} has no bytes, so it is not a whole {codec.name} file; copy it again, or leave it out"
            )


def check_skipped(skipped: Sequence[str]) -> None:
    """Refuses an input with more skipped files than the manifest can list.

    Args:
        skipped: Files that are not read, because their names mark them as no data.

    Raises:
        UsageError: There are too many skipped files.
    """
    if len(json.dumps(skipped)) > files.SMALL_BYTES // 2:
        raise UsageError(
            f"{len(skipped):,} files of the input are skipped for their names, such as {skipped[0]}, more than the "
            "manifest can list; name the data with a glob, such as --input='DIR/*.jsonl'"
        )


def check_readable(file: Stored) -> None:
    """Refuses a local path that this process has no permission to read, or that is a pipe or a device.

    Raises:
        UsageError: The path is refused.
    """
    path = stdin.place(file.path)
    if not files.is_local(path):
        return
    if not os.access(path, os.R_OK):
        raise UsageError(f"{path} cannot be read; give yourself the permission, or leave it out")
    if not file.size_in_bytes and not os.path.isfile(path):
        raise UsageError(f"{path} is no file but a pipe or a device; write what it gives to a file, and give that")
