"""`keyjoin` is the public Python API: what it exports, what its import costs, and its types in a user's file."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import keyjoin
from tests.conftest import ROOT

USER = """\
import apache_beam as beam
from keyjoin import DeadRow, KeyedPredict, Reason, Report, RunError, UsageError, __version__, report

step = KeyedPredict("model/", input_map={"x": "features"}, batch_size=96)
name: str = DeadRow({"x": 1}, "read", Reason.NULL.value, "message").reason
version: str = __version__
made: Report = report("out/", report_rows=0)
errors: tuple[type[Exception], ...] = (RunError, UsageError)
"""


def test_each_name_is_exported() -> None:
    assert sorted(keyjoin.__all__) == sorted(set(keyjoin.__all__))
    assert all(getattr(keyjoin, name) for name in keyjoin.__all__)
    with pytest.raises(AttributeError, match="'keyjoin' has no attribute 'Predict'"):
        _ = keyjoin.Predict


@pytest.mark.parametrize(
    ("name", "imported"),
    [("UsageError", []), ("KeyedPredict", ["apache_beam", "pyarrow"])],
)
def test_an_import_brings_no_more_than_it_needs(name: str, imported: list[str]) -> None:
    large = ("apache_beam", "pyarrow", "tensorflow")
    program = f"import sys; from keyjoin import {name}; print([name for name in {large} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == f"{imported}\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the built package, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("keyjoin", "pipeline", "transforms"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("setup.py", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (library,) = (folder / "venv" / "lib").glob("python3*/site-packages")
    build = [sys.executable, "setup.py", "-q", "build", "--build-lib", library]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    return folder / "venv" / "bin" / "python"


def mypy(text: str, installed: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    (tmp_path / "user.py").write_text(text)
    flags = ["--strict", "--config-file=", f"--python-executable={installed}", f"--cache-dir={tmp_path / 'cache'}"]
    command = [sys.executable, "-m", "mypy", *flags, "--disable-error-code=import-not-found", "user.py"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)


def test_a_users_file_is_checked_against_the_types(installed: Path, tmp_path: Path) -> None:
    good = mypy(USER, installed, tmp_path)
    assert good.returncode == 0, good.stdout
    wrong = mypy(USER.replace("batch_size=96", 'batch_size="96"'), installed, tmp_path)
    assert 'Argument "batch_size" to "KeyedPredict" has incompatible type "str"; expected "int"' in wrong.stdout


def test_every_package_has_a_py_typed_file(installed: Path) -> None:
    (library,) = installed.parent.parent.glob("lib/python3*/site-packages")
    packages = {path.parent.name for path in library.glob("*/__init__.py")}
    assert packages == {"keyjoin", "pipeline", "transforms"}
    assert all((library / name / "py.typed").exists() for name in packages)
