"""ClaimRun: the first step of a graph that another runner runs, which settles whether this job may do the run.

A graph outlives its command: a template is started twice, a job is cloned, another command takes the folder over. So
the graph and `_keyjoin/job.json` have the id of the run. Before anything else is written, one job claims the run.
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
    """Claims a run and reads what it is to read; of a run that is complete it reads nothing.

    Input:  the pipeline's root
    Output: PCollection[Source], as planned

    Attributes:
        place: Where the run writes, with its `_keyjoin/job.json`.
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
            # Another attempt at what follows is the same job.
            | "KeepJob" >> beam.Reshuffle()
            | "ClaimRun" >> beam.FlatMapTuple(self._claim).with_output_types(Source)
        )

    def _with_job(self, run: str) -> tuple[str, str]:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        return run, json.dumps({"job": uuid.uuid4().hex, "since": now})

    def _claim(self, run: str, job: str) -> Iterator[Source]:
        yield from claim(self.place, run, job)


def claim(place: Place, run: str, job: str) -> list[Source]:
    """Claims a run for a job; may be done again.

    Args:
        place: Where the run writes.
        run: The id of the run.
        job: What tells this job from others, the same for each attempt.

    Returns:
        The planned sources; none if the run is complete.

    Raises:
        RunError: The folder is another run's now, or another job has claimed the run. Nothing was changed.
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
    """Whether a folder holds the result of a run, see `Place.mark`."""
    if not manifest.is_complete(folder, mark):
        return False
    made = records.read(folder, records.Manifest)
    return made is not None and made.run is not None and made.run.id == run


def own_job(output: str, run: str) -> records.Job:
    """The `_keyjoin/job.json` of a run.

    Raises:
        RunError: There is none, or it is that of another run.
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
    """Passes on what is about to be written, as long as the folder is the run's own.

    Raises:
        RunError: Another run has taken it over: its parts have the same names.
    """
    own_job(output, run)
    return joined


def _since(found: bytes) -> str:
    try:
        return f"since {json.loads(found)['since']}"
    except (ValueError, KeyError, TypeError):
        return "which was started before"
