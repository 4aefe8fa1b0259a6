"""The manifest: what a run writes about itself, in which order, and how it is read back."""

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import google_crc32c
import msgspec
import numpy as np
import pyarrow as pa
import pytest

from pipeline import VERSION
from pipeline.model import check_model
from pipeline.options.run_options import RunOptions, parse_run
from pipeline.plan.batch_dependence import Dependence, Verdict
from pipeline.plan.chunk_size import ChunkSize
from pipeline.run_folder import ledger, manifest, records
from pipeline.run_folder.statistics import read_statistics
from tests.support.output_states import loaded
from transforms.errors import RunError
from transforms.formats.spec import FormatSpec
from transforms.records import Chunk, Feature, Layout, PartReceipt, Source
from transforms.saved_model.model import Contract, Echo, Tensor
from transforms.statistics import count_predictions, pack
from transforms.storage import files
from transforms.write_receipts import encode, read_receipts, write_list

SOURCES = [Source("in/é.jsonl", 30, "é", ".jsonl", 5.5), Source("in/b.jsonl", 7, "b", ".jsonl", 6.0)]


def receipt(source: str, number: int, parts: int, start: int, end: int, dead: dict[str, int]) -> PartReceipt:
    chunk = Chunk(source, "", start, end, number, parts, f"{source[3:]}-{number}")
    return PartReceipt(chunk, 9, 3, 1, 3 - sum(dead.values()), dead, 50, 1, 20, 5, 8)


PARTS = [
    receipt("in/b.jsonl", 0, 1, 0, 7, {}),
    receipt("in/é.jsonl", 0, 2, 0, 10, {"null": 1}),
    receipt("in/é.jsonl", 1, 2, 10, 30, {"null": 1, "json": 1}),
]


@pytest.fixture
def options(tmp_path: Path) -> RunOptions:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"never loaded")
    flags = ["--input=in/*", f"--model={tmp_path / 'model'}", f"--output={tmp_path / 'out'}", "--max_bad_rows=7,null=1"]
    return parse_run(flags, "keyjoin run")[0]


@pytest.fixture
def plan(options: RunOptions) -> Any:
    """The fields of a plan that the manifest needs."""
    temp = f"{options.output}/_keyjoin/temp"
    settings = loaded(manifest.settings(options, FormatSpec("jsonl")))
    return SimpleNamespace(job=SimpleNamespace(temp=temp), sources=SOURCES, settings=settings, skipped=["in/_x"])


def begin(options: RunOptions, plan: Any) -> None:
    manifest.begin(options.output, plan.settings, plan.sources)


def commit(options: RunOptions, plan: Any, totals: ledger.Totals, seconds: float, *, success: bool) -> None:
    manifest.commit(
        options.output,
        plan.settings,
        plan.sources,
        plan.skipped,
        totals,
        seconds,
        success=success,
        mark="_SUCCESS" if success else None,
    )


def read(path: str) -> Any:
    return json.loads(Path(path).read_bytes())


