"""A gzip file is read whole or refused, wherever it was cut and whatever follows it."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Result
from tests.support import models
from transforms.errors import RunError
from transforms.records import Source
from transforms.split_into_chunks import spill

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
        lines({"x": [1, 2, 3]}, name="c.jsonl")  # an empty one is found beside others, too
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
