"""The lock of an output folder, as far as one process shows it; two of them meet in tests/test_resume.py.

In place of Google Cloud Storage stands an object that keeps its rule for generations: what is written or deleted
with a generation that is not the object's is refused.
"""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import NotFound, PreconditionFailed

from pipeline.lock import locked
from tests import models
from tests.conftest import Result
from transforms.errors import UsageError


class Blob:
    """An object, seen by one of its clients."""

    content: str | None = None
    current = 0

    def __init__(self) -> None:
        self.generation: int | None = None

    def upload_from_string(self, text: str, if_generation_match: int) -> None:
        self._match(if_generation_match)
        Blob.content = text
        Blob.current += 1
        self.generation = Blob.current

    def reload(self) -> None:
        if Blob.content is None:
            raise NotFound("no such object")
        self.generation = Blob.current

    def download_as_text(self) -> str:
        assert Blob.content is not None
        return Blob.content

    def delete(self, if_generation_match: int) -> None:
        self._match(if_generation_match)
        Blob.content = None

    def _match(self, generation: int) -> None:
        if generation != (0 if Blob.content is None else Blob.current):
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
            assert name == "out/_lock"
            return Blob()

    monkeypatch.setattr(gcsio, "GcsIO", Client)
    monkeypatch.setattr(Blob, "content", None)
    return Blob


def holder(pid: int, host: str = "elsewhere", since: str = "2999-01-01T00:00:00+00:00") -> str:
    return json.dumps({"host": host, "pid": pid, "since": since})


def test_an_object_has_one_holder(blob: type[Blob]) -> None:
    with locked("gs://bucket/out"):
        assert json.loads(str(blob.content))["pid"] == os.getpid()
        said = f"in use by another run: process {os.getpid()} on {socket.gethostname()}, since .* delete gs://bucket/out/_lock"
        with pytest.raises(UsageError, match=said), locked("gs://bucket/out"):
            raise AssertionError
        assert blob.content is not None
    assert blob.content is None


@pytest.mark.parametrize(
    ("left", "taken"),
    [
        (holder(1), False),
        (holder(os.getpid(), socket.gethostname()), False),
        (holder(1 << 22 | 12345, socket.gethostname()), True),  # more than Linux gives out
        (holder(1, since="2020-01-01T00:00:00+00:00"), True),
    ],
)
def test_a_dead_holders_object_is_taken_over(blob: type[Blob], left: str, taken: bool) -> None:
    blob.content = left
    if taken:
        with locked("gs://bucket/out"):
            assert blob.content != left
        assert blob.content is None
    else:
        with pytest.raises(UsageError, match="in use by another run"), locked("gs://bucket/out"):
            raise AssertionError
        assert blob.content == left


def test_a_lock_that_was_taken_over_is_not_taken_back(blob: type[Blob]) -> None:
    with locked("gs://bucket/out"):
        other = Blob()
        other.reload()
        other.upload_from_string(holder(1), if_generation_match=Blob.current)
    assert blob.content == holder(1)


def test_a_folder_that_stays_empty_goes_again(tmp_path: Path) -> None:
    with locked(f"{tmp_path}/a/b/"):
        assert (tmp_path / "a" / "b" / "_lock").exists()
    assert list(tmp_path.iterdir()) == []
    with locked(f"{tmp_path}/a/b"):
        (tmp_path / "a" / "kept").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "kept"]


def test_the_lock_of_a_killed_run_is_in_nobodys_way(
    keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "_lock").write_text(holder(1))
    path = lines({"x": [1, 2, 3]})
    done = keyjoin("run", f"--input={path}", f"--model={model(models.keyed)}", f"--output={tmp_path / 'out'}")
    assert (done.code, done.complete()) == (0, True), done.err
    assert not (tmp_path / "out" / "_lock").exists()
