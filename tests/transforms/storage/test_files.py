"""Writing whole files: a file exists whole or not at all, and is read back; file system errors take one line."""

import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.run_folder.names import is_unfinished
from transforms.errors import RunError, UsageError
from transforms.storage import files, lookup

BLOCKS = [b"one", b"", b"two" * 100]
WHOLE = b"".join(BLOCKS)
WRITTEN = files.Written(len(WHOLE), google_crc32c.value(WHOLE))


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_sums_are_those_of_the_content(tmp_path_factory: Any, blocks: list[bytes]) -> None:
    path = str(tmp_path_factory.mktemp("sums") / "sub" / "a")
    written = files.write_whole(path, blocks)
    whole = b"".join(blocks)
    assert written == (len(whole), google_crc32c.value(whole)) == files.read_back(path)
    assert files.read_small(path) == whole


def test_what_is_not_there_has_no_sums(tmp_path: Path) -> None:
    assert files.read_back(str(tmp_path / "a")) is None
    assert files.read_small(str(tmp_path / "a")) is None


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def blocks() -> Iterator[bytes]:
        yield b"half"
        seen.append([p.name for p in tmp_path.iterdir()])
        raise RunError("the source is damaged")

    path = tmp_path / "a.jsonl"
    path.write_bytes(b"old")
    with pytest.raises(RunError, match="the source is damaged"):
        files.write_whole(str(path), blocks())
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]
    assert path.read_bytes() == b"old"
    (names,) = seen
    (temporary,) = set(names) - {"a.jsonl"}
    assert is_unfinished(temporary)  # the next run would find this file if the process were killed here


def test_what_reads_back_otherwise_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that returns other bytes than were written."""
    original = os.fsync

    def flip(number: int) -> None:
        original(number)
        os.pwrite(number, b"\0", 1)

    monkeypatch.setattr(os, "fsync", flip)
    with pytest.raises(RunError, match=r"a\.jsonl reads back otherwise than it was written"):
        files.write_whole(str(tmp_path / "a.jsonl"), BLOCKS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("done", [True, False])
def test_an_error_is_no_proof_that_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: bool) -> None:
    original = os.replace

    def fail(old: str, new: str) -> None:
        if done:
            original(old, new)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"old")
    if done:
        assert files.write_whole(str(path), BLOCKS) == WRITTEN
    else:
        with pytest.raises(RunError, match=r"cannot write .*a\.jsonl: .*Input/output error"):
            files.write_whole(str(path), BLOCKS)
    assert path.read_bytes() == (WHOLE if done else b"old")
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "free space there"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EROFS, "choose a folder"),
        (errno.EACCES, "give yourself the permission"),
        (errno.EIO, "see that the file system and the network are well"),
    ],
)
def test_an_error_of_the_system_has_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match=rf"cannot write .*a: .*{os.strerror(number)}; .*{said}.*run again"):
        files.write_whole(str(tmp_path / "a"), BLOCKS)
    assert list(tmp_path.iterdir()) == []


class Store:
    """An object store that stores an object, or most of it, and then raises an error."""

    def __init__(self, lost: int = 0) -> None:
        self.objects: dict[str, bytes] = {}
        self.lost = lost

    def create(self, path: str, *_: Any) -> io.BytesIO:
        store = self

        class Upload(io.BytesIO):
            def close(self) -> None:
                if not self.closed:
                    value = self.getvalue()
                    store.objects[path] = value[: len(value) - store.lost]
                    super().close()
                    raise ConnectionError("the answer never came")

        return Upload()

    def open(self, path: str, *_: Any) -> io.BytesIO:
        return io.BytesIO(self.objects[path])


@pytest.mark.parametrize("lost", [0, 1])
def test_an_object_counts_if_it_is_there(monkeypatch: pytest.MonkeyPatch, lost: int) -> None:
    store = Store(lost)
    for name in ("create", "open"):
        monkeypatch.setattr(files.FileSystems, name, getattr(store, name))
    path = "other://bucket/a"
    if lost:
        with pytest.raises(RunError, match=r"cannot write other://bucket/a: the answer never came"):
            files.write_whole(path, BLOCKS)
    else:
        assert files.write_whole(path, BLOCKS) == WRITTEN


def test_only_what_is_named_is_deleted_and_folders_that_are_empty_then(tmp_path: Path) -> None:
    (tmp_path / "x" / "y").mkdir(parents=True)
    for name in ("x/y/1", "x/2"):
        (tmp_path / name).touch()
    files.delete_files(str(tmp_path), ["x/y/1"])
    assert sorted(str(p.relative_to(tmp_path / "x")) for p in (tmp_path / "x").rglob("*")) == ["2"]


@pytest.mark.parametrize("name", ["../victim", "{victim}", "link/victim", "x/../../victim"])
def test_nothing_outside_of_a_folder_is_deleted(name: str, tmp_path: Path) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "folder"
    victim.write_text("precious")
    (folder / "x").mkdir(parents=True)
    (folder / "link").symlink_to("..")
    with pytest.raises(RunError, match="leads out of"):
        files.delete_files(str(folder), [name.format(victim=victim)])
    assert victim.read_text() == "precious"


def test_a_folder_that_cannot_be_listed_is_not_taken_for_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").touch()
    original = os.scandir

    def fail(path: Any) -> Any:
        if str(path).endswith("sub"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return original(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(RunError, match=r"sub cannot be listed: .*Input/output error"):
        files.list_below(str(tmp_path))
    with pytest.raises(UsageError, match=r"sub cannot be listed"):
        lookup.match_below(str(tmp_path))
    assert files.list_below(str(tmp_path / "none")) == {}
