"""CommitRun: the last steps of a graph that nobody has to wait for.

Beam may run a step again, also while another attempt at it goes on. So what is committed is made of the folder's
`_job.json`, the receipts and one time alone, which every attempt sees: all of them write the same bytes. What they
need is removed by a step of its own, after one of them has ended.
"""

import dataclasses
import time

import apache_beam as beam

from pipeline import ledger, manifest, record, replace
from pipeline.commit import commit, look_again, over_budget
from pipeline.names import JOB
from pipeline.place import Place
from transforms import files, formats
from transforms.errors import RunError
from transforms.receipts import LISTS, read_receipts


@dataclasses.dataclass(eq=False)
class CommitRun(beam.PTransform[beam.PCollection[str], beam.PCollection[str]]):
    """Commits the run of an output folder, once the lists of all receipts are written.

    Input:  PCollection[str], the lists, see `WriteReceipts`
    Output: PCollection[str], the folder

    Attributes:
        place: Where the run writes, with its `_job.json`.
        started: When the run was, in seconds since 1970.
    """

    place: Place
    started: float

    def expand(self, lists: beam.PCollection[str]) -> beam.PCollection[str]:
        """Wires the steps."""
        return (
            lists
            | "CountLists" >> beam.combiners.Count.Globally()
            | "WithSeconds" >> beam.Map(self._with_seconds).with_output_types(tuple[int, float])
            # Another attempt at what follows gets the same time.
            | "KeepSeconds" >> beam.Reshuffle()
            | "Commit" >> beam.MapTuple(self._commit).with_output_types(str)
            | "AfterCommit" >> beam.Reshuffle()
            | "Clear" >> beam.Map(self._clear).with_output_types(str)
        )

    def _with_seconds(self, lists: int) -> tuple[int, float]:
        return lists, time.time() - self.started

    def _commit(self, lists: int, seconds: float) -> str:
        commit_folder(self.place, lists, seconds)
        return self.place.output

    def _clear(self, output: str) -> str:
        replace.clear(output) if self.place.is_staged else manifest.clear(output)
        return output


def commit_folder(place: Place, lists: int, seconds: float) -> None:
    """Commits the run that a folder's `_job.json` tells of; does nothing if an earlier attempt has.

    Args:
        place: Where the run writes.
        lists: How many lists of receipts were written.
        seconds: What the run took.

    Raises:
        RunError: The ledger does not add up, more rows are bad than may be, or the folder is not what it was.
    """
    if not manifest.is_complete(place.work, place.mark):
        _commit(place, lists, seconds)
    if place.is_staged:
        replace.put(place.output)


def _commit(place: Place, lists: int, seconds: float) -> None:
    temp = place.temp
    job = _job(place.work)
    sources = manifest.read_planned(temp, job)
    found = len(files.list_below(files.join(temp, LISTS)))
    if sources is None or found != lists:
        raise RunError(
            f"{temp} has {found} of {lists} lists of receipts{' and no sources' * (sources is None)}: somebody else "
            "has removed them; give the same command again, which goes on from here"
        )
    now = look_again(job.options.input, formats.default_suffix(job.format))
    totals = ledger.total(read_receipts(temp))
    breach = job.options.max_bad_rows.breach(totals.dead, totals.rows)
    commit(place, job, sources, now, totals, seconds, success=breach is None, keep=True)
    if breach is not None:
        raise over_budget(place, breach)


def _job(output: str) -> record.Job:
    job = record.read(output, record.Job)
    if job is None:
        raise RunError(f"{output} has no {JOB} any more: another run works there; wait for it, and run again")
    return job
