"""`keyjoin compare` matches rows by their place in the source, in every format, and finds each difference."""

import gzip
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tensorflow as tf

from pipeline.cli import main
from pipeline.terminal.exit_codes import Exit
from tests.conftest import ROOT, Result
from tests.support import models
from tests.support.examples import example, floats, written
from tests.support.models import save, spec
from tests.support.reports import Page
from tests.support.verified_runs import forge
from transforms.storage import files

Run = Callable[..., Result]
ROWS: list[dict[str, Any]] = [
    {"x": [n - 8.0, 0.5, 3.0], "s": "é\n"} if n % 5 else {"x": [0.5], "s": ""} for n in range(24)
]
KEPT = ("--max_bad_rows=0.5", "--non_finite=keep", "--batch_dependence=allow")


def outputs(folder: Path, factor: float = 1.0) -> str:
    """A model with predictions of several dtypes and shapes, some of them NaN."""

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        first = x[:, 0] * factor
        return {
            "score": tf.math.log(first),  # NaN below 0
            "one": first[:, None],
            "vector": tf.sqrt(x * factor),
            "matrix": tf.stack([x * factor, x], axis=1),
            "half": tf.cast(first / 3, tf.float16),
            "wide": tf.cast(first, tf.float64) / 3,
            "label": tf.where(first > 0, '["+"]', "-"),
            "count": tf.cast(first, tf.int64) + 2**53,
            "flag": first > 0,
        }

    return save(folder, call, spec("x", 3))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model: Callable[..., str]) -> tuple[list[str], str]:
    """The flags of a finished run, without --output, and its output. It reads two files, one of them compressed."""
    folder = tmp_path_factory.mktemp("compared")
    (folder / "in").mkdir()
    text = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    (folder / "in/a.jsonl").write_bytes(text + b"\n" + text)
    (folder / "in/b.jsonl.gz").write_bytes(gzip.compress(text))
    flags = [f"--model={model(outputs)}", f"--input={folder / 'in'}", *KEPT]
    assert main(["run", *flags, f"--output={folder / 'out'}"]) == 0
    return flags, str(folder / "out")


@pytest.fixture(scope="module")
def shifted(made: tuple[list[str], str], model: Callable[..., str]) -> str:
    """The output of the same run with another model."""
    output = f"{made[1]}-shifted"
    assert main(["run", f"--model={model(outputs, 1.001)}", *made[0][1:], f"--output={output}"]) == 0
    return output


@pytest.fixture
def compare(keyjoin: Run) -> Callable[..., Result]:
    """Compares two outputs, and checks that no error is more than a line."""

    def call(one: object, other: object, *flags: str) -> Result:
        done = keyjoin("compare", str(one), str(other), *flags)
        assert done.err.count("\n") == (done.code == Exit.USAGE), done.err
        return done

    return call


SCORED = 3 * sum(len(row["x"]) == 3 for row in ROWS)
FORMATS = [
    ("jsonl", "null"),
    ("csv", "apart"),
    ("csv", "null"),
    ("parquet", "null"),
    ("avro", "apart"),
    ("tfrecord", "null"),
]


@pytest.mark.parametrize(("name", "bad_rows"), FORMATS)
def test_every_format_and_any_chunks_have_the_same_predictions(
    keyjoin: Run, compare: Run, made: Any, name: str, bad_rows: str
) -> None:
    """Each part of the other run has other rows, and dead letters beside them or among them."""
    flags, one = made
    other = keyjoin("run", *flags, f"--output_format={name}", "--chunk_bytes=200", f"--bad_rows={bad_rows}")
    assert other.code == 0, other.err
    done = compare(one, other.output, "--json")
    assert done.code == 0, done.out
    said = json.loads(done.out)
    assert (said["same"], said["rows"], [alone["rows"] for alone in said["only_in"]]) == (True, SCORED, [0, 0])
    found = {one["name"]: (one["rows"], one["equal"], one["argmax_rows"]) for one in said["predictions"]}
    names = ["score", "one", "vector", "matrix", "half", "wide", "label", "count", "flag"]
    assert found == {name: (SCORED, SCORED, SCORED * (name == "vector")) for name in names}
    assert compare(other.output, one).out.splitlines()[-1] == f"same: all {SCORED} rows"


