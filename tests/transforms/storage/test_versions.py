"""keyjoin reads a source in the planned version or fails the run; a file is one source under all its paths."""

import contextlib
import gzip
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from pipeline.job import waves
from pipeline.run_folder import settle
from tests.conftest import Result
from tests.support import models
from tests.support.store import Store, running
from transforms import formats
from transforms.errors import RunError
from transforms.read_chunk import read_chunk
from transforms.records import Chunk
from transforms.split_into_chunks import chunks_of
from transforms.storage import files, lookup, versions
from transforms.storage.paths import normal
from transforms.storage.sources import find, name_sources

ROWS = [json.dumps({"x": [n, 0.5, -n]}).encode() + b"\n" for n in range(100, 160)]
OLD, NEW = b"".join(ROWS), b"".join(reversed(ROWS))
FLAGS = ("--chunk_bytes=400", "--wave_bytes=400")


def put_another(path: Path) -> None:
    (path.parent / "new").write_bytes(NEW)
    os.replace(path.parent / "new", path)


def put_another_with_its_times(path: Path) -> None:
    was = path.stat()
    put_another(path)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


def write_over_with_its_times(path: Path) -> None:
    was = path.stat()
    path.write_bytes(NEW)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


def write_through_another_name(path: Path) -> None:
    os.link(path, path.parent.parent / "name")
    (path.parent.parent / "name").write_bytes(NEW)


def write_over_a_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(b"9")


