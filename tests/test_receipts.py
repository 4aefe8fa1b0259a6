"""Receipts: what is written is what is read, and what is damaged is said to be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.manifest import read_sources
from tests import models
from tests.conftest import Result
from transforms.errors import RunError
from transforms.receipts import decode, encode, read_list, receipt_path
from transforms.records import Chunk, PartReceipt
from transforms.write import letters_name

numbers = st.integers(0, 1 << 60)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
chunks = st.builds(Chunk, names, st.just(""), numbers, numbers, numbers, numbers, names)
receipts = st.builds(
    PartReceipt, chunks, *[numbers] * 4, st.dictionaries(names, numbers, max_size=3), *[numbers] * 5
)  # fmt: skip
PART = PartReceipt(Chunk("a", "", 0, 9, 0, 1, "a-0"), 1, 2, 0, 2, {}, 50, 3, 0, 0, 8)


@given(receipts)
def test_a_receipt_is_read_as_it_was_written(part: PartReceipt) -> None:
    line = encode(part._replace(chunk=part.chunk._replace(data="/somewhere")))
    assert b"\n" not in line
    assert decode(line) == part
    assert list(json.loads(line)) == list(PartReceipt._fields)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("checksum"),
        lambda d: d.update(bytes="50"),
        lambda d: d.update(chunk=None),
        lambda d: d["chunk"].pop("part"),
        lambda d: d["chunk"].update(start=1.5),
    ],
)
def test_what_is_no_receipt_is_refused(change: Callable[[Any], Any], tmp_path: Path) -> None:
    document = json.loads(encode(PART))
    change(document)
    path = tmp_path / "list.jsonl"
    for line in (json.dumps(document).encode(), encode(PART)[:-1], b"[]", b""):
        with pytest.raises(ValueError, match=r"."):
            decode(line)
        path.write_bytes(encode(PART) + b"\n" + line + b"\n")
        with pytest.raises(RunError, match=r"list.jsonl is damaged"):
            list(read_list(str(path)))


def test_a_receipt_has_all_that_its_files_can_be_checked_with(
    keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import manifest

    kept: dict[str, bytes] = {}

    def keep(*arguments: Any, **named: Any) -> None:
        receipts = Path(arguments[0], "_temp", "receipts")
        kept.update({str(p): p.read_bytes() for p in receipts.rglob("*.json")})
        commit(*arguments, **named)

    commit = manifest.commit
    monkeypatch.setattr(manifest, "commit", keep)
    path = Path(lines({"x": [1, 2, 3]}, b"nope", {"x": [4, 5, 6]}, b"", {"x": [7, 8, 9]}))
    done = keyjoin("run", f"--input={path}", f"--model={model(models.keyed)}", "--chunk_bytes=20", "--max_bad_rows=1")
    assert done.code == 0, done.err
    parts = list(read_list(str(done.output / "_parts.jsonl")))
    assert len(parts) > 1
    data = path.read_bytes()
    for part in parts:
        chunk = part.chunk
        assert part.input_checksum == google_crc32c.value(data[chunk.start : chunk.end])
        written = (done.output / chunk.part).read_bytes()
        assert (part.bytes, part.checksum) == (len(written), google_crc32c.value(written))
        letters = done.output / letters_name(chunk.part)
        dead = letters.read_bytes() if part.dead else b""
        assert letters.exists() == bool(part.dead)
        assert (part.dead_bytes, part.dead_checksum) == (len(dead), google_crc32c.value(dead))
    temp = str(done.output / "_temp")
    assert kept == {receipt_path(temp, part.chunk.part): encode(part) + b"\n" for part in parts}
    (source,) = read_sources(str(done.output / "_sources.jsonl"))
    assert source == (str(path), len(data), "in", ".jsonl", path.stat().st_mtime)
