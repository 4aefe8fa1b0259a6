"""keyjoin on Dataflow, every night: one file for Airflow 2.11 and 3, which goes into the folder of the DAGs as it is.

    check_request   are the parameters right, and are the input and the model there?
    score           starts the Flex template, or follows the job of the same name that runs already, to its end
    check_result    does _SUCCESS name the manifest, and does the ledger add up? Its figures are the task's XComs.

A run scores the day before the one on which it is due, in UTC, or the day that it is given. What is the same for all
runs comes from variables of the environment, see docs/composer.md. keyjoin, Beam and TensorFlow are not imported.
"""

import fnmatch
import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta, timezone
from typing import Any

from airflow.providers.google.cloud.hooks.gcs import GCSHook
from airflow.providers.google.cloud.links.dataflow import DataflowJobLink
from airflow.providers.google.cloud.operators.dataflow import DataflowStartFlexTemplateOperator
from airflow.providers.google.cloud.triggers.dataflow import DataflowJobStatusTrigger
from google.cloud import storage

try:
    from airflow.sdk import BaseOperator, CronTriggerTimetable, dag, task
    from airflow.sdk.definitions.param import Param
    from airflow.sdk.exceptions import AirflowException, AirflowFailException
except ImportError:  # Airflow 2
    from airflow.decorators import dag, task
    from airflow.exceptions import AirflowException, AirflowFailException
    from airflow.models.baseoperator import BaseOperator
    from airflow.models.param import Param
    from airflow.timetables.trigger import CronTriggerTimetable

log = logging.getLogger("airflow.task")

DAG_ID = "keyjoin"
CONSOLE = "https://console.cloud.google.com/storage/browser"
MANIFEST = "_keyjoin/manifest.json"  # in the output, as are the dead letters
PATH = r"gs://[a-z0-9][a-z0-9._-]+/\S+"
LIMIT = r"([a-z_]+=)?(\d+\.?\d*|\.\d+)"
# A yes or no until some release of Airflow 3, the factor since then: there, True would be a factor of 1.
BACKOFF = True if isinstance(getattr(BaseOperator, "retry_exponential_backoff", False), bool) else 2.0


def setting(name: str, default: str | None = None) -> str:
    """A variable of the environment, which is the same for all runs."""
    value = os.environ.get(f"KEYJOIN_{name}") or default
    if value is None:
        raise ValueError(f"KEYJOIN_{name} is not set: add it to the variables of the environment, see docs/composer.md")
    return value


def setting_of(name: str, kind: type, default: str) -> Any:
    """A variable of the environment that is JSON."""
    text = setting(name, default)
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, kind):
        raise ValueError(f"KEYJOIN_{name} is {text!r}: give JSON like {default}, see docs/composer.md")
    return value


PROJECT, REGION, BUCKET = setting("PROJECT"), setting("REGION"), setting("BUCKET")
TEMPLATE = setting("TEMPLATE", f"gs://{BUCKET}/keyjoin/template.json")
SCHEDULE = setting("SCHEDULE", "0 3 * * *")
# What else the job runs with, as the Dataflow API's FlexTemplateRuntimeEnvironment has it.
ENVIRONMENT = setting_of("ENVIRONMENT", dict, "{}")
DEFERRABLE = setting_of("DEFERRABLE", bool, "true")

PARAMS = {
    "date": Param(
        None,
        type=["null", "string"],
        format="date",
        description="The day that is scored, 2026-11-22; without it the day before the one on which the run is due",
    ),
    "input": Param(
        f"gs://{BUCKET}/input/{{date}}/*.jsonl",
        type="string",
        pattern=f"^{PATH}( {PATH})*$",
        description="Files, globs or folders with the rows, with spaces between them; {date} is the day",
    ),
    "model": Param(
        f"gs://{BUCKET}/model", type="string", pattern=f"^{PATH}$", description="SavedModel folder or .keras file"
    ),
    "output": Param(
        f"gs://{BUCKET}/output/{{date}}",
        type="string",
        pattern=rf"^(?=.*\{{date\}}){PATH}$",
        description="Folder for the joined rows; with {date} in it, so that each day has one of its own",
    ),
    "max_bad_rows": Param(
        "0.01",
        type="string",
        pattern=f"^{LIMIT}(,{LIMIT})*$",
        description="Bad rows that a complete run may have: a number, a share with a point, limits by reason",
    ),
    "min_rows": Param(
        1, type="integer", minimum=0, description="Rows that a day has at least; with fewer the run fails"
    ),
    "max_workers": Param(20, type="integer", minimum=1, maximum=1000, description="Machines that the job may grow to"),
    "options": Param(
        {},
        type="object",
        propertyNames={
            "pattern": "^[a-z][a-z0-9_]*$",
            "not": {"enum": ["input", "model", "output", "max_bad_rows"]},
        },
        additionalProperties={"type": "string"},
        description='Other parameters of the template, {"features": "a,b", "overwrite": "true"}',
    ),
}


