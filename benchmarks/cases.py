"""Runs programs on workloads, in turns, and verifies everything that they write."""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import data, environments, programs, verify
from benchmarks.measure import Usage, measure
from benchmarks.verify import ProgramError
from benchmarks.workloads import WORKLOADS

SHOWN_LINES = 20
FEW_ROWS = 200
BLOCK_BYTES = 1 << 24


class Case(NamedTuple):
    """A program on a workload.

    Attributes:
        program: Its name in the tables of `programs`.
        work: The workload's name.
        rows: The number of rows.
        once: Whether the case runs in the first turn only, because it is slow or only serves to compare outputs.
    """

    program: str
    work: str
    rows: int
    once: bool = False


class Result(NamedTuple):
    """The measurements of a case, over all repetitions.

    Attributes:
        case: The case that ran.
        usages: The usage of each run.
        manifests: keyjoin's manifest of each run; empty for other programs.
    """

    case: Case
    usages: list[Usage]
    manifests: list[dict[str, Any]]

    def median(self, what: str) -> float:
        """The median of a field of `Usage`."""
        return float(statistics.median(getattr(usage, what) for usage in self.usages))

    @property
    def totals(self) -> dict[str, int]:
        """The last run's sums in keyjoin's manifest."""
        return self.manifests[-1]["totals"]

    def estimated(self, what: str) -> float:
        """The median of an estimate divided by what was measured, see `verify.estimated`."""
        return float(statistics.median(verify.estimated(manifest)[what] for manifest in self.manifests))

    @property
    def seconds(self) -> float:
        """The median time of the whole process, in seconds."""
        return self.median("seconds")

    @property
    def peak_bytes(self) -> float:
        """The median peak memory, in bytes."""
        return self.median("peak_bytes")


class Seen(NamedTuple):
    """Outputs that were verified, to compare other outputs with.

    Attributes:
        predictions: The predictions of each set of rows, by the name of the rows and their number.
        digests: The sha256 of an exact program's parts, by source.
    """

    predictions: dict[tuple[str, int], verify.Predictions]
    digests: dict[Path, str]


def run(cases: Sequence[Case], seed: int, repeat: int) -> list[Result]:
    """Runs cases in turns, so that other load on the machine affects all cases alike.

    Raises:
        ProgramError: A program fails, or its output is wrong.
    """
    for environment in {programs.find(case.program).environment for case in cases}:
        if environment is not None:
            environments.set_up(environment)
    results = [Result(case, [], []) for case in cases]
    seen = Seen({}, {})
    for turn in range(repeat):
        for result in results:
            case = result.case
            if turn and case.once:
                continue
            usage = _run(result, seed, seen)
            took = f"{case.program} took {usage.seconds:.1f} s"
            print(f"{case.rows:,} rows of {case.work}, run {turn + 1} of {repeat}: {took}", file=sys.stderr)
            result.usages.append(usage)
    return results


def _run(result: Result, seed: int, seen: Seen) -> Usage:
    case = result.case
    program, source = programs.find(case.program), data.cached(WORKLOADS[case.work], case.rows, seed)
    warm_up(case, source, seed)
    with tempfile.TemporaryDirectory(prefix="keyjoin-benchmark-") as folder:
        output = Path(folder, "output")
        usage = _score(case, source, output)
        try:
            if program.parts:
                _check(case, source, output, seen)
            if manifest := verify.manifest(output):
                result.manifests.append(manifest)
        except ProgramError as error:
            raise ProgramError(f"the output of {case.program} is wrong: {error}") from error
    return usage


def warm_up(case: Case, source: Path, seed: int) -> None:
    """Loads this program's libraries and input into memory, because the program before may have evicted them.

    Raises:
        ProgramError: The program fails on a few rows.
    """
    few = case._replace(rows=min(case.rows, FEW_ROWS))
    with tempfile.TemporaryDirectory(prefix="keyjoin-benchmark-") as folder:
        _score(few, data.cached(WORKLOADS[few.work], few.rows, seed), Path(folder, "output"))
    with source.open("rb") as file:
        while file.read(BLOCK_BYTES):
            pass


def _score(case: Case, source: Path, output: Path) -> Usage:
    program, work = programs.find(case.program), WORKLOADS[case.work]
    log = output.with_name("log")
    usage = measure(program.command(source, output, data.model(work), case.rows, work.flags), log)
    if usage.code:
        said = log.read_text(errors="replace").splitlines()[-SHOWN_LINES:]
        raise ProgramError("\n".join([f"{case.program} ended with exit code {usage.code}", *said]))
    return usage


def _check(case: Case, source: Path, output: Path, seen: Seen) -> None:
    """Verifies an output against its source and against the outputs of other programs."""
    program, work = programs.find(case.program), WORKLOADS[case.work]
    parts = sorted(output.glob(program.parts))
    verify.check_dead_letters(source, sorted(output.glob(programs.DEAD_LETTERS)), work)
    digest = verify.digest(parts)
    if program.exact and seen.digests.get(source) == digest:
        return  # These bytes were verified before.
    found = verify.read(parts, work, case.rows)
    known = seen.predictions.setdefault((work.data, case.rows), found)
    verify.check_same(found, known)
    if program.exact:
        if source in seen.digests:
            raise ProgramError("its bytes are not those of another program")
        verify.check_rows(source, parts, work)
        seen.digests[source] = digest