@pytest.mark.parametrize("name", ["jsonl", "csv", "parquet"])
def test_predictions_in_one_object(keyjoin: Run, compare: Run, model: Run, lines: Run, name: str) -> None:
    """Rows that are JSON values have all predictions in the field `prediction`."""
    flags = (f"--model={model(models.twice)}", f"--input={lines([1, 2, 3], [0.5, 0, 1], [4, 4, 4])}")
    one, other = keyjoin("run", *flags), keyjoin("run", *flags, f"--output_format={name}", "--output_fields=row")
    assert (one.code, other.code) == (0, 0), other.err
    done = compare(one.output, other.output, "--json")
    assert done.code == 0, done.out
    assert [(p["name"], p["rows"], p["equal"]) for p in json.loads(done.out)["predictions"]] == [
        ("once", 3, 3), ("twice", 3, 3)
    ]  # fmt: skip


def test_prediction_logs(keyjoin: Run, compare: Run, model: Run, tmp_path: Path) -> None:
    records = [example(x=floats(n, 0.5, 2.0)) for n in (1, 2, 3)]
    (tmp_path / "a.tfrecord").write_bytes(written([records[0], example(x=floats(1.0)), *records[1:]]))
    flags = (f"--model={model(outputs)}", f"--input={tmp_path}/a.tfrecord", *KEPT)
    one, other = keyjoin("run", *flags), keyjoin("run", *flags, "--prediction_logs")
    assert (one.code, other.code) == (0, 0), other.err
    done = compare(one.output, other.output)
    assert (done.code, done.out.splitlines()[-1]) == (0, "same: all 3 rows"), done.out


def test_another_model_differs_by_what_is_printed(compare: Run, made: Any, shifted: str) -> None:
    said = json.loads(compare(made[1], shifted, "--json").out)
    found = {one["name"]: one for one in said["predictions"]}
    assert found["one"]["largest_difference"] == pytest.approx(0.015, rel=1e-4)
    assert found["one"]["largest_relative_difference"] == pytest.approx(0.001, rel=1e-2)
    assert found["one"]["correlation"] == pytest.approx(1)
    assert found["one"]["worst"][0]["values"] == pytest.approx([15, 15.015])
    assert found["one"]["worst"][0]["key"] == key_of(made, 23)
    assert (found["label"]["equal"], found["flag"]["equal"]) == (SCORED, SCORED)
    assert found["vector"]["argmax_equal"] == SCORED
    done = compare(made[1], shifted)
    assert (done.code, done.out.splitlines()[-1].startswith("differ: 5")) == (1, True), done.out


def test_the_page_has_the_figures_of_the_command(keyjoin: Run, made: Any, shifted: str, tmp_path: Path) -> None:
    """It is written with --json, too, and a comparison that finds a difference has one."""
    report = tmp_path / "new" / "compared.html"
    done = keyjoin("compare", made[1], shifted, "--json", "--tolerance=count=1", f"--report={report}")
    assert (done.code, done.err) == (1, f"keyjoin: {report} has this as a page with charts\n")
    said = json.loads(done.out)
    page = Page(report.read_text()).text
    assert said["verdict"] in page
    assert f"keyjoin compare {made[1]} {shifted} --json --tolerance=count=1 --report={report}" in page
    found = {one["name"]: one for one in said["predictions"]}
    assert found["one"]["worst"][0]["key"] in page
    assert "".join(f"{value:.9g}" for value in found["one"]["worst"][0]["values"]) in page  # the cells of A and B
    assert sum(count for *_, count in found["one"]["distribution"]) == SCORED
    again = keyjoin("compare", made[1], made[1], f"--report={report}")
    assert again.code == 0
    assert f"same: all {SCORED} rows" in Page(report.read_text()).text


