"""A local run imports no more than it needs, and avoids the long waits inside Beam."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import pytest

from pipeline.compat import beam as beam_compat
from pipeline.options.beam_flags import pipeline_options
from tests.conftest import ROOT
from tests.support import models
from tests.support.examples import example, floats, written


def in_python(program: str, *arguments: str) -> str:
    """Runs a program in its own process; returns its output, standard error last."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


BEAM = """
import sys
from pipeline.compat import startup
startup.import_beam(sys.argv[1:])
import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.worker.statesampler import get_current_tracker
from apache_beam.transforms import core
print([name in sys.modules for name in ("apitools", "pandas", "pymongo", "google.cloud.storage")])
print(core.get_function_args_defaults.__module__)
with beam.Pipeline("FnApiRunner", PipelineOptions([])) as root:
    root | beam.Create([0]) | beam.Map(lambda _: get_current_tracker().sampling_period_ms) | beam.Map(print)
import apitools, pandas, pymongo, google.cloud.storage
"""


@pytest.mark.parametrize(
    ("args", "imported", "inspecting", "sampling"),
    [
        (["--input=a.jsonl"], "[False, False, False, False]", "pipeline.compat.beam", "5"),
        (["--input=gs://b/a"], "[True, True, True, True]", "apache_beam.transforms.core", "200"),
        (["--runner=X"], "[True, True, True, True]", "apache_beam.transforms.core", "200"),
    ],
)
def test_a_local_run_has_none_of_beams_extras_and_no_long_waits(
    args: list[str], imported: str, inspecting: str, sampling: str
) -> None:
    assert in_python(BEAM, *args).splitlines() == [imported, inspecting, sampling]


LACKING = """
import sys
sys.modules["apitools"] = None
from pipeline.compat import startup
startup.import_beam(sys.argv[1:])
"""


@pytest.mark.parametrize(("arg", "is_reported"), [("--input=a.jsonl", False), ("--input=gs://b/a", True)])
def test_names_that_beam_lacks_are_reported_where_they_may_be_needed(arg: str, is_reported: bool) -> None:
    assert ("apitools not found" in in_python(LACKING, arg)) == is_reported


FIRST = """
import sys
from pipeline import cli
from pipeline.model import model_process
large = "apache_beam", "numpy", "pyarrow"
model_process.process = lambda: sys.exit(print([name for name in large if name in sys.modules]))
cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize("command", ["run", "check"])
def test_the_model_process_is_started_before_anything_large_is_imported(command: str) -> None:
    assert in_python(FIRST, command, "--input=a.jsonl", "--model=m", "--output=o") == "[]\n"


RUN = """
import sys
from pipeline import cli
from pipeline.compat import startup
startup.begin()
assert cli.main(sys.argv[1:]) == 0
print("\\nnot needed:", [name for name in ("pandas", "tensorflow") if name in sys.modules])
"""


@pytest.mark.parametrize("name", ["a.jsonl", "a.tfrecord"])
def test_a_local_run_needs_no_pandas(name: str, tmp_path: Path, model: Callable[..., str]) -> None:
    rows = {
        "a.jsonl": json.dumps({"x": [1, 2, 3]}).encode() + b"\n",
        "a.tfrecord": written([example(x=floats(1, 2, 3))]),
    }
    (tmp_path / name).write_bytes(rows[name])
    flags = (f"--input={tmp_path / name}", f"--model={model(models.keyed)}", f"--output={tmp_path / 'o'}")
    assert "\nnot needed: []\n" in in_python(RUN, "run", *flags)


def test_what_a_method_takes_is_found_out_once(monkeypatch: Any) -> None:
    import apache_beam as beam
    from apache_beam.transforms import core

    asked: list[Any] = []
    original = core.get_function_args_defaults
    monkeypatch.setattr(core, "get_function_args_defaults", lambda f: (asked.append(f), original(f))[1])
    beam_compat.inspect_once()
    with beam.Pipeline("FnApiRunner") as root:
        root | beam.Create([0]) | beam.Map(lambda number: number + 1) | beam.Map(print)
    methods = [method.__func__ for method in asked if isinstance(method, MethodType)]
    assert beam.DoFn.process_batch in methods
    assert len(methods) == len(set(methods))


def test_what_is_found_out_once_is_what_beam_finds(monkeypatch: Any) -> None:
    from apache_beam.transforms import core

    class Taking:
        def method(self, element: int, other: str = "a", *more: int, window: object = core.DoFn.WindowParam) -> None:
            """Takes all kinds of arguments."""

    original = core.get_function_args_defaults
    monkeypatch.setattr(core, "get_function_args_defaults", original)
    beam_compat.inspect_once()
    for function in (Taking().method, Taking.method, Taking, print, lambda a, b=2: (a, b)):
        expected = original(function)
        assert core.get_function_args_defaults(function) == expected
        names, defaults = core.get_function_args_defaults(function)
        names.clear(), defaults.append(1)  # Beam may change its copies
        assert core.get_function_args_defaults(function) == expected


def test_a_view_of_beams_options_is_made_once_and_shares_their_values(monkeypatch: Any) -> None:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions, TypeOptions

    options = pipeline_options(["--runtime_type_check"])
    view = options.view_as(TypeOptions)
    assert view.runtime_type_check
    assert options.view_as(TypeOptions) is view
    view.runtime_type_check = False
    assert not options.view_as(TypeOptions).view_as(StandardOptions).view_as(TypeOptions).runtime_type_check
    assert pipeline_options([]).view_as(TypeOptions) is not view

    made = []
    original = PipelineOptions.view_as
    monkeypatch.setattr(PipelineOptions, "view_as", lambda self, cls: (made.append(cls), original(self, cls))[1])
    root = beam.Pipeline(options=options)
    made.clear()
    for number in range(5):
        root | f"{number}" >> beam.Create([number])
    assert len(made) <= len(set(made)) + 5, made
