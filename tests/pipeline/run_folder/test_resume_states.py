"""The states of an output folder after an earlier run, and how a run treats each; without executing a run."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from pipeline.run_folder import resume
from pipeline.run_folder.records import SCHEMA_VERSION, Manifest
from pipeline.run_folder.resume import Stage
from pipeline.run_folder.unexpected_files import check_folder
from tests.support.interrupted_run import content
from tests.support.output_states import ROWS, Folder, finished, loaded
from transforms.errors import RunError, UsageError
from transforms.formats.spec import FormatSpec
from transforms.storage import files
from transforms.write_part import dead_letters_name
from transforms.write_receipts import receipt_path, write_list, write_receipt


class TestLook:
    """The state of a folder."""

    def test_in_nothing_there_is_nothing(self, folder: Folder) -> None:
        assert resume.find_earlier(str(folder.output)) is None
        folder.output.mkdir()
        assert resume.find_earlier(str(folder.output)) is None

    def test_unfinished(self, folder: Folder) -> None:
        folder.begin()
        found = folder.find_earlier()
        assert (found.stage, found.sources) == (Stage.UNFINISHED, folder.inputs.matched.sources)
        assert found.record.model.path == folder.inputs.settings.model.path
        next(Path(folder.temp, "sources").iterdir()).unlink()
        assert folder.find_earlier() == (str(folder.output), Stage.UNFINISHED, found.record, None)

    @pytest.mark.parametrize(("success", "stage"), [(True, Stage.COMPLETE), (False, Stage.COMMITTED)])
    def test_committed(self, folder: Folder, success: bool, stage: Stage) -> None:
        finished(folder, success=success)
        found = folder.find_earlier()
        assert (found.stage, found.sources) == (stage, folder.inputs.matched.sources)
        assert isinstance(found.record, Manifest)
        assert found.record.totals.parts == 3

    def test_success_counts_for_the_manifest_that_it_names(self, folder: Folder) -> None:
        finished(folder)
        (folder.output / "_SUCCESS").write_bytes(b"{}")
        assert folder.find_earlier().stage is Stage.COMMITTED
        (folder.output / "_SUCCESS").unlink()
        assert folder.find_earlier().stage is Stage.COMMITTED

    def test_a_job_beside_a_manifest_counts_unless_there_is_success(self, folder: Folder) -> None:
        folder.begin()
        job = (folder.output / "_keyjoin/job.json").read_bytes()
        finished(folder)
        (folder.output / "_keyjoin/job.json").write_bytes(job)
        assert folder.find_earlier().stage is Stage.COMPLETE
        (folder.output / "_SUCCESS").unlink()
        assert folder.find_earlier().stage is Stage.UNFINISHED
        (folder.output / "_keyjoin/job.json").write_bytes(job[:-9])  # a cut record counts as no record
        assert folder.find_earlier().stage is Stage.COMMITTED
        (folder.output / "_keyjoin/manifest.json").unlink()
        assert resume.find_earlier(str(folder.output)) is None

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("{", "_keyjoin/manifest.json is damaged (Expecting property name"),
            ("[]", "_keyjoin/manifest.json is damaged (it has no schema_version"),
            ("{}", "_keyjoin/manifest.json is damaged (it has no schema_version)"),
            ('{"schema_version": true}', "_keyjoin/manifest.json is damaged (it has no schema_version)"),
            (
                f'{{"schema_version": {SCHEMA_VERSION}}}',
                "_keyjoin/manifest.json is damaged (Object missing required field",
            ),
            ('{"schema_version": 1}', "was written by another version of keyjoin"),
        ],
    )
    def test_what_cannot_be_read_is_refused(self, folder: Folder, text: str, said: str) -> None:
        finished(folder)
        (folder.output / "_keyjoin/manifest.json").write_text(text)
        with pytest.raises(UsageError) as refused:
            folder.find_earlier()
        assert said in str(refused.value)
        assert str(refused.value).endswith("; --overwrite starts anew")

    @pytest.mark.parametrize("name", ["_keyjoin/parts.jsonl", "_keyjoin/sources.jsonl", "_keyjoin/statistics.json"])
    @pytest.mark.parametrize("damage", [lambda text: text + b"\n", lambda text: text.replace(b"o", b"O", 1)])
    def test_lists_are_as_the_manifest_says(self, folder: Folder, name: str, damage: Callable[[bytes], bytes]) -> None:
        finished(folder)
        path = folder.output / name
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(
            UsageError, match=f"{name} is not what _keyjoin/manifest.json says of it; --overwrite starts anew"
        ):
            folder.find_earlier()


class TestCheckFolder:
    """Folders that are not the output of a run."""

    UNFINISHED: Any = SimpleNamespace(stage=Stage.UNFINISHED, sources=None)

    @pytest.mark.parametrize(
        ("names", "earlier", "overwrite", "said"),
        [
            ([], None, False, None),
            (["_keyjoin/job.json"], None, False, None),
            (
                [
                    "_keyjoin/lock",
                    "_keyjoin/temp/sources/x.jsonl",
                    "_keyjoin/temp/spill/1",
                    "_x.jsonl." + "0" * 32 + ".tmp",
                ],
                None,
                False,
                None,
            ),
            (["a-00000-of-00001.jsonl"], None, False, "is not empty; choose another folder, or replace it with --ov"),
            (["_keyjoin/job.json", "_keyjoin/manifest.json"], None, False, "is not empty"),
            (["_keyjoin/manifest.json", "a-00000-of-00001.jsonl"], None, True, None),
            (["_keyjoin/job.json", "a-00000-of-00001.jsonl"], None, True, None),
            (
                ["_keyjoin/manifest.json", "notes.txt"],
                None,
                True,
                "holds notes.txt, which keyjoin did not write; move it",
            ),
            (
                ["a-00000-of-00001.jsonl", "_SUCCESS"],
                None,
                True,
                "holds a-00000-of-00001.jsonl and neither _keyjoin/job.json",
            ),
            (["_keyjoin/job.json", "a-00000-of-00001.jsonl", "_keyjoin/temp/receipts/a.json"], UNFINISHED, False, None),
            (["_keyjoin/job.json", "notes.txt"], UNFINISHED, False, "holds notes.txt, which keyjoin did not write"),
        ],
    )
    def test_it(self, folder: Folder, names: list[str], earlier: Any, overwrite: bool, said: str | None) -> None:
        options = dataclasses.replace(folder.options, overwrite=overwrite)
        if said is None:
            check_folder(options, names, folder.inputs.matched.sources, is_resumed=earlier is not None)
        else:
            with pytest.raises(UsageError, match=f"--output {options.output} {said}"):
                check_folder(options, names, folder.inputs.matched.sources, is_resumed=earlier is not None)


class TestCheck:
    """Earlier runs that a run may resume."""

    @pytest.fixture(params=["unfinished", "over the error limit", "complete"])
    def left(self, request: Any, folder: Folder) -> Folder:
        if request.param != "unfinished":
            return finished(folder, success=request.param == "complete")
        folder.begin()
        folder.write()
        return folder

    def test_the_same_command(self, left: Folder) -> None:
        assert left.check() == []

    def test_what_changes_no_byte(self, left: Folder) -> None:
        assert left.check("--max_bad_rows=5", "--wave_bytes=100", "--model_ops=warn", "--isolate") == []

    def test_another_option(self, left: Folder) -> None:
        with pytest.raises(
            UsageError, match=rf"holds a run that {left.find_earlier().stage.value}, with other settings: --batch_size"
        ):
            left.check("--batch_size=96")

    def test_a_new_source(self, left: Folder) -> None:
        new = Path(left.parts[0].chunk.source).with_name("c.jsonl")
        new.write_bytes(b"{}")
        said = rf"holds a run that {left.find_earlier().stage.value}, and {new} is new since; --incremental takes it along, --over"
        with pytest.raises(UsageError, match=said):
            left.check()
        assert [source.path for source in left.check("--incremental")] == [str(new)]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda path: path.unlink(), "is not among the input any more"),
            (lambda path: path.write_bytes(ROWS + b"k"), "had 20 bytes, and has 21 now"),
            (lambda path: path.write_bytes(ROWS[:9] + b"!" + ROWS[10:]), "has other bytes now, from 0 to 10"),
            (lambda path: path.write_bytes(ROWS[:-1] + b"!"), "has other bytes now, from 10 to 20"),
        ],
    )
    def test_a_source_that_changed(self, left: Folder, change: Callable[[Path], Any], said: str) -> None:
        path = Path(left.parts[0].chunk.source)
        change(path)
        if path.exists():
            os.utime(path, (5, 5))
        with pytest.raises(UsageError) as refused:
            left.check()
        assert f"holds a run that {left.find_earlier().stage.value}, but {path} {said}; --over" in str(refused.value)

    def test_a_source_that_was_only_touched(self, left: Folder) -> None:
        for path in (left.parts[0].chunk.source, left.parts[2].chunk.source):
            os.utime(path, (5, 5))
        assert left.check() == []

    def test_a_gzip_source_is_compared_as_it_was_read(self, left: Folder) -> None:
        path = Path(left.parts[2].chunk.source)
        packed = path.read_bytes()
        path.write_bytes(bytes([packed[0] ^ 1]) + packed[1:])
        os.utime(path, (5, 5))
        with pytest.raises(UsageError, match=rf"{path} was written since and cannot be read: "):
            left.check()

    def test_a_source_of_the_same_time_is_not_read_again(self, left: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
        for function in ("_first_changed", "_receipts"):  # there may be a million of them
            monkeypatch.setattr(resume, function, lambda *_: 1 / 0)
        assert left.check() == []

    def test_names_of_parts_that_would_change(self, left: Folder) -> None:
        path, now = Path(left.parts[0].chunk.source), left.again()
        moved = [source._replace(stem=f"deep/{source.stem}") for source in now.matched.sources]
        said = f"but the parts of {path} were called a-….jsonl, and would be deep/a-….jsonl now"
        with pytest.raises(UsageError, match=said):
            resume.check(left.find_earlier(), left.options, now._replace(matched=now.matched._replace(sources=moved)))


class TestUnfinished:
    """Of an unfinished run, only written parts count."""

    def test_bytes_that_were_not_scored_may_change(self, folder: Folder) -> None:
        folder.begin()
        folder.write(receipts=1)
        path = Path(folder.parts[0].chunk.source)
        path.write_bytes(ROWS[:-1] + b"!")
        os.utime(path, (5, 5))
        assert folder.check() == []

    @pytest.mark.parametrize("text", [b"", b"{}", None])
    def test_a_damaged_receipt_proves_nothing(self, folder: Folder, text: bytes | None) -> None:
        folder.begin()
        folder.write()
        path = Path(folder.parts[0].chunk.source)
        path.write_bytes(b"!" + ROWS[1:])
        os.utime(path, (5, 5))
        damaged = Path(receipt_path(folder.temp, folder.parts[0].chunk.part))
        damaged.unlink() if text is None else damaged.write_bytes(text)
        assert folder.check() == []

    def test_receipts_of_another_source_with_such_a_name_are_not_its_own(self, folder: Folder) -> None:
        folder.begin()
        folder.write()
        part = folder.parts[0]
        other = part._replace(chunk=part.chunk._replace(source="a-b.jsonl", part="a-b-00000-of-00001.jsonl"))
        write_receipt(folder.temp, other._replace(input_checksum=1))
        os.utime(part.chunk.source, (5, 5))
        assert folder.check() == []

    def test_without_the_list_of_what_was_planned_anything_may_have_changed(self, folder: Folder) -> None:
        folder.begin()
        next(Path(folder.temp, "sources").iterdir()).unlink()
        Path(folder.parts[0].chunk.source).unlink()
        assert folder.check() == []


def test_settings_that_differ_are_all_reported(folder: Folder) -> None:
    before = loaded(folder.inputs.settings)
    assert list(resume.differences(before, before)) == []
    options = dataclasses.replace(
        before.options,
        batch_size=96,
        include_fields=("a", "b"),
        output="x",
        max_memory=5,
        non_finite="keep",
    )
    now = msgspec.structs.replace(
        before,
        options=options,
        format=FormatSpec("tfrecord"),
        model=msgspec.structs.replace(before.model, path="elsewhere", sha256="1" * 64, key_input="k", signature="s"),
        versions={**before.versions, "numpy": "1", "python": "1", "apache-beam": "1"},
    )
    sha256, numpy = before.model.sha256, before.versions["numpy"]
    assert list(resume.differences(before, now)) == [
        "--batch_size was not given, is now 96",
        "--include_fields was not given, is now a,b",
        "--non_finite was reject, is now keep",
        "the format was jsonl, is now tfrecord",
        "the model's key_input was not given, is now k",
        f"the sha256 of the model's files was {sha256}, is now {'1' * 64}",
        "the model's signature was serving_default, is now s",
        f"numpy was {numpy}, is now 1",
    ]
    # Before the model is loaded, the model's part of the settings is unknown.
    assert list(resume.differences(before, folder.inputs.settings)) == []


class TestBegin:
    """How a run prepares the folder."""

    def test_success_goes_first(self, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
        finished(folder)
        earlier, steps = folder.find_earlier(), []
        delete = files.delete_tree

        def deleting(path: str) -> None:
            steps.append(path)
            delete(path)

        monkeypatch.setattr(files, "delete_tree", deleting)
        folder.begin(earlier)
        assert steps[0] == f"{folder.output}/_SUCCESS"
        assert folder.find_earlier().stage is Stage.UNFINISHED

    def test_what_a_committed_run_wrote_has_its_receipts_again(self, folder: Folder) -> None:
        finished(folder)
        before = content(folder.output)
        folder.begin(folder.find_earlier())
        for part in folder.parts:
            expected = Path(receipt_path(folder.temp, part.chunk.part))
            assert expected.exists()
        left = {name for name in content(folder.output) if not name.startswith("_keyjoin/temp")}
        assert left == {"_keyjoin/job.json", *(name for name in before if "-of-" in name)}

    def test_of_an_unfinished_run_receipts_stay_and_lists_and_copies_go(self, folder: Folder) -> None:
        folder.begin()
        folder.write(receipts=2)
        write_list(folder.temp, 0, "00", folder.parts)
        files.write_whole(f"{folder.temp}/spill/1", [b"x"])
        before = {name for name in content(folder.output) if "-of-" in name}
        for name in (
            "_keyjoin/error.txt",
            *(f"{name}.{'0' * 32}.tmp" for name in ("_keyjoin/_job.json", "__SUCCESS", "_a-00000-of-00009.jsonl")),
        ):
            files.write_whole(f"{folder.output}/{name}", [b"x"])
        folder.begin(folder.find_earlier())
        left = set(content(folder.output)) - {"_keyjoin/job.json"}
        assert {name for name in left if not name.startswith("_keyjoin/temp/sources/")} == before
        assert sum("receipts" in name for name in left) == 2
        assert not (folder.output / "sub").exists()

    def test_a_temporary_folder_that_is_a_link_is_left_alone(self, folder: Folder, tmp_path: Path) -> None:
        folder.begin()
        folder.write()
        files.write_whole(f"{folder.temp}/spill/1", [b"x"])
        Path(folder.temp).rename(tmp_path / "elsewhere")
        Path(folder.temp).symlink_to(tmp_path / "elsewhere")
        before = content(tmp_path / "elsewhere")
        with pytest.raises(RunError, match=r"_keyjoin/temp/lists leads out of .*; remove the link"):
            folder.begin(folder.find_earlier())
        assert content(tmp_path / "elsewhere") == before

    def test_without_a_plan_nothing_of_it_stays(self, folder: Folder) -> None:
        folder.begin()
        folder.write()
        next(Path(folder.temp, "sources").iterdir()).unlink()
        folder.begin(folder.find_earlier())
        assert not Path(folder.temp, "receipts").exists()

    def test_overwritten_all_goes_but_the_lock(self, folder: Folder) -> None:
        finished(folder)
        (folder.output / "_keyjoin/lock").touch()
        folder.begin(overwrite=True)
        names = {path.relative_to(folder.output).as_posix() for path in folder.output.glob("*/*")}
        assert [path.name for path in folder.output.iterdir()] == ["_keyjoin"]
        assert names == {"_keyjoin/job.json", "_keyjoin/temp", "_keyjoin/lock"}
        assert not Path(folder.temp, "receipts").exists()


def test_lost_parts_are_those_that_are_missing_or_of_another_size(folder: Folder) -> None:
    finished(folder)
    assert resume.lost_parts(str(folder.output)) == []
    (folder.output / "a-00000-of-00002.jsonl").write_bytes(b"longer than it was")
    (folder.output / dead_letters_name("a-00001-of-00002.jsonl")).unlink()
    assert resume.lost_parts(str(folder.output)) == [
        "a-00000-of-00002.jsonl",
        dead_letters_name("a-00001-of-00002.jsonl"),
    ]


@pytest.mark.parametrize("name", ["_keyjoin/job.json", "_keyjoin/temp/receipts/x.json", "_keyjoin/lock"])
def test_what_is_left_after_success_is_removed(folder: Folder, name: str) -> None:
    finished(folder)
    before = content(folder.output)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume, "locked", lambda _: 1 / 0)  # if nothing is left to remove, the folder is not even locked
        resume.clean(str(folder.output))
    files.write_whole(f"{folder.output}/{name}", [b""])
    resume.clean(str(folder.output))
    assert content(folder.output) == before


def test_a_list_that_cannot_be_restored_ends_it(folder: Folder) -> None:
    finished(folder)
    earlier = folder.find_earlier()
    (folder.output / "_keyjoin/parts.jsonl").write_bytes(b"{}\n")
    with pytest.raises(RunError, match=r"_keyjoin/parts\.jsonl is damaged"):
        folder.begin(earlier)
