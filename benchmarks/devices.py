"""Compares the model's bare signature with keyjoin on a GPU: rows a second of each, without the start-up time."""

import argparse
import os
import sys
from collections.abc import Sequence

from benchmarks import goals
from benchmarks.cases import run
from benchmarks.compare import count
from benchmarks.verify import ProgramError

# A GPU takes only a small part of the time that the goal's number of rows was chosen for.
TIMES = 5
GPU, CPU = "GPU", "CPU"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the goal `heavy` with more rows, and prints the measurements.

    Returns:
        0, also if there is no such device; 1 if a program fails or its output is wrong.
    """
    options = _parser().parse_args(argv)
    if options.device == CPU:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # the programs must not see a GPU either
    names = _devices(options.device)
    if not names:
        print(f"benchmarks/gpu: TensorFlow finds no {options.device} here: nothing is measured")
        return 0
    print(f"benchmarks/gpu: {', '.join(names)}")
    goal = goals.heavy(lambda rows: max(goals.MIN_ROWS, rows * TIMES // options.shrink))
    try:
        done = {result.case: result for result in run(goal.cases, options.seed, options.repeat)}
    except ProgramError as error:
        print(f"benchmarks/gpu: error: {error}", file=sys.stderr)
        return 1
    for case, result in done.items():
        print(f"{case.program:<8} {case.work:<15} {case.rows:>9,} rows {result.seconds:8.1f} s")
    for line in goal.judge(done):
        print(f"{line.what}: {line.measured:.3f}")
    return 0


def _devices(kind: str) -> list[str]:
    import tensorflow as tf  # only after the environment variables that it reads are set

    found = tf.config.list_physical_devices(kind)
    return [tf.config.experimental.get_device_details(device).get("device_name", device.name) for device in found]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks/gpu", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--device", choices=(GPU, CPU), default=GPU, help="CPU shows that it runs; its figures tell nothing of a GPU")
    add("--repeat", type=count, default=3, metavar="N", help="runs of each program (default: %(default)s)")
    add("--seed", type=int, default=1, help="what the rows are made from (default: %(default)s)")
    add("--shrink", type=count, default=1, metavar="N", help="a share of the rows, which tells nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
