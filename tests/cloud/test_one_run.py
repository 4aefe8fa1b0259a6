"""One run at a time writes to a folder and reads only planned files, whatever else is started, launched or cloned."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.cloud import dataflow as client

from pipeline.job import claim_run, commit_run
from pipeline.run_folder import records
from pipeline.run_folder.place import in_place
from tests.cloud.in_process import runs
from tests.cloud.stand_ins import REGION, Cloud, running_cloud
from tests.cloud.test_run_dataflow import OUT, ROWS, cloud, only, run
from tests.conftest import Result
from tests.support.store import BUCKET, running
from transforms import read_chunk, write_part
from transforms.errors import RunError
from transforms.storage import once

__all__ = ["cloud", "run"]
State = client.JobState
TEMPLATE = f"--template_location=gs://{BUCKET}/t/job_object"
MORE = [*ROWS, *ROWS[:5]]


@pytest.fixture(scope="module")
def stand_ins() -> Iterator[Cloud]:
    with pytest.MonkeyPatch.context() as patch, running_cloud(patch) as made:
        yield made


@pytest.fixture
def start(cloud: Cloud) -> Callable[..., client.Job]:
    """Starts a job from the written template, and waits for its end."""

    def started(name: str = "made-of-it", location: str = REGION) -> client.Job:
        job = cloud.api.start(cloud.store.objects("t/")["job_object"], name, location)
        return cloud.api.wait(job.id)

    return started


def rows(cloud: Cloud, lines: list[str]) -> None:
    cloud.store.put("in/a.jsonl", ("\n".join(lines) + "\n").encode())


def out(cloud: Cloud) -> dict[str, bytes]:
    return cloud.store.objects("out/")


def said(cloud: Cloud, job: client.Job) -> str:
    return "\n".join(message.message_text for message in cloud.api.messages[job.id])


def test_a_file_that_comes_after_the_plan_is_no_part_of_the_run(cloud: Cloud, run: Callable[..., Result]) -> None:
    def come(job: client.Job) -> None:
        cloud.store.put("in/b.jsonl", b'{"x": [1, 2, 3]}\n')
        cloud.store.put("in/a.json", b'{"x": [1, 2, 3]}\n')  # its parts would have the same names as those of a.jsonl
        runs(cloud)(job)

    cloud.api.run = come
    done = run()
    assert done.code == 0, done.err
    assert json.loads(out(cloud)["_keyjoin/manifest.json"])["totals"]["rows"] == 20
    assert "is new since" in run().err


def test_a_source_that_is_replaced_after_the_plan_fails_the_job(cloud: Cloud, run: Callable[..., Result]) -> None:
    def replace(job: client.Job) -> None:
        rows(cloud, ROWS[::-1])
        runs(cloud)(job)

    cloud.api.run = replace
    done = run()
    assert (done.code, "in/a.jsonl changed during the run" in done.err) == (1, True), done.err
    assert "_SUCCESS" not in out(cloud)


class TestATemplateThatIsStartedTwice:
    @pytest.fixture(autouse=True)
    def _written(self, cloud: Cloud, run: Callable[..., Result]) -> None:
        done = run(TEMPLATE)
        assert (done.code, cloud.api.jobs) == (0, {}), done.err

    def test_one_after_the_other_the_second_changes_nothing(
        self, cloud: Cloud, start: Callable[..., client.Job]
    ) -> None:
        assert start().current_state == State.JOB_STATE_DONE
        complete = out(cloud)
        assert json.loads(complete["_keyjoin/manifest.json"])["totals"]["rows"] == 20
        rows(cloud, MORE)
        assert start().current_state == State.JOB_STATE_DONE
        assert start("cloned", "us-central1").current_state == State.JOB_STATE_DONE
        assert out(cloud) == complete

    def test_one_beside_the_other_the_second_is_refused(
        self, cloud: Cloud, start: Callable[..., client.Job], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        others: list[client.Job] = []
        real, first = write_part.write_part, threading.Lock()

        def meanwhile(*given: Any) -> Any:
            if first.acquire(blocking=False):
                others.append(start("cloned"))
            return real(*given)

        monkeypatch.setattr(write_part, "write_part", meanwhile)
        assert start().current_state == State.JOB_STATE_DONE
        (other,) = others
        assert other.current_state == State.JOB_STATE_FAILED
        assert "is written by another job of this run" in said(cloud, other)
        assert json.loads(out(cloud)["_keyjoin/manifest.json"])["totals"]["rows"] == 20

    def test_once_a_later_command_has_the_folder_it_is_refused(
        self, cloud: Cloud, run: Callable[..., Result], start: Callable[..., client.Job]
    ) -> None:
        rows(cloud, MORE)
        done = run("--overwrite")
        assert done.code == 0, done.err
        complete = out(cloud)
        late = start()
        assert late.current_state == State.JOB_STATE_FAILED
        assert "this job is of an earlier command, and changes nothing" in said(cloud, late)
        assert out(cloud) == complete

    def test_what_a_job_of_it_left_unfinished_its_command_finishes(
        self, cloud: Cloud, run: Callable[..., Result], start: Callable[..., client.Job], monkeypatch: Any
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(write_part, "write_files", lambda *_, **__: 1 / 0)
            assert start().current_state == State.JOB_STATE_FAILED
        refused = start()
        assert refused.current_state == State.JOB_STATE_FAILED
        assert "give the command of that run again" in said(cloud, refused)
        done = run()
        assert (done.code, "_SUCCESS" in out(cloud)) == (0, True), done.err


def test_a_job_that_was_overtaken_neither_commits_nor_removes_anything(
    cloud: Cloud, run: Callable[..., Result]
) -> None:
    """The command was given a second time while the service reported no running job."""
    cloud.api.run = None
    assert run("--detach").code == 0
    first = only(cloud)
    cloud.api.set_state(first.id, State.JOB_STATE_CANCELLED)
    assert run("--detach").code == 0
    before = out(cloud)
    with pytest.raises(RunError, match="this job is of an earlier command"):
        commit_run.commit_folder(in_place(OUT), first.labels["keyjoin-run"], 1, 1.0)
    commit_run.clear_folder(in_place(OUT), first.labels["keyjoin-run"], 1)
    with pytest.raises(BaseException, match="this job is of an earlier command"):
        runs(cloud)(first)
    assert out(cloud) == before


def test_a_job_that_is_overtaken_on_its_way_writes_no_more_parts(
    cloud: Cloud, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = read_chunk.read_chunk

    def overtaken(*given: Any) -> Any:
        begun = records.read(OUT, records.Job)
        assert begun is not None
        other = msgspec.structs.replace(begun, run=records.Run(id=12 * "f"))
        cloud.store.put("out/_keyjoin/job.json", records.encode(other))
        return real(*given)

    monkeypatch.setattr(read_chunk, "read_chunk", overtaken)
    done = run()
    assert (done.code, "this job is of an earlier command" in done.err) == (1, True), done.err
    assert not [name for name in out(cloud) if not name.startswith("_")]


class TestALaunchBesideAJob:
    @pytest.fixture(autouse=True)
    def _running(self, cloud: Cloud, run: Callable[..., Result]) -> None:
        cloud.api.run = None
        assert run("--detach").code == 0
        cloud.store.put("out/a-00000-of-00009.jsonl", b"a part")
        cloud.store.put("out/_keyjoin/temp/lists/00000000/07.jsonl", b"a list")

    @pytest.mark.parametrize("without_labels", [False, True])
    @pytest.mark.parametrize("flags", [(), ("--overwrite",), ("--region=us-central1",)])
    def test_of_a_template_it_is_refused_and_nothing_changed(
        self, flags: tuple[str, ...], without_labels: bool, cloud: Cloud, run: Callable[..., Result], monkeypatch: Any
    ) -> None:
        if without_labels:  # a list of jobs may have summaries only
            listed = cloud.api._list

            def summaries(*given: Any) -> str:
                found = json.loads(listed(*given))
                for job in found["jobs"]:
                    job.pop("labels", None)
                return json.dumps(found)

            monkeypatch.setattr(cloud.api, "_list", summaries)
        before = out(cloud)
        refused = run(TEMPLATE, *flags)
        assert (refused.code, len(refused.err.splitlines())) == (2, 1), refused.err
        assert f"is being written by https://console.cloud.google.com/dataflow/jobs/{REGION}/" in refused.err
        assert out(cloud) == before
        assert not cloud.store.objects("t/")

    def test_the_job_that_is_being_launched_is_not_in_its_own_way(
        self, cloud: Cloud, run: Callable[..., Result]
    ) -> None:
        """A Flex template: the service already has a job of this name before its launcher runs."""
        job = only(cloud)
        cloud.api.set_state(job.id, State.JOB_STATE_CANCELLED)
        cloud.api.create(client.Job(name=job.name, location=REGION))
        done = run(TEMPLATE)
        assert (done.code, list(cloud.store.objects("t/"))) == (0, ["job_object"]), done.err

    def test_a_job_of_another_region_is_named_with_the_flags_that_follow_it(
        self, cloud: Cloud, run: Callable[..., Result]
    ) -> None:
        before = out(cloud)
        refused = run("--region=us-central1")
        assert (refused.code, len(cloud.api.jobs)) == (2, 1), refused.err
        assert f"--region={REGION}" in refused.err
        assert out(cloud) == before


def test_a_job_of_its_name_in_another_region_is_another_job(cloud: Cloud, run: Callable[..., Result]) -> None:
    first = run()
    assert first.code == 0
    name = only(cloud).name
    cloud.api.run = None
    other = cloud.api.create(client.Job(name=name, location="us-central1"))
    cloud.api.run = runs(cloud)
    again = run("--overwrite")
    assert (again.code, len(cloud.api.jobs)) == (0, 3), again.err
    assert other.current_state == State.JOB_STATE_RUNNING


class TestALaunchOnACompleteOutput:
    @pytest.fixture(autouse=True)
    def _complete(self, run: Callable[..., Result]) -> None:
        assert run().code == 0

    def test_its_job_ends_well_and_changes_nothing(
        self, cloud: Cloud, run: Callable[..., Result], start: Callable[..., client.Job]
    ) -> None:
        complete = out(cloud)
        done = run(TEMPLATE)
        assert (done.code, "nothing to do" in done.out) == (0, True), done.err
        assert start().current_state == State.JOB_STATE_DONE
        assert out(cloud) == complete

    def test_once_it_is_complete_no_more_the_job_fails(
        self, cloud: Cloud, run: Callable[..., Result], start: Callable[..., client.Job]
    ) -> None:
        assert run(TEMPLATE).code == 0
        cloud.store.put("out/_SUCCESS", b"of another")
        assert start().current_state == State.JOB_STATE_FAILED


class TestThatReplacesACompleteOutput:
    @pytest.fixture(autouse=True)
    def _complete(self, cloud: Cloud, run: Callable[..., Result]) -> None:
        assert run().code == 0
        rows(cloud, MORE)

    def test_a_template_that_is_started_twice(
        self, cloud: Cloud, run: Callable[..., Result], start: Callable[..., client.Job]
    ) -> None:
        assert run(TEMPLATE, "--overwrite").code == 0
        assert start().current_state == State.JOB_STATE_DONE
        complete = out(cloud)
        assert json.loads(complete["_keyjoin/manifest.json"])["totals"]["rows"] == len(MORE)
        rows(cloud, ROWS[:3])
        assert start("again").current_state == State.JOB_STATE_DONE
        assert out(cloud) == complete

    def test_a_launch_beside_its_job(self, cloud: Cloud, run: Callable[..., Result]) -> None:
        cloud.api.run = None
        assert run("--overwrite", "--detach").code == 0
        before = out(cloud)
        assert "_SUCCESS" in before
        refused = run(TEMPLATE, "--overwrite", "--region=us-central1")
        assert (refused.code, "is being written by" in refused.err) == (2, True), refused.err
        assert out(cloud) == before

    def test_a_job_that_was_overtaken(self, cloud: Cloud, run: Callable[..., Result]) -> None:
        cloud.api.run = None
        assert run("--overwrite", "--detach").code == 0
        late = list(cloud.api.jobs.values())[-1]
        cloud.api.set_state(late.id, State.JOB_STATE_CANCELLED)
        rows(cloud, ROWS[:7])
        cloud.api.run = runs(cloud)
        done = run("--overwrite")
        assert done.code == 0, done.err
        complete = out(cloud)
        assert json.loads(complete["_keyjoin/manifest.json"])["totals"]["rows"] == 7
        with pytest.raises(BaseException, match="this job is of an earlier command"):
            runs(cloud)(late)
        assert out(cloud) == complete


@pytest.mark.parametrize("place", ["here", "store"])
def test_of_many_jobs_one_claims_a_run(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def race(path: str) -> None:
        texts = [f"job {number}".encode() for number in range(8)]
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda text: once.write_once(path, text), texts))
        (winner,) = set(found)
        assert winner in texts
        assert [once.write_once(path, text) for text in texts] == found

    if place == "here":
        race(str(tmp_path / "claims" / "run"))
        assert [path.name for path in (tmp_path / "claims").iterdir()] == ["run"]
    else:
        with running(monkeypatch):
            race(f"gs://{BUCKET}/claims/run")


def test_a_job_may_claim_its_run_again(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """This happens when a bundle is retried or delivered twice."""
    real, first = claim_run.claim, threading.Lock()

    def twice(*given: Any) -> Any:
        if first.acquire(blocking=False):
            assert real(*given) == real(*given) != []
        return real(*given)

    monkeypatch.setattr(claim_run, "claim", twice)
    done = run()
    assert done.code == 0, done.err
    assert first.locked()
