"""Builds the worker's image as an environment on this machine, with exactly what dataflow/Dockerfile installs."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import environments
from tests.conftest import ROOT

LOCK = ROOT / "dataflow" / "requirements.txt"
DOCKERFILE = (ROOT / "dataflow" / "Dockerfile").read_text()
# Files of the project. The Dockerfile also copies locks, Beam's programs, and the container's entry point.
COPIED = [
    name
    for names in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE)
    for name in names.split()
    if not name.startswith(("dataflow/", "/", "--"))
]


def copy_project(folder: Path) -> Path:
    """Copies the files that the Dockerfile copies, without what earlier builds have left in the checkout."""
    folder.mkdir(parents=True)
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


def make_image(folder: Path, project: Path, without: Sequence[str] = ()) -> Path:
    """Makes an environment.

    Args:
        folder: Folder of the new environment.
        project: The project to install there, by its setup.py.
        without: Locked packages to leave out.

    Returns:
        The folder of the environment's programs.
    """
    uv = environments.find_uv()
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    site = _site(folder)
    left_out = re.compile(rf"({'|'.join(without)})(-[\d.]+\.dist-info)?" if without else "(?!)")
    for package in _site(_locked()).iterdir():
        if not left_out.fullmatch(package.name) and not (site / package.name).exists():
            (site / package.name).symlink_to(package)
    install = [uv, "pip", "install", "--quiet", "--offline", "--no-cache", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--python", folder / "bin" / "python", project], check=True)
    return folder / "bin"


def _locked() -> Path:
    """The environment of the lock. It is large, so it is made once and kept in the project's .venv, beside Prism."""
    made = (ROOT / ".venv").resolve() / f"worker-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    environments.make("the worker image", made, LOCK)
    return made


def _site(venv: Path) -> Path:
    (site,) = (venv / "lib").glob("python*/site-packages")
    return site


def boot_environment(programs: Path, folder: Path) -> dict[str, str]:
    """The environment variables of a container, and those that direct it to the stand-ins for Google's services."""
    kept = {name: os.environ[name] for name in os.environ if name.startswith(("STORAGE_EMULATOR_", "GCE_METADATA_"))}
    (folder / "tmp").mkdir()
    return {
        "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
        "RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT": "1",
        "PIP_NO_INDEX": "1",
        "HOME": str(folder),
        "TMPDIR": str(folder / "tmp"),
        **kept,
    }
