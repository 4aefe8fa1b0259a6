"""Prepares a job for Dataflow, finds running jobs, and follows a job until it ends.

By default all jobs for one output folder have the same name, because Dataflow never runs two jobs of one name at a
time.
"""

import contextlib
import hashlib
import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)
from apache_beam.runners.runner import PipelineState

from pipeline import VERSION
from pipeline.compat.beam import dataflow_jobs
from pipeline.job import accelerators
from pipeline.job.accelerators import Hint, Machine
from pipeline.job.progress import Phase, Progress
from pipeline.options.run_options import RunOptions
from pipeline.plan.preflight import Plan
from pipeline.run_folder.records import Run
from pipeline.terminal.report import print_line
from pipeline.terminal.warning import warn
from transforms.errors import RunError, UsageError
from transforms.storage import files
from transforms.write_part import BYTES_JOINED, DEAD_PREFIX, LEDGER, ROWS_JOINED

RUN_LABEL = "keyjoin-run"
RUNNER = "DataflowRunner"
CONSOLE = "https://console.cloud.google.com/dataflow/jobs"
POLL_SECONDS = 10.0
# How long to wait for the cause after a job failed: the service reports it later than the state. Beam waits as well,
# see `DataflowRunner.poll_for_job_completion`, https://beam.apache.org.
ERROR_SECONDS = 60.0
GIGABYTE = 1 << 30
# Memory of a worker, in bytes.
PROCESS_BYTES = 600_000_000  # a process with TensorFlow and without a model (measured: docs/scale.md)
BYTES_A_CHUNK_BYTE = 2  # for each byte of a chunk (measured: docs/scale.md)
# For each byte of predictions. Measured on a worker of Prism, before parts were written in smaller pieces.
BYTES_A_PREDICTION_BYTE = 9
BYTES_A_MODEL_BYTE = 2  # for each byte of a model: its graph and its variables while it is loaded
USABLE = 0.8  # the share of a machine's memory that the worker may use
WORKER_INPUT = 4 * GIGABYTE  # the least input that is worth another worker: 64 chunks
MOST_WORKERS = 1_000


MACHINES = (
    Machine("n2-standard-4", 4, 16),
    Machine("n2-highmem-4", 4, 32),
    Machine("n2-highmem-8", 8, 64),
    Machine("n2-highmem-16", 16, 128),
    Machine("n2-highmem-32", 32, 256),
)


def is_dataflow(options: PipelineOptions) -> bool:
    """Returns whether Beam's options name the Dataflow runner."""
    return bool(options.view_as(StandardOptions).runner == RUNNER)


def is_template(options: PipelineOptions) -> bool:
    """Returns whether Beam's options ask for a template. Another program makes jobs from it later."""
    return is_dataflow(options) and bool(options.view_as(GoogleCloudOptions).template_location)


def check_options(options: RunOptions, beam_options: PipelineOptions) -> None:
    """Checks the options for Dataflow, as far as this is possible without calling a service.

    Args:
        options: The options of the run.
        beam_options: Beam's options.

    Raises:
        UsageError: A required flag is missing, a path is on this machine, or the machine type cannot have the
            accelerator.
    """
    cloud = beam_options.view_as(GoogleCloudOptions)
    given = {"project": cloud.project, "region": cloud.region, "temp_location": cloud.temp_location}
    missing = [f"--{name}" for name, value in given.items() if not value]
    if missing:
        raise UsageError(f"{' and '.join(missing)} must be given on Dataflow; ./run_dataflow.sh does so")
    here = [("--output", options.output), *(("--input", path) for path in options.input)]
    here += [(f"--{name}", getattr(cloud, name)) for name in ("temp_location", "staging_location")]
    if options.baseline:
        here.append(("--baseline", options.baseline))
    if options.accelerator:
        accelerators.check(options.accelerator, beam_options.view_as(WorkerOptions).machine_type)
    for flag, path in here:
        if path and files.is_local(path):
            raise UsageError(f"{flag} {path} is on this machine, where no worker can reach it; give a gs:// path")


