"""Runs the fuzz targets: on the corpus everywhere, and on new bytes where atheris is installed."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).with_name("corpus")
# This takes seconds on 2 cores. For longer runs set KEYJOIN_FUZZ_RUNS=1000000, or use tests/fuzz/fuzz.py.
RUNS = {"json_lines": 500, "records": 250, "packed": 250, "avro": 250, "csv": 250, "parquet": 100}


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus(target: str) -> None:
    found = sorted((CORPUS / target).iterdir())
    assert len(found) > 4
    for path in found:
        TARGETS[target](path.read_bytes())


def _fuzz(target: str, folder: Path) -> int:
    runs = int(os.environ.get("KEYJOIN_FUZZ_RUNS", RUNS[target]))
    # Linux counts the peak of the process that starts another as its own, and this one may have had some gigabytes.
    flags = [f"-artifact_prefix={folder}/", "-rss_limit_mb=16384"]
    command = [sys.executable, "-m", "tests.fuzz.fuzz", target, str(runs), *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    executed = re.search(r"Done (\d+) runs", done.stderr)
    assert executed is not None, done.stderr[-2000:]
    return int(executed[1])


if importlib.util.find_spec("atheris"):  # atheris has no wheels for macOS

    @pytest.mark.parametrize("target", TARGETS)
    def test_new_bytes(target: str, tmp_path: Path) -> None:
        assert _fuzz(target, tmp_path) >= RUNS[target]
