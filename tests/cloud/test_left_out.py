"""The rehearsal fails where Dataflow would: each test leaves out one necessary thing in a copy of the project."""

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.cloud.image import copy_project, make_image
from tests.cloud.rehearsal import Rehearsal
from tests.cloud.rehearsed import CLOUD_FLAGS, Place, Told, command, left, ready

pytestmark = ready


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, for the test to break."""
    return copy_project(tmp_path / "project")


@pytest.fixture
def run(rehearsal: Rehearsal, place: Place, project: Path, tmp_path: Path) -> Callable[..., Told]:
    """Runs the command with workers whose image is built from the copy."""

    def call(*, without: Sequence[str] = ()) -> Told:
        rehearsal.programs = make_image(tmp_path / "image", project, without)
        return command("run", *place.flags(place.there), *rehearsal.cloud.flags, *CLOUD_FLAGS)

    return call


def check_failed(told: Told, rehearsal: Rehearsal, place: Place) -> None:
    assert (told.code, told.err.count("\n")) == (1, 1), told.err
    assert "_SUCCESS" not in left(rehearsal.cloud, place)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_a_package_that_setup_py_forgets(
    run: Callable[..., Told], rehearsal: Rehearsal, place: Place, project: Path
) -> None:
    change(project / "setup.py", ', "transforms.*"', "")
    told = run()
    check_failed(told, rehearsal, place)
    # Several steps need the package; the first to fail differs.
    assert re.search(
        r"No module named 'transforms\.\w+'|cannot import name '\w+' from 'transforms'",
        told.err.replace("\\", ""),
    )


def test_a_requirement_that_the_lock_forgets(run: Callable[..., Told], rehearsal: Rehearsal, place: Place) -> None:
    told = run(without=["msgspec"])
    check_failed(told, rehearsal, place)
    assert "No module named 'msgspec'" in told.err


def test_an_option_that_cannot_travel(rehearsal: Rehearsal, place: Place, project: Path) -> None:
    change(
        project / "pipeline" / "job" / "graph.py", "job.handler.features)", "(*job.handler.features, (n for n in ())))"
    )
    flags = [*place.flags(place.there), *rehearsal.cloud.flags, *CLOUD_FLAGS]
    told = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", *flags], cwd=project, capture_output=True, text=True, check=False
    )
    assert told.returncode == 1, told.stderr
    assert re.search("keyjoin: error: .*cannot pickle 'generator' object", told.stderr), told.stderr
    assert not rehearsal.cloud.api.jobs
