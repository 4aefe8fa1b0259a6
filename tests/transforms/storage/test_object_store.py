"""A faulty Google Cloud Storage: keyjoin retries, loses and doubles nothing, and writes the bytes of a local run."""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.model import check_model
from pipeline.run_folder.names import TEMP
from tests.conftest import BOSTON, Result
from tests.support import houses, models
from tests.support.store import BUCKET, CUT, LOST, REFUSED, SLOW, Request, Store, once, running, turns
from transforms import write_part
from transforms.errors import RunError, UsageError
from transforms.storage import files, lookup, objects

ROWS = [json.dumps({"x": [n, 0.5, -n], "n": n}) for n in range(20)] + ["{}", '{"x": "bad"}']
DATA = ("\n".join(ROWS) + "\n").encode()
SOURCES = {"a.jsonl": DATA, "sub/b.jsonl.gz": gzip.compress(DATA[:200], mtime=0)}
FLAGS = ("--chunk_bytes=300", "--max_bad_rows=0.5", "--batch_size=96")
OUT = f"--output=gs://{BUCKET}/out"


@pytest.fixture(scope="module")
def running_store() -> Iterator[Store]:
    with pytest.MonkeyPatch.context() as patch, running(patch) as store:
        yield store


@pytest.fixture
def store(running_store: Store) -> Iterator[Store]:
    """The store, with only the sources in it."""
    running_store.inject(None)
    running_store.clear()
    for name, content in SOURCES.items():
        running_store.put(f"in/{name}", content)
    yield running_store
    running_store.inject(None)


TIMED = {"_keyjoin/manifest.json", "_keyjoin/report.html"}  # files with times in them


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, keyed: str) -> dict[str, bytes]:
    """The files that the same job writes to a local folder."""
    from pipeline.cli import main

    folder = tmp_path_factory.mktemp("local")
    for name, content in SOURCES.items():
        path = folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert main(["run", f"--input={folder}/in/", f"--output={folder}/out", f"--model={keyed}", *FLAGS]) == 0
    left = {str(p.relative_to(folder / "out")): p.read_bytes() for p in (folder / "out").rglob("*") if p.is_file()}
    return {name: _placed(text, f"{folder}/in") for name, text in left.items() if name not in TIMED}


@pytest.fixture(scope="module")
def keyed(model: Callable[..., str]) -> str:
    return model(models.keyed)


@pytest.fixture
def flags(keyed: str) -> list[str]:
    return [f"--input=gs://{BUCKET}/in/", OUT, f"--model={keyed}", *FLAGS]


def _placed(text: bytes, folder: str) -> bytes:
    return text.replace(folder.encode(), f"gs://{BUCKET}/in".encode())


def data_of(left: dict[str, bytes]) -> dict[str, bytes]:
    """Returns the parts and dead letters."""
    return {
        name: text
        for name, text in left.items()
        if not name.startswith("_") or name.startswith("_keyjoin/dead_letters/")
    }


def check_complete(done: Result, store: Store, expected: dict[str, bytes]) -> None:
    assert (done.code, done.err) == (0, "")
    left = store.objects("out/")
    assert data_of(left) == data_of(expected)
    # `_keyjoin/temp`, `_keyjoin/lock` and `_keyjoin/job.json` are deleted.
    assert set(left) - set(expected) == TIMED


def test_a_run_in_the_store_is_that_on_this_machine(
    keyjoin: Callable[..., Result], flags: list[str], store: Store, expected: dict[str, bytes]
) -> None:
    store.put("in/folder/", b"")  # an empty object that stands for a folder, as web consoles make it
    store.put("in/_SUCCESS", b"")
    check_complete(keyjoin("run", *flags), store, expected)
    store.inject(None)
    again = keyjoin("run", *flags)
    assert (again.code, "nothing to do" in again.out) == (0, True)
    assert not [r for r in store.requests if r.kind in ("upload", "delete", "batch")]
    check_complete(keyjoin("run", *flags, "--overwrite"), store, expected)


@pytest.mark.parametrize("faults", [REFUSED, (LOST,)], ids=["refused", "lost"])
def test_each_request_that_fails_is_retried(
    keyjoin: Callable[..., Result], flags: list[str], store: Store, expected: dict[str, bytes], faults: tuple[str, ...]
) -> None:
    store.inject(once(*faults))
    done = keyjoin("run", *flags)
    injected = store.faults.copy()
    check_complete(done, store, expected)
    kinds = {"upload", "begin", "read", "list", "look", "batch"}
    assert {(fault, kind) for fault in faults for kind in kinds} <= set(injected)


def test_what_comes_in_pieces_is_read_whole(
    keyjoin: Callable[..., Result], flags: list[str], store: Store, expected: dict[str, bytes]
) -> None:
    store.inject(once(CUT, SLOW))
    done = keyjoin("run", *flags)
    assert min(store.faults[CUT, "read"], store.faults[SLOW, "read"]) > 0
    check_complete(done, store, expected)


