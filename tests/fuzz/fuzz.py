"""Fuzzing with coverage: `python -m tests.fuzz.fuzz TARGET RUNS [libFuzzer's flags]`, on what atheris supports.

What it finds is written to the current folder, and belongs into tests/fuzz/corpus/TARGET once it is mended.
"""

import sys
import tempfile
from pathlib import Path

import atheris

# Only what is ours: to follow Beam and TensorFlow, too, would cost minutes at each start.
with atheris.instrument_imports(include=["transforms"]):
    from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).with_name("corpus")


def main(target: str, runs: str, *flags: str) -> None:
    # libFuzzer adds what is new to the first folder, and only reads the second.
    with tempfile.TemporaryDirectory() as new:
        given = [f"-runs={runs}", "-seed=1", "-max_len=1024", *flags, new, str(CORPUS / target)]
        atheris.Setup([sys.argv[0], *given], TARGETS[target])
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