def job_name(output: str) -> str:
    """Returns the name of the job that writes to a folder.

    Dataflow never runs two jobs of one name at a time, so at most one job with this name writes to the folder.

    Args:
        output: The output folder. A slash at its end makes no difference.

    >>> job_name("gs://bucket/out/Day_1/"), job_name("gs://bucket/out/Day_1") == job_name("gs://bucket/out/Day_1/")
    ('keyjoin-day-1-8d41a51bf73c', True)
    """
    folder = output.rstrip("/")
    digest = hashlib.sha256(folder.encode()).hexdigest()[:12]
    stem = re.sub("[^a-z0-9]+", "-", folder.rpartition("/")[2].lower()).strip("-")[:32].strip("-")
    return "-".join(filter(None, ("keyjoin", stem, digest)))


def set_defaults(plan: Plan, options: PipelineOptions) -> Plan:
    """Sets the options that the user did not give: machine type, number of workers, image and labels.

    Args:
        plan: The plan of the run.
        options: Beam's options, changed in place.

    Returns:
        The plan. If it has an accelerator, its hint now names the machine type of the workers that predict.
    """
    workers = options.view_as(WorkerOptions)
    plan = plan._replace(job=plan.job._replace(accelerator=_hint(plan, workers.machine_type)))
    workers.machine_type = workers.machine_type or machine_for(plan).name
    workers.autoscaling_algorithm = workers.autoscaling_algorithm or "THROUGHPUT_BASED"
    size = sum(source.size for source in plan.sources)
    if workers.max_num_workers is None:
        workers.max_num_workers = max(workers.num_workers or 1, most_workers(size))
    _set_other_defaults(options, plan.settings.run)
    return plan


def _hint(plan: Plan, machine_type: str | None) -> str | None:
    """Returns the accelerator hint of the plan with a machine type in it; None if the plan has no accelerator."""
    if plan.job.accelerator is None:
        return None
    hint = Hint.of(plan.job.accelerator)
    if hint.machine:
        return hint.text
    return hint.with_machine(machine_type or machine_for(plan, accelerators.MACHINES[hint.type][hint.number]).name)


def set_smallest_defaults(options: PipelineOptions) -> None:
    """Sets the options that the user did not give, for a job that reads no input: one small worker is enough.

    Args:
        options: Beam's options, changed in place. The number of workers is always 1.
    """
    workers = options.view_as(WorkerOptions)
    workers.machine_type = workers.machine_type or MACHINES[0].name
    workers.max_num_workers = workers.num_workers = 1
    _set_other_defaults(options, None)


def _set_other_defaults(options: PipelineOptions, run: Run | None) -> None:
    debug = options.view_as(DebugOptions)
    if debug.number_of_worker_harness_threads is None:
        # One thread, so that each process holds one chunk, and the data that it reads and writes ahead. More threads
        # would need more memory.
        debug.number_of_worker_harness_threads = 1
    workers = options.view_as(WorkerOptions)
    cloud, setup = options.view_as(GoogleCloudOptions), options.view_as(SetupOptions)
    if not workers.sdk_container_image:
        workers.sdk_container_image = image(cloud.project, cloud.region)
    if setup.sdk_location == "default":
        setup.sdk_location = "container"
    ours = {"keyjoin-version": VERSION.replace(".", "-"), **({RUN_LABEL: run.id} if run else {})}
    cloud.labels = [*(cloud.labels or ()), *(f"{name}={value}" for name, value in ours.items())]


def image(project: str, region: str) -> str:
    """Returns the name of the default worker image. docs/dataflow.md describes how to build it."""
    return f"{region}-docker.pkg.dev/{project.replace(':', '/')}/keyjoin/worker:{VERSION}"


def machine_for(plan: Plan, machines: Sequence[Machine] = MACHINES) -> Machine:
    """Returns the smallest machine with enough memory for the plan; the largest if none has enough.

    A machine runs one process for each processor. Each process holds one chunk with its predictions, and also a model
    unless the processes share one.

    Args:
        plan: The plan of the run.
        machines: The machines to choose from, the smallest first.
    """
    model = BYTES_A_MODEL_BYTE * (plan.model.bytes if plan.model else 0)
    predictions = plan.expected.predictions * plan.expected.chunk_bytes
    process = PROCESS_BYTES + BYTES_A_CHUNK_BYTE * plan.job.chunk_bytes + BYTES_A_PREDICTION_BYTE * predictions
    shared = plan.job.handler.shared
    need = {m: m.cpus * (process + (0 if shared else model)) + (model if shared else 0) for m in machines}
    return next((m for m in machines if need[m] <= USABLE * m.gigabytes * GIGABYTE), machines[-1])


