"""Dead letters and messages of text formats name the line, as editors and `sed -n 12p` count them."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Result, raw_of
from tests.support import examples, models
from tests.support.blocks import block_of
from transforms import line_numbers as line_numbers
from transforms.formats.jsonl import FORMAT
from transforms.line_numbers import Lines
from transforms.records import Chunk
from transforms.storage import files

GOOD, BAD = b'{"x": [1, 2, 3]}', b'{"x": "bad"}'
TEXT = b"\n".join([b"\xef\xbb\xbf" + BAD, b"", GOOD, BAD, b"  ", b"\r", BAD + b"\r", GOOD, *[b""] * 30, GOOD, BAD])


def lined(dead: list[dict[str, Any]]) -> list[tuple[int, bytes]]:
    return [(letter["line"], raw_of(letter).strip()) for letter in dead]


@pytest.mark.parametrize("chunk_bytes", [1, 50, 1 << 20])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_dead_letter_has_the_line_of_its_source(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path, name: str, chunk_bytes: int
) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(TEXT) if name.endswith("gz") else TEXT)
    flags = (f"--input={path}", f"--model={model(models.plain)}", "--max_bad_rows=1.0")
    done = keyjoin("run", *flags, f"--chunk_bytes={chunk_bytes}")
    expected = [
        (number, line.removeprefix(b"\xef\xbb\xbf").strip())
        for number, line in enumerate(TEXT.split(b"\n"), 1)
        if BAD in line
    ]
    assert lined(done.dead()) == expected, done.err
    replayed = keyjoin("replay", f"--run={done.output}")
    assert (replayed.code, lined(done.dead())) == (0, expected), replayed.err
    good = json.dumps({"key": f"{path}#{done.dead()[1]['position']}", "row": GOOD.decode()})
    (tmp_path / "repaired.jsonl").write_text(good)
    replayed = keyjoin("replay", f"--run={done.output}", f"--rows={tmp_path / 'repaired.jsonl'}")
    assert (replayed.code, lined(done.dead())) == (0, [expected[0], *expected[2:]]), replayed.err


def test_a_run_over_its_limit_shows_the_lines(keyjoin: Callable[..., Result], model: Any, lines: Any) -> None:
    done = keyjoin("run", f"--input={lines(GOOD, b'', BAD)}", f"--model={model(models.plain)}")
    assert (done.code, "#18 (line 3)  wrong_shape: " in done.err) == (1, True), done.err


def test_records_have_no_lines(keyjoin: Callable[..., Result], model: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    path.write_bytes(examples.written([b"\n", b"\n\n"]))
    done = keyjoin("run", f"--input={path}", f"--model={model(models.plain)}", "--max_bad_rows=1.0")
    assert [letter["line"] for letter in done.dead()] == [None, None]


def test_lines_are_counted_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rows = tmp_path / "a.jsonl", b"1\n" * 20
    path.write_bytes(rows)
    monkeypatch.setattr(line_numbers, "MOST_BYTES", 30)
    found = [
        Lines(b"\n").numbers(Chunk("a", str(path), at, 40, 0, 1, "p"), block_of(FORMAT, rows[at:], at), [0, 2])
        for at in (30, 32)
    ]
    assert found == [[16, 18], [None, None]]


def test_what_was_counted_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"1\n" * 500)
    monkeypatch.setattr(line_numbers, "BLOCK_BYTES", 10)
    counter, read = Lines(b"\n"), []
    original = files.read_of
    monkeypatch.setattr(
        line_numbers.files,
        "read_of",
        lambda file, path, at, end: read.append(end - at) or original(file, path, at, end),
    )
    for start in range(4, 1000, 10):
        chunk = Chunk("a", str(path), start, start + 10, 0, 1, "p")
        assert counter.numbers(chunk, block_of(FORMAT, b"1\n" * 5, start), [0]) == [start // 2 + 1]
    assert sum(read) - len(range(4, 1000, 10)) * 10 == 990 + 4 * 100
