"""Tests the documentation: its commands run, its generated parts are current, and the names in it exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import VERSION
from pipeline.cli import COMMANDS
from pipeline.cli import main as keyjoin_main
from scripts import make_reference
from tests.conftest import BOSTON, ROOT
from tests.support import houses

PAGES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("[CS]*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("dataflow", "examples")),
]
SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROJECT_PATH = re.compile(
    r"`((?:benchmarks|composer|dataflow|docs|examples|pipeline|scripts|tests|transforms)/[\w./-]+)`"
)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[tuple[str, str]]:
    """Returns every command of a program that a page shows, in the order of the page."""
    found = []
    for page in PAGES:
        lines = [line for block in SHELL.findall(page.read_text()) for line in block.splitlines()]
        found += [(page.name, line.partition("#")[0].strip()) for line in lines if line.startswith(program)]
    return found


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages' commands use."""
    (tmp_path / "data").symlink_to(BOSTON / "data")
    for name in ("model", "model.keras", "tutorial.jsonl"):
        (tmp_path / name).symlink_to(BOSTON / name)
    (tmp_path / "new_model").symlink_to(BOSTON / "model")
    (tmp_path / "own_layers.py").write_text("")
    for name in houses.WRITERS:
        houses.write(tmp_path, name)
    rows = ",".join((BOSTON / "tutorial.jsonl").read_text().splitlines())
    (tmp_path / "request.json").write_text(f'{{"instances": [{rows}]}}')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("page", "command"), sorted(set(commands("keyjoin "))))
def test_every_command_that_a_page_shows_works(
    workplace: Path, capsys: pytest.CaptureFixture[str], page: str, command: str
) -> None:
    assert page
    for output in [
        name for name in ("out", "out_a", "out_b") if f" {name}/" in command and f"--output {name}/" not in command
    ]:
        assert keyjoin_main(["run", "--input=data", "--model=model", f"--output={output}"]) == 0
    assert keyjoin_main(shlex.split(command)[1:]) == 0, capsys.readouterr().err
    if " run " in command:
        assert (workplace / "out" / "_SUCCESS").exists()


def test_the_pages_show_every_command() -> None:
    shown = {shlex.split(command)[1] for _, command in commands("keyjoin ")}
    assert shown == set(COMMANDS)


def test_the_first_commands_are_those_of_the_checkout(tmp_path: Path) -> None:
    (block,) = SHELL.findall(PAGES[0].read_text())[:1]
    first = [line.partition("#")[0].strip() for line in block.splitlines()]
    assert first == ["./run_local.sh", "./tests/run.sh"]
    own = next(command for _, command in commands("./run_local.sh --"))
    (tmp_path / "data").symlink_to(BOSTON / "data")
    (tmp_path / "model").symlink_to(BOSTON / "model")
    script = [str(ROOT / "run_local.sh"), *shlex.split(own)[1:]]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "_SUCCESS").exists()
    demo = subprocess.run([str(ROOT / "run_local.sh")], cwd=tmp_path, capture_output=True, text=True, check=False)
    said = [line for line in demo.stderr.splitlines() if not line.startswith("keyjoin: progress ")]
    assert (demo.returncode, said) == (0, [])
    shown = next(text for language, text in BLOCK.findall(PAGES[0].read_text()) if not language)
    for line in shown.splitlines():
        # The last digits of a prediction may differ from one kind of processor to another.
        assert line.partition("prediction")[0] in demo.stdout.replace(f"{ROOT}/", "")
    assert f"{ROOT}/run_local.sh verify --run={ROOT}/out/boston\n" in demo.stdout


@pytest.mark.parametrize("code", [c for page in PAGES for c in PYTHON.findall(page.read_text())])
def test_every_program_that_a_page_shows_runs(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "'id': 'a', 'prediction': [" in done.stdout
    assert "DeadRow(row={'features': None, 'id': 'b'}, stage='read', reason='null'" in done.stdout


def test_the_reference_is_current() -> None:
    assert make_reference.PAGE.read_text() == make_reference.page(), "run python -m scripts.make_reference"


def anchors(page: Path) -> set[str]:
    """Returns the anchors that GitHub gives the headings of a page."""
    text = BLOCK.sub("", page.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for path, _, anchor in re.findall(r"\]\(([^):#]*)(#([^)]+))?\)", text):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"
    for path in re.findall(PROJECT_PATH, text):
        assert (ROOT / path).exists(), path


def test_the_image_is_named_after_the_version() -> None:
    assert set(re.findall(r"worker:(\d[\d.]*\d)", (ROOT / "docs" / "image.md").read_text())) == {VERSION}


def test_transforms_do_not_know_the_pipeline() -> None:
    for path in (ROOT / "transforms").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) pipeline", path.read_text(), re.MULTILINE), path


def test_each_promise_names_a_test_that_is_there() -> None:
    lines = (ROOT / "docs" / "guarantees.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| promise |")]
    assert len(rows) > 10
    for row in rows:
        path, *names = re.findall(r"`(tests/[\w/]+\.py)((?:::\w+)+)`", row)[0]
        code = (ROOT / path).read_text()
        for name in names[0].strip(":").split("::"):
            assert re.search(rf"^\s*(def|class) {name}\b", code, re.MULTILINE), row