def most_workers(size: int) -> int:
    """Returns the most workers that an input is worth.

    Args:
        size: The size of the input in bytes.

    >>> most_workers(0), most_workers(10**12), most_workers(10**15)
    (1, 233, 1000)
    """
    return min(max(1, math.ceil(size / WORKER_INPUT)), MOST_WORKERS)


class Running(NamedTuple):
    """A job that has not ended.

    Attributes:
        id: The id that Dataflow gave the job.
        name: The name of the job.
        project: The Google Cloud project of the job.
        region: The region of the job.
    """

    id: str
    name: str
    project: str
    region: str

    @property
    def link(self) -> str:
        """The URL of the job in the Google Cloud console."""
        return f"{CONSOLE}/{self.region}/{self.id}?project={self.project}"


class JobError(Exception):
    """A job failed. The text is the error that the job reports."""


class Service:
    """A client of the Dataflow service, with the calls that a run needs.

    Attributes:
        name: The name of the job that this command submits.
    """

    def __init__(self, options: PipelineOptions, output: str) -> None:
        """Connects to the service.

        Args:
            options: Beam's options. If they have no job name, it is set here.
            output: The output folder.

        Raises:
            RunError: The service cannot be reached, or refuses access.
        """
        from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient

        self._cloud = options.view_as(GoogleCloudOptions)
        self.name = self._cloud.job_name = self._cloud.job_name or job_name(output)
        with _api_errors():
            self._client = DataflowApplicationClient(options)
            self._jobs = dataflow_jobs(self._client, self._cloud)

    def find(self, recorded: Sequence[Run]) -> Running | None:
        """Finds a running job that writes to the output; None if there is none.

        A job counts if its label names a run that is recorded in the output, whatever its name, project or region.
        Without a template, a job with the name `self.name` in this command's project and region counts too. With a
        template, the name does not count, because the job that is being launched from a template has this name.

        Args:
            recorded: The runs that `_keyjoin/job.json` records, in the output and in the folder of its new result.

        Raises:
            RunError: The service cannot be reached, or refuses access.
        """
        here = self._cloud.project, self._cloud.region
        places = {here}
        places |= {(run.project, run.region) for run in recorded if run.project and run.region}
        for project, region in sorted(places):
            for job in self._active(project, region):
                by_name = not self._cloud.template_location and (project, region) == here and job.name == self.name
                if by_name or any(self._run_of(job, run, project, region) == run.id for run in recorded):
                    return Running(str(job.id), job.name, project, region)
        return None

    def _active(self, project: str, region: str) -> Iterator[Any]:
        from google.cloud import dataflow

        active = dataflow.ListJobsRequest.Filter.ACTIVE
        request = dataflow.ListJobsRequest(project_id=project, location=region, filter=active)
        with _api_errors():
            # Beam's own search by name is not used: it never ends if there is no such job.
            yield from self._jobs.list_jobs(request)

    def _run_of(self, job: Any, recorded: Run, project: str, region: str) -> str | None:
        """Returns the id of the run that a job's label names; None if there is no such label.

        The service may list jobs without their labels. If such a job has the name of the recorded run, this method
        requests the whole job.
        """
        from google.cloud import dataflow

        if not job.labels and job.name == recorded.name:
            where = {"project_id": project, "location": region, "job_id": job.id}
            with _api_errors():
                job = self._jobs.get_job(dataflow.GetJobRequest(**where, view=dataflow.JobView.JOB_VIEW_ALL))
        found: str | None = dict(job.labels).get(RUN_LABEL)
        return found

    def in_own_region(self, job: Running) -> bool:
        """Returns whether a job is in the project and region that this command names."""
        return (job.project, job.region) == (self._cloud.project, self._cloud.region)

    @contextlib.contextmanager
    def submitting(self) -> Iterator[None]:
        """Turns Beam's error about a second job of the same name into one line.

        Raises:
            RunError: Another command has just submitted a job of this name.
        """
        from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError

        try:
            yield
        except DataflowJobAlreadyExistsError as error:
            raise RunError(
                f"a job {self.name} was started meanwhile: {error}; give the same command again, which follows it"
            ) from error

    def link(self, job_id: str) -> str:
        """Returns the URL of a job in the Google Cloud console."""
        return f"{CONSOLE}/{self._cloud.region}/{job_id}?project={self._cloud.project}"

    def follow(self, job_id: str, progress: Progress) -> None:
        """Prints the states and warnings of a job until it ends, and counts its progress.

        Args:
            job_id: The id that Dataflow gave the job.
            progress: Counts what the job has done.

        Raises:
            JobError: The job failed.
            RunError: The job was cancelled, or the service cannot be reached.
        """
        progress.enter(Phase.RUNNING)
        state, errors, patience = "", _Messages(), ERROR_SECONDS
        while True:
            with _api_errors():
                job = self._client.get_job(job_id)
                errors.print_new(self._client, job_id)
                self._count(job_id, progress)
            if job.current_state.name != state:
                state = job.current_state.name
                print_line("state", state.removeprefix("JOB_STATE_").lower().replace("_", " "))
            ended = _state(job)
            if ended == PipelineState.FAILED and errors.last is None and patience > 0:
                patience -= 1
                time.sleep(min(1.0, POLL_SECONDS))
            elif PipelineState.is_terminal(ended):
                break
            else:
                time.sleep(POLL_SECONDS)
        if ended == PipelineState.FAILED:
            raise JobError(errors.last or f"the service does not say why; see {self.link(job_id)}")
        if ended != PipelineState.DONE:
            raise RunError(f"the job was {ended.lower()}; give the same command again, which resumes it")

    def _count(self, job_id: str, progress: Progress) -> None:
        """Counts the rows so far. Only committed bundles are counted."""
        from apache_beam.runners.dataflow.dataflow_metrics import DataflowMetrics

        found: Counter[str] = Counter()
        for metric in DataflowMetrics(self._client).all_metrics(job_id):
            if metric.key.metric.namespace == LEDGER and metric.committed is not None:
                found[metric.key.metric.name] += metric.committed
        dead = Counter({name[len(DEAD_PREFIX) :]: n for name, n in found.items() if name.startswith(DEAD_PREFIX)})
        if found:
            progress.counted(found[ROWS_JOINED] + dead.total(), found[BYTES_JOINED], dead)