def day_of(given: str | None, due: datetime) -> str:
    """The day that a run scores."""
    day = date.fromisoformat(given) if given else due.astimezone(timezone.utc).date() - timedelta(days=1)
    if day > datetime.now(timezone.utc).date():
        raise AirflowFailException(f"date {day} is yet to come: give a day that has been")
    return day.isoformat()


def job_name(output: str) -> str:
    """The name of the job that writes a folder: the same for each try, and the one that `keyjoin run` gives it, too."""
    folder = output.rstrip("/")
    digest = hashlib.sha256(folder.encode()).hexdigest()[:12]
    stem = re.sub("[^a-z0-9]+", "-", folder.rpartition("/")[2].lower()).strip("-")[:32].strip("-")
    return "-".join(filter(None, ("keyjoin", stem, digest)))


def launch_body(params: Mapping[str, Any], day: str) -> dict[str, Any]:
    """What the Dataflow API is asked to start."""
    paths = {name: params[name].replace("{date}", day) for name in ("input", "model", "output")}
    for name, path in paths.items():
        if "{" in path or "}" in path:
            raise AirflowFailException(f"{name} {path} has a brace: only {{date}} is filled in")
    paths["output"] = paths["output"].rstrip("/")
    labels = {"keyjoin-dag": DAG_ID, "keyjoin-date": day, **ENVIRONMENT.get("additionalUserLabels", {})}
    return {
        "launchParameter": {
            "jobName": job_name(paths["output"]),
            "containerSpecGcsPath": TEMPLATE,
            "parameters": {**paths, "max_bad_rows": params["max_bad_rows"], **params["options"]},
            "environment": {
                "maxWorkers": params["max_workers"],
                "tempLocation": f"gs://{BUCKET}/keyjoin/temp",
                "stagingLocation": f"gs://{BUCKET}/keyjoin/staging",
                **ENVIRONMENT,
                "additionalUserLabels": labels,
            },
        }
    }


def links(output: str) -> dict[str, str]:
    """Where a run's report and its dead letters are to be looked at."""
    folder = output.removeprefix("gs://")
    return {
        "report": f"{CONSOLE}/_details/{folder}/{MANIFEST}",
        "dead_letters": f"{CONSOLE}/{folder}/_keyjoin/dead_letters",
    }


def bucket_and_name(path: str) -> tuple[storage.Bucket, str]:
    """The parts of a path in Cloud Storage."""
    bucket, _, name = path.removeprefix("gs://").partition("/")
    return GCSHook().get_conn().bucket(bucket), name


def has_any(pattern: str) -> bool:
    """Whether there is a file of this path, one in a folder of this path, or one that the pattern matches."""
    bucket, name = bucket_and_name(pattern)
    fixed = re.split(r"[*?\[]", name)[0]
    if fixed == name and find(pattern) is not None:
        return True
    # Objects with a slash at the end stand for folders.
    prefix = fixed if fixed != name else f"{name.rstrip('/')}/"
    found = (blob.name for blob in bucket.list_blobs(prefix=prefix) if not blob.name.endswith("/"))
    return any(fixed == name or fnmatch.fnmatchcase(one, name) for one in found)


def find(path: str) -> storage.Blob | None:
    """A file; None if it is not there."""
    bucket, name = bucket_and_name(path)
    return bucket.get_blob(name)


