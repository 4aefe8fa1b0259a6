"""The lock of an output folder, in a single process. tests/pipeline/run_folder/test_resume.py tests two processes.

A fake object replaces Google Cloud Storage, with its rule for generations: it refuses a write or delete whose
generation is not the object's.
"""

import datetime
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import NotFound, PreconditionFailed, ServiceUnavailable

from pipeline.run_folder import lock
from pipeline.run_folder.lock import locked
from tests.conftest import Result
from tests.support import models
from transforms.errors import RunError, UsageError


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


class Blob:
    """An object, as one client sees it."""

    content: str | None = None
    current = (0, 0)  # generation, metageneration
    updated = now()
    beaten = threading.Event()
    failing = False

    def __init__(self) -> None:
        self.generation: int | None = None
        self.metageneration: int | None = None
        self.metadata: dict[str, str] = {}

    def upload_from_string(
        self, text: str, if_generation_match: int, if_metageneration_match: int | None = None
    ) -> None:
        self._match(if_generation_match)
        if if_metageneration_match not in (None, Blob.current[1]):
            raise PreconditionFailed("another metageneration")
        Blob.content, Blob.current, Blob.updated = text, (Blob.current[0] + 1, 1), now()
        self.generation, self.metageneration = Blob.current

    def reload(self) -> None:
        if Blob.content is None or self.generation not in (None, Blob.current[0]):
            raise NotFound("no such object")
        self.generation, self.metageneration = Blob.current

    def download_as_text(self) -> str:
        assert Blob.content is not None
        return Blob.content

    def patch(self, if_generation_match: int, retry: object) -> None:
        assert retry is not None
        Blob.beaten.set()
        if Blob.failing:
            raise ServiceUnavailable("try later")
        self._match(if_generation_match)
        Blob.current = (Blob.current[0], Blob.current[1] + 1)

    def delete(self, if_generation_match: int) -> None:
        self._match(if_generation_match)
        Blob.content = None

    def _match(self, generation: int | None) -> None:
        if generation != (0 if Blob.content is None else Blob.current[0]):
            raise PreconditionFailed("another generation")


@pytest.fixture
def blob(monkeypatch: pytest.MonkeyPatch) -> type[Blob]:
    from apache_beam.io.gcp import gcsio

    class Client:
        client = property(lambda self: self)

        def bucket(self, name: str) -> "Client":
            assert name == "bucket"
            return self

        def blob(self, name: str) -> Blob:
            assert name == "out/_keyjoin/lock"
            return Blob()

    monkeypatch.setattr(gcsio, "GcsIO", Client)
    for name, value in {"content": None, "failing": False, "beaten": threading.Event(), "updated": now()}.items():
        monkeypatch.setattr(Blob, name, value)
    return Blob


def holder(pid: int, host: str = "elsewhere") -> str:
    return json.dumps({"host": host, "pid": pid, "since": "2999-01-01T00:00:00+00:00"})


def test_an_object_has_one_holder(blob: type[Blob]) -> None:
    with locked("gs://bucket/out") as prove:
        assert json.loads(str(blob.content))["pid"] == os.getpid()
        said = (
            f"in use by another run: process {os.getpid()} on {socket.gethostname()}, since .*; it counts as dead if it "
            rf"gives no sign of life until .*\+00:00; where you know that it is, delete gs://bucket/out/_keyjoin/lock"
        )
        with pytest.raises(UsageError, match=said), locked("gs://bucket/out"):
            raise AssertionError
        assert blob.content is not None
        prove()
    assert blob.content is None


@pytest.mark.parametrize(
    ("left", "minutes", "taken"),
    [
        (holder(1), 0, False),
        (holder(1), 9, False),
        (holder(1), 11, True),
        ("damaged", 9, False),
        ("", 9, False),
        ("damaged", 11, True),
        (holder(os.getpid(), socket.gethostname()), 0, False),
        (holder(1 << 22 | 12345, socket.gethostname()), 0, True),  # above the highest process id of Linux
    ],
    ids=range(8),  # an id with the number of this process would differ from worker to worker
)
def test_a_dead_holders_object_is_taken_over(blob: type[Blob], left: str, minutes: int, taken: bool) -> None:
    blob.content, blob.updated = left, now() - datetime.timedelta(minutes=minutes)
    if taken:
        with locked("gs://bucket/out") as prove:
            assert blob.content != left
            prove()
        assert blob.content is None
    else:
        with pytest.raises(UsageError, match="in use by another run"), locked("gs://bucket/out"):
            raise AssertionError
        assert blob.content == left


