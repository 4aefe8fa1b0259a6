"""Claims a run for one job on a remote runner, as the first step of the graph.

A graph outlives the command that made it. A template can be started twice, a job can be cloned, and another command can
take the folder over. So both the graph and `_keyjoin/job.json` hold the id of the run. Before a job writes anything
else, it claims the run. Only one job can, so any other job of the run fails.
"""

import dataclasses
import datetime
import json
import uuid
from collections.abc import Iterator
from typing import TypeVar

import apache_beam as beam

from pipeline.run_folder import manifest, records
from pipeline.run_folder.names import CLAIMS, JOB, SUCCESS
from pipeline.run_folder.place import Place
from transforms.errors import RunError
from transforms.records import Source
from transforms.storage import files
from transforms.storage.once import write_once

Joined = TypeVar("Joined")
RESUME_HINT = "give the command of that run again, which resumes it"


@dataclasses.dataclass(eq=False)
class ClaimRun(beam.PTransform[beam.Pipeline, beam.PCollection[Source]]):
    """Claims a run, and returns the sources that it planned to read.

    Input:  the pipeline's root
    Output: PCollection[Source], the planned sources; empty if the run is complete

    Attributes:
        place: The folders that the run writes to.
        run: The id of the run.
    """

    place: Place
    run: str

    def expand(self, root: beam.Pipeline) -> beam.PCollection[Source]:
        """Wires the steps."""
        return (
            root
            | "CreateRun" >> beam.Create([self.run])
            | "NameJob" >> beam.Map(self._with_job).with_output_types(tuple[str, str])
            # Reshuffle saves the job's id, so that a retry of the next step has the same id and not a new one.
            | "KeepJob" >> beam.Reshuffle()
            | "ClaimRun" >> beam.FlatMapTuple(self._claim).with_output_types(Source)
        )

    def _with_job(self, run: str) -> tuple[str, str]:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        return run, json.dumps({"job": uuid.uuid4().hex, "since": now})

    def _claim(self, run: str, job: str) -> Iterator[Source]:
        yield from claim(self.place, run, job)


def claim(place: Place, run: str, job: str) -> list[Source]:
    """Claims a run for a job. A retry with the same arguments succeeds again.

    Args:
        place: The folders that the run writes to.
        run: The id of the run.
        job: JSON text that identifies the job. It must be the same in each retry.

    Returns:
        The planned sources; an empty list if the run is complete.

    Raises:
        RunError: The folder now belongs to another run, another job has claimed the run, or the list of planned
            sources is missing. This job has changed nothing else.
    """
    if holds_result(place.output, run):
        return []
    begun, temp = own_job(place.work, run), place.temp
    found = write_once(files.below(temp, f"{CLAIMS}/{run}"), job.encode())
    if found != job.encode():
        raise RunError(
            f"{place.output} is written by another job of this run, {_since(found)}; wait for it. If it has ended "
            f"without _SUCCESS, {RESUME_HINT}; this job has changed nothing"
        )
    planned = manifest.read_planned(temp, begun)
    if planned is None:
        raise RunError(f"{temp} does not have the list of planned sources any more; {RESUME_HINT}")
    return planned


def holds_result(folder: str, run: str, mark: str = SUCCESS) -> bool:
    """Returns whether a folder holds the whole result of a run.

    Args:
        folder: The folder.
        run: The id of the run.
        mark: The name of the file that marks a result as whole, see `Place.mark`.
    """
    if not manifest.is_complete(folder, mark):
        return False
    made = records.read(folder, records.Manifest)
    return made is not None and made.run is not None and made.run.id == run


def own_job(output: str, run: str) -> records.Job:
    """Reads `_keyjoin/job.json` of a folder, and checks that it belongs to a run.

    Args:
        output: The folder that the run writes parts to.
        run: The id of the run.

    Raises:
        RunError: The folder has no `_keyjoin/job.json`, or that of another run.
    """
    begun = records.read(output, records.Job)
    if begun is None or begun.run is None or begun.run.id != run:
        whose = f"has no {JOB}" if begun is None else f"has the {JOB} of another run"
        raise RunError(
            f"{output} {whose}: this job is of an earlier command, and changes nothing; start the job that the last "
            "command for this folder made, or give that command again"
        )
    return begun


def check_own(joined: Joined, output: str, run: str) -> Joined:
    """Returns an element unchanged, after checking that the folder still belongs to the run.

    The check is needed because parts of another run have the same names, and this run would overwrite them.

    Args:
        joined: The element, which the next step writes.
        output: The folder that the run writes parts to.
        run: The id of the run.

    Raises:
        RunError: Another run has taken the folder over.
    """
    own_job(output, run)
    return joined


def _since(found: bytes) -> str:
    try:
        return f"since {json.loads(found)['since']}"
    except (ValueError, KeyError, TypeError):
        return "which was started before"
