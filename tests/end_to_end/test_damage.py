"""What becomes of a run when one of its files is damaged, in each format; docs/formats.md shows the table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.plan.read_sample import SOURCES
from tests.conftest import Result
from tests.support import damages, models
from tests.support.damages import COUNT, DAMAGES, FAILS, REFUSED, Damage


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: f"{damage.suffix}, {damage.what}")
def test_a_damaged_file(keyjoin: Callable[..., Result], model: Any, tmp_path: Path, damage: Damage) -> None:
    good = damages.WRITERS[damage.suffix]()
    changed = damage.change(good)
    assert changed != good
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(SOURCES):  # so many files are sampled before the run; the damaged one is not
        (folder / f"a{number:02d}.{damage.suffix}").write_bytes(good)
    (folder / f"b.{damage.suffix}").write_bytes(changed)
    where = (f"--input={folder}", f"--model={model(models.keyed)}", "--features=a,b,c")
    done = keyjoin("run", *where, "--max_bad_rows=5")
    if damage.ends:
        assert (done.code, done.complete()) == ({FAILS: 1, REFUSED: 2}[damage.ends], False), done.err
        assert f"b.{damage.suffix}" in done.err
        assert damage.names in done.err
        return
    assert (done.code, done.complete()) == (0, True), done.err
    assert [letter["reason"] for letter in done.dead()] == list(damage.reasons)
    assert done.manifest()["totals"]["joined"] == SOURCES * COUNT + damage.kept


def test_the_table_of_the_docs_is_current() -> None:
    assert damages.PAGE.read_text() == damages.page(), "run python -m tests.support.damages"
