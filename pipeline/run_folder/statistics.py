"""Adds up the statistics in a run's receipts, and reads and writes `_keyjoin/statistics.json`.

The file has a size that does not depend on the number of rows: about 30 KB a column of numbers, and 1.5 MB for all of
them at most. A column of texts has 10 KB or less where texts are short, and 150 KB at most.
"""

from collections.abc import Iterable

import msgspec

from pipeline.run_folder.names import STATISTICS, SUCCESS
from transforms.errors import RunError, UsageError
from transforms.records import PartReceipt
from transforms.statistics import Column, Merging, Statistics, unpack
from transforms.storage import files


def add(merging: Merging, parts: Iterable[PartReceipt]) -> None:
    """Adds the statistics of some parts.

    Raises:
        RunError: The statistics of a part are damaged.
    """
    for part in parts:
        for packed in part.statistics:
            merging.add(unpack(packed))


def added(parts: Iterable[PartReceipt]) -> bytes:
    """Returns the text of the file for the given parts.

    Raises:
        RunError: The statistics of a part are damaged.
    """
    merging = Merging()
    add(merging, parts)
    return encode(merging.result())


def encode(statistics: Statistics) -> bytes:
    """Encodes statistics as the text of their file: a JSON object, with one line for each column."""
    columns = b",\n".join(map(msgspec.json.encode, statistics.columns))
    return b'{"left_out":%b,"columns":[\n%b\n]}\n' % (msgspec.json.encode(statistics.left_out), columns)


def read(output: str) -> Statistics | None:
    """Reads the statistics of an output folder; None if there are none.

    Raises:
        RunError: The file is damaged.
    """
    path = files.join(output, STATISTICS)
    text = files.read_small(path)
    try:
        found = None if text is None else msgspec.json.decode(text, type=Statistics)
        for column in () if found is None else found.columns:
            _check(column)
        return found
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error}); give the command of {output} again with --overwrite") from error


def _check(column: Column) -> None:
    """Checks that a column counts each value at most once: charts and quantiles need counts that add up.

    Raises:
        ValueError: It counts more.
    """
    listed = sum(count for _, count in column.texts) + column.other
    counted = column.finite + column.nan + column.positive_infinity + column.negative_infinity + listed
    if counted > column.rows:
        raise ValueError(f"{column.name} has {column.rows:,} values, and counts {counted:,}")


def check_baseline(path: str | None) -> None:
    """Checks that `--baseline` is the output of a finished run.

    Raises:
        UsageError: It is not.
    """
    if path is None:
        return
    try:
        found = read_statistics(path) if files.read_small(files.join(path, SUCCESS)) else None
    except RunError as error:
        raise UsageError(f"--baseline {error}") from error
    if found is None:
        raise UsageError(f"--baseline {path} holds no finished run with {STATISTICS}; give the --output of such a run")


def read_statistics(output: str) -> list[Column] | None:
    """Reads the columns of the statistics of an output folder; None if there are none, see `read`."""
    found = read(output)
    return None if found is None else list(found.columns)
