"""A job service of a portable runner gets the same graph through Beam's Job API.

The job service of Prism stands in for those of Flink and Spark.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BOSTON, ROOT, Result
from tests.support import houses, models


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    """Starts a job service, and yields its address."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [os.environ["KEYJOIN_PRISM"], f"-job_port={port}", "-serve_http=false", "-log_kind=json"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert any(str(port) in line for line in process.stderr)  # wait until it listens
        yield f"localhost:{port}"
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif("KEYJOIN_PRISM" not in os.environ, reason="tests/run.sh builds Prism and says so where it cannot")
def test_a_job_service_gives_the_same_bytes(
    endpoint: str, keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path
) -> None:
    rows = [*({"x": [n, 1, 2]} for n in range(30)), b"bad"]
    flags = (f"--input={lines(*rows)}", f"--model={model(models.keyed)}", "--chunk_bytes=200")
    local = keyjoin("run", *flags, "--max_bad_rows=1")
    where = ("--runner=PortableRunner", f"--job_endpoint={endpoint}", "--environment_type=LOOPBACK")
    command = [sys.executable, "-m", "pipeline", "run", *flags, *where, f"--output={tmp_path / 'there'}"]
    there = Result(0, "", "", tmp_path / "there")
    refused = subprocess.run([*command, "--max_bad_rows=0"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (refused.returncode, there.complete()) == (1, False), refused.stderr
    assert refused.stderr.splitlines()[-1].startswith(
        "keyjoin: error: 1 of 31 rows is bad, more than --max_bad_rows=0 allows"
    )
    done = subprocess.run([*command, "--max_bad_rows=1"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, there.complete()) == (0, True), done.stderr
    assert "resumes" in done.stdout
    assert [(p.name, p.read_bytes()) for p in there.parts()] == [(p.name, p.read_bytes()) for p in local.parts()]
    assert there.dead() == local.dead()


@pytest.mark.skipif("KEYJOIN_PRISM" not in os.environ, reason="tests/run.sh builds Prism and says so where it cannot")
@pytest.mark.parametrize("fmt", ["csv", "parquet"])
def test_a_job_service_gives_the_same_bytes_in_other_formats(
    endpoint: str, keyjoin: Callable[..., Result], tmp_path: Path, fmt: str
) -> None:
    source = houses.write(tmp_path, fmt)
    flags = (f"--input={source}", f"--model={BOSTON}/model", houses.FEATURES, "--chunk_bytes=2000", "--audit=9")
    local = keyjoin("run", *flags)
    where = ("--runner=PortableRunner", f"--job_endpoint={endpoint}", "--environment_type=LOOPBACK")
    command = [sys.executable, "-m", "pipeline", "run", *flags, *where, f"--output={tmp_path / 'there'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    there = Result(done.returncode, done.stdout, done.stderr, tmp_path / "there")
    assert (there.code, there.complete()) == (0, True), done.stderr
    assert len(there.parts()) > 1
    assert there.manifest()["audit"]["rows"] == local.manifest()["audit"]["rows"] == 9
    assert [(p.name, p.read_bytes()) for p in there.parts()] == [(p.name, p.read_bytes()) for p in local.parts()]
