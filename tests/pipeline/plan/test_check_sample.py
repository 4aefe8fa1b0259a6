"""`keyjoin check` scores rows of the beginning, the middle and the end of each source, and says which would fail."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan import check_sample, spread_sample
from pipeline.plan.spread_sample import SOURCES, picked, read_pieces
from pipeline.terminal import check_report
from tests.conftest import Result
from tests.support import models
from tests.transforms.formats.test_every_format import CASES, Row
from transforms import formats
from transforms.reasons import Reason
from transforms.records import Source

FEATURES = {"csv": ["--features=x,y", "--rename=y=z"], "tsv": ["--features=x,y", "--rename=y=z"]}
words = st.text("abé", max_size=4)
rows_of_any_number = st.lists(st.builds(Row, st.integers(-9, 9), words), min_size=1, max_size=60)


def always_one(folder: Path) -> str:
    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.ones([tf.shape(x)[0]])}

    return models.save(folder, call, models.spec("x", 3))


def source_of(path: Path, content: bytes) -> Source:
    path.write_bytes(content)
    return Source(str(path), len(content), path.stem, path.suffix)


@pytest.mark.parametrize("name", formats.FORMATS)
@given(rows=rows_of_any_number, window=st.integers(120, 400), most=st.integers(1, 30))
def test_the_places_are_whole_rows_each_at_most_once_with_the_first_and_the_last(
    name: str, rows: list[Row], window: int, most: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    reader = formats.load(name).reader
    source = source_of(tmp_path_factory.mktemp("spread") / f"a.{name}", CASES[name].file(rows))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(spread_sample, "WINDOW", window)
        patched.setattr(spread_sample, "ROWS", most * spread_sample.PLACES)
        pieces = list(read_pieces([source], reader))
    with open(source.path, "rb") as file:
        every = reader.sample(file, 1 << 20)
    found = [int(position) for piece in pieces for position in piece.block.positions]
    assert found == sorted(set(found))
    assert set(found) <= set(every.positions.tolist())
    assert (found[0], found[-1]) == (every.positions[0], every.positions[-1])
    raw = dict(zip(every.positions.tolist(), every.raw(range(len(rows))).to_pylist(), strict=True))
    for piece in pieces:
        texts = piece.block.raw(range(len(piece.block.positions))).to_pylist()
        assert texts == [raw[int(position)] for position in piece.block.positions]
        assert len(texts) <= max(most, spread_sample.FEWEST_ROWS)


def test_a_quoted_newline_is_no_border(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread_sample, "WINDOW", 1000)
    cell = '"' + "1,2\n" * 100 + '"'
    content = ("x,s\n" + "".join(f"{row},{cell}\n" for row in range(50))).encode()
    reader = formats.load("csv").reader
    pieces = list(read_pieces([source_of(tmp_path / "a.csv", content)], reader))
    assert len(pieces) == 3
    for piece in pieces:
        assert [set(row) for row in piece.block.values()] == [{"x", "s"}] * len(piece.block.positions)
    assert pieces[-1].block.values()[-1]["x"] == "49"


@given(st.integers(0, 3 * SOURCES))
def test_of_many_sources_some_are_picked_at_equal_distances(count: int) -> None:
    sources = [Source(f"{number:04d}", 1, "", "") for number in range(count)]
    found = picked([*sources, Source("empty", 0, "", "")])
    assert len(found) == min(count, SOURCES)
    steps = np.diff([int(source.path) for source in found])
    assert max(steps, default=0) - min(steps, default=0) <= 1
    assert count > SOURCES or found == sources


def flags(path: Path | str, model: Any, *others: str) -> list[str]:
    return [f"--input={path}", f"--model={model(models.raising)}", *others]


GOOD, SHORT, REFUSED = {"x": [1.0, 2.0, 3.0]}, {"x": [1.0]}, {"x": [666.0, 0, 0]}


def test_bad_rows_anywhere_are_counted_with_examples_and_a_command_that_allows_them(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    rows: list[Any] = [GOOD] * 3000
    rows[1500:1510], rows[2990], rows[2995] = [SHORT] * 10, REFUSED, b"{]"
    path = lines(*rows)
    done = keyjoin("check", *flags(path, model))
    assert (done.code, done.err, done.output.exists()) == (0, "", False)
    out = " ".join(done.out.split())
    assert "bad rows 12 of 999 sampled rows would fail: model_error 1, not_json 1, wrong_shape 10" in out
    assert "(line 1,501) wrong_shape: field x: " in out
    assert "(line 2,991) model_error: " in out
    assert "(line 2,996) not_json: " in out
    assert "12 of 999 sampled rows would fail, and --max_bad_rows=0.01 allows fewer" in out
    command = done.out.partition("or allow them: ")[2].partition("\n")[0].split()
    assert command[:2] == ["keyjoin", "run"]
    assert keyjoin("check", *command[2:]).out.count("warning") == 0
    quiet = keyjoin("check", *flags(path, model), "--quiet")
    warning = "keyjoin: warning: 12 of 999 sampled rows would fail, and --max_bad_rows=0.01 allows fewer\n"
    assert (quiet.code, quiet.out, quiet.err) == (0, "", warning)


def test_a_dozen_of_many_sources_are_printed_and_all_are_in_the_json(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    paths = [lines(GOOD, SHORT, name=f"{number:03d}.jsonl") for number in range(40)]
    many = flags(Path(paths[0]).parent, model)
    text = keyjoin("check", *many).out
    shown = [line.split()[1].removesuffix(",") for line in text.splitlines() if line.startswith("source ")]
    assert shown == paths[: check_report.SHOWN_SOURCES]
    size = sum(Path(path).stat().st_size for path in paths[check_report.SHOWN_SOURCES :])
    assert f"\n             … and 28 more sources, {size:,} bytes\n" in text
    assert "remedy       or allow them: keyjoin run" in text
    each = [*(f"--input={path}" for path in paths), f"--model={model(models.raising)}"]
    text = keyjoin("check", *each).out
    assert "remedy       or allow them: add --max_bad_rows=0.51 to the command\n" in text
    assert max(map(len, text.splitlines())) < 200
    document = json.loads(keyjoin("check", *each, "--json").out)
    assert document["sources"] == [{"path": path, "bytes": Path(path).stat().st_size} for path in paths]
    assert document["remedies"][-1].count("--input=") == len(paths)
    assert "source " not in keyjoin("check", *flags(paths[0], model)).out


def test_all_sources_are_sampled_and_rows_that_all_fail_are_refused(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    for number in range(20):  # more than the checks of `run` read
        path = lines(SHORT, name=f"{number:02d}.jsonl")
    folder = Path(path).parent
    refused = keyjoin("check", *flags(folder, model))
    assert refused.code == 2
    lines(GOOD, name="99.jsonl")
    assert keyjoin("check", *flags(folder, model)).code == 2  # as `run` does, by the first rows
    lines(GOOD, name="00.jsonl")
    done = keyjoin("check", *flags(folder, model))
    assert (done.code, done.err) == (0, "")
    assert "19 of 21 sampled rows would fail" in done.out


@pytest.mark.parametrize("name", formats.FORMATS)
def test_each_format_is_sampled_to_its_last_row(
    name: str, keyjoin: Callable[..., Result], model: Any, tmp_path: Path
) -> None:
    rows = [Row(number % 9, "a") for number in range(3000)]
    rows[-1] = Row(None, "a")
    path = tmp_path / f"a.{name}"
    path.write_bytes(CASES[name].file(rows))
    found = document(keyjoin, path, model(models.echoing, tf.float32, 2), *FEATURES.get(name, []))
    assert (found["verdict"], found["sample"]["rows"]) == ("ready", 999)
    assert sum(found["sample"]["bad"].values()) == 1
    assert found["sample"]["inputs"] == {"x": "[0.0, 0.5]"}
    packed = tmp_path / f"b.{name}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    found = document(keyjoin, packed, model(models.echoing, tf.float32, 2), *FEATURES.get(name, []))
    assert (found["verdict"], found["sample"]["bad"]) == ("ready", {})
    assert found["sample"]["places"] == "its beginning, since it is compressed"


def document(keyjoin: Callable[..., Result], path: Path | str, model: str, *others: str) -> dict[str, Any]:
    done = keyjoin("check", f"--input={path}", f"--model={model}", *others, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_the_document_has_what_is_printed(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    path = lines(*[GOOD] * 9, SHORT)
    found = document(keyjoin, path, model(models.raising), "--max_bad_rows=0.5")
    assert found["schema_version"] == 1
    assert found["plan"][0] == ["input", f"1 file, {Path(path).stat().st_size:,} bytes, jsonl"]
    assert found["inputs"] == [{"name": "x", "type": "float32 [N, 3]", "source": "x"}]
    assert [one["name"] for one in found["predictions"]] == list(found["sample"]["predictions"])
    (example,) = found["sample"]["examples"]
    assert (example["file"], example["line"], example["reason"]) == (path, 10, "wrong_shape")
    assert found["remedies"] == [f"wrong_shape: {Reason.WRONG_SHAPE.remedy}"]
    assert found["memory"]["total"] > found["memory"]["model"]


def test_an_output_that_is_always_the_same_is_named(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    flat = model(always_one)
    rows: Sequence[Any] = [{"x": [float(row), 0, 0]} for row in range(100)]
    done = keyjoin("check", f"--input={lines(*rows)}", f"--model={flat}")
    assert "output y is 1.0 for all sampled rows" in done.out
    few = keyjoin("check", f"--input={lines(*rows[:99], name='few.jsonl')}", f"--model={flat}")
    same = keyjoin("check", f"--input={lines(*[GOOD] * 100, name='same.jsonl')}", f"--model={flat}")
    assert "for all sampled rows" not in few.out + same.out


def test_a_document_is_printed_for_a_complete_output(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    given = flags(lines(GOOD), model)
    output = keyjoin("run", *given).output
    found = json.loads(keyjoin("check", *given, f"--output={output}", "--json").out)
    assert found["verdict"] == "complete"


def test_check_stops_to_score_rows_after_some_time(
    keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_sample, "SECONDS", -1.0)
    path = lines(*[GOOD] * 50)
    found = document(keyjoin, path, model(models.raising))["sample"]
    assert (found["rows"], found["is_whole"]) == (1, False)
    assert "; keyjoin stopped after " in keyjoin("check", *flags(path, model)).out


def test_a_row_that_cannot_be_written_counts(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    path = lines(*[GOOD] * 50, {**GOOD, "prediction": 7})
    found = document(keyjoin, path, model(models.raising), "--max_bad_rows=1")["sample"]
    assert found["bad"] == {"collision": 1}
