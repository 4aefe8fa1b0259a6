"""A flag is one field: adding a field adds a flag everywhere. A class of options reads the flags of all its groups."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.options import kinds
from pipeline.options.flag import SWITCH, flag, flags_of, words
from pipeline.options.parser import OptionsParser
from tests.conftest import ROOT
from transforms.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class First:
    rows: int = flag(kinds.whole(9), "at most 100%% (default: %(default)s)", default=3, metavar="N")
    shade: str | None = flag(kinds.choice("light", "dark"), "which one")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Second:
    paths: tuple[str, ...] = flag(kinds.INPUTS, "where", required=True)
    once: bool = flag(SWITCH, "now", in_command=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Both(First, Second):
    own: Mapping[str, str] = flag(kinds.CONSTANTS, "more")


def read(*argv: str) -> Both:
    return OptionsParser(Both, "program", "Does something.").read(argv)


def test_the_own_flags_come_first_then_those_of_the_groups() -> None:
    assert list(flags_of(Both)) == ["own", "rows", "shade", "paths", "once"]


def test_a_flag_that_is_not_given_has_its_default_or_what_is_empty() -> None:
    assert read("--paths=a") == Both(own={}, rows=3, shade=None, paths=("a",), once=False)
    assert words(read("--paths=a")) == ["--paths=a"]


def test_what_is_given_is_read_and_can_be_written_again() -> None:
    options = read("--paths", "a", "b c", "--paths=d", "--own", "x=1", "y=2=3", "--shade=dark", "--once", "--rows=9")
    assert options == Both(own={"x": "1", "y": "2=3"}, rows=9, shade="dark", paths=("a", "b c", "d"), once=True)
    given = words(options)
    assert given == ["--own=x=1", "--own=y=2=3", "--rows=9", "--shade=dark", "--paths=a", "--paths=b c", "--paths=d"]
    assert read(*given, "--once") == options


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--rows=10"], "argument --rows: 10 is not a whole number from 1 to 9; see program --help"),
        (["--shade=drak"], "argument --shade: 'drak' is none of light, dark (did you mean dark?); see program --help"),
        (["--own=x=1", "--own=x=2"], "--own names the model input x twice; name it once"),
        (["--own", "x=1", "x=2"], "--own names the model input x twice; name it once"),
        (["--row=1"], "there is no flag --row (did you mean --rows?); see program --help"),
        (["--once=yes"], "--once: 'yes' is not true or false; write --once or --once=false"),
    ],
)
def test_what_is_wrong_is_refused_by_name(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read("--paths=a", *argv)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("argv", "once"),
    [
        (["--once"], True), (["--once=true"], True), (["--once=false"], False),
        (["--once", "--once=false"], False), (["--once=false", "--once"], True),
    ],
)  # fmt: skip
def test_a_switch_may_have_a_value_and_the_last_one_counts(argv: list[str], once: bool) -> None:
    assert read("--paths=a", *argv).once is once


def test_a_required_flag_is_named_and_a_misspelt_one_first() -> None:
    with pytest.raises(UsageError, match=r"the following arguments are required: --paths; see program --help"):
        read("--rows=1")
    with pytest.raises(UsageError, match=r"there is no flag --path; did you mean --paths\?"):
        read("--path=a")


def test_the_help_has_all_flags_in_order() -> None:
    text = OptionsParser(Both, "program", "Does something.").help_text(everything=True).partition("Flags:")[2]
    shown = ["--own OWN", "--rows N", "at most 100% (default: 3)", "--shade {light,dark}", "--paths PATHS", "--once"]
    at = [text.index(part) for part in shown]
    assert at == sorted(at)


GROUP = 'class RemoteOptions:\n    """'
FIELD = '    hue: int = flag(kinds.whole(9), "how it is dyed (default: %(default)s)", default=3, metavar="N")\n'
ASKED = """
import json, sys
from pipeline.options import flex
from pipeline.options.run_options import command, parse_run, run_parser
from pipeline.run_folder import records, resume
from scripts import make_reference, make_template
from tests.support.output_states import loaded
from transforms.formats.spec import FormatSpec

def settings(*more):
    options, left = parse_run(["--model=m", "--input=i", "--output=o", *more], "keyjoin run")
    assert left == []
    model = records.ModelFiles(path="m", sha256="0" * 64)
    return loaded(records.Settings(options=options, format=FormatSpec("jsonl"), model=model, versions={"keyjoin": "1"}))

before, now = settings(), settings("--hue=7")
fields = {name: getattr(now, name) for name in type(now).__struct_fields__}
text = records.encode(records.Job(**fields, sources_sha256="0" * 64))
json.dump({
    "help": run_parser("keyjoin run").help_text(everything=True),
    "parsed": [before.options.hue, now.options.hue],
    "command": command(now.options, "o"),
    "recorded": json.loads(text)["options"]["hue"],
    "read": records.decode(text, records.Job).options.hue,
    "changed": list(resume.differences(before, now)),
    "form": [one for one in make_template.metadata()["parameters"] if one["name"] == "hue"],
    "filled": flex.command_line(["--hue=7"]),
    "reference": [line for line in make_reference.page().splitlines() if "--hue" in line],
}, sys.stdout)
"""


def test_another_flag_is_another_field(tmp_path: Path) -> None:
    """Adds one field to a copy of the code and changes nothing else."""
    for name in ("pipeline", "transforms", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    groups = tmp_path / "pipeline" / "options" / "groups.py"
    text = groups.read_text()
    at = text.index("\n\n", text.index(GROUP)) + 2
    groups.write_text(text[:at] + FIELD + text[at:])
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", ASKED]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert "--hue N " in found.pop("help")
    assert found == {
        "parsed": [3, 7],
        "command": ["keyjoin", "run", "--model=m", "--input=i", "--output=o", "--hue=7"],
        "recorded": 7,
        "read": 7,
        "changed": ["--hue was 3, is now 7"],
        "form": [
            {
                "name": "hue",
                "label": "Hue",
                "helpText": "How it is dyed (default: 3).",
                "isOptional": True,
                "paramType": "NUMBER",
                "regexes": ["^([0_]*[1-9][0-9_]*)$"],
            }
        ],
        "filled": ["run", "--runner=DataflowRunner", "--hue=7"],
        "reference": ["| `--hue` | how it is dyed (default: 3) |"],
    }
