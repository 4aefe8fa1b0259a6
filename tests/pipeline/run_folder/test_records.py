"""The records of a run are read back as written; every command refuses an invalid record in one line."""

import contextlib
import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.options import kinds
from pipeline.options.error_limits import ErrorLimits
from pipeline.options.flag import SWITCH, Flag, Kind, flags_of
from pipeline.options.run_options import RunOptions, command, parse_run
from pipeline.run_folder import manifest, records
from tests.conftest import Result
from tests.support.output_states import loaded
from tests.support.verified_runs import forge
from transforms.errors import RunError, UsageError
from transforms.formats.spec import FormatSpec
from transforms.write_receipts import decode

# Texts that look like a default, a number, a list, another flag, or nothing.
TRICKY = [
    "None",
    "",
    "error",
    "serving_default",
    "True",
    "0",
    "1e3",
    "a,b",
    "a=b",
    "-",
    "--x",
    " é\n'",
    "価格",
    "a\x85b\u2028c",
    "\udcff",
]
texts = st.sampled_from(TRICKY) | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
texts = texts.filter(lambda text: text != "--")  # argparse takes "--" as no value
names = texts.map(lambda text: text.replace(",", "").strip()).filter(bool)
lists = st.lists(texts.filter(bool), min_size=1, max_size=2).map(tuple)
paths = st.lists(texts.filter(bool), min_size=1, max_size=2).map(tuple)
columns = st.lists(names.filter(lambda name: name[0] != "["), min_size=1, max_size=2).map(tuple)
columns |= st.lists(paths, min_size=1, max_size=2).map(tuple)
inputs = names.filter(lambda name: name[0] not in "={" and "," not in name)
fields_of_rows = names.map(lambda name: name.replace("=", "").replace(",", "")).filter(bool)


def of_paths(kind: Kind) -> st.SearchStrategy[str]:
    """Texts that a kind takes for a path: it refuses `~`, `file:/x` and the like, which nobody means."""

    def is_taken(text: str) -> bool:
        try:
            kind.parse(text)
        except ValueError:
            return False
        return True

    return texts.filter(is_taken)


VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    SWITCH: st.booleans(),
    kinds.TEXT: texts,
    kinds.MODEL: of_paths(kinds.MODEL),
    kinds.PATH: of_paths(kinds.PATH),
    kinds.OUTPUT: of_paths(kinds.OUTPUT),
    kinds.INPUTS: st.lists(of_paths(kinds.PATH), min_size=1, max_size=2).map(tuple),
    kinds.SECONDS: st.floats(0.01, 1e6),
    kinds.AMOUNT: st.floats(0.0001, 1e9),
    kinds.SHA256: st.just("0" * 64),
    kinds.ACCELERATOR: st.just("type:nvidia-l4;count:1"),
    kinds.NAMES: lists,
    kinds.DELIMITER: st.sampled_from([",", "\t", ";", " ", "'", "="]),
    kinds.QUOTE: st.sampled_from(["'", '"', "none", "|"]),
    kinds.COLUMNS: columns,
    kinds.MODULES: st.sampled_from([("layers",), ("a.b", "ydf_tf")]),
    kinds.CONSTANTS: st.dictionaries(names.map(lambda name: name.replace("=", "")).filter(bool), texts, max_size=2),
    kinds.RENAMES: st.dictionaries(
        names.map(lambda name: name.replace("=", "")).filter(bool), texts.filter(bool), max_size=2
    ),
    kinds.PADDING: st.sampled_from([("tokens=0",), ("a=b=", "é=-1,5", "x= ")]),
    kinds.FIELDS: st.dictionaries(inputs, fields_of_rows | st.lists(texts, min_size=1).map(tuple), max_size=2),
    kinds.VALUES: st.dictionaries(texts.filter(bool), texts, max_size=2),
    kinds.ERROR_LIMITS: st.sampled_from(["0", "0.01", "1.0", "7,null=2", "0.5,not_json=1e-2"]).map(
        lambda text: ErrorLimits.parse([text])
    ),
}


def values_of(flag: Flag) -> st.SearchStrategy[Any]:
    if flag.kind.choices:
        found: st.SearchStrategy[Any] = st.sampled_from(flag.kind.choices)
    else:
        found = (
            st.integers(1, 1 << 24)
            if flag.kind.parameter == "NUMBER" or flag.kind.note == kinds.SIZES
            else VALUES[flag.kind]
        )
    return found if flag.required else st.just(flag.default) | found


