"""The DAGs in a real Airflow of each version: they import, they refuse wrong values, and the minimal one runs."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.job import dataflow
from tests.composer.conftest import DAY, Cloud
from tests.composer.running_airflow import Airflow
from tests.conftest import BOSTON, ROOT, Result

PARAMS = {
    "date": None,
    "input": "gs://bucket/input/{date}/*.jsonl",
    "model": "gs://bucket/model",
    "output": "gs://bucket/output/{date}",
    "max_bad_rows": "0.01",
    "min_rows": 1,
    "max_workers": 20,
    "options": {},
}
OUT = f"gs://bucket/output/{DAY}"
PARAMETERS = {"input": f"gs://bucket/input/{DAY}/*.jsonl", "model": "gs://bucket/model"}


def test_both_are_imported_without_a_warning(airflow: Airflow) -> None:
    reply = airflow.ask(load=True)
    assert (reply["errors"], reply["warnings"]) == ({}, [])
    assert reply["dags"] == {"keyjoin": 1, "keyjoin_local": 1}


def test_the_scheduler_takes_them(airflow: Airflow) -> None:
    """The scheduler stores both DAGs. The Dataflow DAG is due every night, and past nights are not caught up."""
    done = airflow.run("dags", "reserialize")
    assert done.code == 0, done.log
    assert airflow.scheduled("keyjoin") == ("At 03:00", 1)
    assert airflow.ask(load=True)["catchup"] == {"keyjoin": False, "keyjoin_local": False}


def test_nothing_of_keyjoin_is_imported(airflow: Airflow) -> None:
    assert airflow.ask(load=True)["imported"] == []


def test_the_minimal_dag_joins_the_boston_rows(
    airflow: Airflow, keyjoin: Callable[..., Result], tmp_path: Path
) -> None:
    parameters = {"input": f"{BOSTON}/data/*.jsonl", "model": f"{BOSTON}/model", "output": str(tmp_path / "out")}
    done = airflow.test("keyjoin_local", parameters)
    assert done.code == 0, done.log
    expected = keyjoin("run", f"--input={BOSTON}/data/*.jsonl", f"--model={BOSTON}/model")
    found = Result(0, "", "", tmp_path / "out")
    assert found.complete()
    assert len(found.lines()) == 102
    assert found.lines() == expected.lines()


@pytest.mark.parametrize("airflow", ["airflow2"], indirect=True)
def test_the_minimal_dag_fails_where_keyjoin_does(airflow: Airflow, tmp_path: Path) -> None:
    parameters = {"input": str(tmp_path / "none"), "model": f"{BOSTON}/model", "output": str(tmp_path / "out")}
    done = airflow.test("keyjoin_local", parameters)
    assert done.code != 0
    assert f"keyjoin: error: no file matches {tmp_path}/none" in done.log


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("date", "22.11.2026"),
        ("date", 20261122),
        ("input", ["gs://bucket/input"]),
        ("input", "/data/input"),
        ("input", "gs://bucket/input  gs://bucket/more"),
        ("input", ""),
        ("model", "s3://bucket/model"),
        ("model", "gs://bucket"),
        ("output", "gs://bucket/output"),
        ("output", "gs://bucket/out put/{date}"),
        ("max_bad_rows", 0.01),
        ("max_bad_rows", "1%"),
        ("max_bad_rows", "0.01,"),
        ("min_rows", -1),
        ("min_rows", 1.5),
        ("max_workers", 0),
        ("max_workers", 1001),
        ("options", {"features": 1}),
        ("options", {"output": "gs://bucket/else"}),
        ("options", {"--features": "a"}),
    ],
)
def test_a_wrong_parameter_is_refused(airflow: Airflow, name: str, value: Any) -> None:
    with pytest.raises(RuntimeError, match="ParamValidationError"):
        airflow.call("resolve", name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *PARAMS.items(),
        ("date", "2026-01-31"),
        ("input", "gs://bucket/a/{date} gs://bucket/b/{date}/*.jsonl"),
        ("model", "gs://my.models/boston/model.keras"),
        ("output", "gs://bucket/{date}/out"),
        ("max_bad_rows", "10"),
        ("max_bad_rows", "0.05,model_error=0,null=20"),
        ("options", {"features": "a,b", "overwrite": "true"}),
    ],
)
def test_a_right_parameter_is_taken(airflow: Airflow, name: str, value: Any) -> None:
    assert airflow.call("resolve", name, value) == value


def test_a_run_with_a_wrong_parameter_starts_nothing(airflow: Airflow, cloud: Cloud) -> None:
    done = airflow.test("keyjoin", {"output": "gs://bucket/output"})
    assert done.code != 0
    assert "output" in done.log
    assert cloud.api.requests == []


@pytest.mark.parametrize("missing", ["KEYJOIN_PROJECT", "KEYJOIN_REGION", "KEYJOIN_BUCKET"])
def test_a_setting_that_is_missing_is_named(airflow: Airflow, missing: str) -> None:
    errors = airflow.ask({missing: ""}, load=True)["errors"]
    assert list(errors) == ["keyjoin_dag.py"]
    assert f"ValueError: {missing} is not set: add it to the variables of the environment" in errors["keyjoin_dag.py"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("DEFERRABLE", "yes"), ("DEFERRABLE", "1"), ("ENVIRONMENT", "[]"), ("ENVIRONMENT", "{")],
)
def test_a_setting_that_is_wrong_is_named(airflow: Airflow, name: str, text: str) -> None:
    errors = airflow.ask({f"KEYJOIN_{name}": text}, load=True)["errors"]
    assert f"ValueError: KEYJOIN_{name} is '{text}': give JSON like" in errors["keyjoin_dag.py"]


@pytest.mark.parametrize(
    ("given", "due", "day"),
    [
        (None, "2026-11-23T03:00:00+00:00", "2026-11-22"),
        (None, "2026-03-01T00:00:00+00:00", "2026-02-28"),
        (None, "2026-11-23T01:00:00+02:00", "2026-11-21"),
        ("2026-01-31", "2026-11-23T03:00:00+00:00", "2026-01-31"),
    ],
)
def test_a_run_scores_the_day_before(airflow: Airflow, given: str | None, due: str, day: str) -> None:
    assert airflow.call("day_of", given, due) == day


def test_a_run_without_a_date_of_its_own_is_due_when_it_may_run(airflow: Airflow, cloud: Cloud) -> None:
    assert cloud.store.objects(f"input/{DAY}/")
    found = airflow.call("request", PARAMS, "2026-11-23T03:00:00+00:00")
    assert found["date"] == DAY
    assert found["body"]["launchParameter"]["parameters"]["output"] == OUT


def test_a_day_that_is_yet_to_come_is_refused(airflow: Airflow) -> None:
    with pytest.raises(RuntimeError, match="AirflowFailException: date 2999-01-01 is yet to come"):
        airflow.call("day_of", "2999-01-01", "2026-11-23T03:00:00+00:00")


@pytest.mark.parametrize("path", [OUT, f"{OUT}/", "gs://bucket/Über_all", f"gs://bucket/{'long' * 20}"])
def test_the_job_has_the_name_that_keyjoin_gives_it(airflow: Airflow, path: str) -> None:
    assert airflow.call("job_name", path) == dataflow.job_name(path)


def test_the_template_takes_what_it_is_given(airflow: Airflow) -> None:
    form = json.loads((ROOT / "dataflow" / "metadata.json").read_text())["parameters"]
    given = {**PARAMS, "input": "gs://b/1 gs://b/2", "options": {"features": "a,b", "overwrite": "true"}}
    parameters = airflow.call("launch_body", given, DAY)["launchParameter"]["parameters"]
    assert set(parameters) <= {field["name"] for field in form}
    assert {field["name"] for field in form if not field["isOptional"]} <= set(parameters)
    patterns = {field["name"]: field.get("regexes", []) for field in form}
    assert all(re.search(pattern, value) for name, value in parameters.items() for pattern in patterns[name])


def test_a_slash_at_the_end_of_the_output_is_none_of_its_name(airflow: Airflow) -> None:
    parameters = airflow.call("launch_body", {**PARAMS, "output": "gs://bucket/output/{date}/"}, DAY)["launchParameter"]
    assert parameters["parameters"]["output"] == OUT


@pytest.mark.parametrize("name", ["input", "model", "output"])
def test_a_brace_that_nothing_fills_in_is_refused(airflow: Airflow, name: str) -> None:
    with pytest.raises(RuntimeError, match=f"AirflowFailException: {name} gs://b/x/{{day}}/{DAY} has a brace"):
        airflow.call("launch_body", {**PARAMS, name: "gs://b/x/{day}/{date}"}, DAY)


def test_the_wait_has_a_limit_and_ends_with_the_job_however_it_ends(airflow: Airflow) -> None:
    reply = airflow.call("deferral")
    assert reply["trigger"].endswith(".DataflowJobStatusTrigger")  # this trigger also detects cancelled jobs
    assert (reply["limit"], reply["expected"]) == (12 * 3600, ["JOB_STATE_DONE"])


def test_each_try_waits_longer_than_the_one_before(airflow: Airflow) -> None:
    first, second, third = airflow.call("waits")
    assert 300 <= first <= 600 <= second <= 1200 <= third <= 2400


class TestFigures:
    """The figures that the DAG reads from an output. This code is the same for all versions, so one is tested."""

    pytestmark = pytest.mark.parametrize("airflow", ["airflow3"], indirect=True)

    def test_of_a_complete_run(self, airflow: Airflow, cloud: Cloud) -> None:
        cloud.finish()
        found = airflow.call("figures", OUT, PARAMETERS)
        document = json.loads(cloud.output["_keyjoin/manifest.json"])
        assert (found["rows"], found["joined"], found["dead"], found["parts"]) == (102, 102, {}, 2)
        assert found.items() >= {name: document["totals"][name] for name in ("read_bytes", "written_bytes")}.items()
        assert found["seconds"] == document["seconds"]
        assert found["model_sha256"] == document["model"]["sha256"]
        assert found["manifest_sha256"] == hashlib.sha256(cloud.output["_keyjoin/manifest.json"]).hexdigest()
        console = (
            f"https://console.cloud.google.com/storage/browser/_details/bucket/output/{DAY}/_keyjoin/manifest.json"
        )
        assert (found["report"], found["output"]) == (console, OUT)

    @pytest.mark.parametrize("missing", ["_SUCCESS", "_keyjoin/manifest.json"])
    def test_missing(self, airflow: Airflow, cloud: Cloud, missing: str) -> None:
        cloud.finish(**{missing: None})
        self.refused(airflow, f"has no {missing}")

    @pytest.mark.parametrize("name", ["_keyjoin/parts.jsonl", "_keyjoin/sources.jsonl", "_keyjoin/statistics.json"])
    def test_a_list_that_is_another(self, airflow: Airflow, cloud: Cloud, name: str) -> None:
        cloud.finish(**{name: b"{}"})
        self.refused(airflow, f"{name} has 2 bytes, {len(cloud.output[name])} were written")

    def test_a_missing_list(self, airflow: Airflow, cloud: Cloud) -> None:
        cloud.finish(**{"_keyjoin/parts.jsonl": None})
        self.refused(airflow, "_keyjoin/parts.jsonl is not there")

    def test_a_manifest_of_another_run(self, airflow: Airflow, cloud: Cloud) -> None:
        cloud.finish(**{"_keyjoin/manifest.json": cloud.output["_keyjoin/manifest.json"] + b" "})
        self.refused(airflow, "_SUCCESS in .* is not that of its _keyjoin/manifest.json")

    def test_a_ledger_that_does_not_add_up(self, airflow: Airflow, cloud: Cloud) -> None:
        document = json.loads(cloud.output["_keyjoin/manifest.json"])
        document["totals"]["joined"] -= 1
        text = json.dumps(document).encode()
        success = json.dumps({"manifest_sha256": hashlib.sha256(text).hexdigest()}).encode()
        cloud.finish(_SUCCESS=success, **{"_keyjoin/manifest.json": text})
        self.refused(airflow, "102 rows read, 101 joined and 0 bad")

    @pytest.mark.parametrize("name", ["input", "model"])
    def test_a_run_of_something_else(self, airflow: Airflow, cloud: Cloud, name: str) -> None:
        cloud.finish()
        with pytest.raises(RuntimeError, match=f"holds a run with {name} .*, not other: give overwrite"):
            airflow.call("figures", OUT, {**PARAMETERS, name: "other"})

    def refused(self, airflow: Airflow, why: str) -> None:
        with pytest.raises(RuntimeError, match=f"AirflowFailException: .*{why}"):
            airflow.call("figures", OUT, PARAMETERS)