def test_settings_are_all_that_an_output_comes_of(options: RunOptions) -> None:
    found = records.to_json(manifest.settings(options, FormatSpec("jsonl")))
    assert found == json.loads(json.dumps(found))
    names = {field.name for field in dataclasses.fields(RunOptions)}
    assert (set(found), set(found["options"])) == ({"options", "format", "model", "versions"}, names)
    assert found["options"]["max_bad_rows"] == options.max_bad_rows.texts()
    assert found["options"]["input"] == ["in/*"]
    assert found["format"] == {"name": "jsonl"}
    assert found["model"] == {"path": options.model, "sha256": check_model.fingerprint(options.model)}
    packages = ("apache-beam", "tensorflow", "pyarrow", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    assert found["versions"] == {"keyjoin": VERSION, "python": platform.python_version(), **versions}


X, Y, KEY = (Tensor(name, "float32", (2,), name) for name in ("x", "y", "key"))


@pytest.mark.parametrize(
    ("key", "echoes", "said"),
    [
        (None, (), (None, {})),
        (KEY, (Echo("who", False),), ("key", {"who": False})),
        (KEY, (Echo("who", False), Echo("y", True)), ("key", {"who": False, "y": True})),
    ],
)
def test_the_model_and_its_batch_size_are_kept(options: RunOptions, key: Any, echoes: Any, said: Any) -> None:
    handler: Any = SimpleNamespace(
        contract=Contract("serve", (X,), (Y,), key, echoes), features=(Feature("x", "float32", (2,), ("a", "b")),),
        batch_size=96,
    )  # fmt: skip
    layout = Layout(True, (), (), None, None, (("y", "p_y"),))
    before = manifest.settings(options, FormatSpec("jsonl"))
    chunk = ChunkSize(1 << 20, 480)
    dependence = Dependence(Verdict.INDEPENDENT, rows=(1, 96))
    found = manifest.with_contract(before, before.format, handler, layout, chunk, [], dependence)
    assert (found.options, found.format, found.versions) == (options, FormatSpec("jsonl"), before.versions)
    assert records.to_json(found.model) == {
        "path": options.model, "sha256": before.model.sha256, "ops": {"verdict": "computes only", "policy": None, "findings": []},
        "signature": "serve", "key_input": said[0], "key_outputs": said[1],
        "inputs": {"x": {"dtype": "float32", "shape": [2], "fields": ["a", "b"]}}, "predictions": {"y": "p_y"},
        "batch_size": 96,
        "output_shapes": {"y": [1] if "y" in said[1] else [2]}, "output_dtypes": {"y": "float32"}, "batch_dependence": {
            "verdict": "independent", "output": None, "expected": None, "found": None, "rows": [1, 96],
        },
        "chunk_bytes": 1 << 20, "chunk_rows": 480,
    }  # fmt: skip
    assert manifest.kept_of(found) == (96, chunk, "")


class TestBegin:
    """The record of a run that has started."""

    def test_what_was_planned_is_read_again(self, options: RunOptions, plan: Any) -> None:
        begin(options, plan)
        job = read(f"{options.output}/_keyjoin/job.json")
        assert job == {
            "schema_version": records.SCHEMA_VERSION,
            **records.to_json(plan.settings),
            "sources_sha256": job["sources_sha256"],
        }
        found = records.read(options.output, records.Job)
        assert found is not None
        listed = Path(manifest.planned_path(plan.job.temp, job["sources_sha256"]))
        assert listed.parent == Path(plan.job.temp, "sources")
        assert listed.name == f"{hashlib.sha256(listed.read_bytes()).hexdigest()}.jsonl"
        assert manifest.read_planned(plan.job.temp, found) == SOURCES
        assert Path(options.output, "_keyjoin/job.json").read_bytes().isascii()
        listed.write_bytes(listed.read_bytes().replace(b":30,", b":31,"))
        assert manifest.read_planned(plan.job.temp, found) is None
        listed.unlink()
        assert manifest.read_planned(plan.job.temp, found) is None

    def test_the_list_is_there_before_what_names_it_and_nothing_is_written_twice(
        self, options: RunOptions, plan: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written = []
        write = files.write_whole
        monkeypatch.setattr(files, "write_whole", lambda path, blocks: (written.append(path), write(path, blocks))[1])
        begin(options, plan)
        digest = read(f"{options.output}/_keyjoin/job.json")["sources_sha256"]
        expected = [manifest.planned_path(plan.job.temp, digest), f"{options.output}/_keyjoin/job.json"]
        assert written == expected
        begin(options, plan)
        assert written == expected
        plan.settings = msgspec.structs.replace(plan.settings, format=FormatSpec("tfrecord"))
        begin(options, plan)
        assert written == [*expected, f"{options.output}/_keyjoin/job.json"]


class TestCommit:
    """The record of a run's result."""

    TOTALS = ledger.total(PARTS)

    @pytest.fixture
    def done(self, options: RunOptions, plan: Any) -> Any:
        begin(options, plan)
        write_list(plan.job.temp, 0, "00", PARTS[1:])
        write_list(plan.job.temp, 0, "01", PARTS[:1])
        return plan

    @pytest.mark.parametrize("success", [True, False])
    def test_the_record_is_complete_and_success_is_last(
        self, options: RunOptions, done: Any, success: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps = []

        def seeing(original: Any) -> Any:
            def see(path: str, *rest: Any) -> Any:
                steps.append(path.removeprefix(f"{options.output}/"))
                return original(path, *rest)

            return see

        for name in ("write_whole", "delete_tree"):
            monkeypatch.setattr(files, name, seeing(getattr(files, name)))
        commit(options, done, self.TOTALS, 12.34567, success=success)
        lists = ["_keyjoin/parts.jsonl", "_keyjoin/sources.jsonl", "_keyjoin/statistics.json"]
        written = [*lists, "_keyjoin/manifest.json"] + ["_SUCCESS"] * success
        assert steps == [*written, "_keyjoin/job.json", "_keyjoin/temp"]
        assert sorted(files.list_below(options.output)) == sorted(written)
        text = Path(options.output, "_keyjoin/manifest.json").read_bytes()
        assert (text.isascii(), text.endswith(b"}\n")) == (True, True)
        listed = {name: Path(options.output, name).read_bytes() for name in lists}
        assert json.loads(text) == {
            "schema_version": records.SCHEMA_VERSION,
            "status": "complete" if success else "over the error limit",
            **records.to_json(done.settings),
            "totals": records.to_json(self.TOTALS),
            "files": {n: {"bytes": len(t), "crc32c": f"{google_crc32c.value(t):08x}"} for n, t in listed.items()},
            "skipped": ["in/_x"],
            "seconds": 12.346,
        }
        if success:
            digest = hashlib.sha256(text).hexdigest()
            assert Path(options.output, "_SUCCESS").read_text() == f'{{\n "manifest_sha256": "{digest}"\n}}\n'

    def test_the_lists_have_a_line_for_each_part_and_each_source(self, options: RunOptions, done: Any) -> None:
        commit(options, done, self.TOTALS, 1, success=True)
        parts = Path(options.output, "_keyjoin/parts.jsonl").read_bytes().splitlines()
        assert parts == [encode(part) for part in PARTS]
        path = f"{options.output}/_keyjoin/sources.jsonl"
        assert [json.loads(line) for line in Path(path).read_bytes().splitlines()] == [
            {**SOURCES[1]._asdict(), **records.to_json(ledger.total(PARTS[:1]))},
            {**SOURCES[0]._asdict(), **records.to_json(ledger.total(PARTS[1:]))},
        ]
        assert list(manifest.read_sources(path)) == [SOURCES[1], SOURCES[0]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"path": "a", "size": 1, "stem": "a", "suffix": ""}', "it has no 'updated'"),
        (
            b'{"path": "a", "size": "1", "stem": "a", "suffix": "", "updated": 1, "version": ""}',
            "Expected `int`, got `str`",
        ),
        (b'["a"]', "Expected `object`, got `array`"),
        (b"{", "truncated"),
    ],
)
def test_a_source_that_is_none_is_reported(tmp_path: Path, line: bytes, said: str) -> None:
    path = tmp_path / "list.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(RunError, match=rf"list.jsonl is damaged: .*{said}.*; run again with --overwrite"):
        list(manifest.read_sources(str(path)))


def test_the_commit_holds_the_statistics_of_few_parts_at_a_time(tmp_path: Path) -> None:
    """All parts are of one source. Their statistics together are larger than the limit."""
    numbers = np.random.default_rng(7).lognormal(sigma=4, size=(2, 30_000)).astype(np.float32)
    packed, many = (
        pack(count_predictions(pa.record_batch({"a": numbers[0], "b": numbers[1]}), [("a", "a"), ("b", "b")])),
        1_500,
    )
    parts = [receipt("in/b.jsonl", at, many, at, at + 1, {})._replace(statistics=(packed,)) for at in range(many)]
    temp, source = str(tmp_path), Source("in/b.jsonl", many, "b", ".jsonl", 6.0)
    write_list(temp, 0, "00", parts)
    tracemalloc.start()
    try:
        problems = sum(1 for _ in ledger.problems([source], {source.path: source}, read_receipts(temp), {}, "byte"))
        manifest.write_lists(temp, temp, [source])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    columns = read_statistics(temp)
    assert columns is not None
    assert ([column.rows for column in columns], problems) == ([many * numbers.shape[1]] * 2, many)  # no part is there
    assert peak < 5_000_000 < many * len(packed)