def test_a_holder_that_shows_a_sign_of_life_just_then_keeps_it(
    blob: type[Blob], monkeypatch: pytest.MonkeyPatch
) -> None:
    blob.content, blob.updated = holder(1), now() - datetime.timedelta(minutes=11)
    look = Blob.download_as_text

    def beaten(self: Blob) -> str:
        Blob.current = (Blob.current[0], Blob.current[1] + 1)
        return look(self)

    monkeypatch.setattr(Blob, "download_as_text", beaten)
    with pytest.raises(UsageError, match="in use by another run: process 1 on elsewhere"), locked("gs://bucket/out"):
        raise AssertionError
    assert blob.content == holder(1)


def steal() -> None:
    other = Blob()
    other.reload()
    other.upload_from_string(holder(1), if_generation_match=Blob.current[0])


def test_a_lock_that_was_taken_over_is_not_taken_back(blob: type[Blob]) -> None:
    with locked("gs://bucket/out") as prove:
        steal()
        with pytest.raises(
            RunError, match=r"gs://bucket/out/_keyjoin/lock is not this run's any more: .*; see that no other"
        ):
            prove()
        assert blob.content == holder(1)
    assert blob.content == holder(1)


def test_a_lock_that_cannot_be_given_back_is_a_warning(
    blob: type[Blob], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ServiceUnavailable("try later")

    with locked("gs://bucket/out"):
        monkeypatch.setattr(Blob, "delete", fail)
    said = capsys.readouterr().err
    assert said.startswith(
        "keyjoin: warning: gs://bucket/out/_keyjoin/lock was not removed; it counts as dead in 10 minutes: "
    )
    assert blob.content is not None


def test_a_holder_shows_that_it_is_alive_and_ends_when_it_has_lost_its_lock(
    blob: type[Blob], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted = threading.Event()
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.001)
    monkeypatch.setattr(lock._thread, "interrupt_main", interrupted.set)
    with locked("gs://bucket/out"):
        assert blob.beaten.wait(60)
        blob.failing = True
        for _ in range(2):  # the storage does not respond: the run continues, and so do the renewals
            blob.beaten.clear()
            assert blob.beaten.wait(60)
        assert not interrupted.is_set()
        steal()
        blob.failing = False
        assert interrupted.wait(60)
    said = capsys.readouterr().err
    assert "warning: gs://bucket/out/_keyjoin/lock cannot be renewed: ServiceUnavailable: 503 try later" in said
    assert "warning: gs://bucket/out/_keyjoin/lock is not this run's any more" in said
    assert not [thread for thread in threading.enumerate() if thread.name == "keyjoin-lock"]


def test_a_folder_that_stays_empty_goes_again(tmp_path: Path) -> None:
    with locked(f"{tmp_path}/a/b/"):
        assert (tmp_path / "a" / "b" / "_keyjoin/lock").exists()
    assert list(tmp_path.iterdir()) == []
    with locked(f"{tmp_path}/a/b"):
        (tmp_path / "a" / "kept").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "kept"]


def test_the_lock_of_a_killed_run_is_in_nobodys_way(
    keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path
) -> None:
    (tmp_path / "out" / "_keyjoin").mkdir(parents=True)
    (tmp_path / "out" / "_keyjoin/lock").write_text(holder(1))
    path = lines({"x": [1, 2, 3]})
    done = keyjoin("run", f"--input={path}", f"--model={model(models.keyed)}", f"--output={tmp_path / 'out'}")
    assert (done.code, done.complete()) == (0, True), done.err
    assert not (tmp_path / "out" / "_keyjoin/lock").exists()
