"""The worker image: its Dockerfile, its locks, and its entry point, which starts Beam's worker."""

import importlib.metadata
import io
import json
import os
import pwd
import re
import shlex
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.options.run_options import parse_run
from pipeline.run_folder import manifest
from scripts import make_sbom
from tests.conftest import BOSTON, ROOT
from transforms.formats.spec import FormatSpec

FOLDER = ROOT / "dataflow"
DOCKERFILE = FOLDER / "Dockerfile"
IGNORED = FOLDER / "Dockerfile.dockerignore"
LOCK, GPU_LOCK = FOLDER / "requirements.txt", FOLDER / "requirements-gpu.txt"
EXCLUDES = FOLDER / "excludes.txt"
DATA = ("/prices.json", "/page.html", "/page.css")  # files of packages that are no modules
# The Python and platform of the image, for environment markers.
LINUX = {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux"}
PYTHON = {**LINUX, "python_version": make_sbom.PYTHON, "python_full_version": f"{make_sbom.PYTHON}.0", "extra": ""}


class Pin(NamedTuple):
    """One line of a lock."""

    version: str
    marker: str
    hashes: frozenset[str]


def pins(lock: Path) -> dict[str, list[Pin]]:
    """The lines of a lock, by name. A name can have several lines, for several versions of Python."""
    found: dict[str, list[Pin]] = {}
    text = re.sub(r"^#.*\n", "", lock.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        wanted, *hashes = line.split(" --hash=")
        made = Requirement(wanted)
        (version,) = made.specifier
        assert version.operator == "=="
        pin = Pin(version.version, str(made.marker or ""), frozenset(map(str.strip, hashes)))
        found.setdefault(canonicalize_name(made.name), []).append(pin)
    return found


def in_image(lock: Path) -> dict[str, str]:
    """The versions that a lock installs into the image."""
    return {
        name: pin.version
        for name, choices in pins(lock).items()
        for pin in choices
        if not pin.marker or Requirement(f"x; {pin.marker}").marker.evaluate(PYTHON)
    }


def names(path: Path) -> set[str]:
    return {canonicalize_name(line) for line in path.read_text().split("\n") if line and not line.startswith("#")}


def steps(instruction: str) -> list[str]:
    """The arguments of all Dockerfile instructions of this kind."""
    parsed = DockerfileParser(fileobj=io.BytesIO(DOCKERFILE.read_bytes())).structure
    return [step["value"] for step in parsed if step["instruction"] == instruction]


def defaults() -> Mapping[str, str]:
    """The build arguments that have defaults."""
    return dict(argument.split("=") for argument in steps("ARG") if "=" in argument)


def test_the_linter_passes() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_base_has_a_digest_that_must_be_given() -> None:
    stages = {words[-1] for value in steps("FROM") if len(words := value.split()) == 3}
    bases = [value.split()[0] for value in steps("FROM") if value.split()[0] not in stages]
    assert len(bases) == 3
    arguments = [re.fullmatch(r".*@\$\{(\w+_DIGEST):\?[\w./]+\}", base)[1] for base in bases]
    assert len(set(arguments)) == 3
    assert set(arguments) <= set(steps("ARG")) - set(defaults())
    assert "sha256:" not in DOCKERFILE.read_text()
    page = (ROOT / "docs" / "image.md").read_text()
    assert all(f"--build-arg {argument}=" in page for argument in arguments)


def test_what_is_copied_is_there_and_is_sent_to_the_builder() -> None:
    sent = IGNORED.read_text().splitlines()
    assert sent[1] == "*"
    copied = set()
    for value in steps("COPY"):
        *words, _ = [word for word in value.split() if not word.startswith("--chmod")]
        if words[0].startswith("--from="):
            assert words[0].removeprefix("--from=") in {line.split()[-1] for line in steps("FROM")}
            continue
        for lock in (LOCK, GPU_LOCK):
            copied |= {string.Template(word).substitute(REQUIREMENTS=lock.name) for word in words}
    files = {name for name in copied if not (ROOT / name).is_dir()}
    assert {"setup.py", "dataflow/requirements.txt", "dataflow/launch.py"} <= files
    assert all((ROOT / name).is_file() for name in files)
    folders = copied - files
    assert folders == {"keyjoin", "pipeline", "transforms"}
    assert (set(sent[2:-1]), sent[-1]) == ({f"!{name}" for name in copied}, "**/__pycache__")
    tracked = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(name.endswith((".py", "/py.typed", *DATA)) for name in tracked.stdout.splitlines())
    assert len(tracked.stdout.splitlines()) > 50


def test_versions_are_the_locks() -> None:
    given = defaults()
    assert given["BEAM_VERSION"] == in_image(LOCK)["apache-beam"] == importlib.metadata.version("apache-beam")
    assert given["PYTHON_VERSION"] == make_sbom.PYTHON
    assert given["REQUIREMENTS"] == LOCK.name
    (uv,) = pins(FOLDER / "uv.txt")["uv"]
    assert f"UV_VERSION={uv.version}\n" in (ROOT / "scripts" / "setup_env.sh").read_text()


def test_the_image_installs_as_the_bill_of_materials_was_made() -> None:
    (install,) = [value for value in steps("RUN") if "--require-build-hashes" in value]
    words = shlex.split(install)
    for flag in make_sbom.INSTALL:
        assert flag in words


def test_what_the_build_tries_is_what_it_has_installed() -> None:
    """The build's check imports the installed package, not the checkout, although it runs in the checkout's folder."""
    (tried,) = [value for value in steps("RUN") if "pipeline.commands.run" in value]
    assert "python -I -c" in tried


def test_nothing_is_fetched_when_a_worker_starts() -> None:
    (environment,) = steps("ENV")
    given = dict(word.split("=", 1) for word in shlex.split(environment))
    assert given["RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT"] == "1"  # otherwise boot makes its own environment
    assert given["PIP_NO_INDEX"] == "1"
    assert given["PATH"].startswith("/opt/keyjoin/bin:")
    copied = {words[-1]: words[-2] for value in steps("COPY") if (words := value.split())}
    assert copied[given["FLEX_TEMPLATE_PYTHON_PY_FILE"]] == "dataflow/launch.py"
    (entry,) = map(json.loads, steps("ENTRYPOINT"))
    assert copied[entry[0]] == "dataflow/entrypoint.sh"


@pytest.mark.parametrize("lock", [LOCK, GPU_LOCK], ids=lambda lock: lock.name)
def test_the_lock_is_the_projects_less_what_no_worker_needs(lock: Path) -> None:
    project, worker = pins(ROOT / "requirements.txt"), pins(lock)
    assert all(pin.hashes for choices in worker.values() for pin in choices)
    added = {name for name in worker if name not in project}
    assert added == {"pip", *(["tensorflow-cpu"] if lock == LOCK else [n for n in worker if n.startswith("nvidia-")])}
    assert {name: worker[name] for name in worker if name not in added} == {
        name: project[name] for name in worker if name not in added
    }
    assert pins(LOCK)["tensorflow-cpu"][0].version == project["tensorflow"][0].version


def needs(name: str, extra: str) -> list[tuple[str, str]]:
    """What a package, with an extra or without, requires: names, each with an extra or none."""
    wanted = map(Requirement, importlib.metadata.requires(name) or ())
    return [
        (canonicalize_name(need.name), of_it)
        for need in wanted
        if need.marker is None or need.marker.evaluate({**PYTHON, "extra": extra})
        for of_it in ("", *need.extras)
    ]


def test_the_lock_has_all_that_its_packages_ask_for_and_is_not_excluded() -> None:
    excluded, locked = names(EXCLUDES), set(in_image(LOCK))
    pending, seen = [("keyjoin", ""), ("google-cloud-dataflow-client", ""), ("pip", "")], set()
    while pending:
        package = pending.pop()
        if package not in seen:
            seen.add(package)
            if package[0] not in {*excluded, "pip"}:
                pending += needs(*package)
    installed = {name for name, _ in seen} - {"keyjoin"}
    assert names(FOLDER / "excludes-cpu.txt") == {"tensorflow"}
    assert {"tensorflow-cpu" if name == "tensorflow" else name for name in installed} == locked | excluded
    assert not locked & excluded


def test_the_bill_of_materials_is_the_locks() -> None:
    document = json.loads((FOLDER / "sbom.json").read_text())
    assert document["bomFormat"] == "CycloneDX"
    listed = {canonicalize_name(part["name"]): part["version"] for part in document["components"]}
    assert listed == in_image(LOCK), "run python -m scripts.make_sbom"
    assert all(
        # A purl keeps the dots of a name: https://github.com/package-url/purl-spec, type pypi.
        part["purl"] == f"pkg:pypi/{part['name'].lower().replace('_', '-')}@{part['version']}"
        for part in document["components"]
    )
    assert sum("licenses" in part for part in document["components"]) > 70


def test_the_manifest_knows_the_tensorflow_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher of the Flex template calls it when it plans a run."""
    image = in_image(LOCK)

    def version(name: str) -> str:
        if name not in image:
            raise importlib.metadata.PackageNotFoundError(name)
        return image[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert "tensorflow" not in image
    options = parse_run(["--input=x.jsonl", f"--model={BOSTON / 'model'}", "--output=out"], "keyjoin run")[0]
    versions = manifest.settings(options, FormatSpec("jsonl")).versions
    assert {name: versions[name] for name in manifest.PACKAGES} == {
        "apache-beam": image["apache-beam"], "tensorflow": image["tensorflow-cpu"],
        "pyarrow": image["pyarrow"], "numpy": image["numpy"],
    }  # fmt: skip


SPY = """#!/bin/sh
echo "$(id -un) $HOME $(grep NoNewPrivs /proc/self/status | tr -d '[:alpha:][:space:]:') $*"
touch "$STAGED/made"
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can read; pytest's own folders are open to one user only."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_the_worker_is_nobody_special(open_folder: Path) -> None:
    """The worker runs as an ordinary user. If the container starts as root, its folder is first given to that user."""
    root = os.getuid() == 0
    user = pwd.getpwnam("daemon") if root else pwd.getpwuid(os.getuid())
    boot, staged = open_folder / "boot", open_folder / "of root" / "staged files"
    boot.write_text(SPY)
    boot.chmod(0o755)
    entry = (FOLDER / "entrypoint.sh").read_text()
    assert entry.count("/opt/apache/beam/boot") == 2
    script = open_folder / "entrypoint.sh"
    script.write_text(entry.replace("keyjoin", user.pw_name).replace("/opt/apache/beam/boot", str(boot)))
    if not root:
        staged.mkdir(parents=True)
    flags = ["--id=1", f"--semi_persist_dir={staged}", "--logging_endpoint=localhost:1"]
    given = {**os.environ, "STAGED": str(staged)}
    done = subprocess.run(["sh", script, *flags], env=given, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    home, privileges = (user.pw_dir, "1") if root else (os.environ["HOME"], "0")
    assert done.stdout == f"{user.pw_name} {home} {privileges} {' '.join(flags)}\n"
    assert (staged / "made").stat().st_uid == user.pw_uid


def test_a_worker_that_cannot_be_readied_does_not_start(open_folder: Path) -> None:
    boot, script = open_folder / "boot", open_folder / "entrypoint.sh"
    boot.write_text("#!/bin/sh\necho started\n")
    boot.chmod(0o755)
    entry = (FOLDER / "entrypoint.sh").read_text()
    script.write_text(entry.replace("keyjoin", "daemon").replace("/opt/apache/beam/boot", str(boot)))
    (open_folder / "file").touch()  # a file, so no folder can be made below it
    words = ["sh", script, f"--semi_persist_dir={open_folder}/file/staged"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode == 0, done.stdout) == ((False, "") if os.getuid() == 0 else (True, "started\n"))