@pytest.mark.parametrize("seed", [0])
def test_a_store_in_which_all_goes_wrong_at_once(
    keyjoin: Callable[..., Result], flags: list[str], store: Store, expected: dict[str, bytes], seed: int
) -> None:
    store.inject(turns((*REFUSED, LOST, CUT, SLOW), seed))
    done = keyjoin("run", *flags)
    assert len(store.faults) > 10
    check_complete(done, store, expected)


AFTER = {"upload": 6, "read": 3}


@pytest.mark.parametrize("kind", AFTER)
def test_an_unreachable_store_fails_the_run_and_the_same_command_resumes(
    keyjoin: Callable[..., Result], flags: list[str], store: Store, expected: dict[str, bytes], kind: str
) -> None:
    answered = []

    def after_some(request: Request, _: int) -> str | None:
        answered.append(request.kind)
        return "503" if request.kind == kind and answered.count(kind) > AFTER[kind] else None

    store.inject(after_some)
    failed = keyjoin("run", *flags)
    assert failed.code != 0, failed.out
    assert failed.err.count("\n") == 1, failed.err
    assert "_SUCCESS" not in store.objects("out/")
    store.inject(None)
    check_complete(keyjoin("run", *flags), store, expected)


def test_what_cannot_be_cleaned_up_is_no_failure_and_goes_with_the_next_call(
    keyjoin: Callable[..., Result], flags: list[str], store: Store, expected: dict[str, bytes]
) -> None:
    store.inject(lambda request, _: "503" if request.kind == "batch" and "_SUCCESS" in store.objects("out/") else None)
    done = keyjoin("run", *flags)
    assert (done.code, done.err.count("\n")) == (0, 1)
    assert done.err.startswith(
        "keyjoin: warning: gs://bucket/out keeps _keyjoin/job.json or _keyjoin/temp, which the same command rem"
    )
    left = store.objects("out/")
    assert left.keys() >= expected.keys()
    assert data_of(left) == data_of(expected)


