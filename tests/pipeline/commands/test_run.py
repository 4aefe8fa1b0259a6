"""`keyjoin run`, on real files through the command line."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.job.graph import build
from pipeline.options.run_options import parse_run
from pipeline.plan.preflight import find_inputs, prepare
from pipeline.run_folder import ledger
from tests.conftest import BOSTON, ROOT, Result, raw_of
from tests.support import models
from tests.support.started_run import begin
from transforms.storage.compression import CODECS, Codec, decompressed

X3 = [{"x": [1, 2, 3], "n": "a"}, {"x": [0.5, 0, -1], "n": "é"}, {"x": [4, 4, 4]}]
LINES = [b'{"x": [1, 2, 3], "n": "a"}', b'{"x": [0.50, 0, -1e0],   "n": "\\u00e9"}\r', b' {"x":[4,4,4]} ']


def linear(x: list[float]) -> float:
    return sum(value * weight[0] for value, weight in zip(x, models.WEIGHTS, strict=True))


def test_each_row_comes_out_once_in_order_as_it_was(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    done = keyjoin("run", f"--input={lines(*LINES)}", f"--model={model(models.keyed)}")
    assert (done.code, done.err, done.complete()) == (0, "", True)
    expected = [b', "prediction": [%s]}' % json.dumps(linear(json.loads(line)["x"])).encode() for line in LINES]
    assert done.lines() == [line.replace(b"}", p, 1) + b"\n" for line, p in zip(LINES, expected, strict=True)]
    assert done.parts() == [done.output / "in-00000-of-00001.jsonl"]
    assert all(line.decode().strip("\r\n") in done.out for line in done.lines())  # shown as written
    assert not done.dead()


def test_one_file_in_many_chunks_gives_the_same_rows(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    rows = [{"x": [i, i / 7, -i], "id": i} for i in range(100)]
    flags = (f"--input={lines(*rows)}", f"--model={model(models.keyed)}")
    whole, cut = keyjoin("run", *flags), keyjoin("run", *flags, "--chunk_bytes=300")
    assert len(cut.parts()) > 10
    assert cut.parts()[3].name == f"in-00003-of-{len(cut.parts()):05d}.jsonl"
    assert cut.lines() == whole.lines()
    assert [row["id"] for row in cut.rows()] == list(range(100))


def test_sub_folders_globs_and_empty_files_are_mirrored(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    folder = Path(lines(*X3, name="a/one.jsonl")).parents[1]
    lines(X3[0], name="a/b/two.json")
    lines(name="empty.ndjson")
    lines(b"", b" ", name="a/blank.jsonl")
    lines(b"not data", name="_SUCCESS")
    flags = (f"--model={model(models.keyed)}",)
    done = keyjoin("run", f"--input={folder}", *flags)
    assert {str(p.relative_to(done.output)): p.read_bytes().count(b"\n") for p in done.parts()} == {
        "a/one-00000-of-00001.jsonl": 3,
        "a/b/two-00000-of-00001.json": 1,
        "empty-00000-of-00001.ndjson": 0,
        "a/blank-00000-of-00001.jsonl": 0,
    }
    assert "_SUCCESS (its name begins with _ or .)" in done.out
    assert done.manifest()["totals"]["blank"] == 2
    # The same files, given by name, twice, and by globs: each file is read once.
    again = keyjoin("run", "--input", f"{folder}/a/*.jsonl", f"{folder}/a/one.jsonl", f"--input={folder}/a/b/*", *flags)
    assert [str(p.relative_to(again.output)) for p in again.parts()] == [
        "b/two-00000-of-00001.json", "blank-00000-of-00001.jsonl", "one-00000-of-00001.jsonl",
    ]  # fmt: skip


def test_a_glob_in_the_current_folder_is_found(
    keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(lines(*X3)).parent)
    done = keyjoin("run", "--input=*.jsonl", "--output_fields=key,prediction", f"--model={model(models.keyed)}")
    positions = np.cumsum([0, *(len(json.dumps(row)) + 1 for row in X3[:-1])])
    assert [row["key"] for row in done.rows()] == [f"in.jsonl#{position}" for position in positions]


@pytest.mark.parametrize("name", ["w[1].jsonl", "a#b c.jsonl", "é.jsonl", 'q"uote.jsonl'])
def test_a_file_of_an_odd_name_is_read_and_its_key_names_it(
    keyjoin: Callable[..., Result], lines: Any, model: Any, name: str
) -> None:
    path = lines(X3[0], name=name)
    done = keyjoin("run", f"--input={path}", "--output_fields=row,key", f"--model={model(models.keyed)}")
    assert done.code == 0, done.err
    assert [row["key"] for row in done.rows()] == [f"{path}#0"]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_compressed_files_of_several_members_are_read_and_written(
    keyjoin: Callable[..., Result], lines: Any, model: Any, codec: Codec
) -> None:
    plain = Path(lines(*X3, *X3))
    packed = plain.with_name(f"in.jsonl{codec.suffix}")
    text = plain.read_bytes()
    packed.write_bytes(codec.compress(text[:50]) + codec.compress(text[50:]))
    flags = (f"--model={model(models.keyed)}", "--chunk_bytes=60")
    expected = keyjoin("run", f"--input={plain}", *flags)
    done = keyjoin("run", f"--input={packed}", *flags)
    assert done.code == 0, done.err
    assert [p.name for p in done.parts()] == [f"{p.name}{codec.suffix}" for p in expected.parts()]
    assert b"".join(decompressed(p.name, p.read_bytes()) for p in done.parts()) == b"".join(expected.lines())
    assert done.manifest()["totals"]["read_bytes"] == len(text)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_a_compressed_file_that_ends_early_fails_the_run(
    keyjoin: Callable[..., Result], lines: Any, model: Any, codec: Codec
) -> None:
    letters = np.random.default_rng(0).integers(97, 123, (1500, 1000), np.uint8)
    plain = Path(lines(*({**X3[0], "n": bytes(row).decode()} for row in letters)))
    packed = plain.with_name(f"in.jsonl{codec.suffix}")
    packed.write_bytes(codec.compress(plain.read_bytes())[:-5])
    cut = keyjoin("run", f"--input={packed}", f"--model={model(models.keyed)}")
    assert (cut.code, cut.complete(), cut.lines()) == (1, False, [])
    assert f"{packed}: not a whole {codec.name} file" in cut.err
    packed.write_bytes(codec.compress(plain.read_bytes())[:1000])
    seen = keyjoin("run", f"--input={packed}", f"--model={model(models.keyed)}")
    assert (seen.code, seen.output.exists()) == (2, False)
    assert f"{packed} cannot be read" in seen.err


BAD_LINES = [
    (b"nope", "not_json"),
    (b"[1]", "not_object"),
    (b'{"n": 1}', "missing"),
    (b'{"x": null}', "null"),
    (b'{"x": [1, 2]}', "wrong_shape"),
    (b'{"x": ["one", 2, 3]}', "wrong_type"),
    (b'{"x": [1, 2, 3], "x": [1, 2, 3]}', "duplicate_name"),
    (b'{"x": [1, 2, 3], "n": "\xff"}', "not_utf8"),
    (b'{"x": [1, 2, 3], "prediction": 0}', "collision"),
]


@pytest.mark.parametrize("chunk_bytes", [1, 40, 1 << 20])
def test_bad_rows_are_dead_letters_and_their_neighbours_are_joined(
    keyjoin: Callable[..., Result], lines: Any, model: Any, chunk_bytes: int
) -> None:
    good = [json.dumps({"x": [1, 2, 3], "i": i}).encode() for i in range(len(BAD_LINES) + 1)]
    mixed = [line for pair in zip(good, [bad for bad, _ in BAD_LINES], strict=False) for line in pair]
    path = lines(*mixed, good[-1])
    done = keyjoin(
        "run", f"--input={path}", f"--model={model(models.keyed)}", "--max_bad_rows=9", f"--chunk_bytes={chunk_bytes}"
    )
    assert done.code == 0, done.err
    assert [row["i"] for row in done.rows()] == list(range(10))
    data = Path(path).read_bytes()
    for letter, (line, reason) in zip(done.dead(), BAD_LINES, strict=True):
        raw = raw_of(letter)
        assert (raw, letter["reason"]) == (line, reason)
        assert data[letter["position"] :].startswith(line + b"\n")
        assert letter["key"] == f"{path}#{letter['position']}"
        assert (letter["source"], letter["stage"]) == (path, "write" if reason == "collision" else "read")
        assert letter["message"]
    assert done.manifest()["totals"]["dead"] == dict(sorted({reason: 1 for _, reason in BAD_LINES}.items()))
    for reason in dict(BAD_LINES).values():
        assert f"  {reason}" in done.out
    for letter in done.dead():
        assert f"                  {letter['key']} (line " in done.out  # each reason has its example


def test_the_model_raises_for_one_row(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    rows = [{"x": [666 if i == 30 else i, 0, 0]} for i in range(64)]
    done = keyjoin("run", f"--input={lines(*rows)}", f"--model={model(models.raising)}", "--max_bad_rows=1")
    assert done.code == 0
    assert [row["x"][0] for row in done.rows()] == [i for i in range(64) if i != 30]
    assert [(d["reason"], json.loads(d["row"])["x"][0], d["stage"]) for d in done.dead()] == [
        ("model_error", 666, "predict")
    ]
    assert "the number of the beast" in done.dead()[0]["message"]


@pytest.mark.parametrize(
    ("pick", "reasons"),
    [
        (models.backwards, {}),
        (models.without_first, {"key_missing": 1}),
        (models.first_twice, {"key_repeated": 1}),
    ],
)
def test_a_model_that_reorders_drops_or_repeats_keys(
    keyjoin: Callable[..., Result], lines: Any, model: Any, pick: Any, reasons: dict[str, int]
) -> None:
    rows = [{"x": [i, 2 * i, -i]} for i in range(40)]
    done = keyjoin("run", f"--input={lines(*rows)}", f"--model={model(models.shuffling, pick)}", "--max_bad_rows=40")
    assert done.code == 0, done.err
    assert done.manifest()["totals"]["dead"] == reasons
    assert all(row["prediction"] == [linear(row["x"])] for row in done.rows())
    assert len(done.rows()) == 40 - sum(reasons.values())


def test_a_prediction_that_is_not_finite(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    flags = (
        f"--input={lines({'x': 2}, {'x': 0}, {'x': 4})}",
        f"--model={model(models.dividing)}",
        "--max_bad_rows=0.5",
    )
    done = keyjoin("run", *flags)
    assert [row["prediction"] for row in done.rows()] == [0.5, 0.25]
    assert [(d["reason"], d["message"]) for d in done.dead()] == [("non_finite", "prediction prediction: inf")]
    kept = keyjoin("run", *flags, "--non_finite=keep")
    assert [row["prediction"] for row in kept.rows()] == [0.5, None, 0.25]


def test_more_bad_rows_than_allowed_fail_the_run(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    flags = (f"--input={lines(*X3, b'nope')}", f"--model={model(models.keyed)}")
    failed = keyjoin("run", *flags)
    assert (failed.code, failed.complete()) == (1, False)
    assert "1 of 4 rows is bad, more than --max_bad_rows=0.01 allows" in failed.err
    assert len(failed.rows()) == 3
    assert keyjoin("run", *flags, "--max_bad_rows=0.25").complete()
    assert keyjoin("run", *flags, "--max_bad_rows=1").complete()
    assert keyjoin("run", *flags, "--max_bad_rows=0").code == 1


def test_many_inputs_and_outputs_of_many_dtypes(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    row = {"image": [[[1], [2]], [[3], [0.1]]], "name": "é", "flag": True, "count": 255}
    other = {**row, "name": {"b64": "/w=="}, "flag": False, "count": 1}
    done = keyjoin("run", f"--input={lines(row, other)}", f"--model={model(models.many)}", "--prediction_prefix=p_")
    assert done.code == 0, done.err
    first, second = done.rows()
    f32 = [[[2.0], [4.0]], [[6.0], [0.2]]]
    assert {k[2:]: v for k, v in first.items() if k.startswith("p_")} == {
        "half": [1.0, 3.0], "image": f32, "label": "é/255", "flags": [True, False], "count": 256, "double": 85.0, "small": 255,
    }  # fmt: skip
    assert second["p_label"] == {"b64": "/y8x"}
    assert done.lines()[0].startswith(json.dumps(row).encode()[:-1])


def test_the_output_fields(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    path = lines(b'{"key": 007e, "x": [1,2,3]}', {"x": [1, 2, 3], "key": 0, "n": "a"}, b'{"x": [1,2,3], "key":1.50}')
    flags = (f"--input={path}", f"--model={model(models.keyed)}", "--max_bad_rows=2")

    def lines_of(*more: str) -> list[bytes]:
        done = keyjoin("run", *flags, *more)
        assert done.code == 0, done.err
        return done.lines()

    assert lines_of("--output_fields=key,prediction", "--key_field=key") == [
        b'{"key": 0, "prediction": [7.0]}\n', b'{"key": 1.50, "prediction": [7.0]}\n',
    ]  # fmt: skip
    assert lines_of("--output_fields=prediction") == [b'{"prediction": [7.0]}\n'] * 2
    assert lines_of("--output_fields=prediction,key")[0] == b'{"prediction": [7.0], "key": "%s#28"}\n' % path.encode()
    assert lines_of("--include_fields=key,x")[1] == b'{"x": [1,2,3], "key": 1.50, "prediction": [7.0]}\n'
    assert (
        lines_of("--exclude_fields=x", "--prediction_prefix=my_")[0]
        == b'{"key": 0, "n": "a", "my_prediction": [7.0]}\n'
    )
    assert lines_of("--include_fields=n") == [b'{"n": "a", "prediction": [7.0]}\n', b'{"prediction": [7.0]}\n']
    missing = keyjoin("run", *flags, "--output_fields=key,prediction", "--key_field=n")
    assert [d["reason"] for d in missing.dead()] == ["not_json", "missing"]


def test_fields_are_mapped_to_inputs(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    path = lines({"a": 1, "b": 2, "c": 3, "list": [1, 2, 3], "other": [3, 2, 1], "text": "x"})
    flags = (f"--input={path}", f"--model={model(models.keyed)}", "--output_fields=prediction")
    assert keyjoin("run", *flags, "--features=a,b,c").rows() == [{"prediction": [7.0]}]
    assert keyjoin("run", *flags, "--features=c,b,a").rows() == [{"prediction": [2.0]}]
    assert keyjoin("run", *flags, "--input_map", "x=other").rows() == [{"prediction": [2.0]}]
    only = keyjoin("run", f"--input={lines({'whatever': [1, 2, 3], 'n': 3})}", f"--model={model(models.plain)}")
    assert only.rows()[0]["prediction"] == [7.0]
    assert "x (float32 [N, 3]) <- whatever" in only.out


def test_sizes_that_the_model_leaves_open_are_those_of_each_row(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    import tensorflow as tf

    path = lines({"x": [1, 2]}, {"x": [3, 4]}, {"x": [5]})
    done = keyjoin("run", f"--input={path}", f"--model={model(models.echoing, tf.float32, None)}")
    assert (done.code, [row["y"] for row in done.rows()]) == (0, [[1.0, 2.0], [3.0, 4.0], [5.0]])


def test_a_data_input_called_key_is_fed_from_the_row(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    rows = [{"x": x, "key": key} for x, key in ((1, 5), (-1, 6), (1, 7), (-1, 8), (0, 9))]
    done = keyjoin("run", f"--input={lines(*rows)}", f"--model={model(models.computing_with_key, models.plus)}")
    assert done.code == 0, done.err
    assert [(row["a"], row["b"]) for row in done.rows()] == [(r["x"] + r["key"], 2.0 * r["x"]) for r in rows]


@pytest.mark.parametrize("first", [{}, {"feat": None}, {"feat": [1]}, {"feat": "text"}, {"other": [1, 2, 3]}])
def test_a_bad_first_row_costs_itself(keyjoin: Callable[..., Result], lines: Any, model: Any, first: Any) -> None:
    import tensorflow as tf

    path = lines(first, *({"feat": [1, 2, i]} for i in range(20)))
    for made, takes_any in ((model(models.plain), False), (model(models.echoing, tf.float32, None), True)):
        done = keyjoin("run", f"--input={path}", f"--model={made}", "--max_bad_rows=1")
        assert done.code == 0, done.err
        assert (len(done.rows()), len(done.dead())) == ((21, 0) if takes_any and first == {"feat": [1]} else (20, 1))


@pytest.mark.parametrize("name", ["out[1]", "o*", "o?", "a b#c", "é"])
def test_folders_of_odd_names(
    keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path, name: str
) -> None:
    folder = Path(lines(*X3, name=f"{name}/in.jsonl")).parent
    output = tmp_path / "o" / name
    flags = (f"--model={model(models.keyed)}", f"--output={output}")
    done = keyjoin("run", f"--input={folder}", *flags)
    assert (done.code, done.complete(), len(done.rows())) == (0, True, 3), done.err
    again = keyjoin("run", f"--input={folder}", *flags)
    assert (again.code, "there is nothing to do" in again.out) == (0, True)
    assert keyjoin("run", f"--input={folder}", *flags, "--overwrite").code == 0


def test_one_file_named_in_several_ways_is_read_once(
    keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(lines(*X3))
    monkeypatch.chdir(path.parent)
    done = keyjoin("run", "--input", "in.jsonl", "./in.jsonl", str(path), "*", f"--model={model(models.keyed)}")
    assert (done.code, len(done.rows())) == (0, 3), done.err


def test_two_runs_of_one_command_give_the_same_bytes(keyjoin: Callable[..., Result], tmp_path: Path) -> None:
    for name in ("part-1.jsonl", "part-2.jsonl"):
        shutil.copy(BOSTON / "data" / name, tmp_path / name)
    flags = (f"--model={BOSTON / 'model'}", "--chunk_bytes=2000")
    one = keyjoin("run", f"--input={tmp_path}/*.jsonl", *flags)
    two = keyjoin("run", f"--input={tmp_path}/part-2.jsonl", f"--input={tmp_path}/part-1.jsonl", *flags)
    big = keyjoin("run", f"--input={tmp_path}/part-*", f"--model={BOSTON / 'model'}")
    assert [p.read_bytes() for p in one.parts()] == [p.read_bytes() for p in two.parts()]
    assert one.lines() == big.lines()


def test_the_ledger_equals_the_runners_counters(lines: Any, model: Any, tmp_path: Path) -> None:
    import apache_beam as beam

    path = lines(*X3, b"nope", *X3, b"")
    argv = [f"--input={path}", f"--model={model(models.keyed)}", f"--output={tmp_path / 'o'}", "--chunk_bytes=50"]
    options, _ = parse_run(argv, "keyjoin run")
    root = beam.Pipeline("FnApiRunner")
    with prepare(options, find_inputs(options), local=False) as plan:
        build(root, plan.job, begin(plan))
        result = root.run()
    from transforms.write_receipts import read_receipts

    totals = ledger.total(read_receipts(plan.job.temp))
    counted = {
        c.key.metric.name: c.committed
        for c in result.metrics().query()["counters"]
        if c.key.metric.namespace == "ledger"
    }
    assert counted == {
        "rows_read": totals.rows,
        "rows_joined": totals.joined,
        "bytes_joined": Path(path).stat().st_size,
        "rows_dead_lettered": totals.bad,
        **{f"dead_letters_{reason}": rows for reason, rows in totals.dead.items()},
    }
    assert (totals.rows, totals.joined, totals.bad) == (7, 6, 1)


@pytest.mark.skipif("KEYJOIN_PRISM" not in os.environ, reason="tests/run.sh builds Prism and says so where it cannot")
def test_prism_gives_the_same_bytes(keyjoin: Callable[..., Result], tmp_path: Path) -> None:
    flags = (f"--input={BOSTON / 'data'}", f"--model={BOSTON / 'model'}", "--chunk_bytes=2000")
    local = keyjoin("run", *flags)
    prism = ("--runner=PrismRunner", f"--prism_location={os.environ['KEYJOIN_PRISM']}", "--environment_type=LOOPBACK")
    # A process of its own, because Beam prints on standard error when the process that started Prism ends.
    command = [sys.executable, "-m", "pipeline", "run", *flags, f"--output={tmp_path / 'prism'}", *prism]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    remote = Result(0, "", "", tmp_path / "prism")
    assert remote.complete()
    assert [(p.name, p.read_bytes()) for p in remote.parts()] == [(p.name, p.read_bytes()) for p in local.parts()]
    assert remote.manifest()["totals"] == local.manifest()["totals"]
