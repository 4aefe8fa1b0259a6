"""The rehearsal: what the real DataflowRunner has staged is run to its end, on this machine.

    rehearsal = Rehearsal(cloud, programs, folder)
    rehearsal.command("run", …)  # as a user gives it

Of what Dataflow was given, two things are changed: workers come from a folder in place of a container image, and
staged files are brought to the runner, which does not read gs://.
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

HOLD_SECONDS = 50  # less than Google's client waits for an answer


class Rehearsal:
    """Runs the jobs that are submitted to a cloud.

    Attributes:
        change: What is done to a pipeline before it is run.
        workers: The machines of the job that is running.
        outcomes: What came of the jobs.
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
            RuntimeError: It failed; what runner and workers said.
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
        """What comes of a job; a worker that does not even start is no use to wait for, though Prism does."""
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
