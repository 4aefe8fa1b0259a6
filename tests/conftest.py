"""Fixtures: models made once a session, and the command line as a function."""

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
from hypothesis import HealthCheck, settings

from pipeline.cli import main
from pipeline.compat.startup import import_tensorflow
from tests.faults.counts import Counts

pytest_plugins = (
    "tests.support.output_states",
    "tests.support.processes",
    "tests.support.interrupted_run",
    "tests.support.verified_runs",
)

import_tensorflow()

# The machines are shared, so a slow example says nothing about the code.
settings.register_profile(
    "keyjoin", deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("keyjoin")

ROOT = Path(__file__).parents[1]
BOSTON = ROOT / "examples" / "boston"


COUNTS = pytest.StashKey[Counts]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--soak", action="store_true", help="tests/faults: all that can be tried, which takes about an hour"
    )
    parser.addoption("--fault_seed", type=int, help="tests/faults: this seed alone")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[COUNTS] = Counts(soak=config.getoption("--soak"))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names a case by its argument if the value is bytes: both processes of pytest-xdist must collect equal names, and
    the bytes of a compressed file may hold the time when they were made."""
    return argname if isinstance(val, bytes | bytearray) else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Sends the figures of a worker of pytest-xdist to the process that prints them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["counts"] = session.config.stash[COUNTS].found


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes the figures of a worker. A worker that died has none; pytest-xdist reports its tests as failed."""
    node.config.stash[COUNTS].found.update(getattr(node, "workeroutput", {}).get("counts", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = terminalreporter.config.stash[COUNTS].lines()
    if lines:
        terminalreporter.section("faults that were tried (docs/development/testing.md)")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def count(pytestconfig: pytest.Config) -> Counts:
    """Records the figures of tests/faults."""
    return pytestconfig.stash[COUNTS]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Makes a model of `tests.support.models` in a folder, once for each set of arguments."""
    made: dict[Any, str] = {}

    def make(build: Callable[..., str], *arguments: Any) -> str:
        key = (build, arguments)
        if key not in made:
            made[key] = build(tmp_path_factory.mktemp(build.__name__) / "model", *arguments)
        return made[key]

    return make


@pytest.fixture(autouse=True)
def same_on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands in this process print no progress, and score as many rows before a run as on a fast machine."""
    monkeypatch.setattr("pipeline.terminal.progress.TICK_SECONDS", 1e6)
    monkeypatch.setattr("pipeline.plan.score_sample.SECONDS", 1e6)
    monkeypatch.setattr("pipeline.plan.check_sample.SECONDS", 1e6)


@pytest.fixture(autouse=True)
def tensorflow_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command with `--verbose` in this process changes the environment, which processes of later tests inherit."""
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")


class Result(NamedTuple):
    """What a command printed and wrote: its exit code, its output and its output folder."""

    code: int
    out: str
    err: str
    output: Path

    def rows(self) -> list[dict[str, Any]]:
        """The joined rows, in the order of the parts' names."""
        return [json.loads(line) for line in self.lines()]

    def lines(self) -> list[bytes]:
        """The joined lines, in the order of the parts' names."""
        return [line for part in self.parts() for line in part.read_bytes().splitlines(keepends=True)]

    def parts(self) -> list[Path]:
        """The parts, by name."""
        return sorted(p for p in self.output.rglob("*-of-*") if "_keyjoin" not in p.parts)

    def dead(self) -> list[dict[str, Any]]:
        """The dead letters, in the order of the parts' names."""
        found = sorted(self.output.glob("_keyjoin/dead_letters/**/*.jsonl"))
        return [json.loads(line) for path in found for line in path.read_text().splitlines()]

    def manifest(self) -> dict[str, Any]:
        """The manifest."""
        found: dict[str, Any] = json.loads((self.output / "_keyjoin/manifest.json").read_text())
        return found

    def complete(self) -> bool:
        """Whether the output folder has `_SUCCESS`."""
        return (self.output / "_SUCCESS").exists()


def raw_of(letter: dict[str, Any]) -> bytes:
    """The bytes of a dead letter's row."""
    row: str = letter["row"]
    return row.encode() if letter["row_encoding"] == "utf-8" else base64.b64decode(row)


@pytest.fixture
def keyjoin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs a command; `run` writes to a new folder unless --output is given."""
    runs = 0

    def call(command: str, *flags: str) -> Result:
        nonlocal runs
        runs += 1
        output = tmp_path / f"out-{runs}"
        given = [f.partition("=")[2] for f in flags if f.startswith("--output=")]
        if command in ("run", "check") and not given:
            flags = (*flags, f"--output={output}")
        code = main([command, *map(str, flags)])
        said = capsys.readouterr()
        return Result(int(code), said.out, said.err, Path(given[0]) if given else output)

    return call


@pytest.fixture
def lines(tmp_path: Path) -> Callable[..., str]:
    """Writes lines to a file and returns its path."""

    def write(*rows: Any, name: str = "in.jsonl", end: bytes = b"\n") -> str:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        path.write_bytes(b"\n".join(texts) + (end if texts else b""))
        return str(path)

    return write
