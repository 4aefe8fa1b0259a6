"""Before the run, keyjoin refuses an input or a model for which every sampled row fails, and says what to do."""

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from tests.conftest import Result
from tests.support import models
from tests.support.examples import example, floats, texts, written
from transforms.storage.compression import BZIP2, ZSTD, decompressed

ROW = {"x": [1.0, 2.0, 3.0]}
LINES = b'{"x": [1.0, 2.0, 3.0]}\n{"x": [4.0, 5.0, 6.0]}\n'
PLAIN = (models.plain,)
AGE = (models.echoing, tf.int64)


def by(code: str, *arguments: Any) -> bytes:
    """Runs a tool's own Python module on a file, in a process of its own; returns its output."""
    made = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, capture_output=True)
    return made.stdout


def tables(kind: str) -> Callable[[Path], bytes]:
    """Makes a file of a data frame format."""

    def make(path: Path) -> bytes:
        import pyarrow as pa
        import pyarrow.feather
        import pyarrow.orc

        table = pa.table({"x": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]})
        writers = {
            "orc": pyarrow.orc.write_table,
            "arrow": pyarrow.feather.write_feather,
        }
        writers[kind](table, str(path))
        return path.read_bytes()

    return make


def packed(*command: str) -> Callable[[Path], bytes]:
    return lambda _: subprocess.run(command, input=LINES, capture_output=True, check=True).stdout


def zipped(path: Path) -> bytes:
    import zipfile

    with zipfile.ZipFile(path, "w") as file:
        file.writestr("rows.jsonl", LINES)
    return path.read_bytes()


def text(content: bytes | str) -> Callable[[Path], bytes]:
    return lambda _: content.encode() if isinstance(content, str) else content


KINDS = {
    "gzip": ("a.jsonl", text(gzip.compress(LINES)), "it is gzip, and its name does not end in .gz"),
    "not gzip": ("a.jsonl.gz", text(LINES), "it is not gzip, and its name ends in .gz"),
    "gzip twice": ("a.jsonl.gz", text(gzip.compress(gzip.compress(LINES))), "it is gzip"),
    "gzip of UTF-16": ("a.jsonl.gz", text(gzip.compress(LINES.decode().encode("utf-16"))), "it is UTF-16"),
    "bzip2": ("a.jsonl", packed("bzip2"), "it is bzip2, and its name does not end in .bz2"),
    "xz": ("a.jsonl", packed("xz"), "it is xz"),
    "zstd": ("a.jsonl", text(ZSTD.compress(LINES)), "it is Zstandard, and its name does not end in .zst"),
    "zstd called gzip": ("a.jsonl.gz", text(ZSTD.compress(LINES)), "it is Zstandard, and its name ends in .gz"),
    "gzip of zstd": ("a.jsonl.gz", text(gzip.compress(ZSTD.compress(LINES))), "it is Zstandard"),
    "bzip2 of ORC": ("a.jsonl.bz2", lambda path: BZIP2.compress(tables("orc")(path)), "it is ORC"),
    "zip": ("a.jsonl", zipped, "it is zip"),
    "ORC by name": ("a.orc", tables("orc"), "it is ORC"),
    "ORC": ("a.jsonl", tables("orc"), "it is ORC"),
    "Arrow": ("a b'.json", tables("arrow"), "it is Arrow"),
    "UTF-16": ("-a.jsonl", text(LINES.decode().encode("utf-16")), "it is UTF-16"),
    "UTF-16 without mark": ("a.jsonl", text(LINES.decode().encode("utf-16-le")), "it is UTF-16LE"),
    "UTF-16, other end": ("a.jsonl", text(LINES.decode().encode("utf-16-be")), "it is UTF-16BE"),
    "UTF-32": ("a.jsonl", text(LINES.decode().encode("utf-32")), "it is UTF-32"),
    "array": ("a.json", text('[{"x": [1, 2, 3]}, {"x": [4, 5, 6]}]'), "it is a JSON array"),
    "array, a row a line": ("a.json", text('[\n  {"x": [1, 2, 3]},\n  {"x": [4, 5, 6]}\n]\n'), "it is a JSON array"),
    "array of long integers": ("a.json", text('[{"x": [1, 2, 3], "id": 9007199254740993}]'), "it is a JSON array"),
    "array, pretty": ("a.json", text(json.dumps([ROW, ROW], indent=2)), "it is a JSON array"),
    "objects, pretty": ("a.json", text("\n".join([json.dumps(ROW, indent=2)] * 2)), "it is JSON over several lines"),
}


