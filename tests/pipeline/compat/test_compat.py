"""Beam, Python and Google's clients still have the private names that keyjoin uses, and a run works without them."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, StandardOptions

from pipeline.compat import beam as beam_compat
from tests.conftest import ROOT
from tests.support import models
from transforms import compat

OFFLINE = ["--project=p", "--region=r", "--no_auth", "--dataflow_endpoint=http://localhost:1"]


@pytest.fixture
def off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compat.VARIABLE, compat.OFF)


# A run


RUN = """
import sys
from pipeline import cli
from pipeline.compat import startup
startup.begin()
code = cli.main(sys.argv[1:])
import apache_beam
from apache_beam.transforms import core
print("replaced:", core.get_function_args_defaults.__module__ != core.__name__)
sys.exit(code)
"""


@pytest.mark.parametrize("name", ["keyed", "raising"])
def test_a_run_without_private_names_has_the_same_bytes(
    name: str, tmp_path: Path, model: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"x": [number, 2, 3]} if number % 7 else {"x": "none"} for number in range(50)]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    flags = [f"--input={tmp_path}/a.jsonl", f"--model={model(getattr(models, name))}", "--max_bad_rows=10"]
    written = {}
    for switch, replaced in (("on", True), ("off", False)):
        monkeypatch.setenv(compat.VARIABLE, switch)
        command = [sys.executable, "-c", RUN, "run", *flags, f"--output={tmp_path}/{switch}"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stderr
        assert f"replaced: {replaced}" in done.stdout
        written[switch] = {path.name: path.read_bytes() for path in (tmp_path / switch).glob("a-*.jsonl")}
    assert written["off"] == written["on"]
    assert len(b"".join(written["on"].values()).splitlines()) == 42


# Beam


def test_beam_names_all_of_its_flags() -> None:
    """`get_all_options` is public, but of its callback's argument only `parse_known_args` is documented."""
    from pipeline.options.beam_flags import _beam_parser

    parser = _beam_parser()
    _, unknown = parser.parse_known_args(["--runner=X", "--machine_type=n1", "--temp_location", "gs://b", "--nope=1"])
    assert unknown == ["--nope=1"]
    assert "--temp_location" in parser.format_usage()


@pytest.mark.usefixtures("off")
def test_options_without_kept_views_have_the_same_values() -> None:
    options = beam_compat.OptionsWithViews(["--runner=X"])
    options.view_as(StandardOptions).runner = "Y"
    assert options.view_as(StandardOptions) is not options.view_as(StandardOptions)
    assert options.view_as(StandardOptions).runner == "Y"


PICKLE = """
from apache_beam.internal import cloudpickle_pickler
from pipeline.compat import beam
beam.name_files_by(lambda path: "named")
exec(compile("def made(): pass", "/home/user/made.py", "exec"))
made.__module__ = "__main__"
print(cloudpickle_pickler.loads(cloudpickle_pickler.dumps(made)).__code__.co_filename)
"""


@pytest.mark.parametrize(("switch", "named"), [("on", "named"), ("off", "/home/user/made.py")])
def test_beams_pickles_name_files_by_a_function(switch: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compat.VARIABLE, switch)
    done = subprocess.run([sys.executable, "-c", PICKLE], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == f"{named}\n"


def test_beam_keeps_its_client_for_jobs_and_a_public_one_replaces_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient

    options = PipelineOptions(OFFLINE).view_as(GoogleCloudOptions)
    client = DataflowApplicationClient(options)
    private = beam_compat.dataflow_jobs(client, options)
    monkeypatch.setenv(compat.VARIABLE, compat.OFF)
    public = beam_compat.dataflow_jobs(client, options)
    assert public is not private
    assert type(public) is type(private)
    assert public.api_endpoint == private.api_endpoint == "http://localhost:1"
    assert public.transport.kind == private.transport.kind == "rest"


def test_beam_keeps_its_client_for_google_cloud_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    from apache_beam.io.gcp.gcsfilesystem import GCSFileSystem

    system = GCSFileSystem(PipelineOptions(OFFLINE))
    private = compat.google_store(system)
    monkeypatch.setenv(compat.VARIABLE, compat.OFF)
    monkeypatch.setattr(sys, "argv", ["keyjoin", *OFFLINE])  # Beam's default options are those of the command line
    public = compat.google_store(system)
    assert type(public) is type(private)
    assert type(public.client) is type(private.client)
    assert callable(compat.google_retry(public))
    monkeypatch.delenv(compat.VARIABLE)
    assert callable(compat.google_retry(private))


def test_the_messages_that_are_dropped_are_still_beams() -> None:
    import inspect

    from apache_beam.ml.inference import base
    from apache_beam.runners import common
    from apache_beam.utils import retry

    assert beam_compat.NOT_FOR_USERS in inspect.getsource(base)
    assert (common.__name__, retry.__name__) == ("apache_beam.runners.common", "apache_beam.utils.retry")


@pytest.mark.usefixtures("off")
def test_nothing_is_dropped_without_private_names() -> None:
    before = [*logging.getLogger().filters]
    beam_compat.quiet()
    assert logging.getLogger().filters == before


# Python


LEAVE = """
import atexit, threading
from pipeline.compat import process
ended = threading.Event()
thread = threading.Thread(target=ended.wait)
atexit.register(print, "at exit")
thread.start()
{before}
process.exit_now(3)
"""


@pytest.mark.parametrize(("switch", "before"), [("on", ""), ("off", "ended.set()")])
def test_a_process_ends_with_its_exit_functions(switch: str, before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the private function, the process ends although a thread runs; without it, once the thread has ended."""
    monkeypatch.setenv(compat.VARIABLE, switch)
    command = [sys.executable, "-c", LEAVE.format(before=before)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (3, "at exit\n")
