"""The command line: keyjoin reports a mistake before anything runs, in one line, with exit code 2."""

import errno
import gzip
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from pipeline import VERSION
from pipeline.cli import COMMANDS, main, usage
from pipeline.options import command_options
from pipeline.options.flag import flags_of, topics_of, words
from pipeline.options.run_options import CheckOptions, RunOptions, parse_run, run_parser
from pipeline.terminal.exit_codes import Exit
from tests.conftest import BOSTON, ROOT, Result
from tests.support import models
from transforms.errors import UsageError
from transforms.reasons import Reason
from transforms.storage import files

ROW = {"x": [1, 2, 3], "n": "a"}


@pytest.fixture
def refuse(keyjoin: Callable[..., Result], lines: Any, model: Any) -> Callable[..., str]:
    """Runs a valid command line with something changed, which must be refused; returns the message."""

    def call(*flags: str, rows: Any = (ROW,), build: Any = models.keyed, command: str = "run") -> str:
        defaults = {"--input": lines(*rows), "--model": model(build)}
        given = {flag.partition("=")[0] for flag in flags}
        done = keyjoin(command, *(f"{k}={v}" for k, v in defaults.items() if k not in given), *flags)
        assert done.code == Exit.USAGE, done
        assert done.err.startswith("keyjoin: error: ")
        assert done.err.count("\n") == 1, done.err
        assert not done.complete()
        return done.err

    return call


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input=/nowhere/*.jsonl"], "no file matches /nowhere/*.jsonl"),
        (["--input=/nowhere"], "no file matches /nowhere"),
        (["--model=/nowhere"], "no model at /nowhere"),
        (["--signature=serving_defualt"], "no signature serving_defualt (did you mean serving_default?); name one with --signature: serving_default"),
        (["--key_input=k"], "the model has no input k"),
        (["--input=a\0b"], "argument --input: 'a\\x00b' has a NUL, and no path has one"),
        (["--features=a,b", "--features=c"], "--features is given twice; give it once, with all names: --features=A,B"),
        (["--output_fields=row", "--output-fields=key"], "--output_fields is given twice"),
        (["--inptu=x"], "neither keyjoin nor Beam knows --inptu=x (did you mean --input?)"),
        (["--projct=x"], "neither keyjoin nor Beam knows --projct=x (did you mean --project?)"),
        (["--batchsize=3"], "(did you mean --batch_size?)"),
        (["stray"], "neither keyjoin nor Beam knows stray"),
        (["--batch_size=0"], "argument --batch_size: 0 is not a whole number from 1"),
        (["--batch_size=x"], "argument --batch_size: x is not"),
        (["--chunk_bytes=2000000000"], "argument --chunk_bytes: 2000000000 is not a size from 1 to"),
        (["--max_bad_rows=-1"], "-1 is neither a number of rows nor a ratio"),
        (["--max_bad_rows=1.5"], "1.5 is neither"),
        (["--max_bad_rows=few"], "few is neither"),
        (["--max_bad_rows=nan"], "nan is neither"),
        (["--max_bad_rows=0.1,modle_error=0"], "there is no reason modle_error (did you mean model_error?)"),
        (["--bad_rows=nul"], "argument --bad_rows: 'nul' is none of apart, null (did you mean null?)"),
        (["--error_field=e"], "--error_field=e names a field of bad rows in parts; add --bad_rows=null"),
        (["--bad_rows=null", "--error_field=x"], "the rows already have a field x; rename what says why a row is bad with --error_field=NAME, or leave"),
        (["--bad_rows=null", "--error_field=prediction"], "would be called prediction; rename what says why a row is bad with --error_field"),
        (["--non_finite=drop"], "argument --non_finite: 'drop' is none of reject, keep"),
        (["--format=orc"], "keyjoin does not read orc, it reads jsonl, "),
        (["--format=text"], "keyjoin does not read text, it reads jsonl, "),
        (["--features=a,,b"], "'a,,b' has an empty name"),
        (["--input_map", "x"], "'x' is not of the form INPUT=FIELD"),
        (["--input_map", "x=a", "x=b"], "--input_map names the model input x twice; name it once"),
        (["--input_map", "y=n"], "--input_map names y, but the model's inputs are ['key', 'x']"),
        (["--input_map", "x=m"], "the rows have no field m"),
        (["--features=n,z,x"], "the rows have no field z"),
        (["--features=n,x"], "--features gives 2 values a row, and input x is float32 [N, 3]"),
        (["--output_fields=row,predictoin"], "--output_fields names predictoin, which is neither row, nor key, nor a prediction of ['prediction'], nor a field of the rows (did you mean prediction?)"),
        (["--output_fields=row,row"], "--output_fields names row twice"),
        (["--include_fields=x", "--exclude_fields=n"], "contradict each other"),
        (["--include_fields=x", "--output_fields=prediction"], "add row to --output_fields"),
        (["--include_fields=m"], "the rows have no field m"),
        (["--exclude_fields=nn"], "the rows have no field nn (did you mean n?)"),
        (["--key_field=n"], "--key_field=n is written for `key`"),
        (["--key_field=id", "--output_fields=key,prediction"], "the rows have no field id"),
        (["--direct_num_workers=2"], "--direct_num_workers=2 loses rows"),
        (["--direct_num_workers=0"], "--direct_num_workers=0 loses rows"),
        (["--runner=FnApiRunner", "--direct_num_workers=4"], "loses rows"),
        (["--direct_running_mode=multi_processing"], "--direct_running_mode=multi_processing loses rows"),
        (["--runner=InteractiveRunner"], "--runner=InteractiveRunner cannot be used here"),
        (["--direct_num_workers=many"], "argument --direct_num_workers: invalid int value: 'many'"),
        (["--runner=NoSuchRunner"], "NoSuchRunner"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_refused(refuse: Callable[..., str], flags: list[str], message: str) -> None:
    assert message in refuse(*flags)


def test_a_required_flag_is_named() -> None:
    with pytest.raises(UsageError, match="required: --model, --input, --output"):
        parse_run([], "keyjoin run")


def test_a_misspelt_required_flag_is_named() -> None:
    with pytest.raises(UsageError, match="there is no flag --modle; did you mean --model"):
        parse_run(["--input=i", "--output=o", "--modle", "m"], "keyjoin run")


def test_flags_are_not_abbreviated() -> None:
    options, beam = parse_run(["--model=m", "--input=i", "--output=o", "--out=p", "--project=q"], "keyjoin run")
    assert (options.output, beam) == ("o", ["--out=p", "--project=q"])


def test_an_input_that_no_field_feeds_names_the_nearest(refuse: Callable[..., str]) -> None:
    assert (
        "no field of the rows feeds the model's input x (float32 [N, 3]); the rows have ['a', 'xx'] (did you mean xx?)"
        in refuse(rows=[{"xx": "text", "a": 1}])
    )
    assert "['a', 'b'] all fit" in refuse(rows=[{"a": [1, 2, 3], "b": [1, 2, 3]}])


def test_a_name_that_most_rows_have_already_is_refused(
    refuse: Callable[..., str], keyjoin: Any, lines: Any, model: Any
) -> None:
    rows = [{**ROW, "prediction": 1}] * 3
    assert "the rows already have a field prediction; rename predictions with --prediction_prefix" in refuse(rows=rows)
    flags = (f"--input={lines(*rows)}", f"--model={model(models.keyed)}")
    assert keyjoin("run", *flags, "--prediction_prefix=p_").code == 0
    assert keyjoin("run", *flags, "--exclude_fields=prediction").code == 0


def test_parts_stay_in_the_output_folder(keyjoin: Any, lines: Any, model: Any, monkeypatch: Any) -> None:
    data = Path(lines(ROW, name="a/x.jsonl")).parents[1]
    lines(ROW, name="b/y.jsonl")
    monkeypatch.chdir(data / "a")
    for inputs in (["x.jsonl", "../b/y.jsonl"], ["x.jsonl", f"{data}/b"], ["../a/*", "../b/"]):
        done = keyjoin("run", "--input", *inputs, f"--model={model(models.keyed)}")
        assert done.code == 0, done.err
        assert [str(p.relative_to(done.output)) for p in done.parts()] == [
            "a/x-00000-of-00001.jsonl", "b/y-00000-of-00001.jsonl",
        ]  # fmt: skip
        assert sorted(p.name for p in data.rglob("*.jsonl")) == ["x.jsonl", "y.jsonl"]


def test_inputs_that_cannot_be_read(refuse: Callable[..., str], lines: Any, monkeypatch: Any) -> None:
    path = lines(ROW)
    Path(path).with_name("gone.jsonl").symlink_to("nowhere")
    assert f"no file matches {Path(path).with_name('gone.jsonl')}" in refuse(
        f"--input={Path(path).with_name('gone.jsonl')}"
    )
    odd = os.path.join(os.path.dirname(path), os.fsdecode(b"\xff.jsonl"))
    Path(odd).write_text(json.dumps(ROW))
    assert "the name is not UTF-8, so no key can hold it" in refuse(f"--input={odd}")
    # Root may read any file, so the check itself is replaced.
    monkeypatch.setattr(os, "access", lambda asked, _: asked != path)
    assert f"{path} cannot be read; give yourself the permission" in refuse()


def test_an_interrupted_command_reports_it(monkeypatch: Any, capsys: Any) -> None:
    def press(_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "check", COMMANDS["check"]._replace(call=press))
    assert main(["check"]) == 130
    assert capsys.readouterr().err == "keyjoin: stopped\n"


def test_models_that_cannot_be_used(refuse: Callable[..., str], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    (empty / "7").mkdir(parents=True)
    assert (
        f"{empty} is not a SavedModel: it has no saved_model.pb; give the folder that holds saved_model.pb, or a .keras file"
        in refuse(f"--model={empty}")
    )
    (empty / "saved_model.pb").write_bytes(b"nonsense")
    assert f"{empty}: cannot be loaded" in refuse(f"--model={empty}")
    text = tmp_path / "model.keras"
    text.write_text("nonsense")
    assert str(text) in refuse(f"--model={text}")
    fixed = models.save(tmp_path / "fixed", lambda x: {"y": x}, tf.TensorSpec([3], name="x"))
    assert "input x of shape [3] has no free batch dimension" in refuse(f"--model={fixed}")
    scalar = models.save(tmp_path / "scalar", lambda x: {"y": tf.reduce_sum(x)}, models.spec("x", 3))
    assert "output y is one value for all rows together: it cannot be written" in refuse(f"--model={scalar}")
    complex_ = models.save(tmp_path / "complex", lambda x: {"y": tf.cast(x, tf.complex64)}, models.spec("x", 3))
    assert "output y has dtype complex64" in refuse(f"--model={complex_}")


def test_output_folders_that_cannot_be_used(refuse: Callable[..., str], lines: Any, tmp_path: Path) -> None:
    data = Path(lines(ROW)).parent
    assert "lies inside of the input" in refuse(f"--output={data}/out", f"--input={data}")
    assert "lies where" in refuse(f"--output={data}/out", f"--input={data}/**")
    assert "holds the input" in refuse(f"--output={data}", f"--input={data}/in.jsonl")
    link = tmp_path / "link"
    link.symlink_to(data)
    assert "holds the input" in refuse(f"--output={link}", f"--input={data}/in.jsonl")
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious.txt").write_text("keep me")
    refused = refuse(f"--output={other}")
    assert f"--output {other} holds precious.txt, which keyjoin did not write; choose another folder" in refused
    assert "--overwrite" not in refused
    assert "holds precious.txt, which keyjoin did not write" in refuse(f"--output={other}", "--overwrite")
    assert (other / "precious.txt").read_text() == "keep me"
    file = tmp_path / "file"
    file.write_text("x")
    assert f"{file} is not a folder" in refuse(f"--output={file}")
    assert f"{file} is not a folder" in refuse(f"--output={file}/below")


def test_overwrite_touches_nothing_that_no_run_wrote(
    keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    flags = (f"--input={lines(ROW)}", f"--model={model(models.keyed)}", f"--output={output}")
    assert keyjoin("run", *flags).code == 0
    (output / "notes.txt").write_text("mine")
    for command in ("check", "run"):
        refused = keyjoin(command, *flags, "--overwrite")
        assert (refused.code, refused.complete()) == (2, True)
        assert "holds notes.txt, which keyjoin did not write" in refused.err
    (output / "notes.txt").unlink()
    (output / "in-00000-of-00002.jsonl").symlink_to(tmp_path / "nowhere")
    link = keyjoin("run", *flags, "--overwrite")
    assert (link.code, "in-00000-of-00002.jsonl is a link, which keyjoin did not make" in link.err) == (2, True)
    (output / "in-00000-of-00002.jsonl").unlink()
    shutil.copytree(model(models.keyed), output / "_keyjoin/temp" / "model")
    inside = keyjoin("run", flags[0], flags[2], f"--model={output}/_keyjoin/temp/model", "--overwrite")
    assert (inside.code, inside.complete()) == (2, True)
    assert "lie in each other" in inside.err


def test_names_that_readers_skip_are_refused(refuse: Callable[..., str], lines: Any) -> None:
    for name in ("sub2/_x.jsonl", "sub2/_hid/q.jsonl", "_keyjoin/temp/a.jsonl", "_a.jsonl"):
        path = Path(lines(ROW, name=name))
        other = lines(ROW, name="b.jsonl")
        assert "which readers skip; rename it" in refuse("--input", str(path), other)
    assert "no file matches" in refuse(f"--input={path.parent}/_*.json")
    link = path.parent / "sub"
    link.symlink_to(path.parent / "_keyjoin/temp")
    assert f"{link} is a link to a folder" in refuse(f"--input={path.parent}")


def test_damaged_input_that_can_be_seen_is_refused(refuse: Callable[..., str], lines: Any) -> None:
    packed = Path(lines(ROW)).with_name("in.jsonl.gz")
    content = bytearray(gzip.compress(json.dumps(ROW).encode() * 100))
    content[10] = 7
    packed.write_bytes(content)
    assert f"{packed} cannot be read" in refuse(f"--input={packed}")
    record = packed.with_name("in.tfrecord")
    record.write_bytes(bytes(packed.read_bytes()))
    assert f"{record}: it is gzip, and its name does not end in .gz; rename it: mv {record} {record}.gz" in refuse(
        f"--input={record}"
    )
    assert "--input is empty" in refuse("--input=")
    assert "--output is empty" in refuse("--output=")


def test_overwrite_replaces_a_run(keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path) -> None:
    output = f"--output={tmp_path / 'out'}"
    flags = (f"--model={model(models.keyed)}", output, "--max_bad_rows=1")
    assert keyjoin("run", f"--input={lines(ROW, b'bad', ROW)}", "--chunk_bytes=5", *flags).code == 0
    again = keyjoin("run", f"--input={lines(ROW, name='new.jsonl')}", *flags)
    assert again.code == 2
    done = keyjoin("run", f"--input={lines(ROW, name='new.jsonl')}", *flags, "--overwrite")
    assert (done.code, done.complete(), done.dead()) == (0, True, [])
    assert [*files.list_below(str(tmp_path / "out"))] == [
        "_SUCCESS",
        "_keyjoin/manifest.json",
        "_keyjoin/parts.jsonl",
        "_keyjoin/report.html",
        "_keyjoin/sources.jsonl",
        "_keyjoin/statistics.json",
        "new-00000-of-00001.jsonl",
    ]


def test_inputs_of_unknown_or_mixed_formats(refuse: Callable[..., str], keyjoin: Any, lines: Any, model: Any) -> None:
    path = lines(b"a word", name="part-0001")
    assert "part-0001: the name does not tell the format" in refuse(f"--input={path}")
    path = lines(ROW, name="part-0001")
    done = keyjoin("run", f"--input={path}", "--format=jsonl", f"--model={model(models.keyed)}")
    assert [p.name for p in done.parts()] == ["part-0001-00000-of-00001.jsonl"]
    other = lines(ROW, name="x.tfrecord")
    assert "inputs of several formats" in refuse(f"--input={Path(path).parent}/*.jsonl", f"--input={other}", rows=[ROW])
    same = lines(ROW, name="part-0001.jsonl")
    assert "would both be written to part-0001.jsonl" in refuse("--format=jsonl", f"--input={path}", f"--input={same}")


def test_check_finds_the_same_and_writes_nothing(
    refuse: Callable[..., str], keyjoin: Any, lines: Any, model: Any
) -> None:
    assert "no file matches" in refuse("--input=/nowhere", command="check")
    done = keyjoin("check", f"--input={lines(ROW)}", f"--model={model(models.keyed)}")
    assert (done.code, done.output.exists()) == (0, False)
    assert "x            float32 [N, 3]  x     [1.0, 2.0, 3.0]" in done.out


def test_help_names_every_command_exit_code_and_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.strip() == usage()
    assert main(["help", "all"]) == 0
    said = capsys.readouterr().out
    for word in [*COMMANDS, *(e.title for e in Exit), *(r.value for r in Reason)]:
        assert word in said
    for name in COMMANDS:
        for argv in ([name, "--help"], ["help", name], [name, "--help", "all"]):
            with pytest.raises(SystemExit, match="0"):
                main(argv)
            assert f"keyjoin {name}" in capsys.readouterr().out


def test_the_short_help_has_one_line_a_flag_and_fits_80_columns() -> None:
    assert max(map(len, usage().splitlines())) <= 80
    parser = run_parser("keyjoin run")
    short, whole = parser.help_text(everything=False), parser.help_text(everything=True)
    assert max(map(len, [*short.splitlines(), *whole.splitlines()])) <= 80
    flags = {name: flag for group in (RunOptions, *parser.also) for name, flag in flags_of(group).items()}
    for name, flag in flags.items():
        assert f"--{name}" in whole
        lines = [line for line in short.splitlines() if line.endswith(f"  {flag.brief}")]
        assert len(lines) == bool(flag.brief), name
        assert len(textwrap.wrap(flag.brief, 80 - 28)) <= 1, name
    assert f"--help all describes all {len(flags)} flags" in short
    for name, flag in flags.items():
        assert not flag.required or flag.brief, name


@pytest.mark.parametrize("name", sorted(command_options.parsers()))
def test_the_help_of_each_command_fits_80_columns_and_shows_its_own_flags(name: str) -> None:
    parser = command_options.parsers()[name]
    groups = [group for group in parser.options.__mro__ if group.__module__ == command_options.__name__]
    own = [flag for group in groups for flag in inspect.get_annotations(group)]
    for everything in (False, True):
        text = parser.help_text(everything=everything)
        assert max(map(len, text.splitlines())) <= 80
        assert [flag for flag in own if f"--{flag} " not in text] == []


HELP_OF_ALL = """
import sys
from pipeline.cli import COMMANDS, main
for argv in [["--version"], ["--help"], [], ["completion", "bash"], *([name, "--help", "all"] for name in COMMANDS)]:
    try:
        main(argv)
    except SystemExit:
        pass
print([name for name in ("apache_beam", "jinja2", "numpy", "pyarrow", "rich", "tensorflow") if name in sys.modules])
"""


def test_help_and_completion_import_nothing_large() -> None:
    done = subprocess.run([sys.executable, "-c", HELP_OF_ALL], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.endswith("\n[]\n")


def test_each_flag_of_a_run_has_a_topic() -> None:
    assert "Flags" not in topics_of(CheckOptions)
    short = run_parser("keyjoin run").help_text(everything=False)
    for name in ("audit", "limit", "canary", "baseline", "max_hours", "max_cost", "null_values"):
        assert f"--{name} " in short


@pytest.mark.parametrize("argv", [["help", "help"], ["help", "--help"], ["--help", "-h"]])
def test_help_about_help_is_the_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    assert capsys.readouterr().out.strip() == usage()


def test_without_a_command_it_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr().out
    assert [line.split()[1] for line in said.splitlines() if " --model " in line] == ["inspect", "check", "run"]
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"keyjoin {VERSION}\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["runn"], "keyjoin has no command runn (did you mean run?); it has "),
        (["help", "veriyf"], "keyjoin has no command veriyf (did you mean verify?)"),
        (["verify", "out", "--raed_data", "5%"], "there is no flag --raed_data (did you mean --read_data?)"),
        (["verify", "out", "--raed-data=5%"], "there is no flag --raed-data (did you mean --read_data?)"),
        (["verify"], "no DIR is given: the --output of the run; see keyjoin verify --help"),
        (["verify", "a", "b"], "several of DIR are given: a, b; give one"),
        (["replay", "a", "--run=b"], "several of DIR are given: b, a; give one"),
        (["replay", "https://x.org/a"], "https://x.org/a is a web address"),
        (["inspect", "--model=m", "more"], "'more' belongs to no flag"),
    ],
)
def test_a_wrong_word_is_refused(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert message in capsys.readouterr().err


def test_hyphens_and_underscores_are_alike_in_flags_of_keyjoin_alone() -> None:
    given = ["--input", "a-b", "--max-bad-rows=5%", "--error-field", "k-1", "--bad-rows=null", "--chunk-bytes=1_0k"]
    given += ["--model=m", "--output=o", "--temp-location=x-y", "--max_memory=4GB", "--wave-bytes=1.5MiB"]
    options, beam = parse_run(given, "keyjoin run")
    assert (options.input, options.error_field, options.chunk_bytes) == (("a-b",), "k-1", 10240)
    assert (options.max_memory, options.wave_bytes, beam) == (4 * 10**9, 3 << 19, ["--temp-location=x-y"])
    spelled = {"--chunk_bytes=10240", "--wave_bytes=1572864", "--max_memory=4000000000", "--max_bad_rows=0.05"}
    assert spelled <= set(words(options))


def test_every_flag_is_documented() -> None:
    pages = "".join(p.read_text() for p in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    for name in flags_of(RunOptions):
        assert f"--{name}" in pages, name


def test_the_program_is_quiet_and_needs_no_tensorflow_to_refuse(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    command = [sys.executable, "-X", "importtime", "-m", "pipeline"]
    refused = subprocess.run([*command, "run"], capture_output=True, text=True, env=environment, check=False)
    assert refused.returncode == 2
    assert " tensorflow" not in refused.stderr
    assert " apache_beam" not in refused.stderr
    command = [sys.executable, "-m", "pipeline", "run", f"--input={BOSTON}/data", f"--model={BOSTON}/model"]
    command += ["--progress=off"]
    done = subprocess.run(
        [*command, f"--output={tmp_path}/o"], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "joined            102" in done.stdout
    assert json.loads((tmp_path / "o" / "_keyjoin/manifest.json").read_text())["totals"]["joined"] == 102


def test_a_complete_output_need_not_be_writable(
    keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = (f"--input={lines(ROW)}", f"--model={model(models.keyed)}")
    done = keyjoin("run", *flags)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode))
    for command in ("check", "run"):
        again = keyjoin(command, *flags, f"--output={done.output}")
        assert (again.code, "there is nothing to do" in again.out) == (0, True), again.err
        other = keyjoin(command, *flags, f"--output={done.output.parent / 'other'}")
        assert (other.code, "cannot be written to" in other.err) == (2, True)


def test_without_a_folder_for_temporary_files_it_prints_which_variable_names_one(
    keyjoin: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/none"])
    refused = keyjoin("check", "--input=a", "--model=b")
    assert (refused.code, "name one with TMPDIR" in refused.err) == (2, True)


def test_a_file_that_may_not_be_looked_up_is_a_wrong_command_line(
    keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lstat, stat = lines(ROW), os.lstat, os.stat

    def refusing(original: Any) -> Any:
        def look(name: Any, *rest: Any, **named: Any) -> Any:
            if str(name) == path:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
            return original(name, *rest, **named)

        return look

    monkeypatch.setattr(os, "lstat", refusing(lstat))
    monkeypatch.setattr(os, "stat", refusing(stat))
    for given in (path, f"{Path(path).parent}/*.jsonl", str(Path(path).parent)):
        assert keyjoin("check", f"--input={given}", f"--model={model(models.keyed)}").code == 2


def test_quiet_prints_warnings_and_errors_only(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    flags = (f"--input={lines(ROW)}", f"--model={model(models.keyed)}")
    for flag in ("--quiet", "-q"):
        done = keyjoin("run", *flags, flag, "--progress=lines")
        assert (done.code, done.out, done.err, len(done.rows())) == (0, "", "", 1)
    refused = keyjoin("run", *flags, "--input=none.jsonl", "-q")
    assert (refused.code, refused.out, "no file matches none.jsonl" in refused.err) == (2, "", True)
    assert "joined" in keyjoin("run", *flags).out
    both = keyjoin("run", *flags, "-q", "--verbose")
    assert (both.code, "--quiet and --verbose contradict each other" in both.err) == (2, True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_quiet_and_keeps_errors_and_exit_codes(
    keyjoin: Callable[..., Result], command: str, tmp_path: Path
) -> None:
    for flag in ("-q", "--quiet", "-v"):
        refused = keyjoin(command, flag, f"--no_such={tmp_path}")
        assert (refused.code, refused.out, refused.err.startswith("keyjoin: error: ")) == (2, "", True), refused
        assert flag not in refused.err
    with pytest.raises(SystemExit) as ended:
        keyjoin(command, "--help")
    assert ended.value.code == 0


def test_quiet_commands_after_a_run(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    flags = (f"--input={lines(ROW, b'bad')}", f"--model={model(models.keyed)}", "--max_bad_rows=1")
    done = keyjoin("run", *flags)
    for given in (
        ["verify", str(done.output)],
        ["replay", str(done.output)],
        ["report", str(done.output)],
        ["compare", str(done.output), str(done.output)],
        ["inspect", f"--model={model(models.keyed)}"],
        ["check", *flags],
    ):
        quiet = keyjoin(*given, "-q")
        assert (quiet.code, quiet.out, quiet.err) == (0, "", ""), given
        assert keyjoin(*given).out, given
    done.parts()[0].write_bytes(b"")
    wrong = keyjoin("verify", str(done.output), "-q")
    assert (wrong.code, wrong.out) == (Exit.ALTERED, "")


def test_quiet_keeps_what_is_redirected_to_a_file(keyjoin: Callable[..., Result]) -> None:
    for given in (["config", "--input=a.csv", "--model=m", "--output=o"], ["completion", "bash"]):
        assert keyjoin(*given, "-q").out == keyjoin(*given).out != ""


def test_verbose_prints_what_is_hidden_otherwise(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    command = [sys.executable, "-m", "pipeline", "run", f"--input={BOSTON}/data", f"--model={BOSTON}/model"]
    for flags, expected in (([], False), (["-v"], True)):
        done = subprocess.run(
            [*command, f"--output={tmp_path}/{expected}", "--progress=off", *flags],
            capture_output=True, text=True, env=environment, check=True,
        )  # fmt: skip
        assert ("INFO:apache_beam" in done.stderr, bool(re.search(r"^I\d{4} .*\.cc:", done.stderr, re.M))) == (
            expected,
            expected,
        ), done.stderr
