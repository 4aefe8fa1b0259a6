"""The DAG of the Flex template, run by a real Airflow against stand-ins for Dataflow and Cloud Storage."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from google.cloud import dataflow

from pipeline.options import flex
from tests.cloud.dataflow_api import ApiError, Request, State
from tests.composer.conftest import DAY, OUTPUT, Cloud
from tests.composer.running_airflow import PROJECT, REGION, Airflow
from tests.conftest import ROOT
from tests.support.store import variables as store_variables

NAME = "keyjoin-2026-11-22-"
DEAD_LETTERS = f"https://console.cloud.google.com/storage/browser/bucket/output/{DAY}/_keyjoin/dead_letters"
TASKS = ("check_request", "score", "check_result")
SYNC, DEFERRABLE = "false", "true"

newest = pytest.mark.parametrize("airflow", ["airflow3"], indirect=True)
both_ways = pytest.mark.parametrize("deferrable", [SYNC, DEFERRABLE])


def states(airflow: Airflow) -> tuple[str, ...]:
    found = airflow.states("keyjoin")
    return tuple(found[task] for task in TASKS)


def names(cloud: Cloud) -> list[str]:
    return [body["launchParameter"]["jobName"] for body in cloud.api.launches]


@both_ways
def test_a_run(airflow: Airflow, cloud: Cloud, deferrable: str) -> None:
    environment = {"serviceAccountEmail": "worker@demo", "additionalUserLabels": {"team": "x"}}
    settings = {"KEYJOIN_DEFERRABLE": deferrable, "KEYJOIN_ENVIRONMENT": json.dumps(environment)}
    done = airflow.test("keyjoin", {"options": {"features": "a,b"}}, **settings)
    assert done.code == 0, done.log
    (body,) = cloud.api.launches
    launch = body["launchParameter"]
    assert launch["jobName"].startswith(NAME)
    assert launch["containerSpecGcsPath"] == "gs://bucket/keyjoin/template.json"
    assert launch["parameters"] == {
        "input": f"gs://bucket/input/{DAY}/*.jsonl",
        "model": "gs://bucket/model",
        "output": f"gs://bucket/output/{DAY}",
        "max_bad_rows": "0.01",
        "features": "a,b",
    }
    assert launch["environment"] == {
        "maxWorkers": 20,
        "tempLocation": "gs://bucket/keyjoin/temp",
        "stagingLocation": "gs://bucket/keyjoin/staging",
        "serviceAccountEmail": "worker@demo",
        "additionalUserLabels": {"keyjoin-dag": "keyjoin", "keyjoin-date": DAY, "team": "x"},
    }
    assert set(body) == {"launchParameter"}
    published = airflow.xcoms("keyjoin", "check_result")
    assert (published["rows"], published["joined"], published["dead"], published["parts"]) == (102, 102, {}, 2)
    assert published["dead_letters"] == DEAD_LETTERS
    (job,) = cloud.api.jobs
    link = str(airflow.xcoms("keyjoin", "score")["dataflow_job_config"])  # an address, or the parts of one
    assert all(part in link for part in (PROJECT, REGION, job))


def test_a_file_of_flags_reaches_the_program_of_the_template(airflow: Airflow, cloud: Cloud) -> None:
    """The job runs what the DAG sent, on this machine: the DAG's parameters beat those of the file."""
    cloud.store.put("job.yaml", b"output: gs://bucket/of-the-file\nprediction_prefix: p_\nreport_rows: 0\n")
    ended: list[subprocess.CompletedProcess[str]] = []

    def run(_: dataflow.Job) -> None:
        (body,) = cloud.api.launches
        sent = [f"--{name}={value}" for name, value in body["launchParameter"]["parameters"].items()]
        words = flex.command_line([*sent, "--runner=DirectRunner"])
        command = [sys.executable, "-m", "pipeline", *words]
        environment = {**os.environ, **store_variables(cloud.store)}
        ended.append(subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False))
        assert ended[0].returncode == 0, ended[0].stderr

    cloud.api.run = run
    done = airflow.test("keyjoin", {"options": {"config": "gs://bucket/job.yaml"}})
    assert done.code == 0, (done.log, [one.stderr for one in ended])
    published = airflow.xcoms("keyjoin", "check_result")
    assert (published["joined"], published["output"]) == (102, f"gs://bucket/output/{DAY}")
    written = cloud.store.objects()
    assert not any(name.startswith("of-the-file/") for name in written)
    rows = b"".join(
        written[name]
        for name in written
        if name.startswith(OUTPUT) and name.endswith(".jsonl") and "_keyjoin" not in name
    )
    assert rows.count(b"\n") == rows.count(b'"p_') == 102


@both_ways
def test_a_retry_follows_the_job_that_runs(airflow: Airflow, cloud: Cloud, deferrable: str) -> None:
    requests: list[Request] = []

    def refuse(request: Request) -> ApiError | None:
        """The first request about the job is refused; then the job finishes."""
        if request.method != "GET" or not request.path.partition("?")[0].endswith(tuple(cloud.api.jobs) or "-"):
            return None
        requests.append(request)
        if len(requests) == 1:
            return ApiError(403, "PERMISSION_DENIED", "no access, this time")
        cloud.finish()
        (job,) = cloud.api.jobs
        cloud.api.end(job)
        return None

    cloud.api.refuse, cloud.api.run = refuse, None
    done = airflow.test("keyjoin", {}, KEYJOIN_DEFERRABLE=deferrable)
    assert done.code == 0, done.log
    assert len(requests) > 1
    assert len(names(cloud)) == 1


