"""Files whose columns differ: found before the run, by file and column, or scored with `--schema_drift=union`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.plan import input_format
from tests.conftest import Result
from tests.support import models
from transforms import formats

FORMATS = sorted({"avro", "csv", "parquet"} & formats.FORMATS.keys())
AVRO = {"int64": "long", "double": "double", "string": "string"}
Files = Callable[..., Path]


@pytest.fixture(params=FORMATS)
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    """Writes the columns of a table to a file of one of the formats, and returns its path."""

    def write(name: str, **columns: list[Any]) -> Path:
        path = tmp_path / "data" / f"{name}.{request.param}"
        path.parent.mkdir(exist_ok=True)
        table = pa.table(columns)
        if request.param == "parquet":
            pq.write_table(table, path)
        elif request.param == "avro":
            fields = [{"name": field.name, "type": ["null", AVRO[str(field.type)]]} for field in table.schema]
            with path.open("wb") as file:
                fastavro.writer(file, {"type": "record", "name": "r", "fields": fields}, table.to_pylist())
        else:
            rows = [",".join(map(str, row.values())) for row in table.to_pylist()]
            path.write_text("\n".join([",".join(columns), *rows, ""]))
        return path

    return write


@pytest.fixture
def flags(tmp_path: Path, model: Any) -> tuple[str, ...]:
    return (f"--input={tmp_path / 'data'}", f"--model={model(models.plain)}", "--features=a,b,c", "--max_bad_rows=1.0")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1.5], "c": [3.5]}, "{other} has no column b, which {first} has"),
        ({"a": [1.5], "b": [2.5], "c": [3.5], "d": [4.5]}, "{other} has a column d, which {first} does not have"),
        ({"b": [1.5], "a": [2.5], "c": [3.5]}, "{other} has the columns in another order than {first}: b comes before"),
    ],
)
def test_a_file_with_other_columns_is_refused_by_name(
    keyjoin: Callable[..., Result], files: Files, flags: tuple[str, ...], columns: Any, message: str
) -> None:
    first, other = files("x", a=[1.5], b=[2.5], c=[3.5]), files("y", **columns)
    refused = keyjoin("check", *flags)
    assert refused.code == 2
    assert message.format(first=first, other=other) in refused.err
    assert "--schema_drift=union" in refused.err


@pytest.mark.parametrize("lacking", ["x", "y"])
def test_with_union_each_part_has_the_columns_of_its_file(
    keyjoin: Callable[..., Result], files: Files, flags: tuple[str, ...], lacking: str
) -> None:
    whole, short = {"a": [1.5], "b": [2.5], "c": [3.5]}, {"a": [1.5, 2.5], "c": [3.5, 4.5]}
    for name in ("x", "y"):
        files(name, **(short if name == lacking else whole))
    done = keyjoin("run", *flags, "--schema_drift=union")
    assert done.code == 0, done.err
    assert "differs" in done.out
    assert [letter["reason"] for letter in done.dead()] == ["missing"] * 2
    assert done.manifest()["totals"]["joined"] == 1
    filled = keyjoin("run", *flags, "--schema_drift=union", "--missing", "b=2.5")
    assert filled.manifest()["totals"] | {"joined": 3, "filled": {"b": 2}} == filled.manifest()["totals"]
    parts = {path.name[0]: path for path in filled.parts()}
    fmt = formats.load(filled.manifest()["format"]["name"])
    for name, path in parts.items():
        row, *_ = fmt.writer.read_back(path.read_bytes()).values()
        assert list(row) == [*(short if name == lacking else whole), "prediction"]
    verified = keyjoin("verify", f"--run={filled.output}", flags[1], "--rescore=3")
    assert verified.code == 0, verified.out
    replayed = keyjoin("replay", f"--run={done.output}", "--missing", "b=2.5")
    assert replayed.code == 0, replayed.err
    assert done.manifest()["totals"]["joined"] == 3


def test_files_of_the_same_columns_and_empty_files_do_not_differ(
    keyjoin: Callable[..., Result], files: Files, flags: tuple[str, ...]
) -> None:
    path = files("x", a=[1.5], b=[2.5], c=[3.5])
    files("y", a=[2.5, 1.5], b=[2.5, 1.5], c=[3.5, 1.5])
    (path.parent / f"a{path.suffix}").write_bytes(b"" if path.suffix == ".csv" else path.read_bytes())
    done = keyjoin("check", *flags)
    assert done.code == 0, done.err
    assert "columns      3" in done.out
    assert "differs" not in done.out


def test_an_added_file_with_other_columns_is_refused(
    keyjoin: Callable[..., Result], files: Files, flags: tuple[str, ...]
) -> None:
    files("x", a=[1.5], b=[2.5], c=[3.5])
    done = keyjoin("run", *flags)
    assert done.code == 0, done.err
    path = files("a", a=[2.5], b=[3.5], c=[4.5])
    more = keyjoin("run", *flags, "--incremental", f"--output={done.output}")
    assert more.code == 0, more.err
    other = files("y", a=[1.5], b=[2.5])
    again = keyjoin("run", *flags, "--incremental", f"--output={done.output}")
    assert again.code == 2
    assert f"{other} has no column c, which {path} has" in again.err
    for name in ("a", "x"):
        files(name, a=[1.5], b=[2.5])
    changed = keyjoin("run", *flags[:2], "--features=a,b", f"--output={done.output}")
    assert changed.code == 2
    assert "the input has no column c, which the earlier run has" in changed.err


def test_files_beyond_the_first_ones_are_compared_when_they_are_split(
    keyjoin: Callable[..., Result], files: Files, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_format, "HEADERS", 1)
    files("x", a=[1.5], b=[2.5], c=[3.5])
    other = files("y", a=[1.5], b=[2.5])
    failed = keyjoin("run", *flags)
    assert failed.code == 1
    assert f"{other}: it has no column c, which the first file has; score it alone" in failed.err


def test_types_differ_but_nullability_and_metadata_do_not(
    keyjoin: Callable[..., Result], flags: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    columns = {"a": [1.5], "b": [2.5], "c": [3.5]}
    strict = pa.schema([pa.field(name, pa.float64(), nullable=False) for name in columns], {"pandas": json.dumps({})})
    pq.write_table(pa.table(columns), tmp_path / "data/x.parquet")
    pq.write_table(pa.table(columns, schema=strict), tmp_path / "data/y.parquet")
    same = keyjoin("check", *flags)
    assert same.code == 0, same.err
    pq.write_table(pa.table({**columns, "b": [2]}), tmp_path / "data/z.parquet")
    refused = keyjoin("check", *flags)
    assert refused.code == 2
    assert "z.parquet has int64 in the column b, and" in refused.err


def test_rows_that_name_their_fields_themselves_have_no_drift(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    flags = (f"--input={lines({'x': [1, 2, 3]})}", f"--model={model(models.plain)}", "--schema_drift=union")
    refused = keyjoin("check", *flags)
    assert refused.code == 2
    assert "--schema_drift=union is for files with a header or schema" in refused.err


OUTPUTS = formats.FORMATS.keys() - {"tsv"}


def test_parts_of_another_format_have_the_columns_of_all_files(
    keyjoin: Callable[..., Result], files: Files, flags: tuple[str, ...]
) -> None:
    first = files("x", a=[1.5, 2.5], c=[3.5, 4.5])
    files("y", n=["one", "two"], b=[5.5, 6.5], a=[1.0, 2.0], c=[3.0, 4.0])
    for output in OUTPUTS - {first.suffix[1:]}:
        check_parts_of(output, keyjoin, flags)


def check_parts_of(output: str, keyjoin: Callable[..., Result], flags: tuple[str, ...]) -> None:
    given = (*flags, "--schema_drift=union", f"--output_format={output}")
    done = keyjoin("run", *given, "--missing", "b=0.5")
    assert done.code == 0, done.err
    fmt = formats.load(output)
    rows = [row for path in done.parts() for row in fmt.writer.read_back(path.read_bytes()).values()]
    assert done.manifest()["totals"]["joined"] == len(rows) == 4
    own = ["a", "c", "n", "b"]
    null = {None, ""} if output == "csv" else {None}
    if output == "tfrecord":  # a feature that a row lacks is not in its Example
        assert [sorted(set(row) & set(own)) for row in rows] == [["a", "c"]] * 2 + [sorted(own)] * 2
    else:
        assert [[name for name in row if name in own] for row in rows] == [own] * 4
        assert all({row["n"], row["b"]} <= null for row in rows[:2])
    assert [float(value_of(row["a"])) for row in rows] == [1.5, 2.5, 1.0, 2.0]
    assert [str(text_of(row["n"])) for row in rows[2:]] == ["one", "two"]
    verified = keyjoin("verify", f"--run={done.output}", flags[1], "--rescore=4")
    assert verified.code == 0, verified.out
    dead = keyjoin("run", *given)
    assert len(dead.dead()) == 2
    replayed = keyjoin("replay", f"--run={dead.output}", "--missing", "b=0.5")
    assert replayed.code == 0, replayed.err
    assert [path.read_bytes() for path in dead.parts()] == [path.read_bytes() for path in done.parts()]


def value_of(cell: Any) -> Any:
    return cell[0] if isinstance(cell, list) else cell


def text_of(cell: Any) -> Any:
    found = value_of(cell)
    return found.decode() if isinstance(found, bytes) else found


def test_columns_of_types_without_a_common_one_are_refused_by_file(
    keyjoin: Callable[..., Result], flags: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    columns = {"a": [1.5], "b": [2.5], "c": [3.5]}
    given = (*flags, "--schema_drift=union", "--output_format=jsonl")
    for name, values in (("x", pa.array([2**31 - 1], pa.int32())), ("y", pa.array([2**53 + 1], pa.int64()))):
        pq.write_table(pa.table({**columns, "n": values}), tmp_path / f"data/{name}.parquet")
    done = keyjoin("run", *given)
    assert done.code == 0, done.err
    assert [row["n"] for row in done.rows()] == [2**31 - 1, 2**53 + 1]
    pq.write_table(pa.table({**columns, "n": ["2"]}), tmp_path / "data/z.parquet")
    refused = keyjoin("check", *given)
    assert refused.code == 2
    assert f"field n has several types, int32 in {tmp_path}/data/x.parquet and int64 in" in refused.err
    assert f"string in {tmp_path}/data/z.parquet" in refused.err
    assert keyjoin("run", *given, "--exclude_fields=n").code == 0


def test_an_added_file_has_no_columns_that_the_parts_lack(
    keyjoin: Callable[..., Result], files: Files, flags: tuple[str, ...]
) -> None:
    files("x", a=[1.5], b=[2.5], c=[3.5])
    given = (*flags, "--schema_drift=union", "--output_format=jsonl")
    done = keyjoin("run", *given)
    assert done.code == 0, done.err
    files("y", c=[1.5], b=[2.5], a=[3.5])
    more = keyjoin("run", *given, "--incremental", f"--output={done.output}")
    assert more.code == 0, more.err
    assert [list(row)[:3] for row in more.rows()] == [["a", "b", "c"]] * 2
    other = files("z", a=[1.5], b=[2.5], c=[3.5], d=[4.5])
    refused = keyjoin("run", *given, "--incremental", f"--output={done.output}")
    assert refused.code == 2
    assert f"{other} has a column d, which the parts of this run do not have" in refused.err
