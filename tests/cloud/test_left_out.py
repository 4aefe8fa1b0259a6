"""The rehearsal fails where Dataflow would: each test leaves out one necessary thing in a copy of the project."""

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.cloud.image import copy_project, make_image
from tests.cloud.rehearsal import Rehearsal
from tests.cloud.rehearsed import CLOUD_FLAGS, Completed, Place, command, left, ready

pytestmark = ready


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, for the test to break."""
    return copy_project(tmp_path / "project")


@pytest.fixture
def run(rehearsal: Rehearsal, place: Place, project: Path, tmp_path: Path) -> Callable[..., Completed]:
    """Runs the command with workers whose image is built from the copy."""

    def call(*, without: Sequence[str] = ()) -> Completed:
        rehearsal.programs = make_image(tmp_path / "image", project, without)
        return command("run", *place.flags(place.there), *rehearsal.cloud.flags, *CLOUD_FLAGS)

    return call


def check_failed(failed: Completed, rehearsal: Rehearsal, place: Place) -> None:
    assert (failed.code, failed.err.count("\n")) == (1, 1), failed.err
    assert "_SUCCESS" not in left(rehearsal.cloud, place)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_a_package_that_setup_py_forgets(
    run: Callable[..., Completed], rehearsal: Rehearsal, place: Place, project: Path
) -> None:
    change(project / "setup.py", ', "transforms.*"', "")
    failed = run()
    check_failed(failed, rehearsal, place)
    # Several steps need the package; the first to fail differs.
    assert re.search(
        r"No module named 'transforms\.\w+'|cannot import name '\w+' from 'transforms'",
        failed.err.replace("\\", ""),
    )


def test_a_requirement_that_the_lock_forgets(run: Callable[..., Completed], rehearsal: Rehearsal, place: Place) -> None:
    failed = run(without=["msgspec"])
    check_failed(failed, rehearsal, place)
    assert "No module named 'msgspec'" in failed.err


def test_an_option_that_cannot_travel(rehearsal: Rehearsal, place: Place, project: Path) -> None:
    change(
        project / "pipeline" / "job" / "graph.py", "job.handler.features)", "(*job.handler.features, (n for n in ())))"
    )
    flags = [*place.flags(place.there), *rehearsal.cloud.flags, *CLOUD_FLAGS]
    failed = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", *flags], cwd=project, capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1, failed.stderr
    assert re.search("keyjoin: error: .*cannot pickle 'generator' object", failed.stderr), failed.stderr
    assert not rehearsal.cloud.api.jobs