@newest
@both_ways
@pytest.mark.parametrize("state", [State.JOB_STATE_FAILED, State.JOB_STATE_CANCELLED])
def test_a_failed_job_is_started_again_by_the_same_name(
    airflow: Airflow, cloud: Cloud, deferrable: str, state: State
) -> None:
    def run(job: dataflow.Job) -> None:
        if len(cloud.api.jobs) == 1:
            cloud.api.set_state(job.id, state)
        else:
            cloud.finish()

    cloud.api.run = run
    done = airflow.test("keyjoin", {}, KEYJOIN_DEFERRABLE=deferrable)
    assert done.code == 0, done.log
    first, second = names(cloud)
    assert first == second


@both_ways
def test_a_job_that_fails_again_fails_the_run(airflow: Airflow, cloud: Cloud, deferrable: str) -> None:
    def run(_: dataflow.Job) -> None:
        raise RuntimeError("no")

    cloud.api.run = run
    done = airflow.test("keyjoin", {}, KEYJOIN_DEFERRABLE=deferrable)
    assert done.code != 0
    assert len(names(cloud)) == 2
    assert states(airflow) == ("success", "failed", "upstream_failed")
    assert f"dead_letters: {DEAD_LETTERS}" in done.log


@newest
@both_ways
def test_too_many_bad_rows_are_not_scored_again(airflow: Airflow, cloud: Cloud, deferrable: str) -> None:
    document = json.loads(cloud.output["_keyjoin/manifest.json"])
    document["totals"].update(rows=110, dead={"missing": 8})
    document["status"] = "over the error limit"

    def run(_: dataflow.Job) -> None:
        cloud.finish(_SUCCESS=None, **{"_keyjoin/manifest.json": json.dumps(document).encode()})
        raise RuntimeError("over the error limit")

    cloud.api.run = run
    done = airflow.test("keyjoin", {}, KEYJOIN_DEFERRABLE=deferrable)
    assert done.code != 0
    assert len(names(cloud)) == 1
    assert f"8 of 110 rows are bad, {{'missing': 8}}, more than max_bad_rows allows: see {DEAD_LETTERS}" in done.log


@newest
@both_ways
def test_a_job_that_fails_is_tried_again_though_one_before_it_had_too_many_bad_rows(
    airflow: Airflow, cloud: Cloud, deferrable: str
) -> None:
    document = json.loads(cloud.output["_keyjoin/manifest.json"])
    document["status"] = "over the error limit"
    cloud.finish(_SUCCESS=None, **{"_keyjoin/manifest.json": json.dumps(document).encode()})

    def run(_: dataflow.Job) -> None:
        if len(cloud.api.jobs) == 1:
            raise RuntimeError("a worker was lost")
        cloud.finish()

    cloud.api.run = run
    done = airflow.test("keyjoin", {"max_bad_rows": "0.5"}, KEYJOIN_DEFERRABLE=deferrable)
    assert done.code == 0, done.log


@newest
@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"_SUCCESS": None}, "has no _SUCCESS"),
        ({"_SUCCESS": b'{"manifest_sha256": "0"}'}, "is not that of its _keyjoin/manifest.json"),
        ({"_keyjoin/sources.jsonl": b"{}"}, "_keyjoin/sources.jsonl has 2 bytes"),
    ],
)
def test_a_finished_job_whose_output_is_wrong(
    airflow: Airflow, cloud: Cloud, changed: dict[str, Any], why: str
) -> None:
    cloud.api.run = lambda _: cloud.finish(**changed)
    done = airflow.test("keyjoin", {})
    assert done.code != 0
    assert states(airflow) == ("success", "success", "failed")
    assert why in done.log
    assert f"dead_letters: {DEAD_LETTERS}" in done.log


@newest
def test_too_few_rows_fail_the_run(airflow: Airflow, cloud: Cloud) -> None:
    done = airflow.test("keyjoin", {"min_rows": 103})
    assert done.code != 0
    assert "102 rows were read, fewer than min_rows 103" in done.log
    assert airflow.test("keyjoin", {"min_rows": 102}).code == 0
    assert len(names(cloud)) == 1  # a complete output is not run a second time


@newest
def test_a_complete_output_is_run_again_on_demand(airflow: Airflow, cloud: Cloud) -> None:
    cloud.finish()
    assert airflow.test("keyjoin", {}).code == 0
    assert names(cloud) == []
    assert airflow.test("keyjoin", {"options": {"incremental": "true"}}).code == 0
    assert len(names(cloud)) == 1


@newest
@pytest.mark.parametrize("missing", ["input", "model"])
def test_what_is_not_there_yet_is_waited_for(airflow: Airflow, cloud: Cloud, missing: str) -> None:
    cloud.store.put(f"late/{DAY}/{missing}-old/file", b"of another name that begins so")
    done = airflow.test("keyjoin", {missing: f"gs://bucket/late/{{date}}/{missing}"})
    assert done.code != 0
    assert f"gs://bucket/late/{DAY}/{missing}: there is nothing of that name (yet)" in done.log
    assert done.log.count("there is nothing of that name") > 1
    assert cloud.api.requests == []


@newest
def test_a_day_of_ones_own(airflow: Airflow, cloud: Cloud) -> None:
    for name, content in cloud.store.objects(f"input/{DAY}/").items():
        cloud.store.put(f"input/2026-01-31/{name}", content)
    cloud.api.run = None
    cloud.api.refuse = lambda request: ApiError(403, "PERMISSION_DENIED", "no") if request.method == "POST" else None
    assert airflow.test("keyjoin", {"date": "2026-01-31"}).code != 0
    assert cloud.api.launches == []
    posted = [request.body for request in cloud.api.requests if request.method == "POST"]
    assert {body["launchParameter"]["parameters"]["output"] for body in posted} == {"gs://bucket/output/2026-01-31"}
    assert OUTPUT not in str(posted)
