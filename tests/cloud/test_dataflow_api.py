"""Google's own client understands the stand-in for Dataflow."""

from collections.abc import Iterator
from typing import Any

import pytest
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import BadRequest, Conflict, NotFound
from google.auth.credentials import AnonymousCredentials
from google.cloud import dataflow

from tests.cloud.dataflow_api import ApiError, DataflowApi, State

AT = {"project_id": "my-project", "location": "europe-west1"}


@pytest.fixture
def api() -> DataflowApi:
    return DataflowApi()


@pytest.fixture
def clients(api: DataflowApi) -> Iterator[Any]:
    """Makes a client of this class."""
    with api.serving() as url:
        options = ClientOptions(api_endpoint=url)
        yield lambda kind: kind(credentials=AnonymousCredentials(), client_options=options, transport="rest")


def create(clients: Any, name: str = "a", **fields: Any) -> Any:
    job = dataflow.Job(name=name, **fields)
    return clients(dataflow.JobsV1Beta3Client).create_job(request={**AT, "job": job})


def get(clients: Any, job_id: str) -> Any:
    return clients(dataflow.JobsV1Beta3Client).get_job(request={**AT, "job_id": job_id})


def test_a_job_runs_until_it_is_ended(api: DataflowApi, clients: Any) -> None:
    made = create(clients, labels={"team": "x"})
    assert (made.current_state, made.labels) == (State.JOB_STATE_RUNNING, {"team": "x"})
    assert create(clients, client_request_id="2").id == made.id  # the name is taken while the job runs
    api.end(made.id)
    api.fail(made.id, "too late")
    assert get(clients, made.id).current_state == State.JOB_STATE_DONE
    assert create(clients).id != made.id


@pytest.mark.parametrize("error", [None, ValueError("the step is broken")])
def test_a_job_ends_as_what_it_runs(api: DataflowApi, clients: Any, error: Exception | None) -> None:
    def run(_: dataflow.Job) -> None:
        if error:
            raise error

    api.run, api.hold_seconds = run, 60
    made = get(clients, create(clients).id)
    assert made.current_state == (State.JOB_STATE_FAILED if error else State.JOB_STATE_DONE)
    listed = clients(dataflow.MessagesV1Beta3Client).list_job_messages(request={**AT, "job_id": made.id})
    assert [m.message_text for m in listed] == ([str(error)] if error else [])


def test_lists_name_running_and_ended_jobs(api: DataflowApi, clients: Any) -> None:
    ended, running = create(clients, "a"), create(clients, "b")
    api.end(ended.id)
    listed = clients(dataflow.JobsV1Beta3Client).list_jobs
    found = {name: [job.id for job in listed(request={**AT, "filter": name})] for name in ("ACTIVE", "TERMINATED")}
    assert found == {"ACTIVE": [running.id], "TERMINATED": [ended.id]}
    update = {**AT, "job_id": running.id, "job": dataflow.Job(requested_state=State.JOB_STATE_CANCELLED)}
    assert clients(dataflow.JobsV1Beta3Client).update_job(request=update).current_state == State.JOB_STATE_CANCELLED


def test_counters(api: DataflowApi, clients: Any) -> None:
    made = create(clients)
    api.set_counters(made.id, rows_read=3, rows_joined=2)
    answer = clients(dataflow.MetricsV1Beta3Client).get_job_metrics(request={**AT, "job_id": made.id})
    counters = [m for m in answer.metrics if "tentative" not in m.name.context]
    assert {(m.name.context["namespace"], m.name.name): int(m.scalar) for m in counters} == {
        ("ledger", "rows_read"): 3,
        ("ledger", "rows_joined"): 2,
    }


def test_a_template_is_launched_once(api: DataflowApi, clients: Any) -> None:
    launch = clients(dataflow.FlexTemplatesServiceClient).launch_flex_template
    given = {"job_name": "nightly", "container_spec_gcs_path": "gs://bucket/template.json", "parameters": {"a": "1"}}
    made = launch(request={**AT, "launch_parameter": given}).job
    assert api.launches[0]["launchParameter"]["parameters"] == {"a": "1"}
    with pytest.raises(Conflict, match="already an active job named nightly"):
        launch(request={**AT, "launch_parameter": given})
    api.end(made.id)
    assert launch(request={**AT, "launch_parameter": given}).job.id != made.id


def test_errors(api: DataflowApi, clients: Any) -> None:
    with pytest.raises(NotFound, match="job none could not be found"):
        get(clients, "none")
    api.refuse = lambda request: (
        ApiError(400, "INVALID_ARGUMENT", "no such region") if request.method == "POST" else None
    )
    with pytest.raises(BadRequest, match="no such region"):
        create(clients)
    assert not api.jobs