def test_a_page_replaces_no_other_file(keyjoin: Run, made: Any, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    done = keyjoin("compare", made[1], made[1], f"--report={rows}")
    assert (done.code, "does not end in .html" in done.err, rows.read_text()) == (2, True, "{}\n")
    (tmp_path / "folder.html").mkdir()
    done = keyjoin("compare", made[1], made[1], f"--report={tmp_path}/folder.html")
    assert (done.code, "folder.html" in done.err) == (2, True)


def key_of(made: Any, number: int) -> str:
    """The key of a row of the first file."""
    path = f"{made[0][1].partition('=')[2]}/a.jsonl"
    return f"{path}#{sum(map(len, Path(path).read_bytes().splitlines(keepends=True)[:number]))}"


@pytest.mark.parametrize(
    ("tolerances", "code"),
    [(["0.2%", "score=0.01"], 0), (["0.1%", "score=0.01"], 1), (["0.1"], 0), (["0.1", "one=0.01"], 1)],
)
def test_tolerances_are_relative_or_absolute(
    compare: Run, made: Any, shifted: str, tolerances: list[str], code: int
) -> None:
    done = compare(made[1], shifted, *(f"--tolerance={one}" for one in tolerances))
    assert done.code == code, done.out


def test_swapped_predictions_are_found(compare: Run, made: Any, tmp_path: Path) -> None:
    """Two rows of a part have the prediction of the other, and all checksums agree with that."""
    copy = Path(shutil.copytree(made[1], tmp_path / "copy"))
    part = copy / "a-00000-of-00001.jsonl"
    rows = part.read_bytes().splitlines(keepends=True)
    cut = [row.index(b', "count"') for row in rows[-2:]]
    part.write_bytes(
        b"".join([*rows[:-2], rows[-2][: cut[0]] + rows[-1][cut[1] :], rows[-1][: cut[1]] + rows[-2][cut[0] :]])
    )
    assert "is not what was written there" in compare(made[1], copy).err
    now = files.read_back(str(part))

    def update(lines: bytes) -> bytes:
        first, *rest = map(json.loads, lines.splitlines())
        first |= {"bytes": now.bytes, "checksum": now.checksum}
        return b"".join(msgspec.json.encode(line) + b"\n" for line in (first, *rest))

    forge(copy, lambda _: None, lists={"_keyjoin/parts.jsonl": update})
    done = compare(made[1], copy, "--json")
    assert done.code == 1
    found = {one["name"]: one for one in json.loads(done.out)["predictions"]}
    assert (found["one"]["rows"] - found["one"]["equal"], found["one"]["largest_difference"]) == (2, 1)


def test_dead_letters_on_one_side_are_counted(keyjoin: Run, compare: Run, made: Any) -> None:
    """A row with a NaN has a prediction in one run only."""
    flags, one = made
    other = keyjoin("run", *flags, "--non_finite=reject")
    done = compare(other.output, one, "--json")
    said = json.loads(done.out)
    lost = 3 * sum(len(row["x"]) == 3 and row["x"][0] <= 0 for row in ROWS)
    assert (done.code, said["rows"], [alone["rows"] for alone in said["only_in"]]) == (1, SCORED - lost, [0, lost])
    assert said["only_in"][1]["keys"][0] == key_of(made, 1)
    assert all(one["equal"] == one["rows"] for one in said["predictions"])
    text = compare(other.output, one).out
    assert f"only in B    {lost} rows, such as {key_of(made, 1)}" in text
    assert text.splitlines()[-1] == f"differ: {lost} rows with predictions only in B"


def test_outputs_without_a_shared_prediction_are_refused(keyjoin: Run, compare: Run, made: Any) -> None:
    flags, one = made
    other = keyjoin("run", *flags, "--output_fields", "label")
    done = compare(other.output, one)
    assert (done.code, "only B has count, flag, half" in done.out.splitlines()[-1]) == (1, True)
    renamed = keyjoin("run", *flags, "--output_fields=label", "--rename=label=sign")
    done = compare(other.output, renamed.output)
    assert (done.code, "has the predictions ['label']" in done.err, "see --rename" in done.err) == (2, True, True)
    done = compare(one, other.output, "--tolerance=lable=1")
    assert (done.code, "--tolerance names lable" in done.err, "label" in done.err) == (2, True, True)


def test_other_sources_are_refused_by_name(keyjoin: Run, compare: Run, made: Any, tmp_path: Path) -> None:
    flags, one = made
    source = Path(flags[1].partition("=")[2])
    fewer = keyjoin("run", flags[0], f"--input={source}/a.jsonl", *KEPT)
    done = compare(one, fewer.output)
    assert (done.code, f"only {one} has the source {source}/b.jsonl.gz" in done.err) == (2, True)
    own = tmp_path / "own.jsonl"
    own.write_text('{"x": [1, 2, 3]}\n' * 9)
    before = keyjoin("run", flags[0], f"--input={own}", *KEPT)
    own.write_text('{"x": [1, 2, 4]}\n' * 9)
    done = compare(before.output, keyjoin("run", flags[0], f"--input={own}", *KEPT).output)
    assert (done.code, f"{own}: it had other content in one run than in the other" in done.err) == (2, True)
    done = compare(before.output, keyjoin("run", flags[0], f"--input={own}", *KEPT, "--chunk_bytes=20").output)
    assert (done.code, f"{own}: it was written again between the runs" in done.err) == (2, True)
    own.write_text('{"x": [1, 2, 3]}\n' * 9)
    assert compare(before.output, keyjoin("run", flags[0], f"--input={own}", *KEPT).output).code == 0


def test_sources_that_were_read_otherwise_are_refused_with_the_flag(keyjoin: Run, compare: Run, made: Any) -> None:
    path = Path(made[1]).with_name("cells.csv")
    path.write_text("a,b,c\n1,2,3\n4,5,6\n")
    flags = ("run", made[0][0], f"--input={path}", "--features=a,b,c", *KEPT)
    done = compare(keyjoin(*flags).output, keyjoin(*flags, "--quote=|").output)
    assert (done.code, "were read with quote: the default and '|'" in done.err) == (2, True), done.err


def test_a_tolerance_is_said_of_numbers_only(compare: Run, made: Any, shifted: str) -> None:
    done = compare(made[1], shifted, "--tolerance=1e-9")
    of_labels, of_numbers = (
        next(part for part in done.out.split("\n\n") if part.startswith(f"prediction   {name}\n"))
        for name in ("label", "one")
    )
    assert ("tolerance" in of_labels, "tolerance" in of_numbers) == (False, True)


def test_an_incomplete_output_is_refused(compare: Run, made: Any, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made[1], tmp_path / "copy"))
    (copy / "a-00000-of-00001.jsonl").unlink()
    done = compare(made[1], copy)
    assert done.code == 2
    assert f"{copy} is not what its run wrote: a-00000-of-00001.jsonl is missing: expected " in done.err
    assert "keyjoin verify" in done.err
    none = compare(made[1], tmp_path / "none")
    assert (none.code, f"keyjoin: error: {tmp_path / 'none'} holds no run of keyjoin" in none.err) == (2, True)
    assert compare(made[1], "--model=x").code == 2


