"""The rehearsal: runs on this machine what the real DataflowRunner has staged.

    rehearsal = Rehearsal(cloud, programs, folder)
    rehearsal.command("run", …)  # as a user types it

The staged pipeline differs from the real one in two ways. Workers start from a folder instead of a container image.
Staged files are copied to the runner, because it does not read gs://.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from google.cloud import dataflow

from tests.cloud import prism, staged
from tests.cloud.stand_ins import Cloud
from tests.cloud.workers import Workers, running_workers

HOLD_SECONDS = 50  # less than the time-out of Google's client


class Rehearsal:
    """Runs the jobs that are submitted to a cloud.

    Attributes:
        change: Changes a pipeline before it runs.
        workers: The machines of the running job.
        outcomes: The results of the jobs.
    """

    def __init__(self, cloud: Cloud, programs: Path, folder: Path) -> None:
        self.cloud, self.programs, self.folder = cloud, programs, folder
        self.change: Callable[[Any], None] = lambda _: None
        self.workers: Workers | None = None
        self.outcomes: list[prism.Outcome] = []
        cloud.api.run, cloud.api.hold_seconds = self.run, HOLD_SECONDS

    def run(self, job: dataflow.Job) -> None:
        """Runs a job.

        Raises:
            RuntimeError: The job failed; the message has the logs of runner and workers.
        """
        place = self.folder / job.id
        place.mkdir(parents=True)
        pipeline = staged.read_pipeline(self.cloud.store, job)
        with running_workers(self.programs, place) as (workers, address), prism.running_prism(place / "log") as runner:
            self.workers = workers
            staged.bring_here(pipeline, self.cloud.store, address, place / "staged")
            self.change(pipeline)
            outcome = self._run(runner, pipeline, job, workers)
        self.outcomes.append(outcome)
        if outcome.state != prism.DONE:
            raise RuntimeError("\n".join([*outcome.messages, workers.said(), (place / "log").read_text()]))
        self.cloud.api.set_counters(job.id, **outcome.counters("ledger"))

    def _run(self, runner: str, pipeline: Any, job: dataflow.Job, workers: Workers) -> prism.Outcome:
        """The result of a job. Fails the job as soon as a worker dies; Prism would keep waiting for it."""
        found: list[prism.Outcome] = []
        ended = threading.Event()

        def died(said: str) -> None:
            found.append(prism.Outcome(prism.FAILED, ["a worker ended", said], []))
            ended.set()

        def run() -> None:
            try:
                found.append(prism.run(runner, pipeline, staged.worker_options(job), job.name))
            except grpc.RpcError as error:
                found.append(prism.Outcome(prism.FAILED, ["Prism went", str(error)], []))
            finally:
                ended.set()

        workers.died = died
        threading.Thread(target=run, daemon=True).start()
        ended.wait()
        return found[0]