CHANGES = [
    put_another,
    put_another_with_its_times,
    write_over_with_its_times,
    write_through_another_name,
    write_over_a_byte,
    Path.touch,
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "a.jsonl"
    path.parent.mkdir()
    path.write_bytes(OLD)
    return path


@pytest.fixture
def run(source: Path, model: Any, keyjoin: Callable[..., Result], tmp_path: Path) -> Callable[..., Result]:
    flags = (f"--input={source.parent}", f"--model={model(models.keyed)}", f"--output={tmp_path / 'out'}", *FLAGS)
    return lambda *more: keyjoin("run", *flags, *more)


def at_the_second_wave(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    """Calls `act` after the first wave is written and before the second one begins."""
    cut = waves.waves

    def between(*given: Any) -> Any:
        for number, wave in enumerate(cut(*given)):
            if number == 1:
                act()
            yield wave

    monkeypatch.setattr(waves, "waves", between)


def refused(done: Result, source: Path) -> None:
    assert (done.code, done.complete()) == (1, False), done.out
    (line,) = done.err.splitlines()
    assert f"{source} changed during the run" in line
    assert "again" in line


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("when", ["between two chunks", "before the commit"])
def test_a_source_that_changes_fails_the_run(
    change: Callable[[Path], Any], when: str, source: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        if when == "between two chunks":
            at_the_second_wave(patch, lambda: change(source))
        else:
            look = settle.refresh
            patch.setattr(settle, "refresh", lambda *given: (change(source), look(*given))[1])
        refused(run(), source)
    again = run()
    if change is Path.touch or (change, when) == (write_over_a_byte, "between two chunks"):
        # the bytes that the run read are still in the file
        assert (again.code, again.complete()) == (0, True), again.err
    else:
        assert again.code == 2
        assert f"{source} has other bytes now" in again.err
        assert "--overwrite starts anew" in again.err


def test_one_that_is_replaced_and_put_back_fails_the_run(
    source: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In between, the run reads another file's bytes, and at its end the file system shows no change."""
    kept, opened = source.with_name("_kept"), versions.open_chunk

    @contextlib.contextmanager
    def swapped(chunk: Chunk) -> Iterator[IO[bytes]]:
        os.rename(source, kept)
        source.write_bytes(NEW)
        try:
            with opened(chunk) as file:
                yield file
        finally:
            os.replace(kept, source)

    at_the_second_wave(monkeypatch, lambda: monkeypatch.setattr(versions, "open_chunk", swapped))
    refused(run(), source)


def test_a_gzip_source_that_is_written_while_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(OLD, mtime=0))
    (planned,) = name_sources(find([str(path)]), ".jsonl").sources
    write = files.write_whole

    def meanwhile(to: str, blocks: Any) -> Any:
        made = write(to, blocks)
        path.touch()
        return made

    monkeypatch.setattr(files, "write_whole", meanwhile)
    with pytest.raises(RunError, match=r"a.jsonl.gz changed during the run"):
        chunks_of(planned, formats.load("jsonl").reader, 400, None, str(tmp_path / "temp"))


def test_a_source_that_is_replaced_before_its_first_chunk(source: Path) -> None:
    (planned,) = name_sources(find([str(source)]), ".jsonl").sources
    put_another(source)
    with pytest.raises(RunError, match="changed during the run"):
        list(chunks_of(planned, formats.load("jsonl").reader, 400, None, "temp"))


def test_verify_tells_a_source_that_changed_since_from_one_that_was_not_read_as_it_is(
    source: Path, run: Callable[..., Result], keyjoin: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # a file system that reports no versions
        patch.setattr(versions, "version_of", lambda _: "1")
        patch.setattr(lookup.Stored, "last_updated_in_seconds", property(lambda _: 1.0, lambda *_: None), raising=False)
        at_the_second_wave(patch, lambda: put_another(source))
        done = run()
        assert done.code == 0, done.err
        found = keyjoin("verify", f"--run={done.output}", "--read_data=100%")
        assert found.code == 4
        assert "the run read other bytes" in found.out
        assert "the output is unchanged" not in found.out
        assert "--overwrite" in found.out
    since = keyjoin("verify", f"--run={done.output}", "--read_data=100%")
    assert (since.code, "put the source back" in since.out) == (4, True)


def test_the_list_of_sources_has_the_version(source: Path, run: Callable[..., Result]) -> None:
    done = run()
    assert done.code == 0
    (line,) = (done.output / "_keyjoin/sources.jsonl").read_bytes().splitlines()
    assert json.loads(line)["version"] == versions.version_of(os.stat(source))


class TestObjects:
    """In Google Cloud Storage, keyjoin reads only the planned generation."""

    @pytest.fixture
    def store(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        with running(monkeypatch) as store:
            yield store

    @pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
    @pytest.mark.parametrize("after", [0, 1])
    def test_one_that_is_replaced_cannot_be_read(self, name: str, after: int, store: Store, tmp_path: Path) -> None:
        old, new = (gzip.compress(data, mtime=0) if name.endswith("z") else data for data in (OLD, NEW))
        path = store.put(f"in/{name}", old)
        (planned,) = name_sources(find(["gs://bucket/in/"]), ".jsonl").sources
        assert (planned.version, planned.updated > 0) == (lookup.match(path)[0].version, True)
        reader = formats.load("jsonl").reader

        def read() -> None:
            for number, chunk in enumerate(chunks_of(planned, reader, 400, None, str(tmp_path))):
                if number == after:
                    store.put(f"in/{name}", new)
                read_chunk(chunk, reader, ())

        if name.endswith("z"):  # reads the local copy, which is whole and of the planned generation
            read()
        with pytest.raises(RunError, match=f"in/{name} changed during the run"):
            read()

    def test_one_that_was_deleted_is_named(self, store: Store) -> None:
        store.put("in/a.jsonl", OLD)
        (planned,) = name_sources(find(["gs://bucket/in/*"]), ".jsonl").sources
        store.clear()
        with pytest.raises(RunError, match=r"in/a.jsonl changed during"):
            list(chunks_of(planned, formats.load("jsonl").reader, 400, None, "temp"))


class TestOneFile:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        for name in ("d1/x", "d2/x"):
            (tmp_path / name).mkdir(parents=True)
        (tmp_path / "today").symlink_to("d1/x")
        (tmp_path / "yesterday").symlink_to("d2/x")
        (tmp_path / "d1" / "shared.jsonl").write_bytes(b"".join(ROWS[:3]))
        (tmp_path / "d2" / "shared.jsonl").write_bytes(b"".join(ROWS[3:8]))
        return tmp_path

    @pytest.mark.parametrize(
        "patterns",
        [
            ("today/../shared.jsonl", "yesterday/../shared.jsonl"),
            ("today/../*.jsonl", "yesterday/../*.jsonl"),
            ("today/..", "yesterday/.."),
            ("today/../../d2/x/../shared.jsonl", "yesterday/../../d1/shared.jsonl"),
        ],
    )
    def test_two_files_are_two_though_their_paths_look_alike(
        self, patterns: tuple[str, ...], tree: Path, model: Any, keyjoin: Callable[..., Result], monkeypatch: Any
    ) -> None:
        monkeypatch.chdir(tree)
        given = [str(path) for path in patterns]
        done = keyjoin("run", *(f"--input={path}" for path in given), f"--model={model(models.keyed)}", "--output=out")
        assert done.code == 0, done.err
        assert len(b"".join(path.read_bytes() for path in done.parts()).splitlines()) == 8
        assert {path.name for path in done.parts()} == {"shared-00000-of-00001.jsonl"}

    @pytest.mark.parametrize(
        "way",
        ["d1/shared.jsonl", "./d1/shared.jsonl", "d1/../d1/shared.jsonl", "today/../shared.jsonl", "link", "name",
         "folder/shared.jsonl", "d1/x/../shared.jsonl"],
    )  # fmt: skip
    @pytest.mark.parametrize("absolute", [False, True])
    def test_one_file_is_one_whatever_leads_to_it(
        self, way: str, absolute: bool, tree: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tree)
        (tree / "link").symlink_to("d1/shared.jsonl")
        (tree / "folder").symlink_to("d1")
        os.link("d1/shared.jsonl", "name")
        path = f"{tree}/{way}" if absolute else way
        for given in (["d1/shared.jsonl", path], [path, "d1/shared.jsonl"]):
            found = find(given)
            first, second = map(normal, given)
            assert [file.path for file in found.files] == [first]
            assert list(found.twins) == ([(second, first)] if first != second else [])

    @given_any(st.lists(st.sampled_from(["d1", "x", "today", "yesterday", ".", "", ".."]), max_size=6), st.booleans())
    def test_the_normal_form_leads_where_the_path_leads(self, steps: list[str], absolute: bool) -> None:
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            for name in ("d1/x", "d2/x"):
                os.makedirs(f"{folder}/{name}")
            os.symlink("d1/x", f"{folder}/today")
            os.symlink("../d2", f"{folder}/d1/yesterday")
            patch.chdir(folder)
            path = "/".join([folder, *steps] if absolute else steps) or "."
            form = normal(path)
            assert normal(form) == form
            assert os.path.isabs(form) == os.path.isabs(path)
            assert os.path.exists(form) == os.path.exists(path)
            if os.path.exists(path):
                assert os.path.samefile(form, path)
            if not {"today", "yesterday"} & set(steps) and os.path.exists(path):
                assert form == re.sub(r"^//(?!/)", "/", os.path.normpath(path))  # POSIX leaves `//` to the system

    @pytest.mark.parametrize("way", ["./d1/", ".//d1", "d1/x/..", "d1/./*.jsonl", "./d1/shared.jsonl", "d2/../d1"])
    def test_a_run_is_resumed_under_another_spelling(
        self, way: str, tree: Path, model: Any, keyjoin: Callable[..., Result], monkeypatch: Any
    ) -> None:
        monkeypatch.chdir(tree)
        flags = (f"--model={model(models.keyed)}", "--output=out", "--output_fields=row,key,prediction")
        done = keyjoin("run", f"--input={way}", *flags)
        assert done.code == 0, done.err
        rows = done.rows()
        assert rows[0]["key"] == "d1/shared.jsonl#0"
        again = keyjoin("run", "--input=d1/shared.jsonl", *flags)
        assert (again.code, "there is nothing to do" in again.out) == (0, True), again.err
        other = keyjoin("run", f"--input={tree}/d1", *flags)
        words = (
            f"d1/shared.jsonl is given as {tree}/d1/shared.jsonl now, and keys of rows hold the path: give it as d1/"
        )
        assert (other.code, words in other.err) == (2, True), other.err
        done.parts()[0].unlink()
        resumed = keyjoin("run", "--input=d1", *flags)
        assert (resumed.code, done.rows()) == (0, rows), resumed.err
        assert keyjoin("verify", "--run=out", "--read_data=100%").code == 0

    def test_another_name_of_a_file_is_reported(self, tree: Path, model: Any, keyjoin: Callable[..., Result]) -> None:
        (tree / "d1" / "latest.jsonl").symlink_to("shared.jsonl")
        done = keyjoin("check", f"--input={tree / 'd1'}", f"--model={model(models.keyed)}")
        assert done.code == 0, done.err
        assert f"{tree}/d1/shared.jsonl (the same file as {tree}/d1/latest.jsonl)" in done.out

    def test_equal_files_are_two(self, tree: Path) -> None:
        shutil.copy2(tree / "d1" / "shared.jsonl", tree / "d1" / "copy.jsonl")
        assert len(find([str(tree / "d1")]).files) == 2

    def test_the_model_of_such_a_path_is_the_one_that_is_there(
        self, tree: Path, model: Any, keyjoin: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tree)
        shutil.copytree(model(models.keyed), tree / "d1" / "model")
        shutil.copytree(model(models.plain), tree / "model")  # the path leads here if `..` is taken as text
        done = keyjoin("run", "--input=d1/shared.jsonl", "--model=today/../model", "--output=today/../out")
        assert done.code == 0, done.err
        assert done.manifest()["model"]["key_input"] == "key"
        assert (tree / "d1" / "out" / "_SUCCESS").exists()
        assert not (tree / "out").exists()
