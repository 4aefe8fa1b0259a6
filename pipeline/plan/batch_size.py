"""Chooses how many rows a call of the model has.

Nothing here is measured by a clock, except to leave a slow model alone: the size follows from the rows and the model.
"""

import contextlib
import time
from collections.abc import Sequence

import numpy as np

from pipeline.options.groups import ScoringOptions
from pipeline.plan.chunk_size import CHUNK_BYTES
from pipeline.plan.probe import ProbeError, probe
from pipeline.plan.sample import Sample
from pipeline.terminal.warning import warn
from transforms import columns
from transforms.errors import RunError, SharedError, StoppedError
from transforms.records import BadRow, Feature
from transforms.saved_model.model import Arrays, Contract, Model
from transforms.scoring.bisect import MULTIPLE
from transforms.scoring.score import most_copies, score

ACCELERATED = 8  # a call of an accelerator has so many times the rows: it has more to do at a time, and a cost a call
ROWS_ALONE = 4  # that are tried alone, and in copies
SLOW_SECONDS = 0.125  # a row that takes longer is not tried in copies


def choose(
    options: ScoringOptions,
    accelerator: str | None,
    sample: Sample,
    contract: Contract,
    features: Sequence[Feature],
    most: int,
) -> int:
    """Chooses the rows of a call: those of the signature or of `--batch_size`, else so many that they fill 2 MB.

    Args:
        options: How the model is called.
        accelerator: What the workers have besides, if anything.
        sample: The first rows.
        contract: What the signature takes and gives.
        features: What feeds it.
        most: No size is larger, except one that the options or the signature give.
    """
    if contract.rows:
        if options.batch_size not in (None, contract.rows):
            warn(f"--batch_size={options.batch_size} has no effect: the signature fixes its batch to {contract.rows}")
        return contract.rows
    if options.batch_size:
        if options.batch_size > contract.most:
            warn(
                f"--batch_size={options.batch_size} is lowered to {contract.most}: the model gives back only so many "
                f"keys, as output {' or '.join(echo.output for echo in contract.echoes)}"
            )
        return min(options.batch_size, contract.most)
    bound = contract.most // MULTIPLE * MULTIPLE or contract.most
    usual = columns.batch_rows(sample.typical(features))
    if contract.constant_rows:  # no larger than the input, since each call has so many rows
        size = min(usual * (ACCELERATED if accelerator else 1), bound)
        return sample.call_rows(size, options.chunk_bytes or CHUNK_BYTES, MULTIPLE)
    if accelerator:
        return min(usual * ACCELERATED, bound)
    return min(usual, most, bound)


def fit(model: Model, contract: Contract, rows: Arrays, batch_size: int) -> int:
    """Lowers a batch size where the model fails for copies of a row that it scores alone.

    So a model that takes few rows a call is called with as many as it takes. A slow model keeps its batch size.

    Args:
        model: The model.
        contract: What its signature takes and gives.
        rows: Data input -> (rows, …), some real rows.
        batch_size: The size that was chosen.
    """
    tried = probe(model, SharedError)
    count = len(next(iter(rows.values())))
    size = min(batch_size, MULTIPLE, *(most_copies(rows, row) for row in range(count)))
    with contextlib.suppress(ProbeError):
        for row in range(count):
            with contextlib.suppress(StoppedError, RunError):
                started = time.monotonic()
                _score_copies(tried, contract, rows, row, 1)
                if time.monotonic() - started < SLOW_SECONDS:
                    _score_copies(tried, contract, rows, row, size)
                if not tried.room.copies_failed or tried.room.rows < size:
                    break
    return batch_size if tried.room.rows >= size else tried.room.rows


def _score_copies(model: Model, contract: Contract, rows: Arrays, row: int, count: int) -> None:
    def refused(_: BadRow) -> None:
        raise StoppedError

    copies = {name: np.repeat(array[row : row + 1], count, axis=0) for name, array in rows.items()}
    score(model, contract, copies, count, count, keep_non_finite=True, refused=refused)
