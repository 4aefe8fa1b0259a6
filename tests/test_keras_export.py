"""A `.keras` file is loaded in a process of its own, which ends when it takes too much."""

from pathlib import Path

import pytest

from pipeline import keras_export
from pipeline.keras_export import Limits, export_keras
from tests.conftest import BOSTON, ROOT
from transforms.errors import UsageError

MODEL = str(BOSTON / "model.keras")
ENOUGH = Limits.of(1)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (ENOUGH._replace(seconds=0), "loading it takes more than 0 s; where you trust the file, export it yourself"),
        (ENOUGH._replace(cpu_seconds=1), "loading it takes more than 1 s of processor time; where you trust"),
        (
            ENOUGH._replace(memory=100 << 20),
            "the process that loads it ended with .*; it may have needed more memory than 100 MiB",
        ),
        (ENOUGH._replace(file=1000), ".*File too large.*; check the file"),
    ],
    ids=["time", "processor time", "memory", "file"],
)
def test_a_file_that_takes_too_much_is_refused_in_one_line(limits: Limits, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"model.keras cannot be exported: {message}") as caught:
        export_keras(MODEL, str(tmp_path / "model"), limits)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "model" / "saved_model.pb").exists()


def test_an_older_keras_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(keras_export, "OLDEST", (99, 0, 0))
    with pytest.raises(UsageError, match=r"less safely than 99\.0\.0; install keras>=99\.0\.0"):
        keras_export._export(MODEL, MODEL, str(tmp_path / "model"))


def test_the_locked_keras_is_new_enough() -> None:
    pins = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("keras==")]
    assert [pin.split(";")[0].strip() for pin in pins] == ["keras==3.12.4", "keras==3.15.1"]
