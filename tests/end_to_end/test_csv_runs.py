"""Runs on CSV: every row is written or a dead letter, and replay, verify and resume know its rows."""

import csv
import gzip
import io
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ROOT, Result
from tests.support import models
from tests.support.interrupted_run import content
from tests.support.parts import read

# A record over two lines, one of another number of cells, one with a quote inside of a cell, and a cell of text.
ROWS = ['1,"a\r\nb",007', "2,x", '3,5" pipe,1e5', "four,y,", '"5",,""', '6,"z" z,0']
GOOD = {0: "1", 2: "3", 4: "5"}
BAD = {1: "wrong_cells", 3: "wrong_type", 5: "not_csv"}


def cells(part: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(part.read_bytes().decode(), newline="")))


def source(folder: Path, rows: list[str] = ROWS, name: str = "a.csv") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    text = "\r\n".join(["x,s,n", *rows, ""]).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if name.endswith(".gz") else text)
    return path


def flags(path: Path, model: Callable[..., str]) -> list[str]:
    return [f"--input={path}", f"--model={model(models.echoing, tf.float32)}", "--max_bad_rows=1.0"]


def test_rows_are_joined_or_dead_letters_in_any_chunks(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path
) -> None:
    path = source(tmp_path / "data")
    whole = keyjoin("run", *flags(path, model))
    small = keyjoin("run", *flags(path, model), "--chunk_bytes=1", "--wave_bytes=1")
    assert (whole.code, small.code) == (0, 0)
    rows = [row for part in small.parts() for row in cells(part)[1:]]
    assert rows == cells(whole.parts()[0])[1:]
    assert {row[0]: row[-1] for row in rows} == {"1": "1.0", "3": "3.0", "5": "5.0"}
    text = whole.parts()[0].read_bytes()
    assert text.startswith(b"x,s,n,y\r\n" + f"{ROWS[0]},1.0\r\n".encode())
    assert [letter["reason"] for letter in whole.dead()] == list(BAD.values())
    assert [letter["row"] for letter in whole.dead()] == [ROWS[at] for at in BAD]
    assert [letter["line"] for letter in whole.dead()] == [4, 6, 8]
    assert [letter["line"] for letter in small.dead()] == [4, 6, 8]


def test_a_left_join_has_each_row_in_its_place(keyjoin: Callable[..., Result], model: Any, tmp_path: Path) -> None:
    done = keyjoin("run", *flags(source(tmp_path / "data"), model), "--bad_rows=null")
    header, *rows = cells(done.parts()[0])
    assert header == ["x", "s", "n", "y", "error"]
    assert [row[3] for row in rows] == ["1.0", "", "3.0", "", "5.0", ""]
    errors = {at: json.loads(row[4]) for at, row in enumerate(rows) if row[4]}
    assert {at: error["reason"] for at, error in errors.items()} == BAD
    assert [errors[at]["row"] for at in BAD] == [ROWS[1], None, ROWS[5]]
    assert rows[3][:3] == ["four", "y", ""]


