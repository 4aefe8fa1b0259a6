"""Tests that the benchmark measures every program, and refuses to time a program whose output is wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import compare
from benchmarks.measure import Family, measure
from benchmarks.programs import DEFAULT, FLAGS, PROGRAMS, ROOT, Program

ROWS = 300
# A fake program whose predictions are the rows' numbers. Its first argument is a Python statement that may change its
# lines.
FAKE = """
import pathlib, sys
lines = pathlib.Path(sys.argv[3]).read_text().splitlines(True)
lines = [line.replace("}\\n", f', "prediction": [{at}.0]}}\\n') for at, line in enumerate(lines)]
exec(sys.argv[1])
output = pathlib.Path(sys.argv[7])
output.mkdir()
(output / "x-0-of-1.jsonl").write_text("".join(lines))
"""
RIGHT = "pass"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces a program of the table with a fake one that changes its lines."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def put(name: str, statement: str, *, exact: bool = False) -> None:
        program = Program("a fake", (str(script), statement, *FLAGS), "*-of-*.jsonl", exact)
        monkeypatch.setitem(PROGRAMS, name, program)

    return put


def test_default_programs(tmp_path: Path) -> None:
    results = tmp_path / "new" / "results.json"
    done = subprocess.run(
        [ROOT / "benchmarks" / "run", f"--rows={ROWS}", f"--json={results}"],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    head, *lines = [line.split() for line in done.stdout.splitlines() if line]
    assert head[:2] == ["rows", "program"]
    assert [line[:2] for line in lines[:-1]] == [["300", name] for name in DEFAULT]
    document = json.loads(results.read_text())
    assert [result["program"] for result in document["results"]] == list(DEFAULT)
    assert all(result["seconds"] > 0 and result["peak_bytes"] > 1e6 for result in document["results"])


def test_right_fakes(fake: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    fake("keyjoin", RIGHT, exact=True)
    fake("textbook", "lines.reverse()")
    assert compare.main(["--rows=10,20", "--repeat=2", "--only=keyjoin,textbook"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["10", "keyjoin"], ["10", "textbook"], ["20", "keyjoin"], ["20", "textbook"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("statement", "exact", "message"),
    [
        ("sys.exit('out of luck')", False, "out of luck"),
        ("del lines[3]", False, "9 rows were written, 10 were read"),
        ("lines[3] = lines[4]", False, "house-00000004 was written twice"),
        ("lines.append(lines[3])", False, "house-00000003 was written twice"),
        ("lines[3] = lines[3].replace('house-00000003', 'house-00000010')", False, "no input row"),
        ("lines[3] = lines[3].replace('house-00000003', 'house--0000001')", False, "no input row"),
        ("lines[3] = lines[3].replace('house-00000003', 'John')", False, "output row 3"),
        ("lines[3] = lines[3].replace('3.0]', 'null]')", False, "output row 3"),
        (
            "lines[3] = lines[3].replace('3.0]', '3.5]')",
            False,
            "house-00000003 got 3.5, another program gave it 3.0",
        ),
        ("lines[3] = lines[3].replace('3.0]', '3.00]')", True, "its bytes are not those"),
        ("lines.reverse()", True, "its bytes are not those"),
    ],
)
def test_wrong_output(
    statement: str, exact: bool, message: str, fake: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    fake("keyjoin", RIGHT, exact=True)
    fake("textbook", statement, exact=exact)
    assert compare.main(["--rows=10", "--only=keyjoin,textbook"]) == 1
    said = capsys.readouterr()
    assert "textbook" in said.err
    assert message in said.err
    assert not said.out


@pytest.mark.parametrize("statement", ["lines.reverse()", "lines[3] = lines[3].replace('features', 'feature')"])
def test_wrong_lines(statement: str, fake: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    """Without another output to compare with, an exact program is compared with its input."""
    fake("keyjoin", statement, exact=True)
    assert compare.main(["--rows=10", "--only=keyjoin"]) == 1
    assert "is not input row" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--rows=0", "--rows=1,x", "--repeat=0", "--only=flink", "--only=baseline,baseline"])
def test_wrong_flags(flag: str) -> None:
    with pytest.raises(SystemExit) as raised:
        compare.main([flag])
    assert raised.value.code == 2


# Allocates 150 MB, frees them, and then starts a process that does the same.
TAKES = """
import subprocess, sys
taken = bytearray(150_000_000)
del taken
if len(sys.argv) > 1:
    subprocess.Popen([sys.executable, "-c", sys.argv[1]])
else:
    print("taken", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the largest process is counted")
def test_memory_is_what_each_process_took_at_most() -> None:
    command = [sys.executable, "-c", TAKES, TAKES]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "taken\n"
        family = Family(first.pid)
        assert len(family._look()) == 2
        assert 300_000_000 < family.peak_bytes < 400_000_000
        first.communicate("")


def test_nothing_is_left_to_write_when_a_program_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    synced: list[bool] = []
    monkeypatch.setattr("os.sync", lambda: synced.append(begun.exists()))
    assert measure([sys.executable, "-c", f"open({str(begun)!r}, 'w')"], tmp_path / "log").code == 0
    assert begun.exists()
    assert synced == [False]
