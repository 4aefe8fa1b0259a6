"""Tests that goals are judged by measurements of verified rows, and that a wrong output is never timed."""

import gzip
import io
import itertools
import json
import math
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from benchmarks import cases, compare, data, devices, files, goals, verify
from benchmarks.cases import Case, Result
from benchmarks.goals import GOALS, START_UP, Within
from benchmarks.measure import Usage
from benchmarks.programs import PROGRAMS, ROOT
from benchmarks.verify import ProgramError
from benchmarks.workloads import AVRO, COLUMNS, CSV, PARQUET, TFRECORD, WORKLOADS, Workload

ROWS = 40
OWN = ("keyjoin", "baseline", "textbook")
# Changes a correct output: the rows that a program writes, and its dead letters.
Change = Callable[[list[Any], list[str]], None]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A separate folder for rows and models, which are made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("benchmarks")))
        # This process has TensorFlow already, so `apart` needs no other process.
        patch.setattr(data, "apart", lambda function, *arguments: function(*arguments))
        patch.setattr(verify, "apart", data.apart)
        yield


@pytest.fixture(autouse=True)
def cold(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Skips the warm-up, so that each program runs once; returns the real warm-up function."""
    warm_up = cases.warm_up
    monkeypatch.setattr(cases, "warm_up", lambda *_: None)
    return warm_up


@pytest.fixture
def own_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the peers that need more than the tests' environment."""
    for name in set(PROGRAMS) - set(OWN):
        monkeypatch.delitem(PROGRAMS, name)


class Kept(io.BytesIO):
    """Keeps what a program prints after the program's text stream closes it."""

    def close(self) -> None:
        pass


def in_process(command: Sequence[str], log: Path) -> Usage:
    """Runs a program of the benchmark in this process, which has the imports already."""
    _, _, module, *arguments = command
    kept = Kept()
    said = io.TextIOWrapper(kept)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        patch.setattr(sys, "argv", [module, *arguments])
        try:
            runpy.run_module(module, run_name="__main__")
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    log.write_bytes(kept.getvalue())
    return Usage(code, 1.0, 1.0, 10**9)


@pytest.mark.usefixtures("own_programs")
def test_every_goal_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cases, "measure", in_process)
    monkeypatch.setattr(goals, "MIN_ROWS", ROWS)
    results = tmp_path / "results.json"
    assert compare.main(["--all", "--shrink=1000000", "--repeat=1", f"--json={results}"]) == 1
    document = json.loads(results.read_text())
    lines = {(line["goal"], line["what"]): line for line in document["goals"]}
    assert {name for name, _ in lines} == set(GOALS)
    assert "FAILED" not in {line["reached"] for line in lines.values()}, lines
    assert lines["houses", "time / baseline"] == {
        "goal": "houses", "what": "time / baseline", "measured": 1.0, "must_be": "at most 1.25", "reached": "yes",
    }  # fmt: skip
    assert all(result["seconds_ratio"] for result in document["results"])
    assert {result["work"] for result in document["results"]} == set(WORKLOADS)