def test_repaired_rows_are_written_as_if_they_had_been_good(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    repaired = {1: "2,x,0", 3: "4444,y,", 5: '6,"z z",0'}
    assert all(len(repaired[at]) >= len(ROWS[at]) - 1 for at in BAD)
    path = source(Path("data"), name="a.csv.gz").relative_to(".")
    done = keyjoin("run", *flags(path, model))
    text = "".join(
        json.dumps({"key": letter["key"], "row": repaired[at]}) + "\n"
        for at, letter in zip(BAD, done.dead(), strict=True)
    )
    Path("rows.jsonl").write_text(text)
    replayed = keyjoin(
        "replay", f"--run={done.output}", f"--model={model(models.echoing, tf.float32)}", "--rows=rows.jsonl"
    )
    assert (replayed.code, replayed.err) == (0, "")
    rows = [repaired.get(at, row) for at, row in enumerate(ROWS)]
    (part,) = done.parts()
    values = ["1.0", "2.0", "3.0", "4444.0", "5.0", "6.0"]
    expected = "".join(f"{row},{value}\r\n" for row, value in zip(rows, values, strict=True))
    assert gzip.decompress(part.read_bytes()) == b"x,s,n,y\r\n" + expected.encode()


def test_verify_scores_rows_again(keyjoin: Callable[..., Result], model: Any, tmp_path: Path) -> None:
    done = keyjoin("run", *flags(source(tmp_path / "data"), model))
    checked = ["verify", f"--run={done.output}", f"--model={model(models.echoing, tf.float32)}", "--rescore=10"]
    verified = keyjoin(*checked)
    assert (verified.code, verified.err) == (0, "")


def test_a_resumed_run_writes_the_same_files(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    from transforms import write_part

    given = [*flags(source(tmp_path / "data"), model), "--chunk_bytes=10", "--wave_bytes=10"]
    whole = keyjoin("run", *given)
    written, original = [], write_part.write_part

    def failing(receipt: Any, *rest: Any) -> Any:
        written.append(receipt.chunk.part)
        if len(written) == 3:
            raise OSError("no space")
        return original(receipt, *rest)

    output = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(write_part, "write_part", failing)
        assert keyjoin("run", *given, f"--output={output}").code != 0
    assert keyjoin("run", *given, f"--output={output}").code == 0
    assert content(output) == content(whole.output)


def test_vectors_of_a_model_are_columns(keyjoin: Callable[..., Result], model: Any, tmp_path: Path) -> None:
    path = source(tmp_path / "data", ["1,2,3", "4,5,6"])
    done = keyjoin("run", f"--input={path}", f"--model={model(models.echoing, tf.float32, 3)}", "--features=x,s,n")
    assert (done.code, done.err) == (0, "")
    header, *rows = cells(done.parts()[0])
    assert header == ["x", "s", "n", "y_0", "y_1", "y_2"]
    assert np.array(rows, float).tolist() == [[1, 2, 3] * 2, [4, 5, 6] * 2]
    verified = keyjoin(
        "verify", f"--run={done.output}", f"--model={model(models.echoing, tf.float32, 3)}", "--rescore=2"
    )
    assert verified.code == 0


def test_text_that_has_no_border_is_refused_before_the_run(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path
) -> None:
    path = source(tmp_path / "data", ["1,a,b", '2,"a,b', "3,a,b"])
    refused = keyjoin("run", *flags(path, model))
    assert refused.code == 2
    assert f"{path}: the quote at byte 16 begins a cell that does not end" in refused.err


def test_a_column_of_a_vector_that_the_rows_have_is_refused_before_the_run(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y_1,n\n1,2,3\n")
    given = [f"--input={path}", f"--model={model(models.echoing, tf.float32, 3)}", "--features=x,y_1,n"]
    refused = keyjoin("check", *given)
    assert (refused.code, "two columns would be called y_1; rename" in refused.err) == (2, True)
    assert keyjoin("check", *given, "--prediction_prefix=p_").code == 0


def test_another_delimiter_is_named(keyjoin: Callable[..., Result], model: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('x;s\n1;a\n2;"b;c"\n')
    refused = keyjoin("check", *flags(path, model))
    assert refused.code == 2
    assert "the only column is called 'x;s', and each row has ';', too; give --delimiter ';'" in refused.err
    assert keyjoin("check", *flags(path, model), "--delimiter=;").code == 0


@pytest.mark.parametrize(("before", "code"), [(200, 2), (150_000, 1)])
def test_a_record_whose_borders_are_in_doubt_stops_the_run_with_its_place(
    before: int, code: int, keyjoin: Callable[..., Result], model: Any, tmp_path: Path
) -> None:
    rows = ['1,"a\r\nb",0', *["2,x,0"] * before, '3,"x\r\n4,y,0\r\n5,y",z,0', "6,x,0"]
    path = source(tmp_path / "data", rows)
    failed = keyjoin("run", *flags(path, model), "--chunk_bytes=900000")
    place = path.read_bytes().index(b"3,")
    assert (failed.code, failed.complete()) == (code, False)
    assert f"{path}: line {before + 4:,}, byte {place}: the record that begins with '3,\"x" in failed.err
    assert "goes over several lines and has 4 cells, but there are 3 columns" in failed.err


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl"])
def test_line_ends_that_are_carriage_returns_are_refused_with_the_command_that_converts_them(
    name: str, keyjoin: Callable[..., Result], model: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    text = b'{"x": 1}\r{"x": 2}\r' if name == "a.jsonl" else b"x,s\r1,a\r2,b\r"
    Path(name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    columns = [[], ["--columns=x,s"]] if "csv" in name else [[]]
    for more in columns:
        refused = keyjoin("run", *flags(Path(name), model), *more)
        assert (refused.code, f"{name}: it is text whose line ends are CR alone" in refused.err) == (2, True)
    command = refused.err.partition("convert it: ")[2].strip()
    assert command.endswith(f"> {name.replace('a.', 'a.converted.').removesuffix('.gz')}")
    subprocess.run(["/bin/sh", "-c", command], check=True)
    (converted,) = tmp_path.glob("a.converted.*")
    assert keyjoin("run", *flags(converted.relative_to(tmp_path), model)).code == 0


def test_without_a_quote_a_left_join_is_refused_before_the_run(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path
) -> None:
    path = source(tmp_path / "data", ["1,a,b", "x,a,b"])
    given = [*flags(path, model), "--quote=none", "--bad_rows=null"]
    refused = keyjoin("run", *given)
    assert (refused.code, "leave --bad_rows=null out, or write another format" in refused.err) == (2, True)
    assert keyjoin("run", *given, "--output_format=jsonl").code == 0


# Texts that programs write with quotes or escapes.
TEXTS = ["plain", 'say "hi"', "a,b", "two\nlines", "back\\slash", 'both \\" q', "", None, "end\\", "semi;colon"]
NUMBERS = [number + 0.5 for number in range(len(TEXTS))]


def excel() -> str:
    """As Excel writes it where the comma is the decimal point, with all texts in quotes."""
    texts = ("" if text is None else '"' + text.replace('"', '""') + '"' for text in TEXTS)
    cells = (f"{number:.1f};{text}\r\n".replace(".", ",", 1) for number, text in zip(NUMBERS, texts, strict=True))
    return '\ufeffx;"s"\r\n' + "".join(cells)


def mysql() -> str:
    """As `SELECT … INTO OUTFILE … FIELDS TERMINATED BY ',' OPTIONALLY ENCLOSED BY '"'` writes it."""
    escaped = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\\n"})
    texts = ("\\N" if text is None else f'"{text.translate(escaped)}"' for text in TEXTS)
    return '"x","s"\n' + "".join(f"{number},{text}\n" for number, text in zip(NUMBERS, texts, strict=True))


def test_a_file_of_excel_with_semicolons_and_decimal_commas_is_refused_with_each_remedy(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("".join(excel().splitlines(keepends=True)[:3]), newline="")
    refused = keyjoin("check", *flags(path, model))
    assert (refused.code, "only column is called 'x;\"s\"', and no row has one cell; give" in refused.err) == (2, True)
    path.write_text(excel(), newline="")
    commas = keyjoin("check", f"--input={path}", *flags(path, model)[1:2], "--delimiter=;")
    assert commas.code == 2
    assert "column x: '0,5', not a number; write a point in place of the decimal comma" in commas.err
    path.write_text(excel().replace('x;"s"', '"x";"s"'), newline="")
    quoted = keyjoin("check", *flags(path, model))
    assert (
        quoted.code,
        "has ';' after a quoted name, and the delimiter is ','; give --delimiter ';'" in quoted.err,
    ) == (
        2,
        True,
    )


def test_a_line_end_after_a_backslash_ends_the_record_with_a_hint(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path
) -> None:
    """As MySQL writes a text without quotes that has a line end."""
    done = keyjoin("run", *flags(source(tmp_path, ["1,a,0", "2,a\\", "b,0", "3,a,0"]), model))
    assert [row[0] for row in cells(done.parts()[0])[1:]] == ["1", "3"]
    assert [letter["reason"] for letter in done.dead()] == ["wrong_cells"] * 2
    assert "; a backslash before the line end is text in CSV, see docs/formats.md" in done.dead()[0]["message"]


def test_a_file_of_mysql_is_converted_by_the_command_of_the_docs(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text(mysql())
    given = ["--input=a.csv", *flags(Path("a.csv"), model)[1:]]
    dead = keyjoin("run", *given).dead()
    assert {letter["reason"] for letter in dead} == {"not_csv"}
    hint = 'bytes follow the closing quote of a cell; a backslash before " is text in CSV, see docs/formats.md'
    assert {letter["message"] for letter in dead} == {hint}
    (command,) = re.findall(r"^(sed -E .*)$", (ROOT / "docs/formats.md").read_text(), re.MULTILINE)
    subprocess.run(["/bin/sh", "-c", command], check=True)
    done = keyjoin("run", "--input=a.rfc.csv", *given[1:])
    assert (done.code, done.dead()) == (0, [])
    rows = [(float(row["x"]), row["s"], float(row["y"])) for part in done.parts() for row in read(part)]
    assert rows == [(x, text or "", x) for x, text in zip(NUMBERS, TEXTS, strict=True)]
