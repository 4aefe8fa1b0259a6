"""--overwrite and --incremental: a complete output stays until its replacement is complete, even if a run fails."""

import json
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from pipeline.run_folder import manifest, replace
from pipeline.terminal.signals import Stopped
from tests.conftest import Result
from tests.support.interrupted_run import content, scored
from transforms.errors import RunError
from transforms.storage import files

NEXT = "_keyjoin/temp/next"


def everything(output: Path) -> dict[str, bytes]:
    """All files of an output except those of an unfinished replacement."""
    found = {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}
    return {name: text for name, text in found.items() if not name.startswith("_keyjoin/temp/")}


@pytest.fixture
def done(keyjoin: Callable[..., Result], flags: list[str], data: Path) -> Result:
    """A complete output; `flags` end with its folder."""
    (data / "b.jsonl.gz").unlink()
    found = keyjoin("run", *flags)
    assert (found.code, found.complete()) == (0, True), found.err
    flags.append(f"--output={found.output}")
    return found


@pytest.fixture
def changes(data: Path) -> dict[str, Callable[[], list[str]]]:
    """Changes the input or the flags before a run that replaces the output; returns the additional flags."""

    def other_source() -> list[str]:
        source = data / "a.jsonl"
        source.write_bytes(source.read_bytes().replace(b"[1, 0, 1]", b"[1, 7, 1]")[:-20] + b"\n" * 5)
        return ["--overwrite"]

    def fewer_parts() -> list[str]:
        return ["--overwrite", "--chunk_bytes=400"]

    def new_source() -> list[str]:
        (data / "c.jsonl").write_bytes(b'{"x": [5, 5, 5]}\n{"x": 1}\n' * 20)
        return ["--incremental"]

    return {"another source": other_source, "fewer parts": fewer_parts, "a new source": new_source}


CHANGES = ["another source", "fewer parts", "a new source"]


@pytest.fixture(params=CHANGES)
def again(request: Any, changes: dict[str, Callable[[], list[str]]], flags: list[str], done: Result) -> list[str]:  # noqa: ARG001
    """The command that replaces the output."""
    return [*flags, *changes[request.param]()]


def limited(flags: list[str]) -> list[str]:
    """The flags without the error limit."""
    return [flag for flag in flags if not flag.startswith("--max_bad_rows")]


def expected_of(keyjoin: Callable[..., Result], again: list[str], tmp_path: Path) -> dict[str, bytes]:
    """The output of the same command in an empty folder."""
    anew = tmp_path / "anew"
    given = [flag for flag in again if flag not in ("--overwrite", "--incremental")]
    fresh = keyjoin("run", *given, f"--output={anew}")
    assert fresh.code == 0, fresh.err
    found = content(anew)
    shutil.rmtree(anew)
    return found


def test_the_new_result_is_that_of_a_run_in_an_empty_folder(
    keyjoin: Callable[..., Result], again: list[str], done: Result, tmp_path: Path
) -> None:
    expected = expected_of(keyjoin, again, tmp_path)
    replaced = keyjoin("run", *again)
    assert (replaced.code, "which stays complete until the new result is" in replaced.out) == (0, True), replaced.err
    assert content(done.output) == expected
    verified = keyjoin("verify", f"--run={done.output}", "--read_data=100%")
    assert verified.code == 0, verified.out
    same = keyjoin("run", *[flag for flag in again if flag != "--overwrite"])
    assert (same.code, "nothing to do" in same.out) == (0, True), same.err


