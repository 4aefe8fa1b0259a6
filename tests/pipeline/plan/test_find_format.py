"""keyjoin finds the format and the codec of a file by its name, else by its first bytes, and never guesses."""

import gzip
import io
import json
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan import find_format
from pipeline.plan.find_format import FoundFormat
from tests.conftest import Result
from tests.support import models
from tests.support.examples import example, floats, texts, written
from transforms.errors import UsageError
from transforms.formats import foreign
from transforms.storage.compression import CODECS, ZSTD, Codec, decompressed
from transforms.storage.objects import Stored

LINES = b'{"x": [1, 2, 3]}\n{"x": [4, 5, 6]}\n'
RECORDS = written([example(x=floats(1, 2, 3))] * 2)


def workbook() -> bytes:
    """Makes the beginning of a workbook."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("[Content_Types].xml", "<Types/>")
        file.writestr("xl/workbook.xml", "<workbook/>")
    return made.getvalue()


@pytest.fixture
def found(tmp_path: Path) -> Callable[..., FoundFormat]:
    """Finds the format of files, given as name=content."""

    def find(given: str | None = None, **contents: bytes) -> FoundFormat:
        files = []
        for name, content in contents.items():
            path = tmp_path / name
            path.write_bytes(content)
            files.append(Stored(str(path), len(content)))
        return find_format.find_format(files, given)

    return find


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("jsonl", LINES),
        ("jsonl", b"\xef\xbb\xbf\r\n" + LINES.replace(b"\n", b"\r\n")),
        ("jsonl", LINES[:-1]),
        ("jsonl", b"[1, 2]\n[3, 4]\n"),
        ("jsonl", b'{"x": "' + b"long" * 40_000 + b'"}\n' + LINES),
        ("tfrecord", RECORDS),
        ("tfrecord", written([example(s=texts(b"s" * 100_000))])),
        ("avro", b"Obj\1and so on"),
        ("parquet", b"PAR1and so on"),
        ("csv", b'age,city\r\n31,"Bern, or\r\nso"\r\n'),
        ("csv", b"age,city\n" + b'31,"Ber\nn"\n' * 20_000),
        ("tsv", b"age\tcity\n31\tBern, or so\n"),
    ],
    ids=[
        "lines",
        "CRLF",
        "no last newline",
        "values",
        "a long line",
        "records",
        "a long record",
        "Avro",
        "Parquet",
        "CSV",
        "long CSV",
        "TSV",
    ],
)
@pytest.mark.parametrize("codec", [None, *CODECS], ids=lambda codec: codec and codec.name)
def test_the_first_bytes_tell_what_the_name_does_not(
    found: Callable[..., FoundFormat], name: str, content: bytes, codec: Codec | None
) -> None:
    stored = codec.compress(content) if codec else content
    told = found(part=stored)
    assert (told.name, told.by_content, [*told.codecs.values()]) == (name, True, [codec.suffix] if codec else [])
    assert found(given=name, part=stored) == told._replace(by_content=False)
    if codec:
        assert found(**{f"part{codec.suffix.upper()}": stored}) == (name, True, {})
        with pytest.raises(UsageError, match=r"part\..* cannot be read: not a whole|it is not"):
            found(**{f"part{codec.suffix}": b"x" + stored})


def test_a_name_that_tells_the_format_is_enough(found: Callable[..., FoundFormat]) -> None:
    """The first bytes are not read here: later checks refuse a file that is not what its name says."""
    for name in ("a.jsonl", "A.NDJSON", "a.json.gz", "A.JSONL.ZSTD"):
        assert found(**{name: b"anything"}) == ("jsonl", False, {})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the name does not tell the format, and the file is empty; name it with --format (jsonl, "),
        (b"one word\n", "nor do the first bytes; name it with --format (jsonl, "),
        (b"1\n2\n", "nor do the first bytes"),
        (b"31,Bern\n32,Rome\n", "nor do the first bytes; if it is CSV, name that with --format csv"),
        (b"age,city\n31,Bern\n32\n", "nor do the first bytes; if it is CSV, name that with --format csv"),
        (b"age;city\n31;Bern\n", "it is CSV with semicolons; name that with --format csv --delimiter ';'"),
        (b'"a"\n"b"\n', "nor do the first bytes"),
        (b"\0\1\2\3" * 50, "nor do the first bytes"),
        (b'[{"x": 1}, {"x": 2}]', "it is a JSON array, which keyjoin does not read; convert it: "),
        (b'{\n  "x": 1\n}\n', "it is JSON over several lines, which keyjoin does not read; convert it: jq"),
        (LINES.decode().encode("utf-16"), "it is UTF-16, which keyjoin does not read; convert it: iconv"),
        (b"\xfd7zXZ\x00rest", "it is xz, which keyjoin does not read; convert it: xz"),
        (b"PK\x03\x04rest", "it is zip, which"),
        (workbook(), "it is Excel, which keyjoin does not read; convert it: soffice --headless --convert-to csv "),
        (gzip.compress(gzip.compress(LINES)), "it is gzip, and its name does not end in .gz; rename it: gzip -dc"),
        (gzip.compress(LINES)[:20], "cannot be read: not a whole gzip file (it ends inside of member 1)"),
    ],
)
def test_a_file_that_may_be_several_things_is_refused(
    found: Callable[..., FoundFormat], content: bytes, says: str
) -> None:
    with pytest.raises(UsageError) as refused:
        found(part=content)
    assert says in str(refused.value)


def test_files_of_several_formats_are_listed_with_the_flags_that_name_them(
    found: Callable[..., FoundFormat], tmp_path: Path
) -> None:
    many = {f"{number} b.jsonl": LINES for number in range(5)}
    with pytest.raises(UsageError) as refused:
        found(**many, part=RECORDS, **{"c.tfrecord": RECORDS})
    _, _, listed = str(refused.value).partition("one by one: ")
    flags = [shlex.split(one.partition("(")[2].rpartition(")")[0]) for one in listed.split(", or ")]
    assert flags == [[f"--input={tmp_path}/**.jsonl"], [f"--input={tmp_path}/part", f"--input={tmp_path}/c.tfrecord"]]


def test_more_files_than_are_looked_at_have_to_be_like_the_first_ones(
    found: Callable[..., FoundFormat], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_format, "CHECKED", 2)
    packed = ZSTD.compress(LINES)
    told = found(a=packed, b=b"", c=packed, **{"d.gz": gzip.compress(LINES)})
    assert (told.name, [*told.codecs.values()]) == ("jsonl", [".zst"] * 2)
    with pytest.raises(UsageError, match=r"they are not alike: .*/a is jsonl, \.zst, .*/b is jsonl; give the names"):
        found(a=packed, b=LINES, c=LINES)


CELLS = st.text(st.characters(codec="utf-8", exclude_characters='\r\n",;\t'), min_size=1, max_size=5)


@given(names=st.lists(CELLS, min_size=2, max_size=4), rows=st.lists(st.lists(CELLS, min_size=2, max_size=4)))
def test_text_is_a_table_only_if_its_records_fit_its_names(names: list[str], rows: list[list[str]]) -> None:
    text = "\n".join(",".join(row) for row in [names, *rows]).encode()
    kind = foreign.of_rows(text, whole=True)
    is_table = (
        all(len(row) == len(names) for row in rows)
        and bool(rows)
        and len({*names}) == len(names)
        and all(name.strip() and not foreign._is_number(name) for name in names)
    )
    assert kind in ((foreign.CSV,) if is_table else (None, foreign.LINES, foreign.ARRAY))


def test_runs_on_files_without_suffixes(keyjoin: Callable[..., Result], model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "part-0").write_bytes(LINES)
    (folder / "part-1").write_bytes(ZSTD.compress(LINES))
    flags = (f"--input={folder}", f"--model={model(models.plain)}", f"--output={tmp_path / 'out'}")
    done = keyjoin("run", *flags)
    assert done.complete(), done.err
    assert (
        f"input        2 files, {sum(p.stat().st_size for p in folder.iterdir())} bytes, jsonl (by content)" in done.out
    )
    assert [part.name for part in done.parts()] == ["part-0-00000-of-00001.jsonl", "part-1-00000-of-00001.jsonl.zst"]
    rows = [decompressed(part.name, part.read_bytes()) for part in done.parts()]
    assert rows[0] == rows[1]
    assert json.loads(rows[0].splitlines()[1]) == {"x": [4, 5, 6], "prediction": [13.75]}
    assert keyjoin("verify", f"--run={tmp_path / 'out'}", "--read_data=100%").code == 0
    (tmp_path / "out" / "_SUCCESS").unlink()
    done.parts()[1].unlink()
    again = keyjoin("run", *flags)
    assert again.complete(), again.err
    assert [decompressed(part.name, part.read_bytes()) for part in again.parts()] == rows


@pytest.mark.parametrize("end", ["csv", "TSV", "jsonl", "json", "ndjson"])
@pytest.mark.parametrize(
    ("kind", "archive"),
    [
        (foreign.by_bytes("a,b".encode("utf-16")), ""),
        (foreign.by_bytes("a,b".encode("utf-16-le")), ""),
        (foreign.ZIP, ".zip"),
        (foreign.ZIP, ""),
        (foreign.XZ, ".xz"),
        (foreign.OLD_LINES, ""),
    ],
)
def test_a_converted_text_keeps_its_format(kind: foreign.Kind, archive: str, end: str) -> None:
    for folder in ("", "d.b/", "gs://bucket/d/"):
        made = foreign.command(kind, f"{folder}a.{end}{archive}").split(" > ")[-1]
        assert made.removesuffix(".gz").endswith(f"a.converted.{end}")
    nameless = foreign.command(kind, f"part-0{archive}").split(" > ")[-1].removesuffix(".gz")
    assert nameless == ("part-0.converted" if kind is foreign.OLD_LINES else "part-0.converted.jsonl")
