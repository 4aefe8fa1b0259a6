"""All files are written below the output folder, whatever the names of inputs and the targets of links."""

import os
import posixpath
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Result
from tests.support import models
from transforms.errors import RunError, UsageError
from transforms.records import Chunk, PartReceipt
from transforms.storage import files
from transforms.storage.objects import Stored
from transforms.storage.sources import Found, name_sources
from transforms.write_part import dead_letters_name
from transforms.write_receipts import write_list, write_receipt

NAMES = st.sampled_from(["..", ".", "", "a", "b.jsonl", "..\\..", "..a", "x\ny", "\\", "%2e%2e", "é", "a..", "~", "C:"])
PATHS = st.lists(NAMES, min_size=1, max_size=6).map("/".join)


@given(st.sampled_from(["/data/in", "gs://bucket/in", "/"]), PATHS, PATHS)
def test_parts_and_dead_letters_of_any_name_lie_below_the_output(root: str, inside: str, other: str) -> None:
    found = [Stored(posixpath.join(root, path.lstrip("/")), 1) for path in {inside, other}]
    try:
        sources = name_sources(Found(found, root, []), ".jsonl").sources
    except UsageError:
        return
    for source in sources:
        part = f"{source.stem}-00000-of-00001{source.suffix}"
        for name in (part, dead_letters_name(part)):
            for output in ("/out/here", "gs://bucket/out"):
                written = files.below(output, name)
                assert posixpath.normpath(written).startswith(posixpath.normpath(output) + "/")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a/.."])
def test_a_name_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    for output in (str(tmp_path), "gs://bucket/out"):
        with pytest.raises(RunError, match=r"leads out of .*; remove the link or rename the input"):
            files.below(output, name)


def test_an_object_above_its_own_folder_is_refused() -> None:
    found = Found([Stored("gs://bucket/in/../../x.jsonl", 1)], "gs://bucket/in", [])
    with pytest.raises(UsageError, match=r"lies outside of the folders that the inputs name.*; give its own path"):
        name_sources(found, ".jsonl")


def test_a_link_on_the_way_is_not_followed(tmp_path: Path) -> None:
    output, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    for folder in (output, elsewhere, tmp_path / "out2"):
        folder.mkdir()
    (output / "sub").symlink_to(elsewhere)
    (output / "beside").symlink_to(tmp_path / "out2")
    for name in ("sub/a.jsonl", "sub/deeper/a.jsonl", "beside/a.jsonl"):
        with pytest.raises(RunError, match="leads out of"):
            files.below(str(output), name)
    # The output folder itself may be a link, because its owner chose it.
    (tmp_path / "link").symlink_to(output)
    assert files.below(str(tmp_path / "link"), "a/b.jsonl") == str(tmp_path / "link" / "a/b.jsonl")
    # A link in place of a file is replaced; its target is not overwritten.
    (elsewhere / "kept").write_text("kept")
    (output / "a.jsonl").symlink_to(elsewhere / "kept")
    files.write_whole(files.below(str(output), "a.jsonl"), [b"new"])
    assert ((elsewhere / "kept").read_text(), (output / "a.jsonl").read_text()) == ("kept", "new")


def test_nor_is_one_on_the_way_to_a_receipt_or_a_list(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    temp = tmp_path / "_keyjoin/temp"
    temp.mkdir(parents=True)
    for name in ("receipts", "lists"):
        (temp / name).symlink_to(elsewhere)
    part = PartReceipt(Chunk("a", "", 0, 9, 0, 1, "a-0"), 1, 2, 0, 2, {}, 50, 3, 0, 0, 8)
    with pytest.raises(RunError, match=r"receipts/a-0\.json leads out of"):
        write_receipt(str(temp), part)
    with pytest.raises(RunError, match=r"lists/00000003/x\.jsonl leads out of"):
        write_list(str(temp), 3, "x", [part])
    assert os.listdir(elsewhere) == []


def test_an_earlier_output_with_links_is_left_as_it_is(
    keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    flags = (f"--input={lines({'x': [1, 2, 3]})}", f"--model={model(models.keyed)}", f"--output={tmp_path / 'out'}")
    assert keyjoin("run", *flags).code == 0
    for name in ("_keyjoin/temp", "_keyjoin/dead_letters", "_SUCCESS"):
        files.delete_tree(str(tmp_path / "out" / name))
        (tmp_path / "out" / name).symlink_to(elsewhere)
        refused = keyjoin("run", *flags, "--overwrite")
        assert (refused.code, f"{name} is a link, which keyjoin did not make; move it away" in refused.err) == (2, True)
        (tmp_path / "out" / name).unlink()
    assert keyjoin("run", *flags, "--overwrite").code == 0
    assert os.listdir(elsewhere) == ["kept"]


def test_a_link_planted_during_the_run_ends_it(
    keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, output = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    write = files.write_whole

    def plant(path: str, blocks: Any) -> files.Written:
        if not os.path.lexists(output / "sub"):
            output.mkdir(exist_ok=True)
            (output / "sub").symlink_to(elsewhere)
        return write(path, blocks)

    monkeypatch.setattr(files, "write_whole", plant)
    folder = Path(lines({"x": [1, 2, 3]}, name="sub/a.jsonl")).parents[1]
    lines({"x": [1, 2, 3]}, name="b.jsonl")
    done = keyjoin("run", f"--input={folder}", f"--model={model(models.keyed)}", f"--output={output}")
    assert done.code == 1
    assert "sub/a-00000-of-00001.jsonl leads out of" in done.err
    assert os.listdir(elsewhere) == []


@pytest.mark.parametrize("name", ["back\\slash.jsonl", "new\nline.jsonl", "..dots.jsonl"])
def test_a_name_that_looks_like_a_way_out_is_a_name(
    keyjoin: Callable[..., Result], lines: Any, model: Any, name: str
) -> None:
    done = keyjoin("run", f"--input={lines({'x': [1, 2, 3]}, name=name)}", f"--model={model(models.keyed)}")
    assert (done.code, [p.name for p in done.parts()]) == (0, [name.replace(".jsonl", "-00000-of-00001.jsonl")])
