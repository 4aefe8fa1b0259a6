"""A finished run, ways to damage it, and `keyjoin verify` for it."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.cli import main
from pipeline.run_folder import manifest
from tests.support import models
from transforms.storage import files

if TYPE_CHECKING:
    from tests.conftest import Result

ROWS = [{"x": [n, 0, 1], "n": "é"} if n % 5 else {"x": "bad"} for n in range(30)]
FULL = "--read_data=100%"
PART, PACKED = "a-00001-of-00003.jsonl", "b-00002-of-00003.jsonl.gz"
DEAD_LETTERS = "_keyjoin/dead_letters/a-00000-of-00003.jsonl"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, model: Any) -> list[str]:
    """The flags of a finished run, --output last. It has two sources, one of them gzip, of several chunks each."""
    folder = tmp_path_factory.mktemp("verified")
    (folder / "in").mkdir()
    text = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS)
    (folder / "in" / "a.jsonl").write_bytes(text)
    (folder / "in" / "b.jsonl.gz").write_bytes(gzip.compress(text, mtime=0))
    flags = [f"--input={folder / 'in'}", f"--model={model(models.keyed)}", "--chunk_bytes=250", "--max_bad_rows=0.5"]
    flags.append(f"--output={folder / 'out'}")
    assert main(["run", *flags]) == 0
    return flags


@pytest.fixture
def out(made: list[str], tmp_path: Path) -> Path:
    """A copy of the run's output folder."""
    return copied(made, tmp_path / "out")


def copied(made: list[str], target: Path) -> Path:
    shutil.copytree(made[-1].partition("=")[2], target)
    return target


def model_of(made: list[str]) -> str:
    return made[1]


@pytest.fixture
def verify(keyjoin: Callable[..., "Result"]) -> Callable[..., "Result"]:
    """Runs `keyjoin verify`, and checks that it never prints a traceback or more than one line of error."""

    def call(output: Path, *flags: str) -> "Result":
        done = keyjoin("verify", f"--run={output}", *flags)
        assert done.err.count("\n") <= 1
        return done

    return call


def flip(path: Path, at: int = -1, bits: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bits
    path.write_bytes(data)


def forge(output: Path, change: Callable[[dict[str, Any]], Any], *, lists: dict[str, Callable[[bytes], bytes]]) -> None:
    """Changes a manifest and its lists, and updates all checksums that would reveal the change."""
    path = output / "_keyjoin/manifest.json"
    document = json.loads(path.read_text())
    for name, altered in lists.items():
        (output / name).write_bytes(altered((output / name).read_bytes()))
        now = files.read_back(str(output / name))
        assert now is not None
        document["files"][name] = {"bytes": now.bytes, "crc32c": f"{now.checksum:08x}"}
    change(document)
    path.write_text(json.dumps(document))
    (output / "_SUCCESS").write_bytes(manifest.success_of(path.read_bytes()))
