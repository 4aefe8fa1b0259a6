"""The model on workers: copied once and checked; all processes of a worker share one copy if it is large."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from pipeline.job.graph import build
from pipeline.model import check_model, worker_copy
from pipeline.model.worker_copy import fetch
from pipeline.options.run_options import parse_run
from pipeline.plan.preflight import Plan, find_inputs, prepare
from tests.conftest import Result
from tests.support import models
from tests.support.started_run import begin
from tests.support.store import BUCKET, Store, running
from transforms.errors import RunError


@pytest.fixture(scope="module")
def running_store(model: Callable[..., str]) -> Iterator[Store]:
    keyed = Path(model(models.keyed))
    with pytest.MonkeyPatch.context() as patch, running(patch) as made:
        for path in keyed.rglob("*"):
            if path.is_file():
                made.put(f"model/{path.relative_to(keyed)}", path.read_bytes())
        yield made


@pytest.fixture
def store(running_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """A storage with a model, and a machine without a copy."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return running_store


PLACE = f"gs://{BUCKET}/model"


def test_it_is_copied_once(store: Store, model: Callable[..., str]) -> None:
    sha256 = check_model.fingerprint(model(models.keyed))
    folder = fetch(PLACE, sha256)
    store.inject(None)
    assert fetch(PLACE, sha256) == folder
    assert not store.requests
    assert check_model.fingerprint(folder) == sha256


@pytest.mark.usefixtures("store")
def test_another_model_is_refused_wherever_it_is_found(model: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"the model {PLACE} has the sha256 .* it was replaced"):
        fetch(PLACE, "0" * 64)
    here = tmp_path / "here"
    shutil.copytree(model(models.keyed), here)
    with pytest.raises(RunError, match="it was replaced"):
        fetch(str(here), "0" * 64)
    sha256 = check_model.fingerprint(model(models.keyed))
    folder = Path(fetch(PLACE, sha256))
    (folder / "more").write_text("")
    with pytest.raises(RunError, match="it was replaced"):
        fetch(PLACE, sha256)


def test_a_copy_that_was_cut_short_is_made_again(
    store: Store, model: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = check_model.fingerprint(model(models.keyed))

    def cut(_: str, target: str) -> None:
        Path(target).mkdir()
        (Path(target) / "saved_model.pb").write_text("half")
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(check_model, "copy", cut)
        with pytest.raises(OSError, match="killed"):
            fetch(PLACE, sha256)
    assert check_model.fingerprint(fetch(PLACE, sha256)) == sha256
    assert store.objects("model/")


def test_a_folder_that_others_can_write_to_is_refused(store: Store, model: Callable[..., str]) -> None:
    sha256 = check_model.fingerprint(model(models.keyed))
    own = Path(fetch(PLACE, sha256)).parent
    own.chmod(0o777)
    with pytest.raises(RunError, match="can be written to by others"):
        fetch(PLACE, sha256)
    assert store.objects("model/")


def planned(plan: Callable[[Plan], Any], *flags: str) -> Any:
    options, _ = parse_run(flags, "keyjoin run")
    with prepare(options, find_inputs(options), local=False) as made:
        return plan(made)


@pytest.mark.parametrize("large", [False, True])
def test_a_large_one_is_loaded_by_one_process_of_a_worker(
    keyjoin: Callable[..., Result],
    lines: Any,
    model: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    large: bool,
) -> None:
    """The predictions equal those of a model that each process loads for itself."""
    monkeypatch.setattr("pipeline.plan.preflight.SHARED_BYTES", 0 if large else 1 << 40)
    path = lines(*({"x": [n, 1, 2]} for n in range(50)), b"bad")
    flags = (f"--input={path}", f"--model={model(models.keyed)}", "--chunk_bytes=200", "--max_bad_rows=1")
    local = keyjoin("run", *flags)
    output = tmp_path / "elsewhere"

    def execute(plan: Plan) -> bool:
        with beam.Pipeline("FnApiRunner") as root:
            build(root, plan.job, begin(plan))
        return plan.job.handler.share_model_across_processes()

    assert planned(execute, *flags, f"--output={output}") is large
    assert [p.read_bytes() for p in Result(0, "", "", output).parts()] == [p.read_bytes() for p in local.parts()]


def test_a_local_model_is_staged_where_the_output_is_remote(lines: Any, model: Any, tmp_path: Path) -> None:
    options = [f"--input={lines({'x': [1, 2, 3]})}", f"--output={tmp_path / 'o'}"]
    folder = model(models.keyed)
    local, _ = parse_run([*options, f"--model={folder}"], "keyjoin run")
    found = worker_copy.find(local.model, local.output, folder)
    assert (found.place, found.staged) == (folder, False)
    stored, _ = parse_run([*options[:1], "--output=gs://b/o", f"--model={folder}"], "keyjoin run")
    found = worker_copy.find(stored.model, stored.output, folder)
    assert (found.place, found.staged) == (f"gs://b/o/_keyjoin/temp/model/{found.sha256}", True)
    there, _ = parse_run([*options[:1], "--output=gs://b/o", "--model=gs://b/m"], "keyjoin run")
    found = worker_copy.find(there.model, there.output, folder)
    assert (found.place, found.staged) == ("gs://b/m", False)
    size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
    assert found.bytes == size
