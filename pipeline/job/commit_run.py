"""Commits a run in the last steps of its graph, so that no command has to wait for the job.

Beam may retry a step, even while an earlier attempt is still running. So all attempts at the commit must write the same
bytes. The commit depends only on `_keyjoin/job.json`, the receipts and the measured duration, which are the same for
every attempt. A separate later step removes these files, because an attempt at the commit needs them.
"""

import dataclasses
import time

import apache_beam as beam

from pipeline.job.claim_run import holds_result, own_job
from pipeline.run_folder import manifest, records, replace
from pipeline.run_folder.place import Place
from pipeline.run_folder.settle import over_error_limit, settle
from transforms.errors import RunError
from transforms.storage import files
from transforms.write_receipts import LISTS


@dataclasses.dataclass(eq=False)
class CommitRun(beam.PTransform[beam.PCollection[str], beam.PCollection[str]]):
    """Commits the run of an output folder, after the lists of all receipts are written.

    Input:  PCollection[str], the paths of the lists, see `WriteReceipts`
    Output: PCollection[str], one element: the output folder

    Attributes:
        place: The folders that the run writes to.
        run: The id of the run.
        started: When the run was started, in seconds since 1970.
    """

    place: Place
    run: str
    started: float

    def expand(self, lists: beam.PCollection[str]) -> beam.PCollection[str]:
        """Wires the steps."""
        return (
            lists
            | "CountLists" >> beam.combiners.Count.Globally()
            | "WithSeconds" >> beam.Map(self._with_seconds).with_output_types(tuple[int, float])
            # Reshuffle saves the duration, so that a retry of the next step gets the same one.
            | "KeepSeconds" >> beam.Reshuffle()
            | "Commit" >> beam.MapTuple(self._commit).with_output_types(int)
            | "AfterCommit" >> beam.Reshuffle()
            | "Clear" >> beam.Map(self._clear).with_output_types(str)
        )

    def _with_seconds(self, lists: int) -> tuple[int, float]:
        return lists, time.time() - self.started

    def _commit(self, lists: int, seconds: float) -> int:
        commit_folder(self.place, self.run, lists, seconds)
        return lists

    def _clear(self, lists: int) -> str:
        clear_folder(self.place, self.run, lists)
        return self.place.output


def check_complete(output: str) -> str:
    """Checks that an output is still complete. A job for an output that was already complete does only this.

    Args:
        output: The output folder.

    Returns:
        The output folder.

    Raises:
        RunError: The output is not complete any more.
    """
    if not manifest.is_complete(output):
        raise RunError(f"{output} was complete when this job was made, and is not any more; give the command again")
    return output


def clear_folder(place: Place, run: str, lists: int) -> None:
    """Removes the files that a run needed only until its commit.

    Removes nothing if this job wrote no lists, because another job had already completed the run. Removes nothing if
    the folder now belongs to another run.

    Args:
        place: The folders that the run writes to.
        run: The id of the run.
        lists: How many lists of receipts this job wrote.
    """
    begun = records.read(place.work, records.Job)
    if lists and (begun is None or (begun.run is not None and begun.run.id == run)):
        replace.clear(place.output) if place.is_staged else manifest.clear(place.output)


def commit_folder(place: Place, run: str, lists: int, seconds: float) -> None:
    """Commits a run. Does nothing if the run is already committed.

    Args:
        place: The folders that the run writes to.
        run: The id of the run.
        lists: How many lists of receipts this job wrote.
        seconds: The duration of the run.

    Raises:
        RunError: The ledger does not add up, or the run exceeds an error limit. Or the folder now belongs to another
            run, or lacks files of this run.
    """
    if holds_result(place.output, run):
        return
    if not (place.is_staged and holds_result(place.work, run, place.mark)):
        _commit(place, run, lists, seconds)
    if place.is_staged:
        replace.put(place.output)


def _commit(place: Place, run: str, lists: int, seconds: float) -> None:
    temp = place.temp
    job = own_job(place.work, run)
    sources = manifest.read_planned(temp, job)
    found = len(files.list_below(files.join(temp, LISTS)))
    if sources is None or found != lists:
        raise RunError(
            f"{temp} has {found} of {lists} lists of receipts{' and no sources' * (sources is None)}: somebody else "
            "has removed them; give the same command again, which resumes the run"
        )
    exceeded = settle(place, job, sources, seconds).exceeded
    if exceeded is not None:
        raise over_error_limit(place, exceeded)
