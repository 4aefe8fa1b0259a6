"""The environments of peers that need packages of their own: made on first use, beside what locks them.

A folder of `peers` with a `requirements.in` has one; README.md has the command that locks it.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.programs import PEERS
from benchmarks.verify import ProgramError


def set_up(name: str) -> None:
    """Makes the environment of a peer ready; does nothing where it is.

    Raises:
        ProgramError: It could not be made; what was tried is in a log.
    """
    # What is measured must not have to compile what it imports.
    make(name, PEERS / name / ".venv", PEERS / name / "requirements.txt", ["--compile-bytecode"])


def make(name: str, venv: Path, requirements: Path, flags: Sequence[str] = (), python: str = sys.executable) -> None:
    """Makes an environment of locked packages; does nothing where it is ready.

    Args:
        name: What it is called in messages.
        venv: Where it is made.
        requirements: The packages, with hashes.
        flags: For the installation, by uv.
        python: The Python that it is made of, as uv takes it.

    Raises:
        ProgramError: It could not be made; what was tried is in a log.
    """
    stamp = venv / "setup-stamp"
    # All that an environment depends on: its commands know it by its full path.
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    made_of = f"{venv.parent}\n{platform.python_version()} {python}\n{digest}\n"
    with requirements.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Of two first calls at once the second waits, and finds it ready.
        if stamp.is_file() and stamp.read_text() == made_of:
            return
        print(f"setting up the environment of {name} in {venv} (once)", file=sys.stderr)
        shutil.rmtree(venv, ignore_errors=True)
        venv.mkdir()
        _install(name, venv, requirements, flags, python)
        stamp.write_text(made_of)


def find_uv() -> str:
    """Where uv is.

    Raises:
        ProgramError: There is none.
    """
    # scripts/setup_env.sh puts it beside the project's Python where the machine has none.
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if uv is None:
        raise ProgramError("no uv (pip install uv)")
    return uv


def _install(name: str, venv: Path, requirements: Path, flags: Sequence[str], python: str) -> None:
    try:
        uv = find_uv()
    except ProgramError as error:
        raise ProgramError(f"the environment of {name} could not be set up: {error}") from error
    install = [uv, "pip", "install", *flags, "--require-hashes", "--no-deps"]
    log = venv / "setup.log"
    with log.open("wb") as said:
        for command in (
            [uv, "venv", "--allow-existing", "--python", python, str(venv)],
            [*install, "--python", str(venv / "bin" / "python"), "-r", str(requirements)],
        ):
            if subprocess.run(command, stdout=said, stderr=said).returncode:  # noqa: S603
                raise ProgramError(f"the environment of {name} could not be set up: see {log}")
