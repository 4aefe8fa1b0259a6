"""A gzip file is read whole, or refused if it was cut or other bytes follow it."""

import gzip
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan import read_sample
from tests.conftest import Result, raw_of
from tests.support import examples, models
from transforms import formats
from transforms.errors import RunError
from transforms.records import Source
from transforms.split_into_chunks import spill
from transforms.storage.compression import plain_name

MEMBERS = st.lists(st.binary(max_size=30), min_size=1, max_size=3)


def spilled(folder: Path, stored: bytes) -> bytes:
    path = folder / "a.jsonl.gz"
    path.write_bytes(stored)
    made, size = spill(Source(str(path), len(stored), "a", ".jsonl.gz"), str(folder / "spill"))
    text = Path(made).read_bytes()
    assert len(text) == size
    return text


@given(members=MEMBERS, data=st.data())
def test_only_a_cut_between_members_leaves_a_whole_file(members: list[bytes], data: Any, tmp_path_factory: Any) -> None:
    stored = [gzip.compress(member) for member in members]
    whole = b"".join(stored)
    cut = data.draw(st.integers(0, len(whole)))
    ends = {len(b"".join(stored[: n + 1])): b"".join(members[: n + 1]) for n in range(len(members))}
    folder = tmp_path_factory.mktemp("cut")
    if cut in ends:
        assert spilled(folder, whole[:cut]) == ends[cut]
    else:
        with pytest.raises(RunError, match=r"a\.jsonl\.gz: not a whole gzip file .*; copy it again"):
            spilled(folder, whole[:cut])


@given(members=MEMBERS, garbage=st.binary(min_size=1, max_size=8))
def test_what_follows_the_last_member_is_refused_but_zeros(
    members: list[bytes], garbage: bytes, tmp_path_factory: Any
) -> None:
    whole = b"".join(map(gzip.compress, members))
    folder = tmp_path_factory.mktemp("garbage")
    if not garbage.strip(b"\0"):
        assert spilled(folder, whole + garbage) == b"".join(members)
    else:
        with pytest.raises(RunError, match="not a whole gzip file"):
            spilled(folder, whole + garbage)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.tfrecord.gz", "sub/b.jsonl.gz"])
def test_a_gzip_file_of_no_bytes_is_damaged_and_one_of_no_rows_is_not(
    keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True)
    if "tfrecord" not in name:
        lines({"x": [1, 2, 3]}, name="c.jsonl")  # keyjoin must detect an empty file among others, too
    flags = (f"--input={tmp_path / 'data'}", f"--model={model(models.keyed)}", "--features=x")
    path.touch()
    for command in ("check", "run"):
        done = keyjoin(command, *flags)
        assert (done.code, f"{path} has no bytes, so it is not a whole gzip file" in done.err) == (2, True), done.err
        assert not done.output.exists()
    if "tfrecord" not in name:
        path.write_bytes(gzip.compress(b""))
        done = keyjoin("run", *flags)
        assert (done.code, done.manifest()["totals"]["rows"]) == (0, 1)


LINES = b'{"x": [1, 2, 3]}\n' * 3
MISNAMED = {
    "gzip as text": ("b.jsonl", gzip.compress(LINES), "b.jsonl.gz"),
    "text as gzip": ("b.JSONL.GZ", LINES, "b.JSONL"),
    "text as gzip, no suffix besides": ("b.gz", LINES, "b"),
    "text as gzip, less of it than gzip begins with": ("b.gz", b"{}", "b"),
}


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("case", MISNAMED)
def test_a_misnamed_file_after_good_ones_is_refused_with_its_new_name(
    keyjoin: Callable[..., Result],
    lines: Any,
    model: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    checked: bool,
) -> None:
    """keyjoin refuses it before the run; if there are too many files to check, the step that reads it does."""
    monkeypatch.setattr(read_sample, "CHECKED", 2 if checked else 1)
    name, stored, renamed = MISNAMED[case]
    lines({"x": [1, 2, 3]}, name="a.jsonl")
    path = tmp_path / "data" / name
    path.write_bytes(stored)
    flags = (f"--input={tmp_path / 'data'}", f"--model={model(models.plain)}", "--format=jsonl", "--max_bad_rows=1.0")
    done = keyjoin("run", *flags)
    code = 2 if checked else 1
    assert (done.code, done.complete(), f"{path}: it is " in done.err) == (code, False, True), done.err
    words = shlex.split(done.err.split("rename it: ")[1].split(";")[0].splitlines()[0])
    subprocess.run(words, check=True)
    assert (tmp_path / "data" / renamed).read_bytes() == stored
    assert not checked or keyjoin("run", *flags).complete()


@pytest.mark.parametrize("checked", [True, False])
def test_other_binary_files_after_good_ones_are_refused_and_not_read_as_lines(
    keyjoin: Callable[..., Result],
    lines: Any,
    model: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checked: bool,
) -> None:
    monkeypatch.setattr(read_sample, "CHECKED", 2 if checked else 1)
    lines({"x": [1, 2, 3]}, name="a.jsonl")
    path = tmp_path / "data" / "b.jsonl"
    flags = (f"--input={tmp_path / 'data'}", f"--model={model(models.plain)}", "--max_bad_rows=1.0")
    record = examples.written([examples.example(x=examples.floats(1, 2, 3))])
    for content, said in ((LINES.decode().encode("utf-16"), "UTF-16"), (record, "TFRecord")):
        path.write_bytes(content)
        done = keyjoin("run", *flags)
        assert (done.code, f"{path}: it is {said}" in done.err) == (2 if checked else 1, True), done.err
    path.write_bytes(b"\xff\n" + LINES)  # a bad row in a good file
    assert [raw_of(letter) for letter in keyjoin("run", *flags, "--overwrite").dead()] == [b"\xff"]


@given(stem=st.text("ab.-_0", min_size=1), suffix=st.sampled_from(["", ".jsonl", ".JSON", ".tfrecord"]))
def test_gzip_is_the_end_of_a_name_in_any_case(stem: str, suffix: str) -> None:
    for gzip_suffix in (".gz", ".GZ", ".Gz"):
        name = stem + suffix + gzip_suffix
        source = Source(name, 0, *formats.split_suffix(name))
        assert (source.is_gzip, plain_name(name)) == (True, stem + suffix)
        assert (
            source.stem + plain_name(source.suffix)
            == formats.split_suffix(stem + suffix)[0] + (formats.split_suffix(stem + suffix)[1])
        )
