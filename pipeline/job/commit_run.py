"""Commits a run in the last steps of its graph, so that no command has to wait for the job.

Beam may retry a step, even while an earlier attempt is still running. So all attempts at the commit must write the same
bytes. The commit depends only on `_keyjoin/job.json`, the receipts and the measured duration, which are the same for
every attempt. A separate later step removes these files, because an attempt at the commit needs them.
"""

import dataclasses
import time

import apache_beam as beam
import msgspec

from pipeline.job.claim_run import holds_result, own_job
from pipeline.job.graph import Job
from pipeline.run_folder import ledger, manifest, records, replace
from pipeline.run_folder.place import Place
from pipeline.run_folder.settle import over_error_limit, settle
from pipeline.verification.audit import audit
from transforms.errors import RunError
from transforms.storage import files
from transforms.write_receipts import LISTS, read_receipts


@dataclasses.dataclass(eq=False)
class CommitRun(beam.PTransform[beam.PCollection[str], beam.PCollection[str]]):
    """Commits the run of an output folder, after the lists of all receipts are written.

    Input:  PCollection[str], the paths of the lists, see `WriteReceipts`
    Output: PCollection[str], one element: the output folder

    Attributes:
        place: The folders that the run writes to.
        run: The id of the run.
        started: When the run was started, in seconds since 1970.
        audited: The job, for `--audit`; None without it.
    """

    place: Place
    run: str
    started: float
    audited: Job | None = None

    def expand(self, lists: beam.PCollection[str]) -> beam.PCollection[str]:
        """Wires the steps."""
        return (
            lists
            | "CountLists" >> beam.combiners.Count.Globally()
            | "Audit" >> beam.Map(self._measure).with_output_types(tuple[int, float, bytes])
            # Reshuffle saves the duration and the differences, so that a retry of the next step gets the same ones.
            | "KeepSeconds" >> beam.Reshuffle()
            | "Commit" >> beam.MapTuple(self._commit).with_output_types(int)
            | "AfterCommit" >> beam.Reshuffle()
            | "Clear" >> beam.Map(self._clear).with_output_types(str)
        )

    def _measure(self, lists: int) -> tuple[int, float, bytes]:
        audited = msgspec.json.encode(audit_folder(self.place, self.run, self.audited))
        seconds = max(0.0, time.time() - self.started)  # the worker's clock may be behind
        return lists, seconds, audited

    def _commit(self, lists: int, seconds: float, audited: bytes) -> int:
        found = msgspec.json.decode(audited, type=records.Audit | None)
        commit_folder(self.place, self.run, lists, seconds, found)
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


def audit_folder(place: Place, run: str, job: Job | None) -> records.Audit | None:
    """Scores random rows of a run again, see `audit`.

    Args:
        place: The folders that the run writes to.
        run: The id of the run.
        job: The job of the run; None without `--audit`.

    Returns:
        The result; None without `--audit`, if the run is already committed, and if it exceeds an error limit.

    Raises:
        RunError: The prediction in a part differs from that of its row.
    """
    if job is None or holds_result(place.output, run):
        return None
    begun = own_job(place.work, run)
    sources, totals = manifest.read_planned(place.temp, begun), ledger.total(read_receipts(place.temp))
    if sources is None or begun.options.max_bad_rows.exceeded(totals.dead, totals.rows) is not None:
        return None  # the commit names the cause
    return audit(job, sources, begun.options.audit)


def commit_folder(place: Place, run: str, lists: int, seconds: float, audited: records.Audit | None = None) -> None:
    """Commits a run. Does nothing if the run is already committed.

    Args:
        place: The folders that the run writes to.
        run: The id of the run.
        lists: How many lists of receipts this job wrote.
        seconds: The duration of the run.
        audited: The result of `--audit`; None without it.

    Raises:
        RunError: The ledger does not add up, or the run exceeds an error limit. Or the folder now belongs to another
            run, or lacks files of this run.
    """
    if holds_result(place.output, run):
        return
    if not (place.is_staged and holds_result(place.work, run, place.mark)):
        _commit(place, run, lists, seconds, audited)
    if place.is_staged:
        replace.put(place.output)


def _commit(place: Place, run: str, lists: int, seconds: float, audited: records.Audit | None) -> None:
    temp = place.temp
    job = own_job(place.work, run)
    sources = manifest.read_planned(temp, job)
    found = len(files.list_below(files.join(temp, LISTS)))
    if sources is None or found != lists:
        raise RunError(
            f"{temp} has {found} of {lists} lists of receipts{' and no sources' * (sources is None)}: somebody else "
            "has removed them; give the same command again, which resumes the run"
        )
    exceeded = settle(place, job, sources, seconds, audit=lambda: audited).exceeded
    if exceeded is not None:
        raise over_error_limit(place, exceeded)
