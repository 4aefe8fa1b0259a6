"""Tests the benchmark's peers: their environments and locks, measuring several processes, and the chart.

Spark and Ray themselves are not run here: each needs 2.7 GB of packages.
"""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import chart, compare, environments, measure, programs, verify
from benchmarks.programs import FLAGS, PEERS, PROGRAMS, ROOT, Program
from benchmarks.verify import ProgramError
from benchmarks.workloads import WORKLOADS

LOCKED = sorted(path.parent.name for path in PEERS.glob("*/requirements.in"))
# Writes which Python runs it, and writes all rows of the input with a prediction.
SCRIPT = """
import pathlib, sys
output = pathlib.Path(sys.argv[6])
output.mkdir()
lines = pathlib.Path(sys.argv[2]).read_text().splitlines()
(output / "part-0.jsonl").write_text("".join(line[:-1] + ', "prediction": [1.0]}\\n' for line in lines))
pathlib.Path(__file__).with_suffix(".prefix").write_text(sys.prefix)
"""


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a peer with its own environment, whose lock has no packages."""
    folder = tmp_path / "peers" / "fake"
    folder.mkdir(parents=True)
    (folder / "requirements.txt").write_text("# nothing\n")
    monkeypatch.setattr(programs, "PEERS", folder.parent)
    monkeypatch.setattr(environments, "PEERS", folder.parent)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


def test_environment_is_made_once(peer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said() -> str:
        environments.set_up("fake")
        return capsys.readouterr().err

    assert "setting up the environment of fake" in said()
    prefix = subprocess.run(
        [programs.python_of("fake"), "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True
    )
    assert prefix.stdout.strip() == str(peer / ".venv")
    assert said() == ""
    (peer / "requirements.txt").write_text("# another lock\n")
    assert "setting up" in said()
    (peer / ".venv" / "setup-stamp").unlink()  # as if the installation had been interrupted
    assert "setting up" in said()


@pytest.mark.parametrize(("lock", "log"), [("numpy==2.4.6\n", "hash"), ("no requirement\n", "requirement")])
def test_environment_that_fails(peer: Path, lock: str, log: str) -> None:
    (peer / "requirements.txt").write_text(lock)
    for _ in range(2):  # an environment that failed must not count as ready
        with pytest.raises(ProgramError) as raised:
            environments.set_up("fake")
        (message,) = str(raised.value).splitlines()
        assert "environment of fake" in message
        assert log in Path(message.rpartition("see ")[2]).read_text()


def test_no_uv(peer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(peer / "python"))
    monkeypatch.setenv("PATH", str(peer))
    with pytest.raises(ProgramError, match="no uv"):
        environments.set_up("fake")


def test_program_runs_in_its_environment(peer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = peer / "main.py"
    script.write_text(SCRIPT)
    program = Program("a fake", (str(script), *FLAGS), "part-*.jsonl", exact=False, environment="fake")
    monkeypatch.setitem(PROGRAMS, "fake", program)
    assert compare.main(["--rows=10", "--only=fake"]) == 0
    assert script.with_suffix(".prefix").read_text() == str(peer / ".venv")


@pytest.mark.parametrize("name", ["spark", "ray", "tfx_bsl", "script"])
def test_every_peer_is_a_program(name: str) -> None:
    assert (PEERS / name / "main.py").is_file()
    assert PROGRAMS[name].environment == (name if name in LOCKED else None)


@pytest.mark.parametrize("folder", sorted(path.parent for path in ROOT.glob("*/*/*/requirements.in")), ids=str)
def test_lock(folder: Path) -> None:
    """A lock pins every requirement exactly, with hashes, and names no package index."""
    wanted = re.findall(r"^[\w-]+", (folder / "requirements.in").read_text(), re.MULTILINE)
    lock = (folder / "requirements.txt").read_text()
    entries = [entry for entry in re.split(r"\n(?=\S)", lock.strip()) if not entry.startswith("#")]
    assert set(wanted) <= {entry.partition("==")[0] for entry in entries}
    assert all(re.match(r"[\w.-]+==\S+.*(\\\n    --hash=sha256:[0-9a-f]{64} ?)+$", entry) for entry in entries)
    assert "://" not in lock
    assert "index-url" not in lock.partition("\n    --hash")[2]


def test_same_tensorflow() -> None:
    """All peers use the same version of TensorFlow, so the benchmark does not compare versions of it."""
    (version,) = re.findall(r'"(tensorflow==\S+)"', (ROOT / "setup.py").read_text())
    for name in LOCKED:
        assert version in (PEERS / name / "requirements.in").read_text().splitlines()


# Measures a program of two processes that hold 100 MB each at once; the parent does not wait for its child.
MEASURE = """
import os, pathlib, sys
from benchmarks import measure
measure.SAMPLE_SECONDS, measure.GRACE_SECONDS = 0.05, 0.2
hold = "held = os.urandom(100 << 20); print(os.getpid(), flush=True);"
child = "import os, time;" + hold + "time.sleep(600)"
start = "child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=-1); print(int(child.stdout.readline()));"
program = "import os, subprocess, sys, time;" + start + hold + "time.sleep(1)"
log = pathlib.Path(sys.argv[1])
usage = measure.measure([sys.executable, "-c", program, child], log)
left = [pid for pid in log.read_text().split() if int(pid) in {process.pid for process in measure._processes()}]
print(usage.code, usage.peak_bytes >> 20, len(log.read_text().split()), left)
"""


@pytest.mark.skipif(not measure.PROC.is_dir(), reason="other processes are looked at in /proc")
def test_all_processes_are_measured_and_none_stays(tmp_path: Path) -> None:
    # In a process of its own: a process starts with its parent's peak memory, and this process holds TensorFlow.
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "log"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    code, megabytes, processes, left = done.stdout.split()
    assert (code, processes, left) == ("0", "2", "[]")
    assert 200 <= int(megabytes) < 300


def _result(rows: int, program: str, seconds: float, ratio: float | None) -> Mapping[str, Any]:
    return {"rows": rows, "program": program, "seconds": seconds, "seconds_ratio": ratio}


def _texts(results: Sequence[Mapping[str, Any]]) -> list[str]:
    svg = ET.fromstring(chart.draw({"cores": 2, "results": results}))  # noqa: S314 - of our own making
    return [element.text or "" for element in svg.iter("{http://www.w3.org/2000/svg}text")]


def test_chart() -> None:
    results = [
        _result(1000, "textbook", 58.0, 9.5),
        _result(1000, "keyjoin", 6.1, 1.0),
        _result(20, "keyjoin", 5.0, 1.0),
    ]
    assert _texts(results) == [
        "1,000 rows on 2 cores: seconds, and times keyjoin",
        "keyjoin", "6.1 s, 1.0\u00d7",
        "textbook", "58.0 s, 9.5\u00d7",
        "20 rows on 2 cores: seconds, and times keyjoin",
        "keyjoin", "5.0 s, 1.0\u00d7",
    ]  # fmt: skip


def test_chart_without_keyjoin() -> None:
    assert _texts([_result(5, "a<b", 0.004, None)])[1:] == ["a<b", "0.0 s"]


def test_chart_is_drawn(peer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = peer / "main.py"
    script.write_text(SCRIPT)
    monkeypatch.setitem(PROGRAMS, "script", Program("a fake", (str(script), *FLAGS), "part-*.jsonl", exact=False))
    picture, results = peer / "new" / "chart.svg", peer / "results.json"
    assert compare.main(["--rows=10", "--only=script", f"--chart={picture}", f"--json={results}"]) == 0
    assert picture.read_text() == chart.draw(json.loads(results.read_text()))


def test_lines_are_read_whatever_a_peer_calls_its_files(tmp_path: Path) -> None:
    part = tmp_path / "part-0.json"
    part.write_text(
        '{"name": "house-00000001", "prediction": [2.5]}\n{"name": "house-00000000", "prediction": [1.5]}\n'
    )
    assert verify.read([part], WORKLOADS["houses"], 2).tolist() == [1.5, 2.5]