class _Messages:
    """Reads the messages of a job: prints its warnings, and keeps one error.

    Attributes:
        last: The text of the last error with a traceback, or of the last error if none has one; None without errors.
    """

    def __init__(self) -> None:
        self.last: str | None = None
        self._seen: set[str] = set()
        self._from: Any = None

    def print_new(self, client: Any, job_id: str) -> None:
        """Prints warnings that are new since the last call, and updates `last`."""
        page = None
        while True:
            messages, page = client.list_messages(job_id, start_time=self._from, page_token=page)
            for message in messages:
                if message.id not in self._seen:
                    self._seen.add(message.id)
                    self._from = max(self._from or message.time, message.time)
                    self._take(message.message_importance.name, message.message_text)
            if not page:
                return

    def _take(self, importance: str, text: str) -> None:
        if importance.endswith("_WARNING"):
            warn((text.strip().splitlines() or [""])[0])
        # The traceback of a step says more than the summaries that the service reports after it.
        if importance.endswith("_ERROR") and ("Traceback" in text or "Traceback" not in (self.last or "")):
            self.last = text


def _state(job: Any) -> str:
    from apache_beam.runners.dataflow.dataflow_runner import DataflowPipelineResult

    return str(DataflowPipelineResult.api_jobstate_to_pipeline_state(job.current_state))


@contextlib.contextmanager
def _api_errors() -> Iterator[None]:
    """Turns an error of the service's client into one line.

    Raises:
        RunError: The service cannot be reached, or refuses access.
    """
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except (GoogleAPIError, GoogleAuthError, OSError) as error:
        raise RunError(
            f"the Dataflow API call failed: {error}; see that it can be reached, that its API is enabled and that you "
            "may use it, and give the same command again, which finds a job that runs"
        ) from error
