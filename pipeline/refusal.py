"""Whether a model refuses every row: each is tried alone then, and a run that does so looks like one that hangs."""

import contextlib

from pipeline.probe import ProbeError, probe
from pipeline.warning import warn
from transforms.errors import RunError, SharedError
from transforms.model import Arrays, Contract, Model
from transforms.score import score

ROWS = 3  # that are asked about; of a slow model they cost as little as can be


def warn_of_refusal(model: Model, contract: Contract, rows: Arrays, most: int) -> None:
    """Says so if a model raises for each of some rows, and what it raises.

    Args:
        model: The model.
        contract: What its signature takes and gives.
        rows: Data input -> (rows, …), the first good rows, at least one.
        most: Rows of a call at most.
    """
    count = len(next(iter(rows.values())))  # fewer where the input has, which is not long then
    with contextlib.suppress(ProbeError, RunError):  # no proof, or the run will say what is wrong
        bad = score(probe(model, SharedError), contract, rows, count, min(count, most), keep_non_finite=True).bad
        if len(bad) == count == ROWS:
            warn(
                f"the model refuses each of the first {count} rows, {bad[0].reason}: {bad[0].message}; a refused row "
                "is tried alone and becomes a dead letter, which takes long for many rows: stop (Ctrl-C) if this is "
                "not what you expect"
            )
