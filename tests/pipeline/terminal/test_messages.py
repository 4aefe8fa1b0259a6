"""Text that reaches the terminal: no control characters from data, commands that can be pasted, and no traceback.

That also holds if standard input, output or error is closed, full or broken.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from pipeline.terminal import messages
from tests.conftest import ROOT, Result
from tests.support import models

# A window title, a deleted line, DEL, a C1 control, bidirectional overrides, line separators.
EVIL = "a\x1b]0;t\x07\x1b[2K\x7f\x9b2J\u202eb\u2066\u2028\u2029\x85c"
NO_UTF8 = os.fsdecode(b"\x9b\xff")


def harmless(*texts: str) -> None:
    for text in texts:
        bad = [c for c in text if c != "\n" and not c.isprintable()]
        assert not bad, (bad, text)


@given(st.lists(st.one_of(st.binary(max_size=8).map(os.fsdecode), st.sampled_from([EVIL, "", "it's", "\\x", "a\nb"]))))
def test_a_command_that_is_printed_can_be_pasted(words: list[str]) -> None:
    words = [word.replace("\0", "") for word in words]
    text = messages.quoted(["printf", "%s\\0", *words])
    harmless(text)
    assert messages.one_line(text) == text
    said = subprocess.run(["bash", "-c", text], capture_output=True, check=True).stdout
    assert said == b"".join(os.fsencode(word) + b"\0" for word in words) or not words


@given(st.text())
def test_text_and_json_are_harmless_whatever_they_hold(text: str) -> None:
    harmless(messages.visible(text), messages.one_line(text))
    assert "\n" not in messages.visible(text) + messages.one_line(text)


@given(st.dictionaries(st.text(), st.text()))
def test_json_stays_what_it_is(document: dict[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("builtins.print", lambda text, **_: said.append(text))
        messages.show_json(json.dumps(document, ensure_ascii=False, indent=1))
    harmless(said[0])
    assert json.loads(said[0]) == document


def evil_model(folder: Path) -> str:
    """A model with such names for its signature, inputs and outputs, and such text in its error messages."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x, s = v1.placeholder(tf.float32, [None]), v1.placeholder(tf.string, [None])
        said = tf.debugging.Assert(tf.reduce_all(x < 9), [tf.constant(EVIL), x, s])
        with tf.control_dependencies([said]):
            outputs = {f"p{EVIL}": x * 2.0, f"t{EVIL}": tf.identity(s)}
        signature = v1.saved_model.predict_signature_def({f"x{EVIL}": x, f"s{EVIL}": s}, outputs)
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], {f"f{EVIL}": signature})
        builder.save()
    return str(folder)


@pytest.fixture(scope="module")
def evil(tmp_path_factory: Any) -> Path:
    """A folder with such a name, rows and a model with such names."""
    folder: Path = tmp_path_factory.mktemp("evil") / EVIL
    (folder / "data").mkdir(parents=True)
    evil_model(folder / "model")
    values: list[Any] = [1, 2, 9, None, EVIL, [1]]
    rows = [{f"x{EVIL}": value, f"s{EVIL}": EVIL, EVIL: EVIL} for value in values]
    (folder / "data" / f"{EVIL}.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    (folder / "data" / f"_{EVIL}.jsonl").touch()
    return folder


def test_nothing_of_rows_names_and_models_controls_a_terminal(keyjoin: Callable[..., Result], evil: Path) -> None:
    model = [f"--model={evil}/model", f"--signature=f{EVIL}"]
    out = f"--output={evil}/out"
    run = [f"--input={evil}/data", *model, out]
    (evil / "request").write_text(json.dumps({"instances": [{f"x{EVIL}": 1, f"s{EVIL}": EVIL}]}))
    (evil / "bad").write_text(json.dumps({"instances": [{f"x{EVIL}": 9, f"s{EVIL}": EVIL}]}))
    said = [
        keyjoin("check", *run),
        keyjoin("run", *run),  # too many bad rows
        keyjoin("run", *run, "--max_bad_rows=1.0", "--key_field", EVIL),  # another setting
        keyjoin("run", *run, "--max_bad_rows=1.0"),
        keyjoin("run", *run, "--max_bad_rows=1.0"),
        keyjoin("replay", f"--run={evil}/out"),
        keyjoin("verify", f"--run={evil}/out"),
        keyjoin("inspect", *model),
        keyjoin("inspect", *model, "--json"),
        keyjoin("predict", *model, f"--instances={evil}/request"),
        keyjoin("predict", *model, f"--instances={evil}/bad"),
        keyjoin("predict", *model, f"--instances={EVIL}"),
        keyjoin("wrap", f"--model={evil}/model", f"--output={evil}/wrapped", f"--signature=f{EVIL}"),
        keyjoin("wrap", f"--model={evil}/none", f"--output={evil}/wrapped"),
        keyjoin("run", *run, f"--{EVIL}"),
        keyjoin("run", *run, f"--features={EVIL}"),
        keyjoin("run", *run, f"--runner={EVIL}"),
        keyjoin("run", f"--input={evil}/{NO_UTF8}", *model, out),
        keyjoin("run", f"--input={evil}/data", f"--model={EVIL}", out),
        keyjoin("inspect", f"--model={evil}/model", f"--signature={EVIL}"),
        keyjoin("replay", f"--run={EVIL}"),
        keyjoin(EVIL),
    ]
    for done in said:
        harmless(done.out, done.err)
        assert "Traceback" not in done.err
    assert [done.code for done in said[:10]] == [0, 1, 2, 0, 0, 0, 0, 0, 0, 0], [done.err for done in said[:10]]
    (part,) = (evil / "out").glob("*-of-*")
    part.write_bytes(b"altered")
    (evil / "out" / f"{EVIL}.jsonl").touch()
    said += [keyjoin("verify", f"--run={evil}/out", *flags) for flags in ([], ["--read_data=100%"], ["--discard"])]
    for done in said[-3:]:
        harmless(done.out, done.err)
    assert json.loads(said[9].out)["predictions"] == [{f"p{EVIL}": 2.0, f"t{EVIL}": EVIL}]
    assert json.loads(said[8].out)["signature"] == f"f{EVIL}"
    assert [done.code for done in said[-3:]] == [4, 4, 4]


def test_commands_that_verify_prints_can_be_pasted(keyjoin: Callable[..., Result], evil: Path, tmp_path: Path) -> None:
    run = (f"--input={evil}/data", f"--model={evil}/model", f"--signature=f{EVIL}", "--max_bad_rows=1.0")
    assert keyjoin("run", *run, f"--output={tmp_path}/{EVIL}").code == 0
    (part,) = (tmp_path / EVIL).glob("*-of-*")
    right = part.read_bytes()
    part.write_bytes(b"x" * len(right))
    verified = keyjoin("verify", f"--run={tmp_path}/{EVIL}", "--read_data=100%")
    commands = [line.strip() for line in verified.out.splitlines() if line.startswith("  keyjoin ")]
    assert len(commands) == 2
    script = "\n".join([f'keyjoin() {{ "{sys.executable}" -m pipeline "$@"; }}', *commands])
    subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, check=True)
    assert part.read_bytes() == right


