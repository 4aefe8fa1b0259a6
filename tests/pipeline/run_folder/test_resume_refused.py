"""A run is not resumed if its model, options, version or sources have changed."""

import copy
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from pipeline.options.run_options import RunOptions
from pipeline.plan.check_input import check_skipped
from pipeline.run_folder import manifest, resume
from tests.conftest import Result
from tests.support import models
from tests.support.interrupted_run import content
from tests.support.output_states import Folder, loaded
from transforms.errors import UsageError
from transforms.records import Source

# Options that change neither the bytes of the output nor the scored rows, and options whose files are compared instead.
MAY_CHANGE = {
    "input", "model", "output", "overwrite", "incremental", "wave_bytes", "max_bad_rows", "model_ops", "model_sha256",
    "batch_dependence", "isolate", "batch_timeout", "max_memory", "detach", "audit", "max_hours", "max_cost", "prices",
    "canary", "baseline", "report_rows", "progress",
}  # fmt: skip


class TestWhatChanged:
    """A changed model, option or source is refused, and the message names it."""

    def refused(self, keyjoin: Callable[..., Result], output: Path, *flags: str) -> str:
        before = content(output)
        done = keyjoin("run", *flags, f"--output={output}")
        assert done.code == 2, done.out
        assert done.err.count("\n") == 1
        assert content(output) == before
        return done.err

    @pytest.mark.parametrize("stage", ["complete", "unfinished"])
    def test_is_named(
        self, keyjoin: Callable[..., Result], flags: list[str], data: Path, stage: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if stage == "unfinished":
            monkeypatch.setattr(manifest, "write_lists", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                keyjoin("run", *flags)
            monkeypatch.undo()
            output = data.parent / "out-1"
        else:
            output = keyjoin("run", *flags).output
        say = "is complete" if stage == "complete" else "is unfinished"

        def refused(*more: str) -> str:
            return self.refused(keyjoin, output, *flags, *more)

        assert f"{say}, with other settings: --batch_size was not given, is now 512: give" in refused(
            "--batch_size=512"
        )
        assert "--chunk_bytes was 150, is now 151" in refused("--chunk_bytes=151")
        assert "--prediction_prefix was not given, is now p_" in refused("--prediction_prefix=p_")
        weights = next((data.parent / "model").rglob("saved_model.pb"))
        weights.write_bytes(weights.read_bytes() + b"\x12\x00")
        assert "the sha256 of the model's files was " in refused()
        weights.write_bytes(weights.read_bytes()[:-2])
        monkeypatch.setattr(manifest, "VERSION", "0.0.0")
        assert "is now 0.0.0: give" in refused()
        monkeypatch.undo()

        one = data / "a.jsonl"
        kept, times = one.read_bytes(), one.stat()
        one.write_bytes(kept + b"\n")
        assert f"{say}, but {one} had {len(kept)} bytes, and has {len(kept) + 1} now" in refused()
        one.write_bytes(kept.replace(b"7", b"8", 1))
        assert f"{one} has other bytes now, from 0 to " in refused()
        one.write_bytes(kept)
        os.utime(one, ns=(times.st_atime_ns, times.st_mtime_ns + 1_000_000))
        (data / "c.jsonl").write_bytes(b"{}\n")
        said = refused()
        assert f"{data}/c.jsonl is new since; --incremental takes it along" in said
        (data / "c.jsonl").unlink()
        (data / "b.jsonl.gz").rename(data.parent / "b")
        assert f"{data}/b.jsonl.gz is not among the input any more" in refused()
        (data.parent / "b").rename(data / "b.jsonl.gz")
        # A new modification time is no change if the bytes are the same.
        done = keyjoin("run", *flags, f"--output={output}")
        assert (done.code, done.complete()) == (0, True), done.err

    def test_only_what_cannot_change_the_output_may_differ(self, folder: Folder) -> None:
        before = loaded(folder.inputs.settings)
        for name in [field.name for field in dataclasses.fields(RunOptions)]:
            other: Any = copy.copy(before.options)
            object.__setattr__(other, name, "now")
            said = [text.split(" ")[0] for text in resume.differences(before, replace(before, options=other))]
            assert said == ([] if name in MAY_CHANGE else [f"--{name}"])

    @pytest.mark.parametrize(
        ("before", "now", "said"),
        [
            ({"features": ("a", "b")}, {}, "--features was a,b, is now not given"),
            ({"input_map": {"x": "a"}}, {"input_map": {"x": "b"}}, '--input_map was {"x": "a"}, is now {"x": "b"}'),
            ({}, {"key_field": "None"}, "--key_field was not given, is now None"),
            ({}, {"batch_size": 512}, "--batch_size was not given, is now 512"),
        ],
    )
    def test_a_difference_is_spelled(self, folder: Folder, before: Any, now: Any, said: str) -> None:
        start = loaded(folder.inputs.settings)
        one, other = (
            replace(start, options=dataclasses.replace(start.options, output_fields=("key",), **changed))
            for changed in (before, now)
        )
        assert list(resume.differences(one, other)) == [said]
        assert list(resume.differences(other, other)) == []

    @pytest.mark.parametrize(
        ("now", "said"),
        [
            ([], "a.jsonl is not among the input any more"),
            ([Source("a.jsonl", 4, "a", ".jsonl")], "a.jsonl had 3 bytes, and has 4 now"),
            ([Source("a.jsonl", 3, "sub/a", ".jsonl")], "the parts of a.jsonl were called a-….jsonl, and would be sub/a-….jsonl now"),
            ([Source("a.jsonl", 3, "a", ".json")], "the parts of a.jsonl were called a-….jsonl, and would be a-….json now"),
            ([Source("a.jsonl", 3, "a", ".jsonl", 7.0), Source("b.jsonl", 1, "b", ".jsonl")], None),
        ],
    )  # fmt: skip
    def test_a_changed_source_is_spelled(self, now: list[Source], said: str | None) -> None:
        assert next(resume.changed_sources([Source("a.jsonl", 3, "a", ".jsonl")], now), None) == said


HUGE = 1 << 40  # bytes, but no block on the disk


@pytest.mark.parametrize("name", ["_keyjoin/manifest.json", "_SUCCESS"])
def test_a_record_of_hostile_size_is_refused_and_replaced(
    keyjoin: Callable[..., Result], lines: Any, model: Any, name: str
) -> None:
    flags = [f"--input={lines({'x': [1, 2, 3]}, {'x': 1})}", f"--model={model(models.plain)}", "--max_bad_rows=1.0"]
    done = keyjoin("run", *flags)
    assert done.code == 0, done.err
    os.truncate(done.output / name, HUGE)
    verified = keyjoin("verify", f"--run={done.output}")
    assert (verified.code, name in verified.out) == (4, True), verified
    output = f"--output={done.output}"
    if name == "_keyjoin/manifest.json":
        words = "is damaged (it has more than 67,108,864 bytes"
        for command in (["run", *flags, output], ["check", *flags, output], ["replay", f"--run={done.output}"]):
            refused = keyjoin(*command)
            assert (refused.code, words in refused.err, "overwrite" in refused.err) == (2, True, True), refused.err
    again = keyjoin("run", *flags, output, "--overwrite")
    assert (again.code, again.complete()) == (0, True), again.err
    assert keyjoin("verify", f"--run={done.output}").code == 0


def test_more_skipped_files_than_a_manifest_can_list_are_refused() -> None:
    check_skipped(["data/_a"] * 1_000)
    with pytest.raises(UsageError, match=r"4,000,000 files of the input are skipped for their names, such as data/_a,"):
        check_skipped(["data/_a"] * 4_000_000)
