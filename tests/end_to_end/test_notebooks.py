"""The example notebooks run from top to bottom, and their outputs equal the committed ones."""

import base64
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from scripts import run_notebooks
from tests.conftest import ROOT

FOLDER = ROOT / "examples" / "notebooks"
NAMES = ["decorator", "functional_api"]

# Another kind of processor may change the numbers from training. It may also change where the report cuts a row, which
# depends on the length of such numbers.
CUT = re.compile(r"\[[^\]\n]*…[^\]\n]*\]")
TRAINED = re.compile(r"\b\d+\.\d+\b|\b[0-9a-f]{64}\b")


def masked(notebook: nbformat.NotebookNode) -> dict[str, Any]:
    """A notebook without what may differ between processors."""
    for output in outputs(notebook):
        if "text" in output:
            output.text = TRAINED.sub("#", CUT.sub("[…]", output.text))
        if "image/png" in output.get("data", {}):
            assert base64.b64decode(output.data["image/png"]).startswith(b"\x89PNG")
            output.data["image/png"] = "a plot"
    return dict(notebook)


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_all_notebooks_are_run() -> None:
    assert [path.stem for path in run_notebooks.NOTEBOOKS] == NAMES == sorted(p.stem for p in FOLDER.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_gives_the_committed_outputs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    path = FOLDER / f"{name}.ipynb"
    before = path.read_bytes()
    ran = run_notebooks.run(path, tmp_path)
    assert masked(ran) == masked(nbformat.read(path, as_version=4))
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", NAMES)
def test_committed_files_are_small_and_name_no_machine(name: str) -> None:
    path = FOLDER / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    (plot,) = (output.data["image/png"] for output in outputs(notebook) if "image/png" in output.get("data", {}))
    assert len(base64.b64decode(plot)) < 60_000
    texts = [output.get("text", "") for output in outputs(notebook)]
    assert not [text for text in texts if re.search(r"(?<![\w.])/\w+/", text)]
    assert not [text for text in texts if run_notebooks.LOG.search(text) or run_notebooks.TIMES.search(text)]
    assert {output.get("name") for output in outputs(notebook)} <= {"stdout", None}


def test_no_time_and_no_log_is_kept() -> None:
    text = "rows read         102\nseconds           1.2\nrows/s            87\nkeyjoin: progress seconds=1\nI0000 00:00:17 7 port.cc:153] oneDNN\nend\n"
    output = nbformat.v4.new_output("stream", name="stdout", text=text)
    assert run_notebooks.without_times(output).text == "rows read         102\nend\n"
