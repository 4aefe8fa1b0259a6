"""The set-up of a checkout says what it does, with programs that stand for uv and sleep."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

UV = f"""
wait_for_ticks() {{
  local most=$(($(wc -l <ticks) + 3))
  until [ "$(wc -l <ticks)" -ge "$most" ]; do :; done
}}
case $1 in
  --version) ;;
  venv) mkdir -p .venv/bin; ln -sf {sys.executable} .venv/bin/python; touch .venv/bin/keyjoin; chmod +x .venv/bin/keyjoin ;;
  pip) case " $* " in *" -r "*) wait_for_ticks; printf '%s\\n' "$@" >uv-arguments; exit "${{UV_FAILS:-0}}" ;; esac ;;
esac
"""
SLEEP = "echo >>ticks"  # returns at once; `uv` installs until it was called three more times


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("scripts/setup_env.sh", "setup.py", "requirements.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name, text in (("uv", UV), ("sleep", SLEEP)):
        path = tmp_path / "programs" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}")
        path.chmod(0o755)
    (tmp_path / "ticks").touch()
    return tmp_path


def set_up(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{checkout}/programs:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [str(checkout / "scripts" / "setup_env.sh"), "requirements.txt"],
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_log_shows_that_the_set_up_goes_on(checkout: Path) -> None:
    done = set_up(checkout)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    first, *steps = done.stderr.splitlines()
    assert first.startswith("keyjoin: setting up .venv with Python 3.")
    ticks = [line for line in steps if line.endswith(" s")]
    assert any(line.startswith("keyjoin: installing packages, ") for line in ticks)
    assert [line for line in steps if line not in ticks] == [
        "keyjoin: making .venv",
        "keyjoin: installing packages",
        "keyjoin: installing keyjoin",
    ]
    assert "--quiet" in (checkout / "uv-arguments").read_text().split()
    assert set_up(checkout).stderr == ""  # ready


def test_a_step_that_fails_ends_the_set_up_with_its_remedy(checkout: Path) -> None:
    done = set_up(checkout, UV_FAILS="3")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("keyjoin: requirements.txt could not be installed: check that ")
