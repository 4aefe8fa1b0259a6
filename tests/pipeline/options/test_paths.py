"""Every command refuses paths that no file system understands as intended, when it reads the command line."""

import importlib.metadata
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.options import kinds
from tests.conftest import Result

COMMANDS = {
    "run": ("model", "input", "output"),
    "check": ("model", "input", "output"),
    "inspect": ("model",),
    "wrap": ("model", "output"),
    "predict": ("model", "instances"),
    "verify": ("run", "model"),
    "replay": ("run", "model", "rows"),
}
WRONG = {
    "~/x": "write /the/home/x, or './~/x' if it is called so",
    "~": "write /the/home, or './~' if it is called so",
    "gs:/bucket/x": "names no bucket; write gs://bucket/x",
    "gs://": "names no bucket; write gs://BUCKET/FOLDER",
    "s3:/bucket/x": "names no bucket; write s3://bucket/x",
    "file:///a b/x": "write the path alone, '/a b/x'",
    "http://host/m.keras": "neither reads nor writes; to read it, download it: curl -LO http://host/m.keras, and",
    "https://storage.googleapis.com/bucket/m": "; write gs://bucket/m",
    "https://tfhub.dev/a/b/1": "curl -L 'https://tfhub.dev/a/b/1?tf-hub-format=compressed' | tar -xzC model",
}


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command, names in COMMANDS.items() for name in names]
)
def test_a_path_that_cannot_be_meant_is_refused_by_every_flag(
    keyjoin: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, name: str
) -> None:
    monkeypatch.setenv("HOME", "/the/home")
    monkeypatch.chdir(tmp_path)
    for path, said in WRONG.items():
        given = dict.fromkeys(COMMANDS[command], "x") | {name: path}
        done = keyjoin(command, *(f"--{flag}={value}" for flag, value in given.items()))
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert f"--{name}: {path}" in done.err
        assert said in done.err
    assert not os.listdir(tmp_path)


@given(st.text(max_size=8) | st.from_regex(r"(gs|s3|hdfs|azfs|~|/|\./)[:/~a]{0,4}[a-z~/]{0,6}", fullmatch=True))
def test_a_path_is_taken_as_it_is_or_refused(text: str) -> None:
    try:
        found = kinds.PATH.parse(text)
    except ValueError:
        assert text.startswith("~") or ":/" in text
    else:
        assert found == text
        assert os.path.expanduser(text) == text


@given(st.text("ab ~'/", min_size=1, max_size=6))
def test_what_is_to_be_written_in_place_of_a_tilde_is_taken(rest: str) -> None:
    with pytest.raises(ValueError, match="write ") as caught:
        kinds.PATH.parse(f"~/{rest}")
    whole, plain = shlex.split(
        str(caught.value).split("; write ", 1)[1].removesuffix(" if it is called so").replace(", or ", " ")
    )
    assert (kinds.PATH.parse(whole), kinds.PATH.parse(plain)) == (os.path.expanduser(f"~/{rest}"), f"./~/{rest}")


@pytest.mark.parametrize("name", ["model", "input", "output", "config"])
@pytest.mark.parametrize(
    ("path", "extra"), [("s3://bucket/x", "aws"), ("hdfs://host/x", "hadoop"), ("azfs://account/box/x", "azure")]
)
def test_a_store_without_its_package_is_refused_with_the_command_that_installs_it(
    keyjoin: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, path: str, extra: str, name: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    given = {"model": "m", "input": "i", "output": "o"} | {name: path}
    done = keyjoin("run", *(f"--{flag}={value}" for flag, value in given.items()))
    version = importlib.metadata.version("apache-beam")
    assert (done.code, f"pip install 'apache-beam[{extra}]=={version}'" in done.err) == (2, True)
    assert f"argument --{name}: {path} is in a store that this installation cannot read" in done.err
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    assert kinds.PATH.parse(path) == path


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("abc://x/y", "Beam has no file system for abc://; copy it to this machine, or to Cloud Storage"),
    ],
)
@pytest.mark.parametrize("name", ["model", "input", "output"])
def test_a_file_system_that_cannot_be_reached_is_refused_with_its_remedy(
    keyjoin: Callable[..., Result],
    lines: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    said: str,
    name: str,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    data = lines({"x": 1})
    given = {"model": os.path.dirname(data), "input": data, "output": "o"} | {name: path}
    done = keyjoin("run", *(f"--{flag}={value}" for flag, value in given.items()))
    assert (done.code, done.err.splitlines()[-1].startswith(f"keyjoin: error: cannot look up {path}: ")) == (2, True)
    assert said in done.err
    assert "Traceback" not in done.err
