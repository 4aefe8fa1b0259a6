"""A job of several chunks to interrupt and resume, and the content of its output folder."""

import gzip
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support import models

ROWS = [{"x": [n, 0, 1]} if n % 5 else {"x": "bad"} for n in range(30)]


@pytest.fixture
def data(lines: Any) -> Path:
    """Two sources, one of them gzip, of several chunks each."""
    path = Path(lines(*ROWS, name="a.jsonl"))
    (path.parent / "b.jsonl.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    return path.parent


@pytest.fixture
def flags(data: Path, model: Any, tmp_path: Path) -> list[str]:
    """The flags of a command with several chunks in several waves, without --output."""
    # a copy, because tests change the model
    shutil.copytree(model(models.keyed), tmp_path / "model")
    given = [f"--input={data}", f"--model={tmp_path / 'model'}", "--chunk_bytes=150", "--wave_bytes=700"]
    return [*given, "--max_bad_rows=0.5"]


def content(output: Path) -> dict[str, bytes]:
    """Returns all files of a folder without those with times: the manifest, _SUCCESS, which names it, and the report."""
    found = {str(p.relative_to(output)): p.read_bytes() for p in output.rglob("*") if p.is_file()}
    return {
        name: text
        for name, text in found.items()
        if name not in ("_keyjoin/manifest.json", "_keyjoin/report.html", "_SUCCESS")
    }


def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records the names of the parts that runs write from now on."""
    from transforms import write_part

    seen: list[str] = []
    original = write_part.write_part

    def seeing(receipt: Any, *rest: Any) -> Any:
        seen.append(receipt.chunk.part)
        return original(receipt, *rest)

    monkeypatch.setattr(write_part, "write_part", seeing)
    return seen
