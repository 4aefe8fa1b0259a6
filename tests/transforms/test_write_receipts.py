"""Receipts are read back as they were written, and a damaged receipt is reported."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import google_crc32c
import pytest
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from pipeline.run_folder.manifest import read_sources
from tests.conftest import Result
from tests.support import models
from transforms.errors import RunError
from transforms.reasons import Reason
from transforms.records import Chunk, PartReceipt
from transforms.write_part import dead_letters_name
from transforms.write_receipts import (
    WriteReceipts,
    decode,
    encode,
    read_list,
    read_receipts,
    receipt_path,
    write_list,
    write_receipt,
)

numbers = st.integers(0, 1 << 60)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
chunks = st.builds(
    lambda source, part, start, bytes, number, more: Chunk(
        source, "", start, start + bytes, number, number + 1 + more, part
    ),
    names, names, numbers, numbers, numbers, numbers,
)  # fmt: skip
REASONS = [reason.value for reason in Reason]
receipts = st.builds(
    PartReceipt, chunks, *[numbers] * 4, st.dictionaries(st.sampled_from(REASONS), numbers, max_size=3), *[numbers] * 6,
    st.dictionaries(names, numbers, max_size=3), saved=numbers,
)  # fmt: skip
PART = PartReceipt(Chunk("a", "", 0, 9, 0, 1, "a-0"), 1, 2, 0, 2, {}, 50, 3, 0, 0, 8)


@given(receipts)
def test_a_receipt_is_read_as_it_was_written(part: PartReceipt) -> None:
    line = encode(part._replace(chunk=part.chunk._replace(data="/somewhere", version="1")))
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
        lambda d: d["chunk"].update(start=-1),
        lambda d: d["chunk"].update(start=10),
        lambda d: d["chunk"].update(number=1),
        lambda d: d["chunk"].update(end=1 << 63),
        lambda d: d["chunk"].update(data="/etc/passwd", more=1),
        lambda d: d["chunk"].update(source="a\0"),
        lambda d: d.update(more=1),
        lambda d: d.update(dead={"\x1b[2J": 1}),
        lambda d: d.update(dead={"null": True}),
        lambda d: d.update(filled={"x": -1}),
        lambda d: d.pop("filled"),
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
    from pipeline.run_folder import manifest

    kept: dict[str, bytes] = {}

    def keep(*arguments: Any, **named: Any) -> None:
        receipts = Path(arguments[0], "_keyjoin/temp", "receipts")
        kept.update({str(p): p.read_bytes() for p in receipts.rglob("*.json")})
        commit(*arguments, **named)

    commit = manifest.commit
    monkeypatch.setattr(manifest, "commit", keep)
    path = Path(lines({"x": [1, 2, 3]}, b"nope", {"x": [4, 5, 6]}, b"", {"x": [7, 8, 9]}))
    done = keyjoin("run", f"--input={path}", f"--model={model(models.keyed)}", "--chunk_bytes=20", "--max_bad_rows=1")
    assert done.code == 0, done.err
    parts = list(read_list(str(done.output / "_keyjoin/parts.jsonl")))
    assert len(parts) > 1
    data = path.read_bytes()
    for part in parts:
        chunk = part.chunk
        assert part.input_checksum == google_crc32c.value(data[chunk.start : chunk.end])
        written = (done.output / chunk.part).read_bytes()
        assert (part.bytes, part.checksum) == (len(written), google_crc32c.value(written))
        dead_letters = done.output / dead_letters_name(chunk.part)
        dead = dead_letters.read_bytes() if part.dead else b""
        assert dead_letters.exists() == bool(part.dead)
        assert (part.dead_bytes, part.dead_checksum) == (len(dead), google_crc32c.value(dead))
    temp = str(done.output / "_keyjoin/temp")
    assert kept == {receipt_path(temp, part.chunk.part): encode(part) + b"\n" for part in parts}
    (source,) = read_sources(str(done.output / "_keyjoin/sources.jsonl"))
    assert source[:5] == (str(path), len(data), "in", ".jsonl", path.stat().st_mtime)


def part_of(source: str, number: int) -> PartReceipt:
    chunk = Chunk(source, "", 10 * number, 10 * number + 10, number, 200, f"{source}-{number}")
    return PART._replace(chunk=chunk)


class TestLists:
    """The receipts of a run, collected in few files."""

    def test_those_of_a_job_without_waves_are_in_64_files_and_come_back_in_order(self, tmp_path: Path) -> None:
        parts = [part_of(source, number) for source in ("a", "b", "c") for number in range(200)]
        step = WriteReceipts(str(tmp_path))
        assert {step: 1}[step]  # Beam uses steps as dictionary keys
        shards: dict[int, list[PartReceipt]] = {}
        for shard, part in map(step._with_shard, parts):
            shards.setdefault(shard, []).append(part)
        assert set(shards) == set(range(64))
        written = [step._write(shard, reversed(found)) for shard, found in shards.items()]
        assert sorted(written) == [f"{tmp_path}/lists/00000000/{shard:02d}.jsonl" for shard in range(64)]
        assert list(read_receipts(str(tmp_path))) == parts

    def test_those_of_waves_follow_each_other(self, tmp_path: Path) -> None:
        # Sorted by the wave's number, not by its name. The chunks of later waves come later in the input.
        waves = {2: [part_of("b", 1), part_of("b", 0)], 10: [part_of("c", 0)], 0: [part_of("a", 0)]}
        for wave, parts in waves.items():
            assert write_list(str(tmp_path), wave, "00", parts) == f"{tmp_path}/lists/{wave:08d}/00.jsonl"
        assert [part.chunk.part for part in read_receipts(str(tmp_path))] == ["a-0", "b-0", "b-1", "c-0"]

    def test_in_a_graph(self, tmp_path: Path) -> None:
        parts = [part_of("a", number) for number in range(9)]
        shards = {WriteReceipts(str(tmp_path))._with_shard(part)[0] for part in parts}
        with beam.Pipeline("FnApiRunner") as root:
            written = root | beam.Create(parts[::-1]) | WriteReceipts(str(tmp_path))
            assert_that(written, equal_to([f"{tmp_path}/lists/00000000/{shard:02d}.jsonl" for shard in shards]))
        assert list(read_receipts(str(tmp_path))) == parts

    def test_none_are_none(self, tmp_path: Path) -> None:
        assert list(read_receipts(str(tmp_path))) == []


def test_a_receipt_is_beside_its_part_and_does_not_name_the_temporary_copy(tmp_path: Path) -> None:
    part = PART._replace(chunk=PART.chunk._replace(data="/spill/1", part="sub/a-0"))
    write_receipt(str(tmp_path), part)
    text = Path(receipt_path(str(tmp_path), "sub/a-0")).read_bytes()
    assert (text, b"spill" in text) == (encode(part) + b"\n", False)
    assert decode(text).chunk.data == ""
