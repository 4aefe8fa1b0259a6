"""Runs the example notebooks and writes their outputs into them.

python -m scripts.run_notebooks

A test runs the notebooks, too, and compares the outputs.
"""

import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples" / "notebooks").glob("*.ipynb"))
# Lines that libraries log during their import; they depend on the machine.
LOG = re.compile(
    r"^(?:WARNING: All log messages before absl|[IWE]\d{4} \d\d:|Matplotlib is building the font cache).*\n?",
    re.MULTILINE,
)
# Lines in which keyjoin reports the duration, speed and progress of a run.
TIMES = re.compile(r"^(?:seconds|rows/s|keyjoin: progress) .*\n", re.MULTILINE)


def run(notebook: Path, folder: Path) -> nbformat.NotebookNode:
    """Runs all cells of a notebook, from top to bottom.

    Args:
        notebook: The file of the notebook.
        folder: The folder in which the kernel of the notebook starts.

    Returns:
        The notebook with its outputs, without times and logs, which differ between runs and machines.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell raised.
    """
    document = nbformat.read(notebook, as_version=4)
    # The kernel's sockets are in this folder, where other users of the machine cannot open them.
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
    """Runs each notebook, and writes it with its outputs."""
    for notebook in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            document = run(notebook, Path(folder))
        nbformat.write(document, notebook)
        print(notebook.name)


if __name__ == "__main__":
    main()
