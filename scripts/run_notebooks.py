"""Runs the example notebooks and writes their outputs into them; a test runs them and compares the outputs.

python -m scripts.run_notebooks
"""

import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples" / "notebooks").glob("*.ipynb"))
# What libraries log about the machine when a program imports them.
LOG = re.compile(
    r"^(?:WARNING: All log messages before absl|[IWE]\d{4} \d\d:|Matplotlib is building the font cache).*\n?",
    re.MULTILINE,
)
# What keyjoin reports about the time of a run.
TIMES = re.compile(r"^(?:seconds|rows/s) .*\n", re.MULTILINE)


def run(notebook: Path, folder: Path) -> nbformat.NotebookNode:
    """Runs all cells of a notebook, from top to bottom.

    Args:
        notebook: The file.
        folder: Where its kernel starts.

    Returns:
        The notebook with its outputs, without what differs from one run or machine to another: times and logs.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell raised.
    """
    document = nbformat.read(notebook, as_version=4)
    # Sockets in the folder: other users of the machine cannot read them.
    sockets = Config(KernelManager={"transport": "ipc", "connection_file": str(folder / "kernel.json")})
    client = NotebookClient(document, kernel_name="python3", config=sockets, coalesce_streams=True, record_timing=False)
    client.execute(cwd=str(folder))
    document.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in document.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(without_times, cell.outputs) if output.get("text") != ""]
    return document


def without_times(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    if output.output_type == "stream":
        output.text = TIMES.sub("", LOG.sub("", output.text))
    return output


def main() -> None:
    """Runs each notebook and writes it."""
    for notebook in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            document = run(notebook, Path(folder))
        nbformat.write(document, notebook)
        print(notebook.name)


if __name__ == "__main__":
    main()
