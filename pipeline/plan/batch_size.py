"""Chooses how many rows a call of the model has.

The batch size depends on the rows and on the model, not on measured time. The clock has one use: a model that is slow
for one row is not tried with copies of it.
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

ACCELERATED = 8  # times the usual rows of a call: an accelerator computes more rows at once, and each call has a cost
ROWS_ALONE = 4  # sampled rows that `fit` may score alone, and then as copies
SLOW_SECONDS = 0.125  # if one row takes longer, copies of it are not tried


def choose(
    options: ScoringOptions,
    accelerator: str | None,
    sample: Sample,
    contract: Contract,
    features: Sequence[Feature],
    most: int,
) -> int:
    """Chooses the rows of a call: the number in the signature or in `--batch_size`, else as many as fill about 2 MB.

    Args:
        options: The scoring options.
        accelerator: The accelerator of the workers, if they have one.
        sample: The first rows.
        contract: The inputs and outputs of the signature.
        features: The features that feed the model's inputs.
        most: The largest size to choose. It does not limit a size from the options or the signature, or a size
            for accelerators. It does not limit a model whose calls must all have the same number of rows, either.
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
    if contract.constant_rows:  # calls are filled up to this size, so it is no larger than the input
        size = min(usual * (ACCELERATED if accelerator else 1), bound)
        return sample.call_rows(size, options.chunk_bytes or CHUNK_BYTES, MULTIPLE)
    if accelerator:
        return min(usual * ACCELERATED, bound)
    return min(usual, most, bound)


def fit(model: Model, contract: Contract, rows: Arrays, batch_size: int) -> int:
    """Lowers a batch size if the model scores a row alone, but fails for copies of it.

    Some models accept only a few rows in a call. A slow model is not tested, and keeps its batch size.

    Args:
        model: The model.
        contract: The inputs and outputs of its signature.
        rows: Data input -> (rows, …), some real rows.
        batch_size: The size that `choose` returned.

    Returns:
        The batch size, or the most rows that the model accepted if they are fewer.
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
                if not tried.limits.copies_failed or tried.limits.rows < size:
                    break
    return batch_size if tried.limits.rows >= size else tried.limits.rows


def _score_copies(model: Model, contract: Contract, rows: Arrays, row: int, count: int) -> None:
    def refused(_: BadRow) -> None:
        raise StoppedError

    copies = {name: np.repeat(array[row : row + 1], count, axis=0) for name, array in rows.items()}
    score(model, contract, copies, count, count, keep_non_finite=True, refused=refused)
