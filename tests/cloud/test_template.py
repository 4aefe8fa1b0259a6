"""The Flex template: its form matches the parser, Google's messages accept it, and its values reach keyjoin."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from google.cloud import dataflow
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.options import flex
from pipeline.options.config import as_yaml, expanded
from pipeline.options.flag import SWITCH, flags_of
from pipeline.options.run_options import RunOptions, parse_run
from scripts import make_template
from tests.conftest import ROOT
from tests.pipeline.run_folder.test_records import START, values_of
from transforms.errors import UsageError

IMAGE = "europe-west1-docker.pkg.dev/p/keyjoin/worker@sha256:" + 64 * "0"
REQUIRED = ("--input=gs://b/in/*.jsonl", "--model=gs://b/model", "--output=gs://b/out")
# What a launcher adds, in the spelling of Beam's flags.
LAUNCHED = (
    "--runner=DataflowRunner",
    "--project=p",
    "--template_location=gs://b/staging/job_object",
    '--labels={"a":"b"}',
)
# The flags with a check. Each check must accept all values that the flag's reader accepts, except that paths must be on
# Cloud Storage.
KINDS = {
    name: flag.kind
    for name, flag in flags_of(RunOptions).items()
    if flag.kind.check is not None and flag.kind is not SWITCH and name not in ("input", "model", "output")
}


def metadata() -> dict[str, Any]:
    return json.loads(make_template.METADATA.read_text())


def parsed(*parameters: str) -> RunOptions:
    command, *words = flex.command_line(parameters)
    assert command == "run"
    return parse_run(words, "keyjoin run")[0]


def test_the_form_is_current() -> None:
    assert make_template.METADATA.read_text() == make_template.as_text(make_template.metadata()), (
        "run python -m scripts.make_template"
    )


def test_every_flag_is_in_the_form_or_is_left_out_for_a_reason() -> None:
    shown = [parameter["name"] for parameter in metadata()["parameters"]]
    assert len(shown) == len(set(shown))
    assert flags_of(RunOptions).keys() - set(shown) == {"wave_bytes", "max_memory", "detach", "progress", "prices"}
    required = {p["name"] for p in metadata()["parameters"] if not p["isOptional"]}
    assert required == {"output"}  # a file of `config` may have the others


def test_googles_own_messages_accept_the_template() -> None:
    """`google-cloud-dataflow-client` has the messages of the service; they raise on unknown fields."""
    said = subprocess.run(
        [sys.executable, "-m", "scripts.make_template", "--image", IMAGE],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    spec = dataflow.ContainerSpec.from_json(said.stdout)
    assert (spec.image, spec.default_environment.sdk_container_image) == (IMAGE, IMAGE)
    assert spec.sdk_info.language == dataflow.SDKInfo.Language.PYTHON
    assert spec.metadata == dataflow.TemplateMetadata.from_json(make_template.METADATA.read_text())
    kinds = dataflow.ParameterType
    for parameter in spec.metadata.parameters:
        assert re.fullmatch("[a-z][a-z0-9_]*", parameter.name)
        assert all((parameter.label, parameter.help_text))
        assert parameter.param_type in (kinds.TEXT, kinds.BOOLEAN, kinds.ENUM, kinds.NUMBER, kinds.GCS_WRITE_FOLDER)
        assert (parameter.param_type == kinds.ENUM) == bool(parameter.enum_options)
        assert len(parameter.regexes) <= 1
        for check in parameter.regexes:
            assert (check[0], check[-1]) == ("^", "$")
            # The service uses POSIX extended regular expressions, which lack classes such as \d and lazy repetition.
            assert not re.search(r"\\[a-zA-Z]|\(\?|[*+?]\?", check)
        assert not parameter.default_value  # a form would send it, and it would beat the file of `config`


@pytest.mark.parametrize("name", KINDS)
@given(
    text=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)
    | st.from_regex("[0-9a-f]{64}", fullmatch=True)
    | st.from_regex("[a-c](=|,)[a-c](,d)?", fullmatch=True)
    | st.from_regex("0?[0-9]{1,8}(\\.[0-9])?", fullmatch=True)
)
def test_no_check_refuses_what_keyjoin_takes(name: str, text: str) -> None:
    try:
        KINDS[name].parse(text)
    except ValueError:
        return
    assert re.search(f"^({KINDS[name].check})$", text)


@pytest.mark.parametrize(
    ("parameter", "wrong"),
    [
        ("input", "/data/x.jsonl"), ("input", "gs://b/x /data/x"), ("model", "model"), ("output", "gs://b"),
        ("batch_size", "0"), ("batch_size", "many"), ("batch_timeout", "soon"), ("model_sha256", "abc"),
        ("overwrite", "yes"), ("format", "xml"), ("features", "a,,b"), ("input_map", "a"), ("bad_rows", "none"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_before_anything_is_started(parameter: str, wrong: str) -> None:
    (check,) = next(p["regexes"] for p in metadata()["parameters"] if p["name"] == parameter)
    assert not re.search(check, wrong)


FILLED = {
    "model": "gs://b/other.keras", "input": "gs://b/1.jsonl  gs://b/2?.jsonl", "output": "gs://b/out", "signature": "score",
    "key_input": "key", "model_ops": "deny", "model_sha256": 64 * "a", "overwrite": "true", "format": "jsonl",
    "features": "a,b", "input_map": "x=a y=b", "output_fields": "key,score", "key_field": "id", "batch_size": "64",
    "isolate": "true", "batch_timeout": "2.5", "chunk_bytes": "1000", "max_bad_rows": "0.01,model_error=0",
    "bad_rows": "null", "error_field": "why", "non_finite": "keep", "prediction_prefix": "p_",
    "model_libraries": "tensorflow_text,ydf_tf", "custom_objects": "own.layers", "tf32": "true",
    "constant": "keep_prob=0.5 training=false",
}  # fmt: skip


def test_what_is_filled_in_reaches_keyjoin() -> None:
    checks = {p["name"]: p.get("regexes", [""])[0] for p in metadata()["parameters"]}
    assert all(re.search(checks[name], value) for name, value in FILLED.items())
    got = parsed(*(f"--{name}={value}" for name, value in FILLED.items()), *LAUNCHED)
    assert got.input == ("gs://b/1.jsonl", "gs://b/2?.jsonl")
    assert got.input_map == {"x": "a", "y": "b"}
    assert got.constant == {"keep_prob": "0.5", "training": "false"}
    assert (got.overwrite, got.isolate, got.incremental) == (True, True, False)
    assert (got.batch_size, got.batch_timeout, got.chunk_bytes) == (64, 2.5, 1000)
    assert (got.features, got.output_fields) == (("a", "b"), ("key", "score"))
    assert (got.model_libraries, got.custom_objects) == (("tensorflow_text", "ydf_tf"), ("own.layers",))
    assert got.tf32
    texts = ("model", "signature", "key_input", "model_ops", "model_sha256", "format", "bad_rows", "non_finite")
    assert all(getattr(got, name) == FILLED[name] for name in (*texts, "key_field", "error_field", "prediction_prefix"))


IN_FORM = {name: flag for name, flag in flags_of(RunOptions).items() if flag.in_template}
EMPTY = [f"--{p['name']}=" for p in metadata()["parameters"]]
some_flags = st.fixed_dictionaries({}, optional={name: values_of(flag) for name, flag in IN_FORM.items()})


def given_flags(changed: dict[str, Any]) -> RunOptions:
    try:
        return dataclasses.replace(START, **changed)
    except UsageError:
        assume(False)
        raise


def test_an_untouched_form_is_a_plain_run() -> None:
    """A form sends an empty text for fields that the user left as they are."""
    filled = {word.partition("=")[0] for word in REQUIRED}
    untouched = [word for word in EMPTY if word.partition("=")[0] not in filled]
    assert parsed(*untouched, *REQUIRED, *LAUNCHED) == parse_run(REQUIRED, "keyjoin run")[0]


@given(some_flags)
def test_any_flags_that_the_form_can_have_reach_keyjoin(changed: dict[str, Any]) -> None:
    """The form has no empty texts, and separates several values by spaces. A file of `config` can have both."""
    options = given_flags(changed)
    sent = []
    for name, flag in IN_FORM.items():
        if flag.kind is SWITCH:
            sent.append(f"--{name}={json.dumps(getattr(options, name))}")
        elif flag.words(name, getattr(options, name)):
            texts = flag.kind.texts(getattr(options, name))
            assume(all(text.split() == [text] if flag.kind.collect else text for text in texts))
            sent.append(f"--{name}={' '.join(texts)}")
    launched = json.loads(json.dumps(sent))  # the DAG's request, as the API has it
    assert parsed(*launched) == options


@given(some_flags)
def test_any_flags_reach_keyjoin_by_a_file_and_an_untouched_form(
    tmp_path_factory: pytest.TempPathFactory, changed: dict[str, Any]
) -> None:
    options = given_flags(changed)
    path = tmp_path_factory.getbasetemp() / "job.yaml"
    text = as_yaml(options, [])
    assume("\udcff" not in text)
    path.write_text(text, encoding="utf-8")
    _, *words = flex.command_line([*EMPTY, f"--config={path}"])
    assert parse_run(expanded(words, "keyjoin run"), "keyjoin run") == (options, ["--runner=DataflowRunner"])


def test_the_job_goes_to_dataflow_and_all_else_to_beam() -> None:
    words = flex.command_line([*REQUIRED, "--num_workers=2", "--no_use_public_ips"])
    assert parse_run(words[1:], "")[1] == ["--runner=DataflowRunner", "--num_workers=2", "--no_use_public_ips"]


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ([*REQUIRED, "--overwrite=maybe"], "--overwrite"),
        ([*REQUIRED, "--batch_size=many"], "many"),
        (["--input=", *REQUIRED[1:]], "--input"),
        (REQUIRED[1:], "--input"),
    ],
)
def test_errors_are_reported(parameters: Sequence[str], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        parsed(*parameters)


def test_the_launchers_program_ends_as_keyjoin_does(tmp_path: Path) -> None:
    """Runs outside of the checkout, as in the image, where keyjoin is installed."""
    program = tmp_path / "launch.py"
    program.write_text((ROOT / "dataflow" / "launch.py").read_text())
    words = [sys.executable, program, *REQUIRED, "--overwrite=maybe"]
    done = subprocess.run(
        words, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("keyjoin: error: --overwrite: 'maybe' is not true or false")
