"""Globs match what they match in Beam, and a folder that cannot be listed is an error."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from apache_beam.io.filesystems import FileSystems
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Result
from tests.support import models
from transforms.errors import UsageError
from transforms.storage import lookup

NAMES = st.text("ab.-[]!\\", min_size=1, max_size=3).filter(lambda name: set(name) != {"."})
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TOKENS = ["*", "**", "?", "/", "a", "b", ".", "[ab]", "[!a]", "[]a]", "[!]b]", "[a-b]", "[", "]", "!", "\\", "[/]"]
GLOBS = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=7).map("".join).filter(lambda g: not g.startswith("/"))
COMMON = st.sampled_from(["*", "**", "*/*", "**/a*", "*/**", "a*/b*", "*/*/*", "?/?", "**b", "[!a]*/*", "a/**/b", "*/"])


def make(folder: str, paths: set[str]) -> None:
    """Makes files at these paths, except where a path is also a folder."""
    for path in sorted(paths, key=len, reverse=True):
        at = Path(folder, path)
        if not at.exists() and not any(parent.is_file() for parent in at.parents):
            at.parent.mkdir(parents=True, exist_ok=True)
            at.touch()


@contextmanager
def unlistable(folder: Path | str) -> Iterator[list[str]]:
    """Makes the listing of a folder fail, for root too; yields the folders that were listed."""
    original, listed = os.scandir, list[str]()

    def scandir(path: Any = ".") -> Any:
        listed.append(os.path.normpath(path))
        if os.path.normpath(path) == os.path.normpath(folder):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return original(path)

    with mock.patch.object(os, "scandir", scandir):
        yield listed


@pytest.mark.filterwarnings("ignore::FutureWarning")  # Beam warns about `[[`
@settings(max_examples=400)
@given(st.sets(PATHS, max_size=8), GLOBS | COMMON, st.data())
def test_a_glob_matches_what_it_matches_for_beam_or_names_what_it_could_not_list(
    paths: set[str], glob: str, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        make(folder, paths)
        pattern = f"{folder}/{glob}"
        if os.path.exists(pattern) or not any(c in glob for c in "*?["):
            return
        beams = sorted(file.path for file in FileSystems.match([pattern])[0].metadata_list)
        assert [file.path for file in lookup.match(pattern)] == beams
        folders = sorted(at for at, *_ in os.walk(folder))
        broken = data.draw(st.sampled_from(folders))
        with unlistable(broken):
            try:
                found = [file.path for file in lookup.match(pattern)]
            except UsageError as error:
                named, _, _ = str(error).partition(" cannot be listed: ")
                assert os.path.normpath(named) == broken
            else:
                assert found == beams
                assert not any(path.startswith(f"{broken}/") for path in beams)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    make(str(tmp_path), {"in/a.jsonl", "in/2024-01/a.jsonl", "in/2024-01/deep/a.jsonl", "in/other/a.jsonl"})
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("glob", "listed"),
    [
        ("*.jsonl", ["."]),
        ("2024-*/*.jsonl", [".", "2024-01"]),
        ("2024-01/*.jsonl", ["2024-01"]),
        ("*/a.jsonl", [".", "2024-01", "other"]),
        ("**", [".", "2024-01", "2024-01/deep", "other"]),
        ("2024-??/**/a.jsonl", [".", "2024-01", "2024-01/deep"]),
    ],
)
def test_a_glob_lists_the_folders_that_its_matches_can_lie_in_and_no_others(
    tree: Path, glob: str, listed: list[str]
) -> None:
    with unlistable("nowhere") as seen:
        lookup.match(f"{tree}/{glob}")
    assert sorted(os.path.relpath(path, tree) for path in seen) == listed


@pytest.mark.parametrize("folder", ["", "other", "2024-01/deep"])
def test_a_folder_that_cannot_be_listed_ends_the_command_before_it_writes(
    keyjoin: Callable[..., Result], model: Any, tree: Path, folder: str
) -> None:
    with unlistable(tree / folder):
        done = keyjoin("run", f"--input={tree}/**", f"--model={model(models.keyed)}")
    assert (done.code, done.output.exists()) == (2, False)
    assert f"{tree / folder} cannot be listed: [Errno 5] Input/output error" in done.err


@pytest.mark.parametrize(
    ("link", "target", "glob", "said"),
    [
        ("gone.jsonl", "nowhere", "*.jsonl", "gone.jsonl cannot be read"),
        ("gone", "nowhere", "*/a.jsonl", "gone cannot be read"),
        ("2023", "../elsewhere", "*/a.jsonl", "2023 is a link to a folder"),
        ("2023", "../elsewhere", "**", "2023 is a link to a folder"),
        ("loop", ".", "**/*.jsonl", "loop is a link to a folder"),
        ("gone", "nowhere", "*.jsonl", None),
        ("2023", "../elsewhere", "*.jsonl", None),
        ("2023", "../elsewhere", "*", None),
        ("b.jsonl", "a.jsonl", "*.jsonl", None),
    ],
)
def test_links_under_a_glob_are_files_or_errors(
    keyjoin: Callable[..., Result], tree: Path, link: str, target: str, glob: str, said: str | None
) -> None:
    make(str(tree), {"../elsewhere/a.jsonl"})
    (tree / link).symlink_to(target)
    if said is None:
        found = [os.path.relpath(file.path, tree) for file in lookup.match(f"{tree}/{glob}")]
        assert found == ["a.jsonl", *(["b.jsonl"] if link == "b.jsonl" else [])]
        return
    done = keyjoin("check", f"--input={tree}/{glob}", "--model=m")
    assert (done.code, f"{tree}/{said}" in done.err) == (2, True), done.err


def test_in_the_current_folder_names_have_no_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert [file.path for file in lookup.match("*.jsonl")] == ["a.jsonl"]
    assert [file.path for file in lookup.match("2024-*/*.jsonl")] == ["2024-01/a.jsonl"]
    assert [file.path for file in lookup.match("[ao]*/a.jsonl")] == ["other/a.jsonl"]


def test_an_invalid_range_is_reported(keyjoin: Callable[..., Result]) -> None:
    done = keyjoin("check", "--input=in/[z-a].jsonl", "--model=m")
    assert (done.code, "cannot look up in/[z-a].jsonl: bad character range" in done.err) == (2, True), done.err


def test_a_pipe_is_no_file(keyjoin: Callable[..., Result], tree: Path) -> None:
    os.mkfifo(tree / "b.jsonl")
    for pattern in (f"{tree}", f"{tree}/*.jsonl", f"{tree}/b.jsonl"):
        done = keyjoin("check", f"--input={pattern}", "--model=m")
        assert (done.code, f"{tree}/b.jsonl is no file but a pipe" in done.err) == (2, True), done.err