def printed_command(message: str) -> str:
    """The command in the message that converts or renames the file."""
    found = re.search(r"(?:convert|rename) it: (.*)", message)
    assert found, message
    return found[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_refused_with_a_command_that_converts_it(
    kind: str, keyjoin: Callable[..., Result], model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, make, says = KINDS[kind]
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    content = make(Path("made"))
    path.write_bytes(content)
    before = {*Path().iterdir()}
    refused = keyjoin("check", f"--input={name}", f"--model={model(*PLAIN)}")
    assert (refused.code, refused.out) == (2, "")
    assert says in refused.err
    subprocess.run(printed_command(refused.err), shell=True, check=True)  # noqa: S602  it is meant for a shell
    (new,) = {path for path in {*Path().iterdir()} - before if path.suffix != ".unpacked"}
    done = keyjoin("run", f"--input={new}", f"--model={model(*PLAIN)}", "--format=jsonl")
    if "gzip of" not in kind and "long" not in kind:
        assert (done.code, done.err) == (0, "")
    assert not done.dead()
    for part in done.parts():
        plain = decompressed(part.name, part.read_bytes())
        assert json.loads(plain.splitlines()[0])["prediction"] == [7.0]
        assert "long" not in kind or b"9007199254740993" in plain


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"x,z\n1,2\n", "it is CSV; name that with --format csv"),
        (b"x;z\n1;2\n", "it is CSV with semicolons; name that with --format csv --delimiter ';'"),
        (b"x\tz\n1\t2\n", "it is tab-separated text; name that with --format tsv"),
    ],
)
def test_delimited_text_is_detected_too(
    content: bytes, says: str, keyjoin: Callable[..., Result], model: Any, tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    refused = keyjoin("run", f"--input={path}", f"--model={model(models.echoing, tf.int64)}", "--format=jsonl")
    assert refused.code == 2
    assert f"{path}: {says}" in refused.err


def test_tfrecord_and_json_lines_under_each_others_name_are_distinguished(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path
) -> None:
    lines, records = tmp_path / "a.tfrecord", tmp_path / "b.jsonl"
    lines.write_bytes(LINES)
    # With records of this length, the header starts like gzip and like UTF-32.
    records.write_bytes(written([example(x=floats(1, 2, 3))] * 3))
    flag = f"--model={model(*PLAIN)}"
    for path, name in ((lines, "jsonl"), (records, "tfrecord")):
        refused = keyjoin("check", f"--input={path}", flag)
        assert (refused.code, f"name that with --format {name}\n" in refused.err) == (2, True), refused.err
        assert keyjoin("run", f"--input={path}", flag, f"--format={name}").complete()


@pytest.mark.parametrize("size", [0x7B, 0x4F0A, 0x088B1F])
def test_a_record_whose_length_looks_like_another_kind_is_read(
    size: int, keyjoin: Callable[..., Result], model: Any, tmp_path: Path
) -> None:
    path = tmp_path / "a.tfrecord"
    bare = len(example(x=floats(1, 2, 3), s=texts(b"s" * size)))
    record = example(x=floats(1, 2, 3), s=texts(b"s" * (2 * size - bare)))
    path.write_bytes(written([record]))
    assert path.read_bytes()[:4] == len(record).to_bytes(4, "little")
    assert keyjoin("run", f"--input={path}", f"--model={model(*PLAIN)}").complete()


@pytest.mark.parametrize("name", ["part-00000.gz", "data_tfrecord-00000-of-00001.gz", "no.suffix.known.gz"])
@pytest.mark.parametrize("kind", ["jsonl", "tfrecord"])
def test_gzip_is_detected_by_gz_after_any_name(
    name: str, kind: str, keyjoin: Callable[..., Result], model: Any, tmp_path: Path
) -> None:
    records = written([example(x=floats(1, 2, 3)), example(x=floats(4, 5, 6))])
    path = tmp_path / "data" / name
    path.parent.mkdir()
    path.write_bytes(gzip.compress(LINES if kind == "jsonl" else records))
    flags = (f"--input={path}", f"--model={model(*PLAIN)}", f"--format={kind}", f"--output={tmp_path / 'out'}")
    done = keyjoin("run", *flags, "--output_fields=row,prediction,key")
    assert done.complete(), done.err
    (part,) = done.parts()
    assert part.name == f"{name.removesuffix('.gz')}-00000-of-00001.{kind}.gz"
    assert (done.manifest()["totals"]["rows"], done.manifest()["totals"]["joined"]) == (2, 2)
    assert f"{path}#0".encode() in gzip.decompress(part.read_bytes())
    assert keyjoin("verify", f"--run={tmp_path / 'out'}", "--read_data=100%").code == 0
    (tmp_path / "out" / "_SUCCESS").unlink()
    part.unlink()
    again = keyjoin("run", *flags, "--output_fields=row,prediction,key")
    assert (again.code, part.exists()) == (0, True)


# Rows that can be read, but fail

REFUSED, SHORT = {"x": [666.0, 0, 0]}, {"x": [1.0]}


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("rows", "limits", "code", "says"),
    [
        ([SHORT] * 3, "0.01", 2, "3 of the first 3 rows are bad, and --max_bad_rows=0.01 allows fewer: "),
        ([SHORT] * 200, "0.99", 2, "100 of the first 100 rows are bad, and --max_bad_rows=0.99 allows fewer: "),
        ([SHORT, ROW], "0.01", 0, "warning: 1 of the first 2 rows is bad, and --max_bad_rows=0.01 allows fewer: "),
        ([SHORT, ROW], "0.5", 0, ""),
        ([*[ROW] * 100, SHORT], "0", 0, ""),  # the bad row is after the sample
        ([SHORT] * 3, "1.0", 0, "warning: 3 of the first 3 rows are bad, which --max_bad_rows allows: "),
        ([SHORT] * 200, "1000", 0, "warning: 100 of the first 100 rows are bad, which --max_bad_rows allows: "),
        ([SHORT] * 3, "2", 2, "3 of the first 3 rows are bad, and --max_bad_rows=2 allows fewer: "),
        ([SHORT] * 3, "1.0,wrong_shape=0", 2, "and --max_bad_rows wrong_shape=0 allows fewer: "),
        ([SHORT, REFUSED], "1.0,wrong_shape=0", 2, "2 of the first 2 rows are bad"),
        ([ROW, SHORT], "1.0,wrong_shape=0", 0, "warning: 1 of the first 2 rows is bad, and --max_bad_rows wrong_shape=0"),
        ([REFUSED] * 4, "0.01", 2, "4 of the first 4 rows are bad"),
        ([REFUSED] * 300, "0.5", 2, "rows are bad, and --max_bad_rows=0.5 allows fewer: "),
        ([REFUSED, ROW, ROW], "0.01", 0, "warning: 1 of the first 3 rows is bad"),
        ([REFUSED] * 4, "4", 0, "warning: 4 of the first 4 rows are bad, which --max_bad_rows allows: "),
        ([b"", b" "], "0.01", 0, ""),
        ([], "0", 0, ""),
    ],
)  # fmt: skip
def test_first_rows_that_all_fail_are_refused_and_many_are_warned_of(
    command: str, rows: list[Any], limits: str, code: int, says: str, keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:  # fmt: skip
    path = lines(*rows)
    done = keyjoin(command, f"--input={path}", f"--model={model(models.raising)}", f"--max_bad_rows={limits}")
    said = [line for line in done.err.splitlines() if "of the first" in line and ("warning" in line or done.code == 2)]
    assert done.code == (2 if code else max(code, done.code))
    assert (command == "check" and done.code) == (command == "check" and code)
    if command == "run" or code:
        assert len(said) == bool(says)
        assert says in done.err
    else:  # its own sample has the rows, and more
        assert done.err == ""
    if code:
        assert not done.output.exists()
        assert f"{path}#0 " in done.err
    if command == "run" and not code:
        assert len(done.rows()) + len(done.dead()) == sum(isinstance(row, dict) for row in rows)


@pytest.mark.parametrize(("limits", "said"), [("0.5", False), ("0", True)])
def test_if_time_ends_rows_after_the_last_scored_one_do_not_count(
    limits: str, said: bool, keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.plan.score_sample.SECONDS", -1)
    path = lines(ROW, REFUSED, ROW, *[ROW] * 5, *[SHORT] * 20)
    done = keyjoin("run", f"--input={path}", f"--model={model(models.raising)}", f"--max_bad_rows={limits}")
    assert ("of the first" in done.err) == said
    assert ("1 of the first 3 rows is bad" in done.err) == said


def test_three_bad_rows_are_reported_of_different_reasons_with_keys_values_and_remedies(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    path = lines({"x": ["a", 2, 3]}, {"x": ["b", 2, 3]}, {"y": 1}, REFUSED, b"{]", {"x": ["c", 2, 3]})
    done = keyjoin("check", f"--input={path}", f"--model={model(models.raising)}")
    assert done.code == 2
    assert f"{path}#0 (line 1) wrong_type: field x: " in done.err
    assert 'the string "a"' in done.err
    assert "missing: field x: not in the row; " in done.err
    assert "Write the value in the type that `keyjoin inspect` shows." in done.err
    assert "Add the field, map the input to another one with --input_map, or give a value with --missing." in done.err
    assert done.err.endswith("; or allow them all with --max_bad_rows=1.0\n")
    assert done.err.count("\n") == 1


def test_a_line_is_counted_with_blank_ones(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    path = lines(ROW, b"", b"  ", ROW, b"no row", ROW)
    start = len(Path(path).read_bytes().split(b"no row")[0])
    done = keyjoin("run", f"--input={path}", f"--model={model(models.raising)}")
    assert f"{path}#{start} (line 5) not_json: " in done.err


def test_a_bad_file_before_good_ones_is_warned_of(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    for number, rows in enumerate([[b"x,y", b"1,2"], [SHORT] * 3, [REFUSED] * 3, [ROW] * 50]):
        path = lines(*rows, name=f"{number}.jsonl")
    folder = Path(path).parent
    flags = f"--input={folder}", f"--model={model(models.raising)}"
    done = keyjoin("run", *flags)
    assert done.code == 1
    assert "warning: 8 of the first 58 rows are bad, and --max_bad_rows=0.01 allows fewer" in done.err
    assert f"{folder}/0.jsonl#0 (line 1) not_json: " in done.err
    assert f"{folder}/0.jsonl: it is CSV; name that with --format csv" in done.err
    checked = keyjoin("check", *flags)
    assert (checked.code, checked.err) == (0, "")
    assert "8 of 58 sampled rows would fail: model_error 3, not_json 2, wrong_shape 3" in " ".join(checked.out.split())
    assert f"remedy       {folder}/0.jsonl: it is CSV; name that with --format csv\n" in checked.out
    assert keyjoin("run", *flags, "--max_bad_rows=0.14").err == ""


@pytest.mark.parametrize(("text", "age"), [('{"age":"31"}', "wrong_type"), ('{"age":31.0}', "fraction")])
@pytest.mark.parametrize("command", ["check", "run"])
def test_numbers_as_other_tools_spell_them_are_reported_with_the_value(
    command: str, text: str, age: str, keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    path = lines(*[text.encode()] * 2)
    done = keyjoin(
        command, f"--input={path}", f"--model={model(models.echoing, tf.int64)}", "--input_map=x=age", "--strict_types"
    )
    assert done.code == 2
    assert f"{path}#0 (line 1) {age}: field age: {'31.0' if '.' in text else 'the string'}" in done.err


def test_the_last_row_of_what_is_sampled_may_be_cut_off(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    path = lines(*[{**ROW, "s": "s" * 300_000}] * 5)
    done = keyjoin("check", f"--input={path}", f"--model={model(models.raising)}", "--max_bad_rows=0")
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("batch_size", [1, 2, 1000])
def test_rows_are_called_as_the_run_will_call_them(
    batch_size: int, keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    """A model that returns one value a call joins all rows if the batch size is 1, and none with larger batches."""
    flags = (f"--input={lines(*[ROW] * 5)}", f"--model={model(models.one_value)}", f"--batch_size={batch_size}")
    done = keyjoin("run", *flags)
    if batch_size == 1:
        assert (done.code, done.err, len(done.rows())) == (0, "", 5)
    else:
        assert done.code == 2


def test_what_replay_scores_again_may_follow_rows_that_all_fail(
    keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path
) -> None:
    path, output = lines(*[REFUSED] * 3), tmp_path / "out"
    run = keyjoin(
        "run", f"--input={path}", f"--model={model(models.raising)}", "--max_bad_rows=3", f"--output={output}"
    )
    assert run.complete()
    done = keyjoin("replay", f"--run={output}", f"--model={model(models.plain)}")
    assert (done.code, done.err) == (0, "")


def test_a_model_that_ends_its_process_is_not_called_row_by_row(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    flags = (f"--input={lines(*[REFUSED] * 4)}", f"--model={model(models.aborting)}", "--isolate", "--max_bad_rows=4")
    result = keyjoin("run", *flags)
    assert "first" not in result.err
    assert [letter["reason"] for letter in result.dead()] == ["model_crash"] * 4


# Models that fail for every row


@pytest.mark.parametrize("limit", ["0.01", "1.0"])
@pytest.mark.parametrize(
    ("build", "says", "remedy"),
    [
        (models.counting_from_nothing, "FailedPreconditionError: ", "export the model with its initializer"),
        (models.without_file, "NotFoundError: ", "copy the whole model folder"),
    ],
)
def test_a_model_that_fails_for_any_row_is_refused_whatever_may_be_bad(
    build: Any, says: str, remedy: str, limit: str, keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    flags = (f"--input={lines(*[ROW] * 5)}", f"--model={model(build)}", "--model_ops=allow", f"--max_bad_rows={limit}")
    for command in ("check", "run"):
        done = keyjoin(command, *flags)
        assert done.code == 2
        assert f"the model fails whatever it is called with: {says}" in done.err
        assert remedy in done.err
        assert not done.output.exists()


def test_a_model_that_fails_for_these_rows_only_is_not_that(
    keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    there.write_text("5")
    flags = (f"--model={model(models.reading)}", "--model_ops=allow", "--max_bad_rows=1.0")
    done = keyjoin("run", f"--input={lines(*[{'name': f'/no/{row}'} for row in range(5)])}", *flags)
    assert (done.code, len(done.dead())) == (0, 5)
    done = keyjoin("run", f"--input={lines(*[{'name': '/no/file'}] * 5, {'name': str(there)})}", *flags)
    assert (done.code, len(done.dead())) == (0, 5)
    done = keyjoin("run", f"--input={lines(*[{'name': '/no/file'}] * 5)}", *flags)
    assert (done.code, len(done.dead())) == (0, 5)
