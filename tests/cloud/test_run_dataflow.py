"""`keyjoin run` on Dataflow: the real client and runner against stand-ins, each job's graph run in this process."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.cloud import dataflow as client

from pipeline import VERSION
from pipeline.job import dataflow
from pipeline.options import flex
from tests.cloud.dataflow_api import SEVERITIES, Request
from tests.cloud.in_process import runs, staged
from tests.cloud.stand_ins import PROJECT, REGION, Cloud, running_cloud
from tests.conftest import ROOT, Result
from tests.support import models
from tests.support.store import BUCKET
from transforms.errors import RunError

ROWS = [json.dumps({"x": [n, 0.5, -n], "n": n}) for n in range(20)]
OUT = f"gs://{BUCKET}/out"
HINT = "--accelerator=type:nvidia-l4;count:1"


@pytest.fixture(scope="module")
def stand_ins() -> Iterator[Cloud]:
    with pytest.MonkeyPatch.context() as patch, running_cloud(patch) as cloud:
        yield cloud


@pytest.fixture
def cloud(stand_ins: Cloud, model: Any, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """The stand-ins, with rows and a model in storage. A job runs its graph in this process."""
    monkeypatch.setattr(dataflow, "POLL_SECONDS", 0.02)
    stand_ins.store.clear()
    stand_ins.api.jobs.clear()
    stand_ins.api.requests.clear()
    stand_ins.api.refuse = lambda _: None
    stand_ins.api.run = runs(stand_ins)
    stand_ins.store.put("in/a.jsonl", ("\n".join(ROWS) + "\n").encode())
    keyed = Path(model(models.keyed))
    for path in keyed.rglob("*"):
        if path.is_file():
            stand_ins.store.put(f"model/{path.relative_to(keyed)}", path.read_bytes())
    return stand_ins


@pytest.fixture
def run(cloud: Cloud, keyjoin: Callable[..., Result]) -> Callable[..., Result]:
    """Runs keyjoin on Dataflow, with additional flags."""
    given = (f"--input=gs://{BUCKET}/in/", f"--model=gs://{BUCKET}/model", f"--output={OUT}", "--chunk_bytes=300")
    return lambda *flags, command="run": keyjoin(command, *given, *cloud.flags, *flags)


def options_of(job: client.Job) -> dict[str, Any]:
    """The pipeline options with which workers start."""
    return dict(dict(job.environment.sdk_pipeline_options)["options"])


def only(cloud: Cloud) -> client.Job:
    """The only job that was started."""
    (job,) = cloud.api.jobs.values()
    return job


def when_asked_for_the_job(cloud: Cloud, act: Callable[[client.Job], None]) -> None:
    """Calls `act` once a client follows the running job."""

    def see(request: Request) -> None:
        for job in cloud.api.jobs.values():
            if request.method == "GET" and request.path.partition("?")[0].endswith(f"/jobs/{job.id}"):
                cloud.api.refuse = lambda _: None
                act(job)

    cloud.api.refuse = see


class TestToTheEnd:
    def test_the_template_takes_its_flags_from_a_file_in_storage(
        self, cloud: Cloud, run: Callable[..., Result], keyjoin: Callable[..., Result]
    ) -> None:
        bucket = f"gs://{BUCKET}"
        job = {"model": f"{bucket}/model", "input": [f"{bucket}/in/"], "chunk_bytes": "1000", "prediction_prefix": "p_"}
        cloud.store.put("job.json", json.dumps(job).encode())
        form = [
            f"--config={bucket}/job.json",
            f"--output={bucket}/from-file",
            "--model=",
            "--input=",
            "--chunk_bytes=300",
        ]
        command, *words = flex.command_line(form)
        assert keyjoin(command, *words, *cloud.flags[1:]).code == 0
        assert run("--prediction_prefix=p_").code == 0
        found, expected = (cloud.store.objects(folder) for folder in ("from-file/", "out/"))
        parts = [name for name in expected if name.endswith(".jsonl") and not name.startswith("_")]
        assert len(parts) > 1
        assert {name: found[name] for name in parts} == {name: expected[name] for name in parts}

    def test_a_job_gives_the_bytes_of_a_run_on_this_machine(
        self, cloud: Cloud, run: Callable[..., Result], keyjoin: Callable[..., Result], lines: Any, model: Any
    ) -> None:
        local = keyjoin("run", f"--input={lines(*map(str.encode, ROWS), name='a.jsonl')}", "--chunk_bytes=300",
                        f"--model={model(models.keyed)}")  # fmt: skip
        done = run("--progress=json")
        assert done.code == 0, done.err
        left = cloud.store.objects("out/")
        assert {p.name: p.read_bytes() for p in local.parts()} == {n: left[n] for n in left if n[0] != "_"}
        assert sorted(n for n in left if n[0] == "_") == [
            "_SUCCESS", "_keyjoin/manifest.json", "_keyjoin/parts.jsonl", "_keyjoin/report.html", "_keyjoin/sources.jsonl",
            "_keyjoin/statistics.json",
        ]  # fmt: skip
        totals = [json.loads(left["_keyjoin/manifest.json"])["totals"], local.manifest()["totals"]]
        for each in totals:
            del each["shuffled_bytes"]  # receipts contain the paths of sources
        assert totals[0] == totals[1]
        job = only(cloud)
        assert f"https://console.cloud.google.com/dataflow/jobs/{REGION}/{job.id}?project={PROJECT}" in done.out
        assert "state        done" in done.out
        # The display takes the figures of the job's counters. A last event has them, whatever the time.
        *_, progress, last = map(json.loads, done.err.splitlines())
        assert (progress["rows_written"], progress["written"], progress["phase"]) == (20, 1.0, "scoring")
        assert (last["event"], last["exit_code"], last["rows"], last["joined"]) == ("complete", 0, 20, 20)
        assert "rows read         20" in done.out
        again = run()
        assert (again.code, "nothing to do" in again.out, len(cloud.api.jobs)) == (0, True, 1)

    def test_what_is_submitted(self, cloud: Cloud, run: Callable[..., Result]) -> None:
        cloud.api.run = None
        assert run("--detach", "--labels=team=x", "--num_workers=3").code == 0
        job = only(cloud)
        assert job.name == dataflow.job_name(OUT)
        assert job.labels["team"] == "x"
        assert job.labels["keyjoin-version"] == VERSION.replace(".", "-")
        assert len(job.labels["keyjoin-run"]) == 12
        (pool,) = job.environment.worker_pools
        assert (pool.machine_type, pool.num_workers) == ("n2-standard-4", 3)
        settings = pool.autoscaling_settings
        assert (settings.max_num_workers, settings.algorithm.name) == (3, "AUTOSCALING_ALGORITHM_BASIC")
        image = f"{REGION}-docker.pkg.dev/{PROJECT}/keyjoin/worker:{VERSION}"
        assert [i.container_image for i in pool.sdk_harness_container_images] == [image]
        assert options_of(job)["number_of_worker_harness_threads"] == 1
        assert "disable_logging_submission_environment" in options_of(job)["experiments"]
        (graph,) = cloud.store.objects("staging/")  # no code is staged, and no list of the packages on this machine
        assert graph.endswith("/pipeline.pb")

    def test_what_is_given_counts(self, cloud: Cloud, run: Callable[..., Result]) -> None:
        flags = ("--job_name=mine", "--machine_type=e2-standard-2", "--autoscaling_algorithm=NONE")
        more = ("--sdk_container_image=image:1", "--max_num_workers=7", "--number_of_worker_harness_threads=2")
        cloud.api.run = None
        assert run("--detach", *flags, *more).code == 0
        job = only(cloud)
        (pool,) = job.environment.worker_pools
        assert (job.name, pool.machine_type) == ("mine", "e2-standard-2")
        assert pool.autoscaling_settings.algorithm.name == "AUTOSCALING_ALGORITHM_NONE"
        assert pool.autoscaling_settings.max_num_workers == 7
        assert [i.container_image for i in pool.sdk_harness_container_images] == ["image:1"]
        assert options_of(job)["number_of_worker_harness_threads"] == 2

    def test_a_model_of_this_machine_is_brought_to_where_workers_find_it(
        self, cloud: Cloud, run: Callable[..., Result], model: Any
    ) -> None:
        seen: list[str] = []

        def look(job: client.Job) -> None:
            seen.extend(cloud.store.objects("out/_keyjoin/temp/model/"))
            runs(cloud)(job)

        cloud.api.run = look
        done = run(f"--model={model(models.keyed)}")
        assert done.code == 0, done.err
        sha256 = json.loads(cloud.store.objects("out/")["_keyjoin/manifest.json"])["model"]["sha256"]
        assert f"{sha256}/saved_model.pb" in seen
        assert not cloud.store.objects("out/_keyjoin/temp/")

    def test_a_template_is_written_and_nothing_started(self, cloud: Cloud, run: Callable[..., Result]) -> None:
        done = run(f"--template_location=gs://{BUCKET}/template/job")
        assert (done.code, cloud.api.jobs) == (0, {}), done.err
        template = json.loads(cloud.store.objects("template/")["job"])
        started = cloud.api.create(client.Job.from_json(json.dumps(template)))
        assert cloud.api.wait(started.id).current_state == client.JobState.JOB_STATE_DONE
        assert "_SUCCESS" in cloud.store.objects("out/")


class TestOneJob:
    """A second command for the same output finds the job of the first."""

    @pytest.fixture(autouse=True)
    def _detached(self, cloud: Cloud, run: Callable[..., Result]) -> None:
        """A job that was started with --detach, and still runs."""
        cloud.api.run = None
        done = run("--detach")
        assert (done.code, "_SUCCESS" in cloud.store.objects("out/")) == (0, False), done.err
        assert "state" not in done.out

    def test_it_follows_the_job_that_runs(self, cloud: Cloud, run: Callable[..., Result]) -> None:
        def finish(job: client.Job) -> None:
            runs(cloud)(job)
            cloud.api.end(job.id)

        when_asked_for_the_job(cloud, finish)
        again = run()
        assert (again.code, len(cloud.api.jobs)) == (0, 1), again.err
        assert only(cloud).id in again.out
        assert "_SUCCESS" in cloud.store.objects("out/")

    @pytest.mark.parametrize("flag", ["--batch_size=96", "--overwrite"])
    def test_another_run_is_refused(self, cloud: Cloud, run: Callable[..., Result], flag: str) -> None:
        before = cloud.store.objects("out/")
        refused = run(flag)
        assert (refused.code, len(cloud.api.jobs)) == (2, 1), refused.err
        assert ("--batch_size" if "=" in flag else only(cloud).id) in refused.err
        assert cloud.store.objects("out/") == before

    def test_one_that_was_started_meanwhile_is_reported(
        self, cloud: Cloud, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dataflow.Service, "find", lambda *_: None)
        done = run()
        assert (done.code, len(cloud.api.jobs)) == (1, 1)
        assert f"a job {only(cloud).name} was started meanwhile" in done.err
        assert len(done.err.splitlines()) == 1
        assert "_keyjoin/error.txt" not in cloud.store.objects("out/")

    def test_stopping_the_command_leaves_the_job(
        self, cloud: Cloud, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(dataflow.Service, "follow", stop)
        stopped = run()
        assert stopped.code == 130
        assert "continues" in stopped.out
        assert only(cloud).current_state == client.JobState.JOB_STATE_RUNNING


class TestNotWell:
    def test_a_job_that_fails_tells_why(self, cloud: Cloud, run: Callable[..., Result]) -> None:
        def fail(job: client.Job) -> None:
            cloud.api.add_message(job.id, "a worker is slow\nvery", SEVERITIES.JOB_MESSAGE_WARNING)
            cloud.api.add_message(job.id, f"Traceback (most recent call last):\n  x\n{RunError.__module__}.RunError: no disk",
                          SEVERITIES.JOB_MESSAGE_ERROR)  # fmt: skip
            raise ValueError("a work item was attempted 4 times")

        cloud.api.run = fail
        failed = run()
        assert failed.code == 1
        warned, error = failed.err.splitlines()
        assert warned == "keyjoin: warning: a worker is slow"
        assert error.startswith(
            "keyjoin: error: no disk; no _SUCCESS was written; no part was finished yet; resume with: keyjoin run "
        )

    def test_a_job_that_is_cancelled(self, cloud: Cloud, run: Callable[..., Result]) -> None:
        cloud.api.run = lambda job: cloud.api.set_state(job.id, client.JobState.JOB_STATE_CANCELLED)
        done = run()
        assert done.code == 1
        assert "the job was cancelled; give the same command again" in done.err

    def test_the_same_command_commits_what_an_earlier_job_left(self, cloud: Cloud, run: Callable[..., Result]) -> None:
        cloud.api.run = lambda _: None
        done = run()
        assert done.code == 1
        assert "has no _SUCCESS" in done.err
        cloud.api.run = runs(cloud)
        again = run()
        assert (again.code, "resumes" in again.out, len(cloud.api.jobs)) == (0, True, 2), again.err

    def test_too_many_bad_rows_fail_the_job(self, cloud: Cloud, run: Callable[..., Result]) -> None:
        cloud.store.put("in/b.jsonl", b'{"x": "bad"}\n{"x": [1, 2, 3]}\n')
        done = run()
        assert done.code == 1, done.out
        assert "1 of 22 rows is bad, more than --max_bad_rows=0.01 allows" in done.err
        assert f"gs://{BUCKET}/in/b.jsonl#0" in done.err
        assert only(cloud).current_state == client.JobState.JOB_STATE_FAILED
        left = cloud.store.objects("out/")
        assert json.loads(left["_keyjoin/manifest.json"])["status"] == "over the error limit"
        assert "_SUCCESS" not in left
        again = run("--max_bad_rows=0.1")
        assert (again.code, "_SUCCESS" in cloud.store.objects("out/")) == (0, True), again.err

    def test_a_service_that_refuses(self, cloud: Cloud, run: Callable[..., Result]) -> None:
        from tests.cloud.dataflow_api import ApiError

        cloud.api.refuse = lambda _: ApiError(403, "PERMISSION_DENIED", "you may not")
        done = run()
        assert done.code == 1
        assert "the Dataflow API call failed: 403" in done.err
        assert len(done.err.splitlines()) == 1
        assert not cloud.store.objects("out/")

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (("--project=",), "--project must be given"),
            (("--region=", "--temp_location="), "--region and --temp_location must be given"),
            (("--output=/tmp/o",), "--output /tmp/o is on this machine"),
            (("--input=data/",), "--input data/ is on this machine"),
            (("--staging_location=/tmp/o",), "--staging_location /tmp/o is on this machine"),
            (("--accelerator=nvidia-l4",), "not of the form type:nvidia-l4;count:1"),
            ((HINT, "--machine_type=n2-standard-4"), "--machine_type=n2-standard-4 cannot have 1 of nvidia-l4"),
            ((HINT, "--worker_machine_type=n1-standard-4"), "--machine_type=n1-standard-4 cannot have 1 of nvidia-l4"),
            ((f"{HINT};machine_type:n2-standard-4",), "its machine_type=n2-standard-4 cannot have 1 of nvidia-l4"),
        ],
    )
    def test_wrong_usage(
        self, cloud: Cloud, run: Callable[..., Result], flags: tuple[str, ...], said: str, monkeypatch: Any
    ) -> None:
        monkeypatch.delenv("CLOUDSDK_COMPUTE_REGION", raising=False)
        done = run(*flags)
        assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
        assert said in done.err
        assert not cloud.api.requests


class TestAccelerator:
    def test_only_the_workers_that_predict_have_one(self, cloud: Cloud, run: Callable[..., Result]) -> None:
        cloud.api.run = None
        done = run("--detach", HINT)
        assert done.code == 0, done.err
        graph = staged(cloud, only(cloud)).components
        hinted = {
            name: dict(environment.resource_hints)
            for name, environment in graph.environments.items()
            if environment.resource_hints
        }
        assert [list(hints.values()) for hints in hinted.values()] == [
            [b"type:nvidia-l4;count:1;machine_type:g2-standard-4"]
        ]
        leaves = [t for t in graph.transforms.values() if not t.subtransforms and t.environment_id]
        on_it = {t.unique_name.split("/")[0] for t in leaves if t.environment_id in hinted}
        beside = {t.unique_name.split("/")[0] for t in leaves if t.environment_id not in hinted}
        assert on_it == {"Predict"}
        assert {"ReadChunk", "JoinPredictions", "WritePart"} <= beside
        assert "Predict" not in beside

    @pytest.mark.parametrize(
        ("flags", "rows"),
        [((), "12,288"), ((HINT,), "98,304"), ((HINT, "--batch_size=96"), "96")],
    )
    def test_its_batches_are_larger(
        self, cloud: Cloud, run: Callable[..., Result], flags: tuple[str, ...], rows: str
    ) -> None:
        done = run(*flags, command="check")
        assert f"batch        {rows} rows a call" in done.out, done.err
        assert not cloud.api.requests

    def test_it_is_for_remote_workers(self, keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
        flags = (f"--input={lines({'x': [1, 2, 3]})}", f"--model={model(models.keyed)}")
        refused = keyjoin("run", *flags, HINT)
        assert (refused.code, "is for remote workers" in refused.err) == (2, True)
        refused = keyjoin("run", *flags, "--detach")
        assert (refused.code, "--detach is for Dataflow" in refused.err) == (2, True)


class TestScript:
    @pytest.fixture
    def script(self, tmp_path: Path) -> Callable[..., Any]:
        """The script in a checkout where the setup does nothing, and keyjoin prints its arguments."""
        (tmp_path / "run_dataflow.sh").write_bytes((ROOT / "run_dataflow.sh").read_bytes())
        for name, text in (("scripts/setup_env.sh", ":"), (".venv/bin/keyjoin", 'printf "%s\\n" "$@"; exit 7')):
            path = tmp_path / name
            path.parent.mkdir(parents=True)
            path.write_text(f"#!/usr/bin/env bash\n{text}\n")
            path.chmod(0o755)
        found = {name: value for name, value in os.environ.items() if name not in ("PROJECT", "REGION", "BUCKET")}

        def call(*args: str, **env: str) -> Any:
            command = ["bash", str(tmp_path / "run_dataflow.sh"), *args]
            return subprocess.run(command, env={**found, **env}, capture_output=True, text=True, check=False)

        return call

    @pytest.mark.parametrize("given", [{}, {"REGION": "r"}, {"PROJECT": "p", "REGION": "r", "BUCKET": ""}])
    def test_each_variable_that_is_missing_is_named(self, script: Callable[..., Any], given: dict[str, str]) -> None:
        done = script("--input=x", **given)
        missing = " ".join(name for name in ("PROJECT", "REGION", "BUCKET") if not given.get(name))
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"keyjoin: error: not set in the environment: {missing};")

    @pytest.mark.parametrize("bucket", ["b", "gs://b/"])
    def test_it_passes_on_where_to_and_what_is_given(self, script: Callable[..., Any], bucket: str) -> None:
        where = ["--runner=DataflowRunner", "--project=p", "--region=r"]
        where += ["--staging_location=gs://b/keyjoin/staging", "--temp_location=gs://b/keyjoin/temp"]
        done = script("--input", "a b", PROJECT="p", REGION="r", BUCKET=bucket)
        assert (done.returncode, done.stdout.splitlines()) == (7, ["run", *where, "--input", "a b"])
        done = script("check", "--input=x", PROJECT="p", REGION="r", BUCKET=bucket)
        assert done.stdout.splitlines() == ["check", *where, "--input=x"]
