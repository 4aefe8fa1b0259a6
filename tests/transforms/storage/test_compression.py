"""A compressed file is read whole, or refused if it was cut or damaged, or other bytes follow it."""

import gzip
import io
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

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
from transforms.storage import compression
from transforms.storage.compression import BZIP2, CODECS, GZIP, ZSTD, Codec, DamagedError, plain_name

MEMBERS = st.lists(st.binary(max_size=30), min_size=1, max_size=3)
by_codec = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)


def spilled(folder: Path, codec: Codec, stored: bytes) -> bytes:
    path = folder / f"a.jsonl{codec.suffix}"
    path.write_bytes(stored)
    made, size = spill(Source(str(path), len(stored), "a", f".jsonl{codec.suffix}"), codec, str(folder / "spill"))
    text = Path(made).read_bytes()
    assert len(text) == size
    return text


def refused(folder: Path, codec: Codec, stored: bytes) -> None:
    with pytest.raises(
        RunError, match=rf"a\.jsonl.*: (not a whole {codec.name} file .*; copy it again|it is .*; rename)"
    ):
        spilled(folder, codec, stored)
    assert not list(folder.glob("spill/*")), "half a file"


@by_codec
@given(members=MEMBERS, data=st.data())
def test_only_a_cut_between_members_leaves_a_whole_file(
    codec: Codec, members: list[bytes], data: Any, tmp_path_factory: Any
) -> None:
    stored = [codec.compress(member) for member in members]
    whole = b"".join(stored)
    cut = data.draw(st.integers(0, len(whole)))
    ends = {len(b"".join(stored[: n + 1])): b"".join(members[: n + 1]) for n in range(len(members))}
    folder = tmp_path_factory.mktemp("cut")
    if cut in ends:
        assert spilled(folder, codec, whole[:cut]) == ends[cut]
    else:
        refused(folder, codec, whole[:cut])


@by_codec
@given(members=MEMBERS, garbage=st.binary(min_size=1, max_size=8))
def test_only_zeros_may_follow_the_last_member_and_only_in_gzip(
    codec: Codec, members: list[bytes], garbage: bytes, tmp_path_factory: Any
) -> None:
    whole = b"".join(map(codec.compress, members))
    folder = tmp_path_factory.mktemp("garbage")
    if codec is GZIP and not garbage.strip(b"\0"):
        assert spilled(folder, codec, whole + garbage) == b"".join(members)
    else:
        refused(folder, codec, whole + garbage)


TEXT = b"".join(b'{"a": %d, "b": "%x"}\n' % (n, n * 7919 % 65536) for n in range(4000))


