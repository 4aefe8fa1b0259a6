"""Any text works as a name, on each runner: of fields, inputs, outputs, signatures, files, folders and models."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import tensorflow as tf

from pipeline.options.run_options import command, parse_run
from pipeline.run_folder import records
from tests.conftest import ROOT, Result
from transforms.mapping.input_names import resolve
from transforms.predict import KeyedChunkHandler
from transforms.saved_model.model import Contract

FIELD, OTHER = "größe, \"価格\"='x' 🎈", "schlüssel=🎈 ,"
OUTPUT, SIGNATURE = "vorher=gesagt, 'é' 🎈", "größe, =🎈"
PREFIX = "vör=, 🎈"
PRISM = pytest.mark.skipif(
    "KEYJOIN_PRISM" not in os.environ, reason="tests/run.sh builds Prism and says so where it cannot"
)


def named(folder: Path, *inputs: str, key: str | None = None) -> str:
    """A model that adds up its inputs and doubles the sum, with names that only a TensorFlow 1 graph allows."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        fed = {name: v1.placeholder(tf.float32, [None]) for name in inputs}
        given = {OUTPUT: tf.add_n(list(fed.values())) * 2.0}
        if key is not None:
            fed[key] = v1.placeholder(tf.int64, [None])
            given[key] = tf.identity(fed[key])
        signature = v1.saved_model.predict_signature_def(fed, given)
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], {SIGNATURE: signature})
        builder.save()
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and rows."""
    made = tmp_path_factory.mktemp("names") / "größe, 価格='a' 🎈"
    named(made / "josé=, 'm' 🎈", FIELD, key=OTHER)
    data = made / 'ein="gäbe", 🎈'
    data.mkdir()
    rows = [{FIELD: at, "ïd": f"é{at}"} for at in range(5)] + [{"ïd": 2.5}]
    lines = [json.dumps(row, ensure_ascii=at % 2 == 1) + "\n" for at, row in enumerate(rows)]
    (data / "dät, =ei 🎈.jsonl").write_text("".join(lines), encoding="utf-8")
    return made


def flags_of(folder: Path) -> list[str]:
    model, data = sorted(folder.iterdir(), reverse=True)[:2]
    return [f"--input={data}", f"--model={model}", f"--signature={SIGNATURE}", f"--key_input={OTHER}"]


def process(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *words]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        encoding="utf-8",
    )


def check_rows(done: Result) -> None:
    assert [(row["ïd"], row[PREFIX + OUTPUT]) for row in done.rows()] == [(f"é{at}", 2.0 * at) for at in range(5)]
    assert [letter["reason"] for letter in done.dead()] == ["missing"]


def test_every_command(keyjoin: Callable[..., Result], folder: Path, tmp_path: Path) -> None:
    flags = [
        *flags_of(folder),
        f"--prediction_prefix={PREFIX}",
        "--max_bad_rows=1.0",
        f"--output={tmp_path}/'aus' =é, 🎈",
    ]
    assert keyjoin("check", *flags).code == 0
    done = keyjoin("run", *flags)
    assert done.code == 0, done.err
    check_rows(done)
    verified = keyjoin("verify", f"--run={done.output}", "--read_data=100%", "--rescore=9", flags[1])
    assert verified.code == 0, verified.err + verified.out
    ended = records.read(str(done.output), records.Manifest)
    assert ended is not None
    again = shlex.split(shlex.join(command(ended.options, ended.options.output)))
    assert parse_run(again[2:], "run") == parse_run(flags, "run")
    pair = json.dumps({FIELD: "ïd"})  # as text, its equals signs would allow several splits
    replayed = keyjoin("replay", f"--run={done.output}", "--input_map", pair)
    assert replayed.code == 0, replayed.err
    assert done.rows()[-1][PREFIX + OUTPUT] == 5.0


def test_the_commands_of_a_model(keyjoin: Callable[..., Result], folder: Path, tmp_path: Path) -> None:
    _, model, *flags = flags_of(folder)
    shown = keyjoin("inspect", model, flags[0])
    assert (shown.code, FIELD in shown.out, OUTPUT in shown.out) == (0, True, True)
    request = tmp_path / "größe 🎈.json"
    request.write_text(json.dumps({"instances": [{FIELD: 3}]}))
    answer = keyjoin("predict", model, *flags, f"--instances={request}")
    assert (answer.code, json.loads(answer.out)) == (0, {"predictions": [{OUTPUT: 6.0, OTHER: 0}]})
    plain = named(tmp_path / "plain é", FIELD)
    wrapped = tmp_path / "wräpped, =🎈"
    made = keyjoin("wrap", f"--model={plain}", f"--output={wrapped}", flags[0])
    assert made.code == 0, made.err
    done = keyjoin(
        "run",
        flags_of(folder)[0],
        f"--model={wrapped}",
        flags[0],
        "--max_bad_rows=1.0",
        f"--prediction_prefix={PREFIX}",
    )
    assert done.code == 0, done.err
    assert [list(row.values())[-1] for row in done.rows()] == [0.0, 2.0, 4.0, 6.0, 8.0]


@PRISM
def test_on_prism(folder: Path, tmp_path: Path) -> None:
    prism = ("--runner=PrismRunner", f"--prism_location={os.environ['KEYJOIN_PRISM']}", "--environment_type=LOOPBACK")
    output = tmp_path / "'aus' =é, 🎈"
    flags = [*flags_of(folder), f"--prediction_prefix={PREFIX}", "--max_bad_rows=1.0", f"--output={output}"]
    done = process("run", *flags, *prism)
    assert done.returncode == 0, done.stderr
    check_rows(Result(0, done.stdout, done.stderr, output))


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
    ],
)
def test_in_any_locale(folder: Path, tmp_path: Path, locale: dict[str, str]) -> None:
    output = tmp_path / "aus é"
    flags = [*flags_of(folder), f"--prediction_prefix={PREFIX}", "--max_bad_rows=1.0", f"--output={output}"]
    done = process("run", *flags, **locale)
    assert done.returncode == 0, done.stderr
    check_rows(Result(0, done.stdout, done.stderr, output))
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"instances": [{FIELD: 3}]}, ensure_ascii=False), encoding="utf-8")
    answer = process("predict", *flags[1:4], f"--instances={request}", **locale)
    assert json.loads(answer.stdout) == {"predictions": [{OUTPUT: 6.0, OTHER: 0}]}


def test_what_beam_shows_of_the_handler_is_ascii() -> None:
    handler = KeyedChunkHandler(lambda: None, Contract("größe", (), (), None, None), (), 7)  # type: ignore[arg-type,return-value]
    assert (str(handler).isascii(), repr(handler).isascii()) == (True, True)


class TestEqualsSigns:
    """The names of the model's inputs and of the rows' fields decide how `--input_map a=b=x` is split."""

    @pytest.mark.parametrize(
        ("given", "inputs", "fields", "found"),
        [
            (["a=b=x"], ["a=b"], ["x"], {"a=b": "x"}),
            (["a=b=x"], ["a"], ["b=x"], {"a": "b=x"}),
            (["a=b=x"], ["a", "a=b"], ["x"], {"a=b": "x"}),
            (["a=b=x"], ["a", "a=b"], ["b=x"], {"a": "b=x"}),
            (["a=b=x", "a=c=y", "a=z"], ["a", "a=b", "a=c"], ["x", "y", "z"], {"a=b": "x", "a=c": "y", "a": "z"}),
            (["a=b=x="], ["a=b"], ["x="], {"a=b": "x="}),
            (["a==x"], ["a="], [], {"a=": "x"}),
            (["a=="], ["a"], [], {"a": "="}),
            (["ä=b==🎈"], ["ä=b="], [], {"ä=b=": "🎈"}),
        ],
    )
    def test_a_way(self, given: Sequence[str], inputs: list[str], fields: list[str], found: dict[str, str]) -> None:
        options, _ = parse_run(["--input=i", "--model=m", "--output=o", "--input_map", *given], "run")
        assert resolve("--input_map", options.input_map.items(), inputs, fields) == found
        again, _ = parse_run(command(options, options.output)[2:], "run")
        assert again == options

    def test_a_run(self, keyjoin: Callable[..., Result], lines: Callable[..., str], tmp_path: Path) -> None:
        model = named(tmp_path / "model", "a=b", "a=c")
        flags = (f"--model={model}", f"--signature={SIGNATURE}", "--input_map", "a=b=x", "a=c=y")
        done = keyjoin("run", f"--input={lines({'x': 1, 'y': 10})}", *flags)
        assert [row[OUTPUT] for row in done.rows()] == [22.0], done.err
