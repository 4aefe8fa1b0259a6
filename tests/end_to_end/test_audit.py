"""`--audit` scores random rows alone after the run, and fails the run if one has another prediction in its part."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tests.conftest import Result
from tests.support import models
from transforms import write_part

ROWS = [{"x": [n, 1, n % 7]} for n in range(48)]


def flags(path: str, model: Callable[..., str]) -> list[str]:
    return [f"--input={path}", f"--model={model(models.keyed)}", "--chunk_bytes=200", "--max_bad_rows=1"]


def test_the_result_is_printed_and_recorded(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    done = keyjoin("run", *flags(lines(*ROWS, b"bad"), model), "--audit=20")
    assert (done.code, done.err) == (0, "")
    assert re.search(r"^audited +20 random rows, each scored alone: 20 equal, largest difference 0$", done.out, re.M)
    assert done.manifest()["audit"] == {"rows": 20, "equal": 20, "close": 0, "largest_difference": 0.0}
    assert keyjoin("verify", f"--run={done.output}", "--read_data=100%").code == 0


def test_all_rows_are_scored_if_there_are_fewer_and_none_without_it(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    path = lines(*ROWS)
    assert keyjoin("run", *flags(path, model), "--audit=999").manifest()["audit"]["rows"] == len(ROWS)
    assert "audit" not in keyjoin("run", *flags(path, model)).manifest()
    all_bad = keyjoin("run", *flags(lines({"x": None}, b"bad"), model)[:-1], "--max_bad_rows=1.0", "--audit=5")
    assert (all_bad.code, all_bad.manifest()["audit"]["rows"]) == (0, 0), all_bad.err


def test_on_a_complete_run_it_names_the_command_that_scores_rows_again(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    path = lines(*ROWS)
    done = keyjoin("run", *flags(path, model))
    again = keyjoin("run", *flags(path, model), f"--output={done.output}", "--audit=5")
    assert again.code == 0
    command = re.findall(r"--audit .* complete; score some again: keyjoin (verify .*)", again.err)[0]
    assert "scored again: 5 equal" in keyjoin(*command.split()).out


@pytest.mark.parametrize("fmt", ["csv", "parquet"])
def test_rows_of_other_formats(keyjoin: Callable[..., Result], model: Any, tmp_path: Path, fmt: str) -> None:
    path = tmp_path / f"a.{fmt}"
    if fmt == "csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["x"], *([str(n)] for n in range(30))])
    else:
        pq.write_table(pa.table({"x": pa.array(range(30), pa.float32())}), path)
    chosen = f"--model={model(models.echoing, tf.float32)}"
    for more in ([], ["--output_format=jsonl"]):
        done = keyjoin("run", f"--input={path}", chosen, "--audit=9", *more)
        assert (done.code, done.manifest()["audit"]["equal"]) == (0, 9), done.err


@pytest.mark.parametrize("written", ["--overwrite", "--incremental"])
def test_a_new_result_keeps_parts_of_the_former_one(
    keyjoin: Callable[..., Result], lines: Any, model: Any, written: str
) -> None:
    folder = str(Path(lines(*ROWS)).parent)
    first = keyjoin("run", *flags(folder, model))
    lines(*ROWS[:9], name="new.jsonl")
    done = keyjoin("run", *flags(folder, model), f"--output={first.output}", written, "--audit=999")
    assert (done.code, done.manifest()["audit"]["rows"]) == (0, len(ROWS) + 9), done.err


def test_predictions_on_other_rows_fail_the_run(
    keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    join = write_part.join_rows

    def swapped(block: Any, unread: Any, predictions: Any, fmt: Any, layout: Any) -> Any:
        batch = write_part.from_ipc(predictions.columns)
        turned = batch.take(pa.array([*range(1, batch.num_rows), 0]))
        with pa.BufferOutputStream() as sink:
            with pa.ipc.new_stream(sink, turned.schema) as stream:
                stream.write_batch(turned)
            packed = sink.getvalue().to_pybytes()
        return join(block, unread, predictions._replace(columns=packed), fmt, layout)

    path = lines(*ROWS)
    monkeypatch.setattr(write_part, "join_rows", swapped)
    done = keyjoin("run", *flags(path, model), "--audit=5")
    assert (done.code, done.complete()) == (1, False)
    (said,) = [line for line in done.err.splitlines() if "--audit" in line]
    key, row = re.findall(r"in\.jsonl#(\d+) \(line (\d+)\) has prediction .* in its part, and prediction", said)[0]
    assert Path(path).read_bytes()[: int(key)].count(b"\n") == int(row) - 1
    monkeypatch.undo()
    again = keyjoin("run", *flags(path, model), "--audit=5", f"--output={done.output}", "--overwrite")
    assert (again.code, again.complete()) == (0, True), again.err


def test_a_model_that_depends_on_the_batch_is_found(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    rows = [{"v": float(n % 3)} for n in range(40)]
    done = keyjoin(
        "run", f"--input={lines(*rows)}", f"--model={model(models.softmax)}", "--batch_dependence=allow", "--audit=3"
    )
    assert (done.code, done.complete()) == (1, False)
    assert "start anew with --overwrite --batch_size=1" in done.err
    assert not json.loads((done.output / "_keyjoin/job.json").read_bytes()).get("audit")
