"""Fuzzes with coverage: `python -m tests.fuzz.fuzz TARGET RUNS [libFuzzer's flags]`, on platforms with atheris.

libFuzzer writes a failing input to the current folder. Once the bug is fixed, move it to tests/fuzz/corpus/TARGET.
"""

import sys
import tempfile
from pathlib import Path

import atheris

# Instruments only the transforms: with Beam and TensorFlow, each start would take minutes longer.
with atheris.instrument_imports(include=["transforms"]):
    from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).with_name("corpus")


def main(target: str, runs: str, *flags: str) -> None:
    # libFuzzer adds new inputs to the first folder, and only reads the second.
    with tempfile.TemporaryDirectory() as new:
        given = [f"-runs={runs}", "-seed=1", "-max_len=1024", *flags, new, str(CORPUS / target)]
        atheris.Setup([sys.argv[0], *given], TARGETS[target])
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
