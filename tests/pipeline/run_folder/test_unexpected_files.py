"""Unexpected files and links under names that keyjoin uses: nothing outside of the output folder changes."""

import os
import re
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.run_folder import ledger, manifest
from tests.conftest import Result
from tests.support import models
from tests.support.interrupted_run import content
from tests.support.verified_runs import forge
from transforms.errors import RunError
from transforms.storage.compression import codec_of

LIMIT = 60  # seconds; opening a pipe would wait forever
NAMES = [
    "_keyjoin",
    "_keyjoin/lock",
    "_keyjoin/job.json",
    "_keyjoin/manifest.json",
    "_SUCCESS",
    "_keyjoin/parts.jsonl",
    "_keyjoin/sources.jsonl",
    "_keyjoin/statistics.json",
    "_keyjoin/error.txt",
    "_keyjoin/temp",
    "_keyjoin/temp/sources",
    "_keyjoin/temp/sources/{digest}.jsonl",
    "_keyjoin/temp/receipts",
    "_keyjoin/temp/receipts/a-00000-of-00002.jsonl.json",
    "_keyjoin/temp/lists",
    "_keyjoin/temp/spill",
    "_keyjoin/temp/next",
    "_keyjoin/dead_letters",
    "_keyjoin/dead_letters/a-00001-of-00002.jsonl",
    "a-00000-of-00002.jsonl",
    "_a-00000-of-00002.jsonl.0123456789abcdef0123456789abcdef.tmp",
]
FOLDERS = {
    "_keyjoin",
    "_keyjoin/temp",
    "_keyjoin/temp/sources",
    "_keyjoin/temp/receipts",
    "_keyjoin/temp/lists",
    "_keyjoin/temp/spill",
    "_keyjoin/temp/next",
    "_keyjoin/dead_letters",
}


