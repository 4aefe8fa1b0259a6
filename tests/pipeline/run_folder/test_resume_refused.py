"""What a run refuses to go on from: another model, option, version or source."""

import copy
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from pipeline.options.run_options import RunOptions
from pipeline.run_folder import manifest, resume
from tests.conftest import Result
from tests.support.left import Folder, loaded
from tests.support.resumed import content
from transforms.records import Source

# Options that change neither the bytes of the output nor what is scored, and those whose files are compared.
MAY_CHANGE = {
    "input", "model", "output", "overwrite", "incremental", "wave_bytes", "max_bad_rows", "model_ops", "model_sha256",
    "batch_dependence", "isolate", "batch_timeout", "max_memory", "detach",
}  # fmt: skip


class TestWhatChanged:
    """Another model, other options, other sources: refused, by name."""

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
        # The time alone is no change, once the bytes are looked at.
        done = keyjoin("run", *flags, f"--output={output}")
        assert (done.code, done.complete()) == (0, True), done.err

    def test_only_what_cannot_change_the_output_may_differ(self, folder: Folder) -> None:
        before = loaded(folder.inputs.settings)
        for name in RunOptions.__dataclass_fields__:
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
