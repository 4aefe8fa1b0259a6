"""Writes dataflow/sbom.json: the packages in the worker image, with licences and dependencies, in CycloneDX format.

    python -m scripts.make_sbom                                                       the image without a GPU
    python -m scripts.make_sbom dataflow/requirements-gpu.txt out/sbom-gpu.json       the image for a GPU

The script needs uv. It installs the image's lock file into a temporary folder and lists the installed packages. A test
compares dataflow/sbom.json with the lock file.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "dataflow"
PYTHON = "3.11"
TOOL = "cyclonedx-bom==7.5.0"
# The same options as in dataflow/Dockerfile.
INSTALL = ("--require-hashes", "--no-deps", "--only-binary", ":all:", "--no-binary", "google-apitools")


def make(lock: Path, written: Path) -> None:
    """Installs a lock file into a temporary environment, and writes the list of installed packages.

    Args:
        lock: The lock file: requirements with hashes.
        written: The file to write.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment, found = Path(folder, "environment"), Path(folder, "sbom.json")
        python = environment / "bin" / "python"
        hashed = (
            "--preview-features",
            "build-dependency-hashes",
            "--require-build-hashes",
            "--build-constraints",
            lock,
        )
        tool = ("--from", TOOL, "cyclonedx-py", "environment", "--output-reproducible", "--of", "JSON", "-o", found)
        for words in (
            ("venv", "--python", PYTHON, environment),
            ("pip", "install", "--python", python, *INSTALL, *hashed, "-r", lock),
            ("tool", "run", *tool, python),
        ):
            subprocess.run(["uv", *map(str, words)], check=True)  # noqa: S603, S607 - its words are ours
        document = json.loads(found.read_text())
    for component in (*document["components"], *document["metadata"]["tools"]["components"]):
        component.pop("externalReferences", None)  # links to web pages, which packages choose themselves
    written.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lock", type=Path, nargs="?", default=FOLDER / "requirements.txt")
    parser.add_argument("written", type=Path, nargs="?", default=FOLDER / "sbom.json")
    given = parser.parse_args()
    make(given.lock, given.written)