@pytest.fixture(autouse=True)
def limited() -> Iterator[None]:
    """Fails a test that waits for a pipe."""

    def stop(*_: object) -> None:
        raise AssertionError(f"it hangs: {LIMIT} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def link(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def dangling(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "none")


def pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def listener(path: Path, _: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)  # through the descriptor, because the path may be too long for a socket
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


def other_kind(path: Path, outside: Path) -> None:
    """A folder in place of a file, or a file in place of a folder."""
    path.mkdir() if outside.is_file() else path.write_bytes(b"precious")


def hard_link(path: Path, outside: Path) -> None:
    os.link(outside, path) if outside.is_file() else shutil.copytree(outside, path)


KINDS = [link, dangling, pipe, listener, other_kind, hard_link]


def plant(output: Path, name: str, kind: Callable[[Path, Path], None], outside: Path) -> None:
    """Puts something in place of a file, and moves the file's content to `outside`."""
    path = output / name
    if not os.path.lexists(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        outside.mkdir() if name in FOLDERS else outside.write_bytes(b"precious")
    else:
        shutil.move(path, outside)
    kind(path, outside)


@pytest.fixture(scope="module")
def run_flags(tmp_path_factory: Any, model: Any) -> list[str]:
    """A command without its output: two sources of three rows, one of each bad."""
    data = tmp_path_factory.mktemp("data")
    for name in ("a.jsonl", "b.jsonl"):
        (data / name).write_text('{"x": [1, 0, 1]}\n{"x": "bad"}\n{"x": [2, 0, 1]}\n')
    return [f"--input={data}", f"--model={model(models.keyed)}", "--max_bad_rows=0.5", "--chunk_bytes=20"]


@pytest.fixture(scope="module")
def templates(tmp_path_factory: Any, run_flags: list[str]) -> dict[str, Path]:
    """The outputs of a complete and of an unfinished run."""
    made = {stage: tmp_path_factory.mktemp("outputs") / stage for stage in ("complete", "unfinished")}
    assert main(["run", *run_flags, f"--output={made['complete']}"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "commit", lambda *_, **__: (_ for _ in ()).throw(RunError("stopped")))
        assert main(["run", *run_flags, f"--output={made['unfinished']}"]) == 1
    return made


@pytest.mark.parametrize("stage", ["complete", "unfinished"])
@pytest.mark.parametrize("name", NAMES)
def test_what_keyjoin_did_not_make_is_refused_and_nothing_outside_changes(
    keyjoin: Callable[..., Result],
    templates: dict[str, Path],
    run_flags: list[str],
    tmp_path: Path,
    name: str,
    stage: str,
) -> None:
    output, planned = tmp_path / "out", [p.stem for p in templates[stage].glob("_keyjoin/temp/sources/*")]
    name = name.format(digest=planned[0] if planned else "0" * 64)
    for kind in KINDS:
        outside = tmp_path / "outside" / kind.__name__
        outside.mkdir(parents=True)
        shutil.copytree(templates[stage], output)
        plant(output, name, kind, outside / "victim")
        before = content(outside)
        run, replay = [*run_flags, f"--output={output}"], [f"--run={output}"]
        for command, flags in ("check", run), ("run", run), ("run", [*run, "--overwrite"]), ("replay", replay):
            if kind is hard_link and (name not in ("_keyjoin/lock", "a-00000-of-00002.jsonl") or command == "replay"):
                continue  # these commands only read the file, so they do not change its other name
            done = keyjoin(command, *flags)
            if kind is other_kind and (command == "replay" or re.search(r"[0-9a-f]{32}\.", name)):
                assert done.code in (0, 1, 2), (command, done)  # the folder is ignored, or detected later
            elif kind is not hard_link or (name == "_keyjoin/lock" and done.code):
                assert (done.code, "move it away" in done.err) == (2, True), (kind, command, flags, done)
                assert (len(done.err.splitlines()), os.path.basename(name) in done.err) == (1, True), (kind, done)
        for flags in ([], ["--read_data=100%"], ["--discard"]):
            assert "Traceback" not in keyjoin("verify", f"--run={output}", *flags).err
        assert content(outside) == before, kind
        shutil.rmtree(output)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_folder_with_a_lock_that_is_none(
    keyjoin: Callable[..., Result], run_flags: list[str], tmp_path: Path, kind: Callable[[Path, Path], None]
) -> None:
    """As in a folder that somebody else has created."""
    outside = tmp_path / "outside"
    outside.mkdir()
    plant(tmp_path / "out", "_keyjoin/lock", kind, outside / "victim")
    done = keyjoin("run", *run_flags, f"--output={tmp_path / 'out'}")
    assert (done.code, "_keyjoin/lock" in done.err, "move it away" in done.err) == (2, True, True)
    assert content(outside) == {"victim": b"precious"}


def test_a_lock_with_foreign_content_is_not_overwritten(
    keyjoin: Callable[..., Result], run_flags: list[str], tmp_path: Path
) -> None:
    (tmp_path / "out" / "_keyjoin").mkdir(parents=True)
    (tmp_path / "out" / "_keyjoin/lock").write_bytes(b"precious")
    done = keyjoin("run", *run_flags, f"--output={tmp_path / 'out'}")
    assert (done.code, "move it away" in done.err) == (2, True)
    assert (tmp_path / "out" / "_keyjoin/lock").read_bytes() == b"precious"


@pytest.mark.parametrize("stage", ["complete", "unfinished"])
def test_no_output_lies_in_another_one(
    keyjoin: Callable[..., Result], templates: dict[str, Path], run_flags: list[str], tmp_path: Path, stage: str
) -> None:
    shutil.copytree(templates[stage], tmp_path / "out" / "scored")
    (tmp_path / "link").symlink_to(tmp_path / "out" / "scored")
    before = content(tmp_path / "out")
    places = {
        "out/scored/other": "lies in the output of another run",
        "out/scored/other/deeper": "lies in the output of another run",
        "link/other": "lies in the output of another run",
        "out": "holds the output of another run",
    }
    for place, said in places.items():
        for command, *flags in ("check",), ("run",), ("run", "--overwrite"):
            done = keyjoin(command, *run_flags, f"--output={tmp_path / place}", *flags)
            assert (done.code, f"{said}, {os.path.realpath(tmp_path)}/out/scored" in done.err) == (2, True), done.err
    assert content(tmp_path / "out") == before


def test_a_commit_deletes_what_its_own_attempts_left_and_nothing_else(
    keyjoin: Callable[..., Result], templates: dict[str, Path], run_flags: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    output, own, tmp = tmp_path / "out", "a-00000-of-00009.jsonl", "0123456789abcdef" * 2 + ".tmp"
    ours = [own, f"_keyjoin/dead_letters/{own}", f"_{own}.{tmp}"]
    theirs = ["other/b-00000-of-00001.jsonl", "z-00000-of-00001.jsonl", "_keyjoin/dead_letters/z-00000-of-00001.jsonl"]
    hidden = f"other/_b-00000-of-00001.jsonl.{tmp}"
    total = ledger.total
    run = [*run_flags, f"--output={output}"]

    def plant(*names: str) -> None:
        """Plants files just before the commit."""

        def planting(parts: Any) -> Any:
            for name in names:
                (output / name).parent.mkdir(parents=True, exist_ok=True)
                (output / name).write_bytes(b"{}")
            monkeypatch.undo()
            return total(parts)

        monkeypatch.setattr(ledger, "total", planting)

    for name in theirs:
        plant(*ours, name, hidden)
        failed = keyjoin("run", *run)
        assert (failed.code, f"{output}/{name} is not of this run" in failed.err) == (1, True), failed.err
        assert not (output / "_SUCCESS").exists()
        assert ((output / name).read_bytes(), (output / hidden).read_bytes()) == (b"{}", b"{}")
        refused = keyjoin("run", *run)
        assert (refused.code, f"holds {name}, which keyjoin did not write; move it" in refused.err) == (2, True)
        (output / name).unlink()
    plant(*ours, hidden)
    done = keyjoin("run", *run)
    assert (done.code, (output / hidden).read_bytes()) == (0, b"{}"), done.err
    (output / hidden).unlink()
    assert content(output) == content(templates["complete"])


def test_overwrite_deletes_what_keyjoin_wrote_and_nothing_else(
    keyjoin: Callable[..., Result],
    templates: dict[str, Path],
    run_flags: list[str],
    tree: Callable[..., str],
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    shutil.copytree(templates["complete"], output)
    flags = [f"--input={tree('c.jsonl')}", *run_flags[1:], f"--output={output}", "--overwrite"]
    for name in ("backup/a-00000-of-00001.jsonl.gz", "z-00000-of-00001.jsonl", "_keyjoin/dead_letters/notes.txt"):
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_bytes(b"kept")
        before = content(output)
        refused = keyjoin("run", *flags)
        assert (refused.code, f"holds {name}, which keyjoin did not write" in refused.err) == (2, True), refused.err
        assert content(output) == before
        (output / name).unlink()
    done = keyjoin("run", *flags)
    assert (done.code, [part.name for part in done.parts()]) == (0, ["c-00000-of-00001.jsonl"])
    assert not (output / "_keyjoin/dead_letters").exists()


def test_an_output_with_lists_of_another_version_is_overwritten(
    keyjoin: Callable[..., Result], templates: dict[str, Path], run_flags: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    shutil.copytree(templates["complete"], output)
    forge(output, lambda _: None, lists={"_keyjoin/sources.jsonl": lambda text: text.replace(b'"suffix"', b'"ending"')})
    refused = keyjoin("run", *run_flags, f"--output={output}")
    assert (refused.code, "_keyjoin/sources.jsonl is damaged" in refused.err) == (2, True)
    assert "--overwrite" in refused.err
    assert keyjoin("run", *run_flags, f"--output={output}", "--overwrite").code == 0
    assert content(output) == content(templates["complete"])


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., str]:
    """Writes sources of one row each; those whose names end in .gz, .zst or .bz2 are compressed."""

    def make(*names: str) -> str:
        for name in names:
            path = tmp_path / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            row = b'{"x": [1, 2, 3]}\n'
            path.write_bytes(packed(row, name))
        return str(tmp_path / "tree")

    return make


@pytest.mark.parametrize(
    "names",
    [
        ("a.jsonl.gz", "a.jsonl/b.jsonl.gz"),  # a folder with the name of an unpacked copy
        ("a.jsonl.gz", "a.jsonl/deeper/b.jsonl"),
        ("a.jsonl.zst", "a.jsonl/b.jsonl"),
        ("a.jsonl", "a-00000-of-00001.jsonl/b.jsonl"),  # of a part
        ("a.jsonl.gz", "a-00003-of-00007.jsonl.gz/b.jsonl"),
        ("s/a.jsonl", "s/a-00000-of-00001.jsonl.json/b.jsonl"),  # of a receipt
        ("a.json", "a-00000-of-00001.json.jsonl/b.json"),  # of a file of dead letters
    ],
)
def test_a_file_and_a_folder_of_one_name_are_refused(
    keyjoin: Callable[..., Result],
    tree: Callable[..., str],
    run_flags: list[str],
    tmp_path: Path,
    names: tuple[str, ...],
) -> None:
    output = tmp_path / "out"
    for command in ("check", "run"):
        done = keyjoin(command, f"--input={tree(*names)}", *run_flags[1:], f"--output={output}")
        said = f"{tree()}/{names[0]}: the input has a folder {os.path.dirname(names[1]).removesuffix('/deeper')}, and"
        assert (done.code, said in done.err) == (2, True), done.err
        assert not output.exists()


def test_names_that_only_look_alike_are_no_clash(
    keyjoin: Callable[..., Result], tree: Callable[..., str], run_flags: list[str]
) -> None:
    names = (
        "a.jsonl",
        "b/a.jsonl",
        "a-00000-of-00001/b.jsonl",
        "c.jsonl.gz",
        "e.jsonl.bz2",
        "c/d.jsonl",
        "b-00000-of-00001.jsonl/a.jsonl",
    )
    done = keyjoin("run", f"--input={tree(*names)}", *run_flags[1:])
    assert (done.code, len([part for part in done.parts() if part.is_file()])) == (0, 7)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json"])
@pytest.mark.parametrize("letter", ["n", "ä"])
def test_a_name_is_refused_by_check_or_can_be_written(
    keyjoin: Callable[..., Result],
    tree: Callable[..., str],
    run_flags: list[str],
    letter: str,
    suffix: str,
    tmp_path: Path,
) -> None:
    """At the limit of the file system: a run can write every name that `check` accepts, with its dead letters."""
    longest, codes = 0, set()
    for length in range(176, 205, 3):
        name = letter * (length // len(letter.encode())) + suffix
        data = tree(name)
        (tmp_path / "tree" / name).write_bytes(packed(b'{"x": [1, 2, 3]}\n{"x": "bad"}\n', suffix))
        checked = keyjoin("check", f"--input={data}", *run_flags[1:])
        codes.add(checked.code)
        if checked.code == 0:
            longest = length
            assert keyjoin("run", f"--input={data}", *run_flags[1:]).code == 0, length
        else:
            assert re.search("the name is too long: .* rename it$", checked.err.strip()), checked.err
        shutil.rmtree(data)
    assert codes == {0, 2}
    assert longest > 180


def packed(rows: bytes, suffix: str) -> bytes:
    codec = codec_of(suffix)
    return codec.compress(rows) if codec else rows


def test_a_path_that_is_too_long_is_refused(
    keyjoin: Callable[..., Result],
    run_flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "tree").mkdir()
    monkeypatch.chdir(tmp_path / "tree")
    for _ in range(18):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    Path("a.jsonl").write_bytes(b'{"x": [1, 2, 3]}\n')
    os.chdir(tmp_path)
    output = tmp_path / ("o" * 200)
    done = keyjoin("check", f"--input={tmp_path}/tree", *run_flags[1:], f"--output={output}/{'p' * 200}")
    assert (done.code, "choose an output with a shorter path" in done.err) == (2, True), done.err
