"""Clock, language, time zone, hash seed, umask and thousands of files do not change the bytes of the output."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import BOSTON, ROOT
from tests.faults.counts import Counts
from tests.faults.forks import side_by_side
from tests.faults.jobs import ROWS, make
from tests.faults.test_kills import content

FILES = 4096
SURROUNDINGS = [
    {},
    {"LC_ALL": "C", "PYTHONHASHSEED": "1", "TZ": "Pacific/Kiritimati"},
    {
        "LC_ALL": "tr_TR.UTF-8",
        "LANG": "tr_TR.UTF-8",
        "PYTHONHASHSEED": "2",
        "PYTHONUTF8": "0",
        "TZ": "America/St_Johns",
    },
]


def test_the_whole_program_in_other_surroundings(tmp_path: Path, count: Counts) -> None:
    def one(number: int) -> dict[str, bytes]:
        folder = tmp_path / str(number)  # the current folder, so that the command is the same
        folder.mkdir()
        command = [
            sys.executable,
            "-m",
            "pipeline",
            "run",
            f"--input={BOSTON}/data",
            f"--model={BOSTON}/model",
            "--output=out",
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **SURROUNDINGS[number]}
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, umask=0o77 * number)
        return content(folder / "out")

    first, *others = side_by_side(one, range(len(SURROUNDINGS)))
    for other in others:
        assert other == first
    count("surroundings", len(SURROUNDINGS) + 2)


def test_a_clock_that_jumps_and_a_umask(tmp_path: Path) -> None:
    data = "\n".join(ROWS * 2).encode()
    job = make(tmp_path / "job", {"a.jsonl": data}, "--chunk_bytes=300", "--max_bad_rows=0.5")
    found = []
    for number, hook in enumerate((None, ("jumping", ()), ("umask", (0o77,)))):
        other = job.copy(tmp_path / str(number))
        done = other.run(hook=hook)
        assert done.code == 0, done.said
        found.append(other.files())
    assert found[1:] == found[:1] * 2


def test_a_busy_machine(tmp_path: Path, count: Counts) -> None:
    """What keyjoin measures, and how far its checks come in their time, decides no byte of a part."""
    data = "\n".join(ROWS * 2).encode()
    job = make(tmp_path / "job", {"a.jsonl": data}, "--chunk_bytes=300", "--max_bad_rows=0.5")
    clean = job.copy(tmp_path / "clean")
    assert clean.run().code == 0

    def one(seed: int) -> int:
        other = job.copy(tmp_path / str(seed))
        done = other.run(hook=("busy", (seed,)))
        assert (done.code, "Traceback" in done.said, "warning" in done.said) == (0, False, False), done.said
        assert other.files() == clean.files(), seed
        return done.hook["waits"]

    count("waits on a busy machine", sum(side_by_side(one, range(8))))


def test_thousands_of_files(tmp_path: Path, count: Counts) -> None:
    sources = {
        f"{number % 64:02d}/{number:04d}.jsonl": f'{{"x": [{number}.5, 1, 2]}}\n'.encode() for number in range(FILES)
    }
    job = make(tmp_path / "job", sources)
    done = job.run()
    assert done.code == 0, done.said
    found = job.files()
    parts = [name for name in found if not name.startswith("_")]
    assert len(parts) == FILES
    for name, data in sources.items():
        (row,) = found[name.replace(".jsonl", "-00000-of-00001.jsonl")].splitlines()
        assert row.startswith(data.rstrip()[:-1] + b', "prediction": [')
    count("files of one run", len(parts))