def test_a_source_with_dead_letters_must_be_there(keyjoin: Run, compare: Run, made: Any, tmp_path: Path) -> None:
    source = tmp_path / "own.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    outputs = [keyjoin("run", made[0][0], f"--input={source}", *KEPT).output for _ in range(2)]
    source.rename(tmp_path / "away.jsonl")
    done = compare(*outputs)
    assert (done.code, f"{source} cannot be read" in done.err, "put it back" in done.err) == (2, True, True)


def test_two_models_are_compared_on_the_same_rows(
    keyjoin: Run, made: Any, model: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the comparison is on standard output, and nothing is left behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = keyjoin("compare", "--json", f"--model_b={model(outputs, 1.001)}", *made[0])
    assert done.code == 1, done.err
    said = json.loads(done.out)
    assert said["rows"] == SCORED
    assert said["outputs"] == [made[0][0].partition("=")[2], model(outputs, 1.001)]
    refused = keyjoin("compare", "--model_b=/nowhere", *made[0])
    assert (refused.code, "/nowhere" in refused.err) == (2, True)
    assert keyjoin("compare", f"--model_b={made[1]}", made[0][0], "--input=-").code == 2
    assert list(tmp_path.glob("keyjoin-compare-*")) == []


def test_a_model_over_the_error_limit_names_no_folder_that_is_deleted(keyjoin: Run, made: Any, tmp_path: Path) -> None:
    source = tmp_path / "own.jsonl"
    source.write_text('{"x": [1, 2, 3]}\n' * 150 + '{"x": [1]}\n' * 3)
    flags = (made[0][0], f"--input={source}", *KEPT[1:], "--max_bad_rows=2")
    done = keyjoin("compare", f"--model_b={made[0][0].partition('=')[2]}", *flags)
    assert done.code == 2
    assert "3 of 153 rows are bad, more than --max_bad_rows=2 allows" in done.err
    assert "raise --max_bad_rows" in done.err
    assert "keyjoin-compare-" not in done.err


def test_it_is_a_gate_in_a_shell(made: Any, shifted: str) -> None:
    """The next command runs only if the outputs are the same. An error is no difference."""
    words = [sys.executable, "-m", "pipeline", "compare", made[1]]
    for other, expected in ((made[1], "released 0"), (shifted, "1"), (f"{shifted}/none", "2")):
        gate = f"{shlex.join([*words, other])} > {shlex.quote(made[1])}-log && printf 'released '; echo $?"
        done = subprocess.run(["/bin/sh", "-c", gate], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


def test_finished_runs_need_no_tensorflow(made: Any) -> None:
    code = (
        "import sys; from pipeline import cli; from pipeline.model import model_process; code = cli.main(sys.argv[1:]); "
        "print([m for m in sys.modules if m.split('.')[0] in ('tensorflow', 'keras')], "
        "model_process.process.cache_info().currsize, int(code))"
    )
    again = [sys.executable, "-c", code, "compare", made[1], made[1]]
    said = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "[] 0 0"