def read(path: str) -> bytes | None:
    """The bytes of a file; None if it is not there."""
    blob = find(path)
    return None if blob is None else blob.download_as_bytes()


def over_error_limit(output: str, before: str | None = None) -> str | None:
    """What a run says that had more bad rows than it may; None of any other, and of the one before it."""
    manifest = read(f"{output}/{MANIFEST}") or b"{}"
    found = json.loads(manifest)
    if found.get("status") != "over the error limit" or hashlib.sha256(manifest).hexdigest() == before:
        return None
    totals = found["totals"]
    return (
        f"{sum(totals['dead'].values())} of {totals['rows']} rows are bad, {totals['dead']}, more than max_bad_rows "
        f"allows: see {links(output)['dead_letters']}, then raise it, or fix the rows and give overwrite"
    )


def figures(output: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    """What a complete run has counted.

    Args:
        output: Its folder.
        parameters: The parameters of the template.

    Raises:
        AirflowFailException: It is not complete, its ledger does not add up, or it is a run of something else.
    """
    success, manifest = read(f"{output}/_SUCCESS"), read(f"{output}/{MANIFEST}")
    if success is None or manifest is None:
        missing = "_SUCCESS" if success is None else MANIFEST
        raise AirflowFailException(
            over_error_limit(output)
            or f"{output} has no {missing}: the run is not complete; clear score, which resumes it"
        )
    digest = hashlib.sha256(manifest).hexdigest()
    if digest.encode() not in success:
        raise AirflowFailException(f"_SUCCESS in {output} is not that of its {MANIFEST}: keyjoin verify tells more")
    found = json.loads(manifest)
    options, totals = found["options"], found["totals"]
    for name, there in (("input", options["input"]), ("model", [options["model"]])):
        if there != parameters[name].split():
            other = " ".join(there)
            raise AirflowFailException(
                f"{output} holds a run with {name} {other}, not {parameters[name]}: give overwrite"
            )
    bad = sum(totals["dead"].values())
    if totals["rows"] != totals["joined"] + bad:
        raise AirflowFailException(
            f"{output}: {totals['rows']} rows read, {totals['joined']} joined and {bad} bad ones"
        )
    for name, made in found["files"].items():
        blob = find(f"{output}/{name}")
        if blob is None or blob.size != made["bytes"]:
            there = "is not there" if blob is None else f"has {blob.size} bytes"
            raise AirflowFailException(f"{output}/{name} {there}, {made['bytes']} were written")
    return {
        **{name: totals[name] for name in ("rows", "joined", "dead", "parts", "read_bytes", "written_bytes")},
        "seconds": found["seconds"],
        "model_sha256": found["model"]["sha256"],
        "manifest_sha256": digest,
        "output": output,
        **links(output),
    }


class ScoreOperator(DataflowStartFlexTemplateOperator):
    """The provider's operator, with three things changed.

    A job of the same name that runs already is followed, and an output that is complete is left alone, so that a retry
    never starts a second job. A job that was cancelled has failed: the provider's own trigger waits for it without
    end. The wait has a limit: Airflow 3 knows none for what is deferred but the one given here.
    """

    def execute(self, context: Any) -> str | None:
        """Starts the job, or finds it, and waits for its end; returns its id."""
        launch = self.body["launchParameter"]
        job = self._running(launch["jobName"])
        where = {"location": self.location, "project_id": self.project_id}
        before = ""  # which manifest was there before the job
        if job is None:
            if self._is_done(launch["parameters"]):
                log.info("%s is complete: nothing is started", launch["parameters"]["output"])
                return None
            manifest = read(f"{launch['parameters']['output']}/{MANIFEST}") or b""
            before = hashlib.sha256(manifest).hexdigest()
            job = self.hook.launch_job_with_flex_template(body=self.body, **where)
        job_id: str = job["id"]
        log.info("job %s, %s", launch["jobName"], job_id)
        DataflowJobLink.persist(context=context, project_id=self.project_id, region=self.location, job_id=job_id)
        if self.deferrable:
            context["ti"].xcom_push(key="manifest_before", value=before)
            trigger = self._until_done(job_id)
            self.defer(trigger=trigger, method_name="execute_complete", timeout=self.execution_timeout)
        try:
            self.hook.wait_for_done(job_name=launch["jobName"], job_id=job_id, **where)
        except AirflowException as error:
            self._fail(str(error), before)
        return job_id

    def execute_complete(self, context: Any, event: Mapping[str, Any]) -> None:
        """Takes over from the trigger."""
        if event["status"] != "success":
            self._fail(event["message"], context["ti"].xcom_pull(task_ids=self.task_id, key="manifest_before"))

    def _running(self, name: str) -> dict[str, Any] | None:
        """The active job of a name, if there is one."""
        jobs = self.hook.get_conn().projects().locations().jobs()
        request = jobs.list(projectId=self.project_id, location=self.location, name=name, filter="ACTIVE")
        while request is not None:
            answer = request.execute(num_retries=self.hook.num_retries)
            for job in answer.get("jobs", []):
                if job["name"] == name:
                    return job
            request = jobs.list_next(request, answer)
        return None

    def _until_done(self, job_id: str) -> DataflowJobStatusTrigger:
        return DataflowJobStatusTrigger(
            job_id=job_id,
            expected_statuses={"JOB_STATE_DONE"},
            project_id=self.project_id,
            location=self.location,
            gcp_conn_id=self.gcp_conn_id,
            poll_sleep=self.poll_sleep,
            impersonation_chain=self.impersonation_chain,
        )

    @staticmethod
    def _is_done(parameters: Mapping[str, str]) -> bool:
        anew = "true" in (parameters.get("overwrite"), parameters.get("incremental"))
        return not anew and read(f"{parameters['output']}/_SUCCESS") is not None

    def _fail(self, message: str, before: str | None) -> None:
        """Fails for good where another try would find the same rows as bad."""
        too_bad = over_error_limit(self.body["launchParameter"]["parameters"]["output"], before)
        if too_bad:
            raise AirflowFailException(f"{message}: {too_bad}")
        raise AirflowException(message)


def log_links(context: Any) -> None:
    """Links what there is to look at, when a task has failed for good."""
    request = context["ti"].xcom_pull(task_ids="check_request")
    for name, where in (request or {}).get("links", {}).items():
        log.error("%s: %s", name, where)


@task
def check_request(params: Any = None, dag_run: Any = None) -> dict[str, Any]:
    """Checks what is asked for, and makes it the body of a request: `date`, `body`, `links`."""
    day = day_of(params["date"], dag_run.logical_date or dag_run.run_after)
    body = launch_body(params, day)
    parameters = body["launchParameter"]["parameters"]
    for path in (*parameters["input"].split(), parameters["model"]):
        if not has_any(path):
            # Not for good: what is late may come before the next try.
            raise AirflowException(f"{path}: there is nothing of that name (yet)")
    return {"date": day, "body": body, "links": links(parameters["output"])}


@task(multiple_outputs=True)
def check_result(request: dict[str, Any], params: Any = None) -> dict[str, Any]:
    """Checks what came of it, and publishes its figures, each as an XCom."""
    parameters = request["body"]["launchParameter"]["parameters"]
    found = figures(parameters["output"], parameters)
    if found["rows"] < params["min_rows"]:
        raise AirflowFailException(f"{found['rows']} rows were read, fewer than min_rows {params['min_rows']}")
    return found


@dag(
    dag_id=DAG_ID,
    schedule=CronTriggerTimetable(SCHEDULE, timezone="UTC"),
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    params=PARAMS,
    default_args={
        "retries": 3,
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": BACKOFF,
        "max_retry_delay": timedelta(hours=1),
        "execution_timeout": timedelta(minutes=10),
        "on_failure_callback": log_links,
    },
    tags=["keyjoin"],
    doc_md=__doc__,
)
def keyjoin() -> None:
    """Scores a day's rows."""
    request = check_request()
    score = ScoreOperator(
        task_id="score",
        body=request["body"],
        project_id=PROJECT,
        location=REGION,
        append_job_name=False,
        deferrable=DEFERRABLE,
        poll_sleep=60,
        execution_timeout=timedelta(hours=12),
    )
    score >> check_result(request)


keyjoin()