START, _ = parse_run(["--input=i", "--model=m", "--output=o"], "run")


@given(st.fixed_dictionaries({}, optional={name: values_of(flag) for name, flag in flags_of(RunOptions).items()}))
def test_any_options_are_the_same_once_they_were_recorded(changed: dict[str, Any]) -> None:
    try:
        options = dataclasses.replace(START, **changed)
    except UsageError:
        assume(False)
    again, left = parse_run(command(options, options.output)[2:], "run")
    assert left == []
    assert again == dataclasses.replace(options, overwrite=False, incremental=False)
    cost = records.JobCost(
        workers=2,
        machine_type="n2-standard-4",
        hours=(0.5, 1.5),
        vcpu_hours=(4.0, 12.0),
        price=None,
        currency="USD",
        unknown=("nvidia-l4",),
        prices="a list",
        fed_share=0.25,
    )
    job = records.Job(**{**fields(options), "cost": cost}, sources_sha256="0" * 64)
    assert records.decode(records.encode(job), records.Job) == job


def fields(options: RunOptions) -> dict[str, Any]:
    model = records.ModelFiles(path="m", sha256="0" * 64)
    found = loaded(
        records.Settings(options=options, format=FormatSpec("jsonl"), model=model, versions={"keyjoin": "1"})
    )
    return {name: getattr(found, name) for name in records.LoadedSettings.__struct_fields__}


def test_a_value_that_argparse_loses_is_refused() -> None:
    for flag in ("--key_field=--", "--input=--"):
        with pytest.raises(UsageError, match="-- cannot be a value"):
            parse_run(["--input=i", "--model=m", "--output=o", flag], "run")


@pytest.fixture(scope="module")
def documents(made: list[str]) -> dict[str, Any]:
    output = Path(made[-1].partition("=")[2])
    found = {"_keyjoin/manifest.json": json.loads((output / "_keyjoin/manifest.json").read_bytes())}
    for name in ("_keyjoin/parts.jsonl", "_keyjoin/sources.jsonl"):
        found[name] = json.loads((output / name).read_bytes().splitlines()[0])
    kept = ("schema_version", "options", "format", "model", "versions")
    found["_keyjoin/job.json"] = {name: found["_keyjoin/manifest.json"][name] for name in kept} | {
        "sources_sha256": "0" * 64
    }
    return found


DECODE: dict[str, Callable[[bytes], Any]] = {
    "_keyjoin/manifest.json": lambda text: records.decode(text, records.Manifest),
    "_keyjoin/job.json": lambda text: records.decode(text, records.Job),
    "_keyjoin/parts.jsonl": decode,
    "_keyjoin/sources.jsonl": manifest.decode_source,
}
plain = st.sampled_from(
    [None, True, -1, 0, 1, 1 << 64, 10**400, 0.5, 1e308, "", "x", "\0", "../../x", "/etc", "\x1b[2J"]
)
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """All positions in a document: the container, and the name or index in it."""
    for at, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, at
        yield from places(inner)


@given(st.sampled_from(sorted(DECODE)), st.data())
def test_any_change_of_a_record_gives_another_one_or_is_refused(
    documents: dict[str, Any], name: str, data: st.DataObject
) -> None:
    document = copy.deepcopy(documents[name])
    DECODE[name](json.dumps(document).encode())
    held, at = data.draw(st.sampled_from(list(places(document))))
    how = data.draw(st.sampled_from(["change", "remove", "add"]))
    if how == "remove":
        del held[at]
    elif how == "add" and isinstance(held, dict):
        held["added"] = data.draw(values)
    else:
        held[at] = data.draw(values)
    text = json.dumps(document).encode()
    with contextlib.suppress(ValueError):  # no other error may be raised
        assert DECODE[name](text) == DECODE[name](text)