def test_one_that_fails_costs_nothing_and_is_resumed(
    keyjoin: Callable[..., Result], again: list[str], done: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, before = expected_of(keyjoin, again, tmp_path), everything(done.output)
    write, calls = files.write_whole, 0

    def failing(path: str, blocks: Any) -> Any:
        nonlocal calls
        if path.endswith(".jsonl") and "-of-" in Path(path).name and "_keyjoin/dead_letters" not in path:
            calls += 1
            if calls > 1:
                raise RunError("the disk is gone")
        return write(path, blocks)

    monkeypatch.setattr(files, "write_whole", failing)
    failed = keyjoin("run", *again)
    assert (failed.code, "the disk is gone" in failed.err) == (1, True), failed.err
    assert everything(done.output) == before
    assert keyjoin("verify", f"--run={done.output}", "--read_data=100%").code in (0, 4)  # its source may have changed
    refused = keyjoin("replay", f"--run={done.output}")
    assert (refused.code, "finish it first: keyjoin run" in refused.err) == (2, True)
    monkeypatch.undo()
    with pytest.MonkeyPatch.context() as patch:
        seen = scored(patch)
        resumed = keyjoin("run", *again)
    assert (resumed.code, "resumes" in resumed.out) == (0, True), resumed.err
    assert content(done.output) == expected
    parts = [name for name in expected if "-of-" in name and not name.startswith("_")]
    assert 0 < len(seen) < len(parts)


@pytest.mark.parametrize("flag", ["--overwrite", None])
def test_stopped_it_prints_what_resumes_it_with_or_without_overwrite(
    keyjoin: Callable[..., Result], flags: list[str], done: Result, monkeypatch: pytest.MonkeyPatch, flag: str | None
) -> None:
    before = everything(done.output)
    monkeypatch.setattr("pipeline.commands.run.run_waves", lambda *_: (_ for _ in ()).throw(Stopped(signal.SIGINT)))
    stopped = keyjoin("run", *flags, "--overwrite")
    assert stopped.code == 130
    said = shlex.split(stopped.err.partition("resume with: ")[2])
    assert said == ["keyjoin", "run", *flags, "--overwrite"]
    assert everything(done.output) == before
    assert (done.output / NEXT / "_keyjoin/job.json").exists()
    monkeypatch.undo()
    resumed = keyjoin("run", *flags, *([flag] if flag else []))
    assert (resumed.code, "resumes" in resumed.out, done.complete()) == (0, True, True), resumed.err
    assert not (done.output / "_keyjoin/temp").exists()


def test_one_with_too_many_bad_rows_costs_nothing_and_shows_them(
    keyjoin: Callable[..., Result], flags: list[str], done: Result, data: Path
) -> None:
    before = everything(done.output)
    (data / "c.jsonl").write_bytes(b'{"x": 1}\n' * 40)
    bad = keyjoin("run", *limited(flags), "--incremental", "--max_bad_rows=9")
    assert bad.code == 1
    assert f"see {done.output}/{NEXT}/_keyjoin/dead_letters" in bad.err
    assert "is still the complete output that it was before" in bad.err
    assert list(Path(done.output, NEXT, "_keyjoin/dead_letters").iterdir())
    assert everything(done.output) == before
    more = keyjoin("run", *limited(flags), "--incremental", "--max_bad_rows=1.0")
    assert (more.code, done.complete()) == (0, True), more.err
    assert len(done.dead()) == 40 + 6


def test_the_former_command_has_nothing_to_do_and_leaves_an_unfinished_run_alone(
    keyjoin: Callable[..., Result], flags: list[str], done: Result, data: Path
) -> None:
    (data / "c.jsonl").write_bytes(b'{"x": 1}\n' * 40)
    assert keyjoin("run", *limited(flags), "--incremental", "--max_bad_rows=9").code == 1
    (data / "c.jsonl").rename(data.parent / "c")
    same = keyjoin("run", *flags)
    assert (same.code, "nothing to do" in same.out) == (0, True), same.err
    assert (done.output / NEXT / "_keyjoin/job.json").exists()
    (data.parent / "c").rename(data / "c.jsonl")
    more = keyjoin("run", *limited(flags), "--incremental", "--max_bad_rows=1.0")
    assert (more.code, "a run that is unfinished" in more.out) == (0, True), more.err


def test_wherever_it_ends_the_output_is_the_former_or_the_new_one(
    keyjoin: Callable[..., Result], again: list[str], done: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ends the run before each operation that replaces the output; then gives the same command, or a replay."""
    expected, before, former = expected_of(keyjoin, again, tmp_path), content(done.output), tmp_path / "former"
    shutil.copytree(done.output, former)
    operations = ("write_whole", "delete_tree", "delete_files", "move")
    left = 0

    def ending(original: Any) -> Any:
        def end(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError("killed")
            return original(*arguments, **named)

        return end

    finish, point, armed = replace.finish, 1, True

    def ended(output: str, prove_lock: Any) -> None:
        nonlocal left, armed
        left, armed = point if armed else 0, False
        finish(output, prove_lock)

    for name in operations:
        monkeypatch.setattr(files, name, ending(getattr(files, name)))
    monkeypatch.setattr("pipeline.commands.run.finish", ended)
    while True:
        shutil.rmtree(done.output)
        shutil.copytree(former, done.output)
        armed = True
        found = keyjoin("run", *again)
        reached, left = left <= 0, 0
        if (done.output / "_SUCCESS").exists():
            kept = {name: text for name, text in content(done.output).items() if not name.startswith("_keyjoin/temp/")}
            assert kept in (before, expected), point
        if not reached:
            break
        # If only the removal of old files or the report fails, the run succeeds with a warning.
        warned = "removes" in found.err or "report.html is not written" in found.err
        assert found.code == 1 or (done.complete() and warned), found.err
        verified = keyjoin("verify", f"--run={done.output}")
        if not done.complete():
            assert "let this finish it: keyjoin run" in verified.err
        other = ["replay", f"--run={done.output}"] if point % 3 == 1 else ["run", *again]
        resumed = keyjoin(*other)
        assert resumed.code == 0, (point, resumed.err)
        found_after = content(done.output)
        assert found_after == expected or other[0] == "replay", point
        assert done.complete()
        point += 1
    assert point > 10


def test_a_new_result_that_has_lost_a_file_is_no_result(
    keyjoin: Callable[..., Result], flags: list[str], done: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.commands.run.finish", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    assert keyjoin("run", *flags, "--overwrite", "--chunk_bytes=400").code == 1
    monkeypatch.undo()
    lost = next(path for path in (done.output / NEXT).glob("a-*"))
    lost.unlink()
    again = keyjoin("run", *flags, "--chunk_bytes=400")
    assert (again.code, f"{lost.name} is lost" in again.err, done.complete()) == (1, True, False), again.err
    anew = keyjoin("run", *flags, "--chunk_bytes=400", "--overwrite")
    assert (anew.code, done.complete()) == (0, True), anew.err
    assert keyjoin("verify", f"--run={done.output}", "--read_data=100%").code == 0


def test_a_link_in_the_place_of_the_folder_is_not_followed(
    keyjoin: Callable[..., Result], flags: list[str], done: Result, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere" / "next").mkdir(parents=True)
    (tmp_path / "elsewhere" / "next" / "precious").write_text("mine")
    (done.output / "_keyjoin/temp").symlink_to(tmp_path / "elsewhere")
    refused = keyjoin("run", *flags, "--overwrite")
    assert (refused.code, "_keyjoin/temp is a link" in refused.err, refused.err.count("\n")) == (2, True, 1), (
        refused.err
    )
    assert (tmp_path / "elsewhere" / "next" / "precious").read_text() == "mine"
    assert json.loads((done.output / "_keyjoin/manifest.json").read_text())["status"] == "complete"


def forge(output: Path, part: str) -> None:
    """Adds a part to the ledger of a complete output, and updates the manifest and `_SUCCESS` to match."""
    listed = output / "_keyjoin/parts.jsonl"
    line = json.loads(listed.read_text().splitlines()[-1])
    line["chunk"]["part"] = part
    listed.write_text(listed.read_text() + json.dumps(line) + "\n")
    made = json.loads((output / "_keyjoin/manifest.json").read_text())
    text = listed.read_bytes()
    made["files"][listed.name] = {"bytes": len(text), "crc32c": f"{google_crc32c.value(text):08x}"}
    (output / "_keyjoin/manifest.json").write_text(json.dumps(made, indent=1) + "\n")
    (output / "_SUCCESS").write_bytes(manifest.success_of((output / "_keyjoin/manifest.json").read_bytes()))


@pytest.mark.parametrize("name", ["../victim", "{victim}", "_keyjoin/temp/next/_keyjoin/manifest.json", "_SUCCESS"])
def test_a_list_that_somebody_changed_has_nothing_else_deleted(
    keyjoin: Callable[..., Result], done: Result, flags: list[str], name: str
) -> None:
    victim = done.output.parent / "victim"
    victim.write_text("precious")
    expected = content(done.output)
    forge(done.output, name.format(victim=victim))
    replaced = keyjoin("run", *flags, "--overwrite")
    assert (replaced.code, victim.read_text()) == (0, "precious"), replaced.err
    assert content(done.output) == expected


def test_nothing_is_deleted_through_a_link_when_a_new_result_is_put_in_place(
    keyjoin: Callable[..., Result], flags: list[str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "sub").mkdir(exist_ok=True)
    shutil.copy(data / "a.jsonl", data / "sub" / "z.jsonl")
    done = keyjoin("run", *flags)
    assert done.code == 0, done.err
    output = f"--output={done.output}"
    (data / "sub" / "z.jsonl").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.commands.run.finish", lambda *_: (_ for _ in ()).throw(Stopped(signal.SIGKILL)))
        assert keyjoin("run", *flags, output, "--overwrite").code == 130
    shutil.move(done.output / "sub", tmp_path / "elsewhere")
    (done.output / "sub").symlink_to(tmp_path / "elsewhere")
    kept = everything(tmp_path / "elsewhere")
    refused = keyjoin("run", *flags, output, "--overwrite")
    assert (refused.code, "leads out of" in refused.err, refused.err.count("\n")) == (1, True, 1), refused.err
    assert everything(tmp_path / "elsewhere") == kept
    (done.output / "sub").unlink()
    assert keyjoin("run", *flags, output, "--overwrite").code == 0


@pytest.mark.parametrize("again", ["a lost part", "--overwrite"])
def test_a_new_result_whose_record_is_that_of_the_former_one_is_put_in_place(
    keyjoin: Callable[..., Result], flags: list[str], data: Path, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    (data / "b.jsonl.gz").unlink()
    monkeypatch.setattr(time, "monotonic", lambda: 1.5)  # two runs may take the same number of milliseconds
    done = keyjoin("run", *flags)
    assert done.code == 0, done.err
    expected = content(done.output)
    part = next(done.output.glob("a-*"))
    for _ in range(2):  # the first output was written by a run that replaced nothing; the second by one that did
        if again == "--overwrite":
            part.write_bytes(part.read_bytes().replace(b"0", b"9"))
        else:
            part.unlink()
        repaired = keyjoin("run", *flags, f"--output={done.output}", *[again] * (again == "--overwrite"))
        assert repaired.code == 0, repaired.err
        assert content(done.output) == expected
