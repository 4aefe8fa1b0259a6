"""Tests that files read by other services match the project: versions of Python and of ruff, and the command to run."""

import re
import subprocess
import sys

import pytest
import yaml

from tests.conftest import ROOT


def test_the_workflow_runs_everything_on_each_supported_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    low, high = re.search(r'python_requires=">=3\.(\d+),<3\.(\d+)"', (ROOT / "setup.py").read_text()).groups()
    assert job["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(int(low), int(high))]
    assert job["steps"][-1] == {"run": ".ci/run"}
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_pre_commit_has_the_locked_ruff() -> None:
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    locked = re.search(r"^ruff==(\S+)", (ROOT / "requirements-test.txt").read_text(), re.MULTILINE)[1]
    assert (repo["repo"], repo["rev"]) == ("https://github.com/astral-sh/ruff-pre-commit", f"v{locked}")


def test_another_process_collects_tests_of_the_same_names(request: pytest.FixtureRequest) -> None:
    """pytest-xdist ends a run if its processes collect other names, such as those of compressed bytes with a time."""
    files = sorted({item.location[0] for item in request.session.items})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [item.nodeid for item in request.session.items if item.nodeid not in found] == []