@by_codec
@given(data=st.data())
def test_a_bit_that_flips_never_changes_what_is_read(codec: Codec, data: Any, tmp_path_factory: Any) -> None:
    """Some bits have no meaning, such as the name of the operating system in gzip. The text is then the same."""
    stored = bytearray(codec.compress(TEXT))
    stored[data.draw(st.integers(0, len(stored) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    folder = tmp_path_factory.mktemp("flip")
    try:
        read = spilled(folder, codec, bytes(stored))
    except RunError:
        refused(folder, codec, bytes(stored))
    else:
        assert read == TEXT


def read_all(file: IO[bytes], size: int) -> None:
    while file.read(size):
        pass


DAMAGES: dict[str, Callable[[bytes, Codec], bytes]] = {
    "no bytes": lambda _, __: b"",
    "one byte": lambda stored, _: stored[:1],
    "the first bytes only": lambda stored, codec: stored[: len(codec.first[0])],
    "half": lambda stored, _: stored[: len(stored) // 2],
    "the last byte is missing": lambda stored, _: stored[:-1],
    "no trailer": lambda stored, _: stored[:-8],
    "a byte at the end": lambda stored, _: stored + b"x",
    "text at the end": lambda stored, _: stored + b'{"a": 1}\n',
    "a member cut in its header": lambda stored, codec: stored + codec.compress(b"x")[:3],
    "a member cut in its trailer": lambda stored, codec: stored + codec.compress(b"x")[:-1],
    "a member of another codec": lambda stored, codec: stored + CODECS[CODECS.index(codec) - 1].compress(b"x"),
    "zeros, then text": lambda stored, _: stored + bytes(9) + b"x",
    "the last bit": lambda stored, codec: stored[:-1] + bytes([stored[-1] ^ (128 if codec is not BZIP2 else 1 << 3)]),
    "the text as it is": lambda _, __: TEXT,
}


@by_codec
@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_an_error_of_each_way_to_read(codec: Codec, damage: str, tmp_path: Path) -> None:
    stored = DAMAGES[damage](codec.compress(TEXT), codec)
    refused(tmp_path, codec, stored)
    for size in (-1, 1000, 1 << 20):
        with compression.open_plain(io.BytesIO(stored), codec) as file:
            for _ in range(3):  # a reader that failed never looks like a file that ends
                with pytest.raises(DamagedError, match=f"not a whole {codec.name} file"):
                    read_all(file, size)
    with pytest.raises(DamagedError):
        compression.decompressed(f"a{codec.suffix}", stored)


PROGRAMS = {
    "gzip": (GZIP, ["gzip", "-c"]),
    "gzip with a name": (GZIP, ["gzip", "-cN"]),
    "bzip2": (BZIP2, ["bzip2", "-c"]),
    "zstd": (ZSTD, ["zstd", "-qc"]),
    "zstd without checksum": (ZSTD, ["zstd", "-qc", "--no-check"]),
    "zstd, long distances": (ZSTD, ["zstd", "-qc", "--long=27", "-19"]),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_files_of_the_usual_programs_are_read_and_ours_by_them(program: str, tmp_path: Path) -> None:
    codec, command = PROGRAMS[program]
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]}")
    plain, ours = tmp_path / "a.jsonl", tmp_path / f"b{codec.suffix}"
    plain.write_bytes(TEXT)
    theirs = subprocess.run([*command, str(plain)], check=True, capture_output=True).stdout
    assert codec.begins(theirs)
    assert compression.detect(theirs) is codec
    assert spilled(tmp_path, codec, theirs + codec.compress(b"end\n")) == TEXT + b"end\n"
    ours.write_bytes(b"".join(compression.compressed(codec, [TEXT, memoryview(TEXT)])))
    made = subprocess.run([*codec.program.split(), str(ours)], check=True, capture_output=True)
    assert made.stdout == TEXT * 2


def test_a_skippable_frame_of_zstandard_is_no_content(tmp_path: Path) -> None:
    """RFC 8878, 3.1.2. pzstd begins files with one."""
    frame = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"size"
    assert spilled(tmp_path, ZSTD, frame + ZSTD.compress(TEXT) + frame) == TEXT


@by_codec
@given(parts=st.lists(st.binary(max_size=40), max_size=5), least=st.integers(1, 60), size=st.integers(1, 50))
def test_what_is_written_is_read_again_from_any_place(codec: Codec, parts: list[bytes], least: int, size: int) -> None:
    whole = b"".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "MEMBER_BYTES", least)
        patch.setattr(compression, "READ_BYTES", size)
        patch.setattr(compression, "BLOCK_BYTES", size)
        stored = b"".join(compression.compressed(codec, parts))
        assert compression.decompressed(f"A{codec.suffix.upper()}", stored) == whole
        with compression.open_plain(io.BytesIO(stored), codec) as file:
            assert file.read() == whole
            for at in (len(whole) // 2, 0, len(whole), len(whole) // 3):
                assert file.seek(at) == at
                assert file.read(7) == whole[at : at + 7]
            assert file.seek(0, io.SEEK_END) == len(whole)
            assert file.tell() == len(whole)


@by_codec
def test_the_same_rows_give_the_same_bytes_in_any_order_of_threads(codec: Codec) -> None:
    parts = [TEXT[:50_000], TEXT[50_000:], b"", TEXT] * 3
    made = [b"".join(compression.compressed(codec, parts)) for _ in range(2)]
    assert made[0] == made[1]


@by_codec
def test_no_codec_makes_more_bytes_than_its_ratio_says(codec: Codec) -> None:
    stored = codec.compress(bytes(50_000_000))
    assert len(stored) * codec.ratio >= 50_000_000


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
    "gzip as zstd": ("b.jsonl.zst", gzip.compress(LINES), "b.jsonl.gz"),
    "text as bzip2": ("b.jsonl.bz2", LINES, "b.jsonl"),
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
def test_the_end_of_a_name_gives_the_codec_in_any_case(stem: str, suffix: str) -> None:
    for end, codec in compression.SUFFIXES.items():
        for spelled in (end, end.upper(), end.title()):
            name = stem + suffix + spelled
            source = Source(name, 0, *formats.split_suffix(name))
            assert (source.codec, plain_name(name)) == (codec, stem + suffix)
            assert (
                source.stem + plain_name(source.suffix)
                == formats.split_suffix(stem + suffix)[0] + (formats.split_suffix(stem + suffix)[1])
            )