def test_no_gpu_is_said_and_nothing_is_measured() -> None:
    none = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run([ROOT / "benchmarks" / "gpu"], env=none, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "benchmarks/gpu: TensorFlow finds no GPU here: nothing is measured\n"


def test_on_a_device_keyjoin_is_measured_beside_the_bare_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cases, "measure", lambda command, log: in_process(command, log)._replace(seconds=next(speeds)))
    # The bare model's long and short run, then keyjoin's in each format. keyjoin takes 20 % more without start-up.
    speeds = iter([5.0, 1.0, 5.8, 1.0, 9.0, 1.0])
    monkeypatch.setattr(goals, "MIN_ROWS", ROWS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert devices.main(["--device=CPU", "--repeat=1", "--shrink=10000"]) == 0
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("benchmarks/gpu: ")
    assert [line.split()[:3] for line in lines[:2]] == [["bare", "heavy", "96"], ["bare", "heavy", "40"]]
    assert lines[6:] == [
        "rows/s of heavy / of the bare model: 0.833",
        "rows/s of heavy_tfrecord / of the bare model: 0.500",
    ]


def test_a_program_that_fails_on_a_device_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_: Sequence[str], log: Path) -> Usage:
        log.write_text("out of luck")
        return Usage(1, 1.0, 1.0, 10**9)

    monkeypatch.setattr(cases, "measure", fails)
    monkeypatch.setattr(goals, "MIN_ROWS", ROWS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert devices.main(["--device=CPU", "--repeat=1", "--shrink=10000"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("benchmarks/gpu: error: bare")
    assert "out of luck" in said


def test_a_program_runs_on_a_few_rows_before_each_time(
    cold: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(command: Sequence[str], log: Path) -> Usage:
        scored.append(len(Path(command[command.index("--input") + 1]).read_text().splitlines()))
        return writes("houses", right)(command, log)

    scored: list[int] = []
    monkeypatch.setattr(cases, "warm_up", cold)
    monkeypatch.setattr(cases, "FEW_ROWS", 7)
    monkeypatch.setattr(cases, "measure", measure)
    cases.run([Case("keyjoin", "houses", ROWS)], 1, 2)
    assert scored == [7, ROWS, 7, ROWS]


def dead_letters_text(lines: Sequence[str]) -> str:
    return "".join(json.dumps({"row": line.rstrip("\n"), "row_encoding": "utf-8"}) + "\n" for line in lines)


def lists(work: str) -> tuple[list[Any], list[str]]:
    """Returns the correct output of a workload: rows whose predictions are their numbers, and the bad rows."""
    made = WORKLOADS[work]
    source = data.cached(made, ROWS, 1)
    if made.suffix == TFRECORD:
        return [*map(_joined_example, tf.data.TFRecordDataset(str(source)), itertools.count())], []
    end = "" if made.suffix == CSV else "}"
    lines = [line.decode() for line in files.records([source], made.suffix)]
    good = [line.replace(f"{end}\n", added(made, at)) for at, line in enumerate(lines) if not made.is_bad(at)]
    return good, [line for at, line in enumerate(lines) if made.is_bad(at)]


def added(work: Workload, number: int) -> str:
    """Returns what an output row has after the input row: the prediction, which is the row's number."""
    if work.suffix == CSV:
        return f",{number}.0\n"
    return f', "prediction": {number}.0}}\n' if work.suffix in (PARQUET, AVRO) else f', "prediction": [{number}.0]}}\n'


def _joined_example(record: tf.Tensor, number: int) -> bytes:
    added = tf.train.Example()
    added.features.feature["prediction"].float_list.value.append(number)
    return record.numpy() + added.SerializeToString()


def put_examples(good: list[Any], path: Path) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in good:
            writer.write(record)


def put_csv(good: list[Any], path: Path) -> None:
    path.write_text(",".join((*COLUMNS, "name", "prediction")) + "\n" + "".join(good))


def put_parquet(good: list[Any], path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([json.loads(line) for line in good]), path)


def put_avro(good: list[Any], path: Path) -> None:
    fields = [*files.SCHEMA["fields"], {"name": "prediction", "type": "float"}]
    with path.open("wb") as file:
        fastavro.writer(file, {**files.SCHEMA, "fields": fields}, map(json.loads, good), sync_marker=bytes(16))


PUT: dict[str, Callable[[list[Any], Path], Any]] = {
    TFRECORD: put_examples,
    CSV: put_csv,
    PARQUET: put_parquet,
    AVRO: put_avro,
    ".gz": lambda good, path: path.write_bytes(gzip.compress("".join(good).encode(), mtime=0)),
}


def writes(work: str, change: Change) -> Callable[[Sequence[str], Path], Usage]:
    """Returns a program that writes the correct output after a change."""

    def measure(command: Sequence[str], _: Path) -> Usage:
        good, bad = lists(work)
        change(good, bad)
        output = Path(command[command.index("--output") + 1])
        (output / "_keyjoin/dead_letters").mkdir(parents=True)
        part = output / f"x-0-of-1{WORKLOADS[work].suffix}"
        PUT.get(part.suffix, lambda rows, path: path.write_text("".join(rows)))(good, part)
        if bad:
            (output / "_keyjoin/dead_letters" / part.name).write_text(dead_letters_text(bad))
        return Usage(0, 1.0, 1.0, 10**9)

    return measure


def right(*_: list[Any]) -> None:
    """Changes nothing."""


def lost(good: list[Any], _: list[str]) -> None:
    del good[3]


def swapped(good: list[Any], _: list[str]) -> None:
    good[3], good[4] = good[4], good[3]


def retyped(good: list[Any], _: list[str]) -> None:
    """Writes a row with the same meaning in other bytes, or a nearby value where a format has one spelling."""
    row = good[3]
    if isinstance(row, bytes):
        good[3] = b"\x0a\x00" + row
    elif "f00" in row:
        good[3] = row.replace('"f00": ', '"f00": 1')
    else:
        good[3] = row.replace("{", "{ ", 1) if row.startswith("{") else " " + row


def predicted(good: list[Any], _: list[str]) -> None:
    """Swaps the predictions of two rows."""
    if isinstance(good[3], bytes):
        tails = [record[-len(_joined_example(tf.constant(b""), 1)) :] for record in good[3:5]]
        good[3:5] = [good[3].removesuffix(tails[0]) + tails[1], good[4].removesuffix(tails[1]) + tails[0]]
    else:
        (head3, _, tail3), (head4, _, tail4) = good[3].rpartition("3.0"), good[4].rpartition("4.0")
        good[3:5] = [f"{head3}4.0{tail3}", f"{head4}3.0{tail4}"]


@pytest.mark.parametrize("work", WORKLOADS)
def test_wrong_outputs_are_refused(work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(program: str, change: Change) -> None:
        steps = iter([writes(work, right), writes(work, change)])
        monkeypatch.setattr(cases, "measure", lambda command, log: next(steps)(command, log))
        cases.run([Case(program, work, ROWS)], 1, 2)

    run("keyjoin", right)
    for change, message in (
        (lost, "rows were written"),
        (swapped, "its bytes are not those"),
        (retyped, "its bytes are not those"),
        (predicted, "another program gave it"),
    ):
        with pytest.raises(ProgramError, match=message):
            run("keyjoin", change)
    for change in (swapped, retyped):
        monkeypatch.setattr(cases, "measure", writes(work, change))
        with pytest.raises(ProgramError, match="is not input row"):
            cases.run([Case("keyjoin", work, ROWS)], 1, 1)


def bad_lost(_: list[Any], bad: list[str]) -> None:
    bad.pop()


def bad_changed(_: list[Any], bad: list[str]) -> None:
    bad[0] = bad[0].replace(" ", "  ")


def bad_twice(_: list[Any], bad: list[str]) -> None:
    bad.append(bad[-1])


def bad_joined(good: list[Any], bad: list[str]) -> None:
    good.insert(10, bad.pop(0).replace("}\n", ', "prediction": [10.0]}\n'))


def good_dead(good: list[Any], bad: list[str]) -> None:
    bad.append(good.pop())


@pytest.mark.parametrize("change", [bad_lost, bad_changed, bad_twice, bad_joined, good_dead])
def test_dead_letters_are_the_bad_rows(change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "measure", writes("bad", change))
    with pytest.raises(ProgramError, match="dead letter"):
        cases.run([Case("keyjoin", "bad", ROWS)], 1, 1)


def test_works_of_the_same_rows_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = iter([writes("heavy", right), writes("heavy_tfrecord", predicted)])
    monkeypatch.setattr(cases, "measure", lambda command, log: next(steps)(command, log))
    with pytest.raises(ProgramError, match="another program gave it"):
        cases.run([Case("keyjoin", "heavy", ROWS), Case("keyjoin", "heavy_tfrecord", ROWS)], 1, 1)


def judged(goal: str, seconds: Callable[[Case], float], peak: float = 1e9, **totals: int) -> list[tuple[str, float]]:
    """Returns the lines of a goal for the given times, peak memory and sums."""
    made = GOALS[goal](lambda rows: rows)
    took = {case: Result(case, [Usage(0, seconds(case), 1, int(peak))], [{"totals": totals}]) for case in made.cases}
    return [(goals._judged(goal, line)["reached"], line.measured) for line in made.judge(took)]


def by_rows(times: dict[int, float]) -> Callable[[Case], float]:
    return lambda case: times[case.rows]


@pytest.mark.parametrize(
    ("goal", "seconds", "expected"),
    [
        ("scale", by_rows({START_UP.rows: 5, 2_000_000: 15, 20_000_000: 115}), [("yes", 11), ("yes", 1), ("yes", 1)]),
        ("scale", by_rows({START_UP.rows: 5, 2_000_000: 15, 20_000_000: 125}), [("MISSED", 12), ("yes", 1), ("yes", 1)]),
        ("scale", by_rows({START_UP.rows: 5, 2_000_000: 5, 20_000_000: 4}), [("MISSED", math.nan), ("yes", 1), ("yes", 1)]),
        ("demo", lambda case: 6.5 if case.program == "keyjoin" else 5, [("yes", 1.3)]),
        ("demo", lambda case: 7 if case.program == "keyjoin" else 5, [("MISSED", 1.4)]),
        ("heavy", lambda case: case.rows / 1000 + (case.program == "keyjoin"), [("yes", 1), ("yes", 1)]),
        ("heavy", lambda case: case.rows / (800 if case.work == "heavy_tfrecord" else 1000), [("yes", 1), ("MISSED", 0.8)]),
        ("houses", lambda case: 1.26 if case.program == "keyjoin" else 1, [("MISSED", 1.26)]),
        ("text", lambda case: 8 if case.program == "keyjoin" else 5, [("MISSED", 1.6)]),
        ("bad", lambda case: 3 if case.work == "bad" else 2, [("yes", 1.5)]),
        ("csv", lambda case: 2 if case.program == "loop" else 3 if case.work == "houses_csv" else 4, [("yes", 0.75), ("MISSED", 1.5)]),
        ("gzip", lambda case: 3 if case.work == "houses_gzip" else 2, [("yes", 1.5)]),
        ("avro", lambda case: 2 if case.program == "loop" else 3, [("", 1), ("yes", 1.5)]),
    ],
)  # fmt: skip
def test_judging(goal: str, seconds: Callable[[Case], float], expected: list[tuple[str, float]]) -> None:
    found = judged(goal, seconds)
    assert found == [(reached, pytest.approx(value, nan_ok=True)) for reached, value in expected]


def test_judging_counts() -> None:
    assert judged("shuffle", lambda _: 1, shuffled_bytes=800_000) == [("yes", 4.0)]
    assert judged("shuffle", lambda _: 1, shuffled_bytes=2_200_000) == [("MISSED", 11.0)]
    assert [r for r, _ in judged("scale", lambda case: case.rows, peak=1.6e9)] == ["yes", "MISSED", "yes"]
    # The longer run takes twice the time beyond start-up. Both report the same number of parts, so a chunk takes
    # twice as long.
    times = by_rows({START_UP.rows: 5, 10_000: 15, 100_000: 25})
    assert judged("chunks", times, parts=10) == [("MISSED", 2.0)]


def test_an_estimate_misses_on_both_sides() -> None:
    """The goal judges the median of the runs' ratios."""
    actual = {"seconds": 10.0, "totals": {"written_bytes": 1000}, "measured": {"peak_memory": 100}}
    made = GOALS["estimate"](lambda rows: rows)
    manifests = [
        {**actual, "estimate": {"seconds": seconds, "memory": 71, "output_bytes": 1310}} for seconds in (99, 7.2, 6.9)
    ]
    took = {case: Result(case, [], manifests) for case in made.cases}
    found = [(goals._judged("estimate", line)["reached"], line.measured) for line in made.judge(took)]
    assert found[:3] == [("yes", 0.72), ("yes", 0.71), ("MISSED", 1.31)]
    assert not Within(0.7, 1.3).reached_by(math.nan)


@pytest.mark.usefixtures("own_programs")
def test_peers_are_those_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [r for r, _ in judged("peers", lambda _: 1)] == ["MISSED"]
    for name in ("spark", "tfx_bsl"):
        monkeypatch.setitem(PROGRAMS, name, PROGRAMS["textbook"])
    times = {"textbook": 40, "spark": 2.9, "tfx_bsl": 0.5}
    assert judged("peers", lambda case: times.get(case.program, 1)) == [
        ("yes", 40),
        ("MISSED", 2.9),
        ("", 0.5),
    ]


@pytest.mark.parametrize(("slow", "code"), [(1.2, 0), (1.4, 1)])
def test_the_table_names_what_is_missed(
    slow: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(wanted: Sequence[Case], seed: int, repeat: int) -> list[Result]:
        assert (seed, repeat) == (1, 3)
        return [Result(case, [Usage(0, slow if case.program == "keyjoin" else 1, 1, 1)], {}) for case in wanted]

    monkeypatch.setattr(goals, "run", run)
    assert compare.main(["--goals=wide,demo"]) == code
    verdict = "MISSED" if code else "yes"
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["goal", "what", "measured", "must", "be", "reached"],
        ["wide", "time", "/", "baseline", f"{slow:.3f}", "at", "most", "1.3", verdict],
        ["demo", "time", "/", "that", "of", "the", "imports", f"{slow:.3f}", "at", "most", "1.3", verdict],
    ]


def test_a_goal_that_fails_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(wanted: Sequence[Case], *_: int) -> list[Result]:
        if wanted[0].work == "wide":
            raise ProgramError("the output of baseline is wrong\nin detail")
        return [Result(case, [Usage(0, 1, 1, 1)], {}) for case in wanted]

    monkeypatch.setattr(goals, "run", run)
    assert compare.main(["--goals=wide,text"]) == 1
    said = capsys.readouterr()
    assert "in detail" in said.err
    _, failed, fine = said.out.splitlines()
    assert failed.split() == ["wide", "the", "output", "of", "baseline", "is", "wrong", "FAILED"]
    assert fine.split()[-1] == "yes"


@pytest.mark.parametrize("flags", [["--goals=fame"], ["--goals=wide,wide"], ["--goals=wide", "--all"], ["--shrink=0"]])
def test_wrong_flags(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        compare.main(flags)
    assert raised.value.code == 2


@pytest.mark.parametrize("work", ["mixed", "strings"])
def test_more_rows_are_the_first_ones_under_new_names(work: str, tmp_path: Path) -> None:
    data.write(tmp_path / "a", WORKLOADS[work]._replace(distinct=3), 8, 1)
    rows = [json.loads(line) for line in (tmp_path / "a").open()]
    assert sorted(row.pop("name") for row in rows) == [f"house-{number:08d}" for number in range(8)]
    assert rows[:3] + rows[:3] + rows[:2] == rows


def test_bad_rows_stand_among_the_good_ones(tmp_path: Path) -> None:
    for name in ("bad", "mixed"):
        data.write(tmp_path / name, WORKLOADS[name], 200, 1)
    bad, good = ((tmp_path / name).read_text().splitlines() for name in ("bad", "mixed"))
    assert [n for n in range(200) if bad[n] != good[n]] == list(range(10, 200, 20))
