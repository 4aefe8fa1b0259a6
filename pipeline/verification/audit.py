"""Scores random rows of a run again, each alone, before the run counts as complete.

A prediction that is not the one of its row fails the run. `verify --rescore` does the same for an older output.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipeline.job.graph import Job
from pipeline.run_folder.records import Audit
from pipeline.terminal.messages import at_line
from pipeline.verification.check_rows import Picked, pick, rescore_picked
from transforms import formats
from transforms.errors import RunError
from transforms.records import Source
from transforms.scoring.rescore import Agreement, Rescored, Scoring
from transforms.storage import files
from transforms.write_receipts import read_receipts


def audit(job: Job, sources: Sequence[Source], count: int | None) -> Audit | None:
    """Scores random rows of all parts again, and compares them with the parts.

    The same run picks the same rows: the numbers are drawn from the checksums of its parts. Rows of parts with replayed
    rows are not picked, see `pick`.

    Args:
        job: The job of the run, whose parts and lists of receipts are written.
        sources: The input files.
        count: How many rows to score. If fewer rows are joined, all are scored. With None, no row is scored.

    Returns:
        The result; None if `count` is None.

    Raises:
        RunError: The prediction in a part differs from that of its row.
    """
    if count is None:
        return None
    joined = seed = 0
    for part in read_receipts(job.temp):
        joined += 0 if part.replayed else part.joined
        seed ^= part.checksum ^ part.chunk.start
    drawn = np.random.default_rng(seed).choice(joined, min(count, joined), replace=False) if joined else np.zeros(0)
    by_path = {source.path: source for source in sources}
    counted, largest = Counter[Agreement](), 0.0
    for picked, found in _rescored(job, by_path, iter(np.sort(drawn).tolist())):
        if found.agreement is Agreement.OTHER:
            raise _differs(picked, found)
        counted[found.agreement] += 1
        largest = max(largest, found.difference)
    equal, close = counted[Agreement.EQUAL], counted[Agreement.CLOSE]
    return Audit(rows=equal + close, equal=equal, close=close, largest_difference=largest)


def _rescored(job: Job, sources: Mapping[str, Source], numbers: Iterator[int]) -> Iterator[tuple[Picked, Rescored]]:
    fmt, handler = formats.load(job.format), job.handler
    keep = handler.keep_non_finite
    how = Scoring(fmt, handler.features, handler.contract, handler.batch_size, keep, job.layout)
    called, written = handler.load_model(), files.list_below(job.output)
    for picked in pick(read_receipts(job.temp), numbers):
        chunk = picked.part.chunk
        # A new result keeps the unchanged parts of the output that it replaces.
        folder = job.output if job.former is None or chunk.part in written else job.former
        for found in rescore_picked(folder, picked, sources[chunk.source], how, called):
            yield picked, found


def _differs(picked: Picked, found: Rescored) -> RunError:
    line = None if found.line is None else picked.lines + found.line + 1
    return RunError(
        f"--audit: {at_line(found.key, line)} has {found.found} in its part, and {found.expected} if it is scored "
        "alone; no _SUCCESS was written: the model may depend on other rows or differ from call to call; look there, "
        "or start anew with --overwrite --batch_size=1"
    )