def test_a_log_or_a_traceback_controls_no_terminal_either() -> None:
    code = (
        "import logging, sys; from pipeline.terminal.messages import open_streams; open_streams();"
        "logging.warning(sys.argv[1]); print(sys.argv[1]); raise ValueError(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, EVIL + NO_UTF8], cwd=ROOT, capture_output=True, check=False)
    harmless(done.stdout.decode(), done.stderr.decode())
    assert b"ValueError: a\\x1b]0;t" in done.stderr
    assert done.stdout.startswith(b"a\\x1b]0;t")


STREAMS = [">&-", "2>&-", "<&-", ">&- 2>&- <&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>/dev/full"]


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, ["--help"]),
        (0, ["run", "--help"]),
        (2, []),
        (2, ["run"]),
        (2, ["verify", "--run={tmp}/none"]),
        (2, ["predict", "--model={tmp}/none"]),
    ],
)
def test_a_stream_that_is_closed_full_or_broken_is_no_traceback(
    tmp_path: Path, streams: str, code: int, words: list[str]
) -> None:
    command = [sys.executable, "-m", "pipeline", *(word.format(tmp=tmp_path) for word in words)]
    done = subprocess.run(
        ["bash", "-c", f'"$@" {streams}', "-", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    lost = "/dev/full" in streams and "2>" not in streams.split(" ")[0]
    assert done.returncode in ({code, 1} if lost else {code}), done
    assert len(done.stderr.splitlines()) <= 1, done
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_a_run_without_streams_writes_what_it_writes_with_them(
    keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path, streams: str
) -> None:
    """No opened file gets the descriptor of a closed stream, into which other code would then write."""
    flags = [f"--input={lines({'x': [1, 2, 3]}, {'x': 'bad'})}", f"--model={model(models.keyed)}", "--max_bad_rows=1"]
    expected = keyjoin("run", *flags)
    command = [sys.executable, "-m", "pipeline", "run", *flags, f"--output={tmp_path}/closed"]
    subprocess.run(["bash", "-c", f'"$@" {streams}', "-", *command], cwd=ROOT, capture_output=True, check=True)
    closed = Result(0, "", "", tmp_path / "closed")
    assert (closed.complete(), closed.lines(), closed.dead()) == (True, expected.lines(), expected.dead())


def test_a_reader_that_leaves_changes_no_exit_code_and_no_result(
    keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path
) -> None:
    """Each command that prints, in a pipe as `keyjoin … | head -1`."""
    folder, output, keyed = model(models.plain), tmp_path / "piped", tmp_path / "keyed"
    flags = [f"--input={lines({'x': [1, 2, 3]}, {'x': 'bad'})}", f"--model={folder}", "--max_bad_rows=1"]
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"instances": [[1, 2, 3]]}))
    commands = [
        ["--help"],
        ["check", *flags, f"--output={output}", "--progress=off"],
        ["run", *flags, f"--output={output}", "--progress=off"],
        ["run", *flags, f"--output={output}", "--progress=off"],
        ["replay", f"--run={output}", "--progress=off"],
        ["verify", f"--run={output}", "--progress=off"],
        ["inspect", f"--model={folder}"],
        ["inspect", f"--model={folder}", "--json"],
        ["wrap", f"--model={folder}", f"--output={keyed}"],
        ["predict", f"--model={folder}", f"--instances={request}"],
    ]
    for words in commands:
        done = subprocess.run(
            ["bash", "-c", '"$@" | true; exit ${PIPESTATUS[0]}', "-", sys.executable, "-m", "pipeline", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert (done.returncode, done.stderr) == (0, ""), (words, done)
    expected, piped = keyjoin("run", *flags), Result(0, "", "", output)
    assert (piped.complete(), piped.lines(), piped.dead()) == (True, expected.lines(), expected.dead())
    assert (keyed / "saved_model.pb").is_file()