@pytest.mark.parametrize("name", sorted(DECODE))
@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b"1", b'"x"', b"[" * 100_000, b'{"a":' * 100_000, b'{"schema_version": 5, "a": NaN}',
     b'"\xff"', b"\xff\xfe{\0}\0", b'{"schema_version": 1' + b"0" * 5000 + b"}"],
)  # fmt: skip
def test_what_is_no_record_is_refused(name: str, text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        DECODE[name](text)


def set_in(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = to

    return change


SHAPES = {
    "options are a text": set_in("options", to="x"),
    "an option of another type": set_in("options", "batch_size", to="512"),
    "an option out of range": set_in("options", "chunk_bytes", to=-1),
    "an option that there is not": set_in("options", "later", to=True),
    "an option with a NUL": set_in("options", "key_field", to="\0"),
    "options that no command gives": set_in("options", "features", to=["a", ""]),
    "a limit that is none": set_in("options", "max_bad_rows", to={"all": 1}),
    "limits without all": set_in("options", "max_bad_rows", to=["0.5"]),
    "versions are a list": set_in("versions", to=[]),
    "a model that is a list": set_in("model", to=[]),
    "a model path that is a number": set_in("model", "path", to=7),
    "a key input of two": set_in("model", "key_input", to=["a", "b"]),
    "a key without its output": set_in("model", "key_outputs", to={}),
    "a shape below zero": set_in("model", "inputs", "x", "shape", to=[-3]),
    "a batch of none": set_in("model", "batch_size", to=0),
    "an unknown format": set_in("format", "name", to="csv2"),
    "totals that are a list": set_in("totals", to=[]),
    "a total below zero": set_in("totals", "rows", to=-1),
    "a total that is huge": set_in("totals", "parts", to=10**30),
    "dead letters that are none": set_in("totals", "dead", to="x"),
    "a file that is none of the lists": set_in("files", "../../x", to={"bytes": 0, "crc32c": "00000000"}),
    "another status": set_in("status", to="done"),
    "replays of nothing": set_in("replays", to=[{}]),
    "no version": set_in("schema_version", to=None),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_command_refuses_it_in_one_line(
    keyjoin: Callable[..., Result], made: list[str], out: Path, shape: str
) -> None:
    """Each command refuses the record, even if all checksums are correct."""
    forge(out, SHAPES[shape], lists={})
    argv = [*made[:-1], f"--output={out}"]
    outside = {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()}
    calls = [["run", *argv], ["check", *argv], ["replay", f"--run={out}"], ["verify", f"--run={out}"]]
    calls.append(["verify", f"--run={out}", "--rescore=1", made[1]])
    for call in calls:
        done = keyjoin(*call)
        assert done.code in ((4,) if call[0] == "verify" else (1, 2)), (call, done.err)
        assert done.err.count("\n") == (call[0] != "verify"), (call, done.err)
        assert "_keyjoin/manifest.json" in done.out + done.err
        assert "--overwrite" in done.out + done.err
    assert {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()} == outside


@pytest.mark.parametrize("text", ["x", "{}", '{"schema_version": 5}', '{"schema_version": 5, "options": "x"}'])
def test_every_command_refuses_a_job_in_one_line(
    keyjoin: Callable[..., Result], made: list[str], out: Path, text: str
) -> None:
    (out / "_SUCCESS").unlink()
    (out / "_keyjoin/manifest.json").unlink()
    (out / "_keyjoin/job.json").write_text(text)
    argv = [*made[:-1], f"--output={out}"]
    for call in (["run", *argv], ["check", *argv], ["replay", f"--run={out}"], ["verify", f"--run={out}"]):
        done = keyjoin(*call)
        assert (done.code in (1, 2), done.err.count("\n")) == (True, 1), (call, done.err)


def test_another_version_is_reported(keyjoin: Callable[..., Result], made: list[str], out: Path) -> None:
    forge(out, set_in("schema_version", to=records.SCHEMA_VERSION - 1), lists={})
    for call in (["run", *made[:-1], f"--output={out}"], ["replay", f"--run={out}"], ["verify", f"--run={out}"]):
        done = keyjoin(*call)
        assert done.code == 2
        assert f"it has schema_version {records.SCHEMA_VERSION - 1}, not {records.SCHEMA_VERSION}" in done.err


def test_a_record_of_a_remote_run_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "_keyjoin").mkdir()
    (tmp_path / "_keyjoin/manifest.json").write_text("[]")
    with pytest.raises(RunError, match=r"_keyjoin/manifest.json is damaged \(.*\); run again with --overwrite"):
        records.read(str(tmp_path), records.Manifest)
    assert records.read(str(tmp_path), records.Job) is None
