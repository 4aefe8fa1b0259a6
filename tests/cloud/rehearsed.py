"""What the rehearsals share: rows, model, flags, and the output of the same job run on this machine."""

import contextlib
import gzip
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import pytest

from pipeline.cli import main
from pipeline.job import dataflow
from tests.cloud.image import copy_project, make_image
from tests.cloud.rehearsal import Rehearsal
from tests.cloud.stand_ins import Cloud, running_cloud
from tests.support import models
from tests.support.store import BUCKET
from transforms.write_part import dead_letters_name

NEEDED = ("KEYJOIN_PRISM", "KEYJOIN_BOOT")
ready = pytest.mark.skipif(
    not os.environ.keys() >= set(NEEDED),
    reason="tests/run.sh builds Prism and Beam's boot, and says so where it cannot",
)
ROWS = [json.dumps({"x": [n, 0.5, -n], "n": n}) for n in range(3_000)] + ["{}", '{"x": "bad"}', "[", ""]
DATA = ("\n".join(ROWS) + "\n").encode()
SOURCES = {"a.jsonl": DATA, "sub/b.jsonl.gz": gzip.compress(DATA[:30_000], mtime=0)}
IMAGE = "europe-west1-docker.pkg.dev/my-project/keyjoin/worker:test"
FLAGS = ("--chunk_bytes=20000", "--max_bad_rows=0.5", "--batch_size=96")
CLOUD_FLAGS = (f"--sdk_container_image={IMAGE}", "--labels=team=x", "--labels=stage=rehearsal")
PARTS = 8


class Completed(NamedTuple):
    """The result of a command: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


def command(*flags: str) -> Completed:
    """Runs keyjoin where there is no `keyjoin` fixture, as in fixtures of a wider scope."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(flags)
    return Completed(int(code), out.getvalue(), err.getvalue())


class Place(NamedTuple):
    """The folder of a job's rows and output, in the cloud (`there`) and on this machine (`here`).

    Both paths have the same length: paths cross the join, and receipts count the bytes that cross it.
    """

    there: str
    here: Path

    def flags(self, root: str | Path) -> list[str]:
        return [f"--input={root}/in/", f"--output={root}/out", f"--model={root}/model", *FLAGS]


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The worker's image, as the folder of its programs."""
    folder = tmp_path_factory.mktemp("image")
    return make_image(folder / "image", copy_project(folder / "project"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    here = tmp_path_factory.mktemp("here")
    start = f"gs://{BUCKET}/"
    there = start + "r" * (len(str(here)) - len(start))
    assert len(there) == len(str(here))
    return Place(there, here)


@pytest.fixture(scope="module")
def expected(place: Place, model: Callable[..., str]) -> dict[str, bytes]:
    """The output of the same job on this machine, without the files that have times in them."""
    shutil.copytree(model(models.keyed), place.here / "model")
    for name, content in SOURCES.items():
        path = place.here / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert command("run", *place.flags(place.here)).code == 0
    out = place.here / "out"
    left = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    moved = {name: text.replace(str(place.here).encode(), place.there.encode()) for name, text in left.items()}
    for line in left["_keyjoin/parts.jsonl"].splitlines():
        # Dead letters name their source, so another path gives another checksum.
        receipt = json.loads(line)
        if receipt["dead"]:
            checksum = google_crc32c.value(moved[dead_letters_name(receipt["chunk"]["part"])])
            old, new = (f'"dead_checksum":{value},'.encode() for value in (receipt["dead_checksum"], checksum))
            moved["_keyjoin/parts.jsonl"] = moved["_keyjoin/parts.jsonl"].replace(old, new)
    return kept(moved)


def kept(left: dict[str, bytes]) -> dict[str, bytes]:
    """Parts, dead letters and the ledger, without the times at which sources were written."""
    found = {
        name: text
        for name, text in left.items()
        if name not in ("_keyjoin/manifest.json", "_keyjoin/report.html", "_SUCCESS")
    }
    written = rb'"updated":[\d.e+]+,"version":"[^"]*"'
    found["_keyjoin/sources.jsonl"] = re.sub(written, b'"updated":0', found["_keyjoin/sources.jsonl"])
    return found


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with pytest.MonkeyPatch.context() as patch, running_cloud(patch) as running:
        patch.setattr(dataflow, "POLL_SECONDS", 0.02)
        yield running


@pytest.fixture
def rehearsal(
    cloud: Cloud, programs: Path, place: Place, expected: dict[str, bytes], tmp_path: Path
) -> Iterator[Rehearsal]:
    """A cloud that runs the jobs it receives, with rows and model in its storage."""
    assert expected  # the fixture has written the model
    cloud.store.inject(None)
    cloud.store.clear()
    cloud.api.jobs.clear()
    fill(cloud, place)
    yield Rehearsal(cloud, programs, tmp_path)
    cloud.store.inject(None)


def fill(cloud: Cloud, place: Place) -> None:
    """Copies rows and model to the storage that the job reads."""
    copy(cloud, (*(place.here / "in").rglob("*"), *(place.here / "model").rglob("*")), place.here, place.there)


def copy(cloud: Cloud, paths: Iterable[Path], folder: Path, there: str) -> None:
    """Copies files of a folder of this machine to a folder of the cloud."""
    for path in paths:
        if path.is_file():
            cloud.store.put(f"{there}/{path.relative_to(folder)}".removeprefix(f"gs://{BUCKET}/"), path.read_bytes())


def left(cloud: Cloud, place: Place) -> dict[str, bytes]:
    """All files of the output folder."""
    return cloud.store.objects(f"{place.there}/out/".removeprefix(f"gs://{BUCKET}/"))
