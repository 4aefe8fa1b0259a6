"""`--output_format`, `--output_fields`, `--rename` and `--scalars` on the command line."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.plan.read_sample import SOURCES
from tests.conftest import Result
from tests.support import houses, models
from tests.support.examples import example, features_of, floats, ints, read_back, texts, written
from tests.support.parts import read, scalar
from transforms import formats

Run = Callable[..., Result]
ROWS: list[dict[str, Any]] = [
    {"x": [1.0, 2.0, 4.0], "id": 7, "name": "é", "flags": [True, False], "tags": ["a", 'b"'], "note": None},
    {"x": [0.5, 0.0, 2.0], "id": -1, "name": "", "flags": [], "tags": None},
    {"x": [8.0, 8.0, 1.0], "id": 2**53, "name": "z\n", "flags": [True], "tags": []},
]
PREDICTED = [10.0, 6.25, -3.0]
UNSCORED: dict[str, Any] = {"x": [0.5], "id": 4, "name": "no prediction"}
UNFIT: dict[str, Any] = {"x": [1.0, 1.0, 1.0], "id": "four"}  # it has a prediction, and not the type of the others
DONE = "--max_bad_rows=10"


@pytest.fixture
def plain(model: Callable[..., str]) -> str:
    """The flag of a model with the input x and the output prediction."""
    return f"--model={model(models.plain)}"


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    """Writes JSON Lines, and returns the flag that reads them."""
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return f"--input={path}"


def as_lists(row: dict[str, Any]) -> dict[str, list[Any]]:
    """Returns a row as a tf.Example has it: lists of numbers and bytes, and no nulls."""
    listed = {name: value if isinstance(value, list) else [value] for name, value in row.items() if value is not None}
    return {name: [v.encode() if isinstance(v, str) else v for v in values] for name, values in sorted(listed.items())}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
def test_json_lines_become_examples(keyjoin: Run, plain: str, tmp_path: Path, suffix: str, chunk_bytes: int) -> None:
    """Fields keep their values, parts keep the compression, and `verify --rescore` finds every row in its place."""
    for number in range(SOURCES):  # the schema is planned from these
        lines(tmp_path / f"in/a{number:02d}.jsonl{suffix}", ROWS)
    lines(tmp_path / f"in/b.jsonl{suffix}", [*ROWS, UNSCORED, UNFIT] * 3)
    flags = (plain, f"--input={tmp_path}/in", "--output_format=tfrecord", f"--chunk_bytes={chunk_bytes}", DONE)
    done = keyjoin("run", *flags)
    assert done.code == 0
    assert all(part.name.endswith(f".tfrecord{suffix}") for part in done.parts())
    packed = "GZIP" if suffix else ""
    found = [features_of(record) for part in done.parts() for record in read_back([part.read_bytes()], packed)]
    expected = [{**row, "prediction": y} for row, y in zip(ROWS, PREDICTED, strict=True)]
    assert found == [as_lists(row) for row in expected] * (SOURCES + 3)
    assert [(letter["stage"], letter["reason"]) for letter in done.dead()] == [
        ("read", "wrong_shape"), ("write", "schema")
    ] * 3  # fmt: skip
    again = keyjoin("run", *flags, f"--output={done.output}")
    assert again.code == 0
    assert "there is nothing to do" in again.out
    assert keyjoin("verify", f"--run={done.output}", "--rescore=99", plain).code == 0


@pytest.mark.parametrize("bad_rows", ["apart", "null"])
def test_examples_become_json_lines(keyjoin: Run, plain: str, tmp_path: Path, bad_rows: str) -> None:
    """Features of one value are scalars, others are lists; with a left join, bad rows are in their place."""
    records = [
        example(x=floats(1.0, 2.0, 4.0), id=ints(7), name=texts("é".encode()), raw=texts(b"\xff"), tags=ints(1, 2)),
        example(x=floats(0.5), id=ints(8)),
        example(x=floats(1.0, 1.0, 1.0), id=ints(1, 2)),
        b"\xff",
        example(x=floats(8.0, 8.0, 1.0), id=ints(9), tags=ints()),
        example(x=floats(8.0, 8.0, 1.0), id=ints(9), tags=ints()),
        example(x=floats(8.0, 8.0, 1.0), id=ints(9), tags=ints()),
    ]
    (tmp_path / "in").mkdir()
    for number in range(SOURCES):
        (tmp_path / f"in/a{number:02d}.tfrecord").write_bytes(written([records[0], records[4]]))
    (tmp_path / "in/b.tfrecord").write_bytes(written(records))
    done = keyjoin("run", plain, f"--input={tmp_path}/in", "--output_format=jsonl", f"--bad_rows={bad_rows}", DONE)
    assert done.code == 0
    rows = [row for row in done.rows() if row["prediction"] is not None]
    first = {"id": 7, "name": "é", "raw": {"b64": "/w=="}, "tags": [1, 2], "x": [1.0, 2.0, 4.0], "prediction": [10.0]}
    last = {"id": 9, "name": None, "raw": None, "tags": [], "x": [8.0, 8.0, 1.0], "prediction": [-3.0]}
    assert [{k: v for k, v in row.items() if k != "error"} for row in rows] == [first, last] * SOURCES + [
        first,
        *[last] * 3,
    ]
    if bad_rows == "null":
        bad = [(row["id"], row["error"]["reason"]) for row in done.rows()[2 * SOURCES :] if row["error"]]
        assert bad == [(8, "wrong_shape"), (None, "schema"), (None, "not_example")]
    assert keyjoin("verify", f"--run={done.output}", "--rescore=99", plain).code == 0


def test_a_field_of_several_types_is_refused_by_name(keyjoin: Run, plain: str, tmp_path: Path) -> None:
    """The remedy in the message works."""
    rows = [{**row, "id": 5 if at else "five"} for at, row in enumerate(ROWS)]
    flags = (plain, lines(tmp_path / "a.jsonl", rows), "--output_format=tfrecord")
    refused = keyjoin("run", *flags)
    assert refused.code == 2
    assert "field id has values of several types in the first rows, string and int64" in refused.err
    assert "--exclude_fields=id" in refused.err
    assert keyjoin("run", *flags, "--exclude_fields=id").code == 0


def test_a_type_that_the_format_lacks_is_refused_by_name(keyjoin: Run, plain: str, tmp_path: Path) -> None:
    """A tf.Example holds no objects."""
    source = lines(tmp_path / "a.jsonl", [{**row, "inner": {"a": 1}} for row in ROWS])
    refused = keyjoin("check", plain, source, "--output_format=tfrecord")
    assert refused.code == 2
    assert "field inner: a tf.Example holds" in refused.err


def test_most_rows_that_cannot_be_written_are_refused(keyjoin: Run, plain: str, tmp_path: Path) -> None:
    """Floats of 64 bits are not rounded to the 32 bits of a tf.Example."""
    refused = keyjoin(
        "check", plain, lines(tmp_path / "a.jsonl", [{**r, "w": 0.1} for r in ROWS]), "--output_format=tfrecord"
    )
    assert refused.code == 2
    assert "3 of the first 3 rows cannot be written as tfrecord" in refused.err
    assert "field w: a float_list holds 32-bit floats, and 0.1 would be rounded" in refused.err


def test_files_whose_parts_would_have_one_name_are_refused(keyjoin: Run, plain: str, tmp_path: Path) -> None:
    """`a.jsonl` and `a.ndjson` would both be written to `a.tfrecord`."""
    lines(tmp_path / "a.jsonl", ROWS)
    lines(tmp_path / "a.ndjson", ROWS)
    refused = keyjoin("check", plain, f"--input={tmp_path}", "--output_format=tfrecord")
    assert refused.code == 2
    assert "would both be written to a.tfrecord" in refused.err


def test_a_replay_writes_repaired_rows_in_the_other_format(keyjoin: Run, plain: str, tmp_path: Path) -> None:
    """The part then has all rows in order."""
    done = keyjoin(
        "run", plain, lines(tmp_path / "a.jsonl", [ROWS[0], UNSCORED, ROWS[1]]), "--output_format=tfrecord", DONE
    )
    (letter,) = done.dead()
    repaired = tmp_path / "repaired.jsonl"
    repaired.write_text(json.dumps({"key": letter["key"], "row": {**UNSCORED, "x": [2.0, 0.0, 1.0]}}) + "\n")
    assert keyjoin("replay", f"--run={done.output}", f"--rows={repaired}", plain).code == 0
    found = [features_of(record) for part in done.parts() for record in read_back([part.read_bytes()])]
    assert [row["prediction"] for row in found] == [[10.0], [4.0], [6.25]]
    assert found[1]["name"] == [b"no prediction"]


@pytest.mark.parametrize("bad_rows", ["apart", "null"])
def test_fields_are_written_in_the_order_given(keyjoin: Run, plain: str, tmp_path: Path, bad_rows: str) -> None:
    """Row fields, predictions and key have any order; a field that a row lacks is not written."""
    source = lines(tmp_path / "a.jsonl", [ROWS[0], UNSCORED, ROWS[1]])
    fields = "--output_fields=tags,score,key,id"
    done = keyjoin(
        "run", plain, source, fields, "--rename=prediction=score", "--scalars", f"--bad_rows={bad_rows}", DONE
    )
    assert done.code == 0
    rows = [row for row in done.rows() if row["score"] is not None]
    error = ["error"] if bad_rows == "null" else []
    assert [list(row) for row in rows] == [["tags", "score", "key", "id", *error]] * 2
    assert [(row["tags"], row["score"], row["id"]) for row in rows] == [(["a", 'b"'], 10.0, 7), (None, 6.25, -1)]
    if error:
        assert list(done.rows()[1]) == ["score", "key", "id", "error"]
    assert keyjoin("verify", f"--run={done.output}", "--rescore=99", plain).code == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--rename=predictoin=score"], "--rename names predictoin, which is no prediction of ['prediction'] (did"),
        (["--rename=prediction=id"], "the rows already have a field id; rename predictions with"),
        (["--output_fields=id,predicton"], "--output_fields names predicton, which is neither row, nor key, nor"),
        (["--output_fields=row,id"], "--output_fields names row, which is all fields of a row, and the field id"),
        (
            ["--output_fields=id,key", "--include_fields=id"],
            "--include_fields and --exclude_fields choose among the row's fields; add row",
        ),
        (["--scalars", "--output_format=tfrecord"], "--scalars is for JSON Lines"),
    ],
)
def test_names_that_cannot_be_written_are_refused(
    keyjoin: Run, plain: str, tmp_path: Path, flags: list[str], said: str
) -> None:
    """Each message names the flag and the name."""
    refused = keyjoin("check", plain, lines(tmp_path / "a.jsonl", ROWS), *flags)
    assert refused.code == 2
    assert said in refused.err


@pytest.mark.parametrize("bad_rows", ["apart", "null"])
@pytest.mark.parametrize("output", sorted({*formats.FORMATS} - {"jsonl", "tfrecord"}))
def test_json_lines_become_each_other_format(
    keyjoin: Run, plain: str, tmp_path: Path, output: str, bad_rows: str
) -> None:
    """`verify --rescore` finds the values and predictions of every row; parts are not compressed twice."""
    given = [{"id": 7, "name": "é", "a": 1.0, "b": 2.0, "c": 4.0}, {"a": 0.5, "b": 0.0, "c": 2.0}, {"id": 1, "a": 0.1}]
    source = lines(tmp_path / "a.jsonl.gz", given)
    flags = (plain, source, "--features=a,b,c", "--output_fields=row,key", f"--bad_rows={bad_rows}", DONE)
    done = keyjoin("run", *flags, f"--output_format={output}")
    assert done.code == 0, done.err
    packed = "" if output in ("parquet", "avro") else ".gz"
    assert [part.name for part in done.parts()] == [f"a-00000-of-00001.{output}{packed}"]
    assert [letter["reason"] for letter in done.dead()] == ["missing"]
    verified = keyjoin("verify", f"--run={done.output}", "--rescore=9", plain)
    assert (verified.code, verified.err) == (0, "")


@pytest.mark.parametrize("bad_rows", ["apart", "null"])
@pytest.mark.parametrize("output", sorted({*formats.FORMATS} - {"jsonl"}))
def test_values_without_fields_become_a_column(
    keyjoin: Run, plain: str, tmp_path: Path, output: str, bad_rows: str
) -> None:
    """They are the field `instance`."""
    path = tmp_path / "a.jsonl"
    path.write_text("[1.0, 2.0, 4.0]\n[0.5, 0, 2]\n[1, 2]\n[8, 8, 1]\n")
    flags = (f"--input={path}", plain, f"--output_format={output}", f"--bad_rows={bad_rows}", DONE)
    done = keyjoin("run", *flags, "--output_fields=row,key")
    assert done.code == 0, done.err
    rows = [row for part in done.parts() for row in read(part) if row.get("prediction") not in (None, "")]
    assert [scalar(row["prediction"]) for row in rows] == PREDICTED
    instances = [json.loads(row["instance"]) if output in ("csv", "tsv") else row["instance"] for row in rows]
    assert instances == [[1, 2, 4], [0.5, 0, 2], [8, 8, 1]]
    assert [letter["reason"] for letter in done.dead()] == ["wrong_shape"]
    assert keyjoin("verify", f"--run={done.output}", "--read_data=100%", "--rescore=9", plain).code == 0
    path.write_text('[1.0, 2.0, 4.0]\n"x"\n')
    refused = keyjoin("run", *flags)
    assert (refused.code, "one type; write the format of the input" in refused.err) == (2, True)


@pytest.mark.parametrize("bad_rows", ["apart", "null"])
@pytest.mark.parametrize("fmt", ["csv", "tsv", "parquet", "avro"])
def test_fields_have_the_order_given_in_each_format(
    keyjoin: Run, plain: str, tmp_path: Path, fmt: str, bad_rows: str
) -> None:
    """Predictions and key stand between fields of the row, which keep their values."""
    path = houses.write(tmp_path, fmt)
    flags = ("--features=CRIM,ZN,INDUS", "--output_fields=AGE,prediction,key,CRIM", f"--bad_rows={bad_rows}")
    done = keyjoin("run", f"--input={path}", plain, *flags)
    assert done.code == 0, done.err
    rows = [row for part in done.parts() for row in read(part)]
    error = ["error"] if bad_rows == "null" else []
    assert {tuple(row) for row in rows} == {("AGE", "prediction", "key", "CRIM", *error)}
    assert [(row["AGE"], row["CRIM"]) for row in rows] == [(row["AGE"], row["CRIM"]) for row in read(path)]
    assert all(row["key"].startswith(f"{path}#") for row in rows)
    assert keyjoin("verify", f"--run={done.output}", "--rescore=99", plain).code == 0
