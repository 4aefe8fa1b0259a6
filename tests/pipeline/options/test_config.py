"""A job file gives the same options as the flags that it names; what it spells wrong is refused by file and key."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pipeline.options import flex
from pipeline.options.config import as_yaml, expanded, is_long, shortened
from pipeline.options.flag import SWITCH, flags_of
from pipeline.options.flag import words as words_of
from pipeline.options.run_options import RunOptions, parse_run
from pipeline.run_folder import records
from tests.conftest import Result
from tests.pipeline.run_folder.test_records import START, values_of
from tests.support import models
from transforms.errors import UsageError

ROW = {"x": [1, 2, 3], "n": "a"}
words = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=4).filter(lambda text: text != "--")
beam_flags = st.dictionaries(
    st.sampled_from(["runner", "project", "experiments", "no_use_public_ips"]),
    st.lists(words | st.sampled_from(["true", "false", ""]), max_size=2),
)


def read(path: Path, *argv: str) -> tuple[RunOptions, list[str]]:
    return parse_run(expanded([f"--config={path}", *argv], "keyjoin run"), "keyjoin run")


@settings(suppress_health_check=[HealthCheck.too_slow])  # the machines are shared
@given(
    st.fixed_dictionaries({}, optional={name: values_of(flag) for name, flag in flags_of(RunOptions).items()}),
    beam_flags,
)
def test_any_flags_are_the_same_once_a_file_had_them(
    tmp_path_factory: pytest.TempPathFactory, changed: dict[str, Any], beam: dict[str, list[str]]
) -> None:
    try:
        options = dataclasses.replace(START, **changed)
    except UsageError:
        assume(False)
    argv = [word for name, texts in beam.items() for word in [f"--{name}={text}" for text in texts] or [f"--{name}"]]
    text = as_yaml(options, argv)
    assume("\udcff" not in text)
    path = tmp_path_factory.getbasetemp() / "job.yaml"
    path.write_text(text, encoding="utf-8")
    assert read(path) == (options, argv)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "job.yaml",
            "model: m\ninput: [a, b c]\noutput: 007\nmax-bad-rows: {all: 5%, 'null': 1_0e-3}\nkey_input: no\n"
            "constant: {x: 1e5, y: 2026-11-28}\nfeatures: [[A], [b, c.d]]\nisolate: true\nbatch_size: 1_000\n"
            "bad_rows: null\ntf32: false\nbeam: {runner: PrismRunner, experiments: [a, b], streaming: true}\n",
        ),
        (
            "job.toml",
            'model = "m"\ninput = ["a", "b c"]\noutput = "007"\nmax-bad-rows = {all = "5%", "null" = 1.0e-2}\n'
            'key_input = "no"\nconstant = {x = 1e5, y = "2026-11-28"}\nfeatures = [["A"], ["b", "c.d"]]\nisolate = true\n'
            'batch_size = 1_000\nbad_rows = "null"\ntf32 = false\n'
            'beam = {runner = "PrismRunner", experiments = ["a", "b"], streaming = true}\n',
        ),
    ],
)
def test_values_stay_as_they_are_spelled(tmp_path: Path, name: str, text: str) -> None:
    if name.endswith(".toml") and sys.version_info < (3, 11):
        (tmp_path / name).write_text(text)
        with pytest.raises(UsageError, match=r"TOML needs Python 3.11; write the file as YAML"):
            read(tmp_path / name)
        return
    (tmp_path / name).write_text(text.replace("1_0e-3", "1.0e-2"))
    options, beam = read(tmp_path / name)
    assert (options.model, options.input, options.output) == ("m", ("a", "b c"), "007")
    assert options.max_bad_rows.texts() == {"all": "0.05", "null": "1.0e-2"}
    assert options.constant == {"x": "1e5", "y": "2026-11-28"}
    assert (options.key_input, options.features, options.batch_size) == ("no", (("A",), ("b", "c.d")), 1000)
    assert (options.isolate, options.tf32, options.bad_rows) == (True, False, "null")
    assert beam == ["--runner=PrismRunner", "--experiments=a", "--experiments=b", "--streaming"]


def test_a_flag_of_the_command_line_beats_the_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("input: [a, b]\nmodel: m\noutput: o\nmax_bad_rows: 3\nbeam: {runner: A, project: p}\n")
    options, beam = read(path, "--input=c", "--max-bad-rows", "5%", "--runner=B")
    assert (options.input, options.model, options.max_bad_rows.texts()) == (("c",), "m", {"all": "0.05"})
    assert beam == ["--project=p", "--runner=B"]


SWITCHES = [name for name, flag in flags_of(RunOptions).items() if flag.kind is SWITCH]


@pytest.mark.parametrize("name", SWITCHES)
def test_each_switch_of_a_file_can_be_switched_off(tmp_path: Path, name: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"input: a\nmodel: m\noutput: o\n{name}: true\n")
    off = f"--{name}=false"
    assert getattr(read(path)[0], name) is True
    assert getattr(read(path, off)[0], name) is False
    assert getattr(read(path, off.replace("_", "-"))[0], name) is False
    form = flex.command_line([off, f"--config={path}"])
    assert getattr(parse_run(expanded(form[1:], "run"), "run")[0], name) is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: m", "job.yaml: there is no flag modle (did you mean model?); flags of Beam stand below beam:"),
        ("runner: x", "job.yaml: there is no flag runner"),
        ("batch_size: many", "job.yaml: batch_size: many is not a whole number from 1"),
        ("batch_size: [1, 2]", "job.yaml: batch_size: ['1', '2'] is not one text"),
        ("isolate: yes", "job.yaml: isolate: 'yes' is not true or false"),
        ("max_bad_rows: few", "job.yaml: max_bad_rows: --max_bad_rows: few is neither"),
        ("constant: {a=b: 1}", "job.yaml: constant: {'a=b': '1'} cannot be written so"),
        ("constant: {a: [1]}", "job.yaml: constant: ['1'] is not one text"),
        ("constant: [a=1, a=2]", "job.yaml: constant: --constant names the model input a twice"),
        ("model: m\nmodel: n", "line 2: 'model' is given twice"),
        ("key-field: a\nkey_field: b", "job.yaml: key_field is given twice"),
        ("model:", "job.yaml, line 1: a value is missing"),
        ("model: &a m\noutput: *a", "has an alias (*) or a tag (!)"),
        ("model: !!python/name:os.system m", "has an alias (*) or a tag (!)"),
        ("- model", "is not a mapping of flags to values"),
        ("model: [", "is not YAML"),
        ("[" * 5000, "job.yaml, line 1: more than 20 levels of values"),
        ("model: " + "[" * 50_000 + "]" * 50_000, "job.yaml, line 1: more than 20 levels of values"),
        ("quiet: true", "job.yaml: a file cannot have quiet; give --quiet on the command line"),
        ("beam: x", "beam: 'x' is not a mapping of flags of Beam"),
        ("beam: {a: {b: c}}", "beam: a: {'b': 'c'} is neither a text nor a list of texts"),
        (b"\xff", "cannot be read"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_by_file_and_key(tmp_path: Path, text: Any, message: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as caught:
        read(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("job.json", '{"model": null}', "job.json is not a job file in JSON: null is neither text"),
        ("job.json", '{"beam": {"a": "1", "a": "2"}}', "'a' is given twice"),
        ("job.json", '{"model": ' + "[" * 9999 + "]" * 9999 + "}", "job.json is not a job file in JSON: "),
        ("job.json", "model: m", "job.json is not a job file in JSON: "),
        ("job.toml", "model = " + "[" * 9999 + "]" * 9999, "job.toml: "),
    ],
    ids=["null", "twice", "deep", "yaml", "toml"],
)
def test_a_wrong_file_of_json_or_toml_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    if name == "job.toml" and sys.version_info < (3, 11):
        pytest.skip("TOML needs Python 3.11")
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as caught:
        read(tmp_path / name)
    assert message in str(caught.value)


@given(values_of(flags_of(RunOptions)["features"]), st.sampled_from(["\t", None, 2]))
def test_json_may_have_tabs_and_escapes(
    tmp_path_factory: pytest.TempPathFactory, features: tuple[Any, ...], indent: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "job.json"
    job = {
        "model": "\U0001f600",
        "input": ["a"],
        "output": "o",
        "batch_size": 7,
        **({"features": features} if features else {}),
    }
    path.write_text(json.dumps(job, indent=indent), encoding="utf-8")
    options, _ = read(path)
    assert (options.model, options.batch_size, options.features) == ("\U0001f600", 7, features)


def test_a_file_runs_a_job_and_a_run_is_repeated_by_its_folder(
    keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--input={lines(ROW, b'bad')}", f"--model={model(models.keyed)}", "--max-bad-rows=50%"]
    job = tmp_path / "job.yaml"
    job.write_text(keyjoin("config", *flags, f"--output={tmp_path / 'first'}").out)
    assert "max_bad_rows: 0.50\n" in job.read_text()
    first = keyjoin("run", f"--config={job}", f"--output={tmp_path / 'first'}")
    assert (first.code, len(first.dead())) == (0, 1), first.err
    again = keyjoin("run", f"--config={first.output}", f"--output={tmp_path / 'again'}")
    assert (again.code, again.lines()) == (0, first.lines()), again.err
    assert keyjoin("check", f"--config={job}", f"--output={tmp_path / 'other'}").code == 0
    recorded = [json.loads((tmp_path / name / "_keyjoin/manifest.json").read_text()) for name in ("first", "again")]
    options = [{**one["options"], "output": ""} for one in recorded]
    assert options[0] == options[1]
    from pipeline.cli import main

    assert main(["run", f"--config={first.output}"]) == 2
    assert f"name its output with --output, another folder than {first.output}" in capsys.readouterr().err


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.fixed_dictionaries({}, optional={name: values_of(flag) for name, flag in flags_of(RunOptions).items()}),
    st.fixed_dictionaries({}, optional={name: values_of(flag) for name, flag in flags_of(RunOptions).items()}),
    beam_flags,
    st.sampled_from(["", "_keyjoin/temp/next"]),
)
def test_a_shortened_command_has_the_same_options(
    tmp_path_factory: pytest.TempPathFactory,
    recorded: dict[str, Any],
    changed: dict[str, Any],
    beam: dict[str, list[str]],
    where: str,
) -> None:
    output = tmp_path_factory.mktemp("runs", numbered=True)
    start = dataclasses.replace(START, input=tuple(f"{n:05}.jsonl" for n in range(500)))
    try:
        there = dataclasses.replace(start, **{**recorded, "output": str(output)})
        now = dataclasses.replace(there, **{**changed, "output": str(output)})
    except UsageError:
        assume(False)
    folder = output / where / "_keyjoin"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps({"options": records.to_json(there)}))
    argv = [word for name, texts in beam.items() for word in [f"--{name}={text}" for text in texts] or [f"--{name}"]]
    whole = ["keyjoin", "run", *words_of(now), *argv]
    given = parse_run(whole[2:], "keyjoin run")
    short = shortened(whole)
    assert parse_run(expanded(short[2:], "keyjoin run"), "keyjoin run") == given
    if not recorded and not changed and not beam:
        assert not is_long(short)


@pytest.mark.parametrize("word", ["--max_bad_row=5", "--chunk-byte=7", "--numworkers=3", "-x"])
def test_a_misspelt_flag_is_not_taken_for_one_of_beam(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.cli import main

    assert main(["config", "--model=m", "--input=a", "--output=o", "--runner=DataflowRunner", word]) == 2
    out, error = capsys.readouterr()
    assert (out, error.startswith(f"keyjoin: error: neither keyjoin nor Beam knows {word}")) == ("", True), error


def test_flags_of_beam_may_have_hyphens(capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.cli import main

    words = ["--model=m", "--input=a", "--output=o", "--max-num-workers=5", "--no-use-public-ips"]
    assert main(["config", *words]) == 0
    assert capsys.readouterr().out.endswith("beam:\n  max_num_workers: 5\n  no_use_public_ips: true\n")


def test_trust_is_not_read_from_a_folder(tmp_path: Path) -> None:
    record = {"options": {"model": "m", "input": ["a"], "output": "o", "model_libraries": ["os"], "overwrite": True}}
    (tmp_path / "_keyjoin").mkdir()
    (tmp_path / "_keyjoin/manifest.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match=r"had --model_libraries=os; trust in a model is never read"):
        read(tmp_path, "--output=p")
    options, _ = read(tmp_path, "--output=p", "--model-libraries=re")
    assert (options.model_libraries, options.overwrite) == (("re",), False)
    (tmp_path / "_keyjoin/manifest.json").write_text("[]")
    with pytest.raises(UsageError, match=r"manifest.json is damaged"):
        read(tmp_path, "--output=p")
    with pytest.raises(UsageError, match=r"is neither a file .yaml, .yml, .json, .toml nor the output folder of a run"):
        read(tmp_path / "none", "--output=p")


def test_reading_a_file_imports_neither_tensorflow_nor_beam(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("model: m\ninput: i\noutput: o\n")
    command = [sys.executable, "-X", "importtime", "-m", "pipeline", "config", f"--config={tmp_path / 'job.yaml'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "model: m\ninput:\n- i\noutput: o\n"
    assert " tensorflow" not in done.stderr
    assert " apache_beam" not in done.stderr
