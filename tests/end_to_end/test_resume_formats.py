"""On files of each format, a run resumes, adds new files, and is verified."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BOSTON, Result
from tests.support import houses
from tests.support.interrupted_run import content, scored
from tests.support.parts import read
from transforms import write_part

MODEL = f"--model={BOSTON}/model"


@pytest.mark.parametrize("fmt", houses.WRITERS)
def test_an_interrupted_run_resumes_then_takes_a_new_file_and_is_verified(
    fmt: str, keyjoin: Callable[..., Result], tmp_path: Path, monkeypatch: Any
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    path = houses.write(data, fmt)
    flags = (f"--input={data}", MODEL, houses.FEATURES, "--chunk_bytes=3000", "--wave_bytes=6000")
    whole = keyjoin("run", *flags)
    assert (whole.code, len(whole.parts()) > 2) == (0, True), whole.err

    output = f"--output={tmp_path / 'again'}"
    original, written = write_part.write_part, list[str]()

    def failing(receipt: Any, *rest: Any) -> Any:
        written.append(receipt.chunk.part)
        if len(written) == 3:
            raise OSError("no space")
        return original(receipt, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(write_part, "write_part", failing)
        assert keyjoin("run", *flags, output).code == 1
    with monkeypatch.context() as patch:
        seen = scored(patch)
        again = keyjoin("run", *flags, output)
    assert (again.code, content(again.output) == content(whole.output)) == (0, True), again.err
    assert 0 < len(seen) < len(whole.parts())

    shutil.copy(path, data / f"more.{fmt}")
    with monkeypatch.context() as patch:
        seen = scored(patch)
        added = keyjoin("run", *flags, output, "--incremental")
    assert (added.code, {name.startswith("more-") for name in seen}) == (0, {True}), added.err
    first, second = (
        [row for part in added.parts() if part.name.startswith(name) for row in read(part)]
        for name in ("houses-", "more-")
    )
    assert first == second
    assert len(first) == len(houses.CELLS)
    verified = keyjoin("verify", f"--run={added.output}", "--read_data=100%", "--rescore=50", MODEL)
    assert verified.code == 0, verified.err
