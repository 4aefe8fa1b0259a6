"""Makes the environments of peers that need packages of their own, on first use, in the peer's folder.

Each folder of `peers` with a `requirements.in` has an environment. README.md has the command that locks it.
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
    """Makes the environment of a peer; does nothing if it is ready.

    Raises:
        ProgramError: The environment could not be made; the log has the output of the commands.
    """
    # Compiles bytecode now, so that the measured program does not have to compile its imports.
    make(name, PEERS / name / ".venv", PEERS / name / "requirements.txt", ["--compile-bytecode"])


def make(name: str, venv: Path, requirements: Path, flags: Sequence[str] = (), python: str = sys.executable) -> None:
    """Makes an environment of locked packages; does nothing if it is ready.

    Args:
        name: The environment's name in messages.
        venv: The folder of the environment.
        requirements: The file of locked packages, with hashes.
        flags: Flags for `uv pip install`.
        python: The base Python, as uv's `--python` takes it.

    Raises:
        ProgramError: The environment could not be made; the log has the output of the commands.
    """
    stamp = venv / "setup-stamp"
    # The digest covers all that an environment depends on, its full path too: the scripts in it contain that path.
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    made_of = f"{venv.parent}\n{platform.python_version()} {python}\n{digest}\n"
    with requirements.open() as lock:
        # If two first calls run at once, the second one waits and then finds the environment ready.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.is_file() and stamp.read_text() == made_of:
            return
        print(f"setting up the environment of {name} in {venv} (once)", file=sys.stderr)
        shutil.rmtree(venv, ignore_errors=True)
        venv.mkdir()
        _install(name, venv, requirements, flags, python)
        stamp.write_text(made_of)


def find_uv() -> str:
    """Returns the path of uv.

    Raises:
        ProgramError: uv is not installed.
    """
    # scripts/setup_env.sh installs uv beside the project's Python if the machine has none.
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