def test_a_run_that_failed_in_the_middle_scores_only_the_rest(
    keyjoin: Callable[..., Result],
    flags: list[str],
    store: Store,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = write_part.write_part
    names: list[str] = []

    def some(receipt: Any, *rest: Any) -> Any:
        if len(names) == 2:
            raise RunError("the power went")
        names.append(receipt.chunk.part)
        return written(receipt, *rest)

    monkeypatch.setattr(write_part, "write_part", some)
    failed = keyjoin("run", *flags)
    assert (failed.code, "the power went" in failed.err) == (1, True)
    done_before = set(names)
    assert any(name.startswith(f"{TEMP}/") for name in store.objects("out/"))
    names.clear()
    monkeypatch.setattr(
        write_part, "write_part", lambda receipt, *rest: names.append(receipt.chunk.part) or written(receipt, *rest)
    )
    check_complete(keyjoin("run", *flags), store, expected)
    assert names
    assert not done_before & set(names)


def test_two_runs_do_not_share_a_folder(keyjoin: Callable[..., Result], flags: list[str], store: Store) -> None:
    from pipeline.run_folder.lock import locked

    with locked(f"gs://{BUCKET}/out"):
        refused = keyjoin("run", *flags)
    assert refused.code == 2
    assert "is in use by another run: process" in refused.err
    assert "_keyjoin/lock" not in store.objects("out/")


def test_a_run_that_lost_its_lock_calls_nothing_a_result(
    keyjoin: Callable[..., Result], flags: list[str], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.run_folder import ledger
    from pipeline.run_folder.lock import locked

    with locked(f"gs://{BUCKET}/out") as prove:
        prove()  # succeeds now; below it fails because the lock has another generation
    total = ledger.total

    def after_another_came(parts: Any) -> Any:
        store.put("out/_keyjoin/lock", b"of another")
        return total(parts)

    monkeypatch.setattr(ledger, "total", after_another_came)
    done = keyjoin("run", *flags)
    assert (done.code, "out/_keyjoin/lock is not this run's any more" in done.err) == (1, True), done.err
    assert "_SUCCESS" not in store.objects("out/")
    assert store.objects("out/")["_keyjoin/lock"] == b"of another"


class TestAModelInTheStore:
    """keyjoin copies the model to this machine, verifies it, and loads the copy."""

    @pytest.fixture
    def stored(self, store: Store, keyed: str) -> str:
        for path in Path(keyed).rglob("*"):
            if path.is_file():
                store.put(f"models/m/{path.relative_to(keyed)}", path.read_bytes())
        return f"gs://{BUCKET}/models/m"

    def test_it_scores_as_it_does_here(
        self,
        keyjoin: Callable[..., Result],
        flags: list[str],
        store: Store,
        expected: dict[str, bytes],
        stored: str,
        keyed: str,
    ) -> None:
        store.inject(turns((*REFUSED, LOST, CUT), 1))
        check_complete(keyjoin("run", *flags, f"--model={stored}"), store, expected)
        made = json.loads(store.objects("out/")["_keyjoin/manifest.json"])["model"]
        assert made["path"] == stored
        assert made["sha256"] == check_model.fingerprint(keyed)
        inspected = keyjoin("inspect", f"--model={stored}")
        assert (inspected.code, "prediction" in inspected.out) == (0, True)

    @pytest.mark.usefixtures("store")
    def test_that_is_not_there_is_said(self, keyjoin: Callable[..., Result], flags: list[str]) -> None:
        for command in ("run", "inspect"):
            given = [f"--model=gs://{BUCKET}/models/none", *(flags[:2] if command == "run" else ())]
            done = keyjoin(command, *given)
            assert done.code == 2, done.err
            assert f"gs://{BUCKET}/models/none is not there" in done.err
            assert done.err.count("\n") == 1

    def test_that_would_leave_its_folder_is_refused(
        self, keyjoin: Callable[..., Result], stored: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        listed = files.list_below
        evil = {"../../evil": 4}
        monkeypatch.setattr(files, "list_below", lambda folder: evil if folder == stored else listed(folder))
        done = keyjoin("inspect", f"--model={stored}")
        assert (done.code, "lies outside of the model by its name" in done.err) == (2, True)

    def test_that_is_replaced_meanwhile_is_refused(
        self,
        keyjoin: Callable[..., Result],
        flags: list[str],
        store: Store,
        stored: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        copied = check_model.copy

        def replace_then_copy(path: str, target: str) -> None:
            store.put("models/m/saved_model.pb", b"another")
            copied(path, target)

        monkeypatch.setattr(check_model, "copy", replace_then_copy)
        done = keyjoin("run", *flags, f"--model={stored}")
        assert (done.code, "was replaced by another one just now" in done.err) == (2, True)


class TestErrors:
    """keyjoin reports a client's exceptions like errors of the file system."""

    @pytest.mark.usefixtures("store")
    def test_what_is_not_there(self) -> None:
        with pytest.raises(FileNotFoundError, match="gs://bucket/none is not there"):
            objects.open_object("gs://bucket/none")
        assert files.read_small("gs://bucket/none") is None
        assert files.read_back("gs://bucket/none") is None
        assert lookup.match("gs://bucket/none") == []
        files.delete_tree("gs://bucket/none")

    @pytest.mark.usefixtures("store")
    def test_a_bucket_that_is_not_there(self, keyjoin: Callable[..., Result], flags: list[str]) -> None:
        done = keyjoin("run", "--input=gs://nowhere/*.jsonl", *flags[1:])
        assert (done.code, done.err.count("\n")) == (2, 1)
        done = keyjoin("run", *flags, "--output=gs://nowhere/out")
        assert (done.code, done.err.count("\n")) == (2, 1)
        for path in ("--input=gs://nowhere/a.jsonl", "--output=gs://nowhere/out", "--model=gs://nowhere/m"):
            done = keyjoin("check", *flags, path)
            assert (done.code, done.err.count("\n"), "that its bucket exists" in done.err) == (2, 1, True), done.err

    def test_a_refused_model_is_named_as_it_was_given(
        self, keyjoin: Callable[..., Result], store: Store, keyed: str
    ) -> None:
        store.put("a/m.onnx", b"")
        for path, said in (
            ("a/m.onnx", "m.onnx is not"),
            ("a", "a is not a SavedModel: it has no saved_model.pb, but a/m"),
        ):
            done = keyjoin("inspect", f"--model=gs://bucket/{path}")
            copied = (
                f"gs://bucket/{path} is no model; copy it to this folder first: gcloud storage cp -r gs://bucket/{path}"
            )
            assert (done.code, f"{copied} .; then: {said}" in done.err) == (2, True), done.err
            assert "keyjoin-model-" not in done.err
        for name in ("saved_model.pb", "variables/variables.index"):
            store.put(f"m/{name}", Path(keyed, name).read_bytes())
        done = keyjoin("inspect", "--model=gs://bucket/m/", "--signature=none")
        assert (done.code, "gs://bucket/m has no signature none" in done.err) == (2, True), done.err

    def test_names_with_wildcards_are_names(self, store: Store) -> None:
        for name in ("w[1]/a*b", "w1/aXb", "w[1]/c"):
            store.put(name, b"1")
        assert files.list_below("gs://bucket/w[1]") == {"a*b": 1, "c": 1}
        files.delete_tree("gs://bucket/w[1]/a*b")
        assert sorted(store.objects("w")) == ["1/aXb", "[1]/c"]
        files.delete_tree("gs://bucket/w[1]")
        assert sorted(store.objects("w")) == ["1/aXb"]

    def test_lines_are_read_in_blocks(self, store: Store) -> None:
        path = store.put("lines", b"a\nb\n" * 1000)
        store.inject(None)
        with files.open_raw(path) as file:
            assert sum(1 for _ in file) == 2000
            assert len([r for r in store.requests if r.kind == "read"]) == 2  # the second read finds the end
            assert (file.seek(2), file.readline()) == (2, b"b\n")

    def test_what_cannot_be_looked_up(self, store: Store) -> None:
        store.inject(lambda *_: "503")
        with pytest.raises(UsageError, match=r"cannot look up gs://bucket/in/a\.jsonl: .*503"):
            lookup.match("gs://bucket/in/a.jsonl")
        with pytest.raises(RunError, match=r"cannot look up gs://bucket/in: .*503"):
            files.list_below("gs://bucket/in")
        with pytest.raises(RunError, match=r"gs://bucket/in/a\.jsonl cannot be read: .*503"):
            files.read_back("gs://bucket/in/a.jsonl")
        with pytest.raises(RunError, match=r"gs://bucket/x cannot be read: .*503"):
            files.write_whole("gs://bucket/x", [b"x"])
        with pytest.raises(RunError, match=r"cannot delete: "):
            files.delete_files("gs://bucket", ["in/a.jsonl"])


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a"])
def test_an_object_with_content_encoding_is_read_as_it_is_stored(
    store: Store, keyjoin: Callable[..., Result], keyed: str, name: str
) -> None:
    """The service says the size of the stored bytes, and decompresses them for clients that do not ask for them."""
    store.clear()
    path = store.put(f"in/{name}", gzip.compress(DATA), "gzip")
    done = keyjoin("run", f"--input={path}", "--max_bad_rows=0.5", OUT, f"--model={keyed}")
    assert done.code == 0, done.err
    left = store.objects("out/")
    assert json.loads(left["_keyjoin/manifest.json"])["totals"]["rows"] == len(ROWS)
    (part,) = (text for name, text in left.items() if name.endswith(".gz"))
    assert len(gzip.decompress(part).splitlines()) == len(ROWS) - 2


def test_an_object_with_content_encoding_and_the_name_of_its_plain_content_is_refused(
    store: Store, keyjoin: Callable[..., Result], keyed: str
) -> None:
    path = store.put("in/a.jsonl", gzip.compress(DATA), "gzip")
    done = keyjoin("run", f"--input={path}", OUT, f"--model={keyed}")
    assert (done.code, store.objects("out/")) == (2, {})
    assert (
        f"{path}: it is gzip, and its name does not end in .gz; rename it: gcloud storage mv {path} {path}.gz"
        in done.err
    )


def _narrow_avro(path: Path) -> None:
    with path.open("wb") as file:
        fields = [{"name": "CRIM", "type": "double"}]
        fastavro.writer(file, {"type": "record", "name": "house", "fields": fields}, [{"CRIM": 1.0}])


NARROW: dict[str, Callable[[Path], Any]] = {
    "csv": lambda path: path.write_text("CRIM\n1\n"),
    "parquet": lambda path: pq.write_table(pa.table({"CRIM": [1.0]}), path),
    "avro": _narrow_avro,
}


@pytest.mark.parametrize("fmt", NARROW)
def test_headers_of_objects_are_read_and_compared(
    fmt: str, store: Store, keyjoin: Callable[..., Result], tmp_path: Path
) -> None:
    path = houses.write(tmp_path, fmt)
    store.put(f"rows/{path.name}", path.read_bytes())
    flags = (f"--model={BOSTON}/model", houses.FEATURES, "--chunk_bytes=2000")
    local = keyjoin("run", f"--input={path}", *flags)
    store.inject(once("503", CUT, kinds=("read",)))
    done = keyjoin("run", f"--input=gs://{BUCKET}/rows/*", f"--output=gs://{BUCKET}/out-{fmt}", *flags)
    assert (local.code, done.code) == (0, 0), done.err
    parts = {part.name: part.read_bytes() for part in local.parts()}
    assert len(parts) > 1
    found = {n: text for n, text in store.objects(f"out-{fmt}/").items() if n.endswith(f".{fmt}") and "/" not in n}
    assert found == parts

    other = tmp_path / f"other.{fmt}"
    NARROW[fmt](other)
    store.put(f"rows/{other.name}", other.read_bytes())
    refused = keyjoin("run", f"--input=gs://{BUCKET}/rows/*", f"--output=gs://{BUCKET}/refused", *flags)
    assert (refused.code, "rows/other." in refused.err, "has no column ZN" in refused.err) == (2, True, True), (
        refused.err
    )
