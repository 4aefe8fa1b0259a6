"""Ends a run: adds up its receipts, checks error limits and files, and records and reports the result."""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from pipeline.options.config import to_paste
from pipeline.options.error_limits import FLAG, ExceededLimit
from pipeline.options.run_options import command
from pipeline.report.write import write_report
from pipeline.run_folder import ledger, manifest, records
from pipeline.run_folder.names import PARTS, is_part, is_temporary, is_unfinished
from pipeline.run_folder.place import Place
from pipeline.run_folder.records import Audit, LoadedSettings, Measured
from pipeline.run_folder.unexpected_files import of_sources
from pipeline.terminal import report
from pipeline.terminal.messages import typed
from pipeline.terminal.warning import errors_as_warnings
from transforms import formats
from transforms.errors import RunError, UsageError
from transforms.reasons import DEAD_LETTERS
from transforms.records import Source, Unit
from transforms.storage import files
from transforms.storage.sources import Matched, refresh
from transforms.write_part import written_of
from transforms.write_receipts import read_list, read_receipts


class IfExceeded(enum.Enum):
    """What keyjoin does with a result that has more bad rows than an error limit allows."""

    RECORD = "the manifest has it, and there is no `_SUCCESS`"
    REPLACE = "it replaces the earlier result, which was over a limit, too"
    DISCARD = "nothing is written"


class OverErrorLimitError(RunError):
    """A run has more bad rows than an error limit allows.

    Attributes:
        exceeded: The error limit.
    """

    def __init__(self, exceeded: ExceededLimit, remedy: str) -> None:
        super().__init__(f"{exceeded}; {remedy}")
        self.exceeded = exceeded


class Settled(NamedTuple):
    """The outcome of a run.

    Attributes:
        totals: The ledger.
        exceeded: The error limit that the run exceeds; None if there is none.
        audit: The result of `--audit`; None without it.
    """

    totals: ledger.Totals
    exceeded: ExceededLimit | None
    audit: Audit | None = None


def settle(
    place: Place,
    settings: LoadedSettings,
    sources: Sequence[Source],
    seconds: float,
    *,
    prove_lock: Callable[[], None] = lambda: None,
    now: Matched | None = None,
    if_exceeded: IfExceeded = IfExceeded.RECORD,
    keep: bool = True,
    audit: Callable[[], Audit | None] = lambda: None,
    measured: Measured | None = None,
) -> Settled:
    """Ends a run whose parts are written.

    Adds up the receipts, checks the error limits and the ledger, and writes the lists, the manifest and `_SUCCESS`.
    Every run and every replay ends here: on this machine, or in the last step of a graph on a remote runner.

    Args:
        place: The folders that the run writes to.
        settings: The settings of the run. Their options have the error limits and the input.
        sources: The input files, as they were before the run.
        seconds: The duration of the run.
        prove_lock: Raises a RunError if another run has taken the folder over. `settle` calls it right before the
            commit, because adding up the receipts of many parts takes minutes.
        now: The input after the run; None to look it up.
        if_exceeded: What to do with the result if an error limit is exceeded.
        keep: Whether to keep the files that a later attempt needs. A new result within the error limits keeps them in
            any case until it is put in place.
        audit: Makes the result of `--audit`, or raises a RunError. It is called if the ledger adds up.
        measured: What was measured, if the run was on this machine.

    Raises:
        RunError: The ledger does not add up, the input cannot be looked up, or a file cannot be written.
    """
    totals = ledger.total(read_receipts(place.temp))
    exceeded = settings.options.max_bad_rows.exceeded(totals.dead, totals.rows)
    if exceeded is not None and if_exceeded is IfExceeded.DISCARD:
        return Settled(totals, exceeded)
    if now is None:
        now = _match_again(settings.options.input, sources)
    unit = formats.load(settings.format).reader.unit
    unnamed = _check(place, sources, {source.path: source for source in now.sources}, unit)
    report.print_unnamed(unnamed)
    success = exceeded is None
    audited = audit() if success else None
    prove_lock()
    files.delete_files(place.work, unnamed)
    manifest.commit(
        place.work,
        settings,
        sources,
        now.skipped,
        totals,
        seconds,
        success=success,
        mark=place.mark if success or if_exceeded is IfExceeded.REPLACE else None,
        keep=keep or (place.is_staged and success),
        audit=audited,
        measured=measured,
    )
    return Settled(totals, exceeded, audited)


def conclude(
    place: Place,
    settled: Settled,
    settings: LoadedSettings,
    seconds: float,
    *,
    resumed: bool | None,
    measured_rate: float | None = None,
) -> None:
    """Prints the result of a run, after it was settled or stopped early, and writes its report.

    Args:
        place: The folders that the run wrote to.
        settled: The outcome of the run.
        settings: Its settings.
        seconds: The duration of the run.
        resumed: Whether earlier attempts had finished a part of the run; None if that is not known.
        measured_rate: Rows a second of this attempt, without the start-up; None if it was not measured.

    Raises:
        RunError: An error limit is exceeded.
    """
    totals, exceeded, audit = settled
    if exceeded is not None:
        with errors_as_warnings("no bad rows can be shown"):
            parts = read_receipts(place.temp) if exceeded.early else read_list(files.join(place.work, PARTS))
            with_values = settings.options.report_rows > 0
            report.print_samples(place.work, parts, exceeded.reason, with_values=with_values)
    if exceeded is None or not (exceeded.early or place.is_staged):
        with errors_as_warnings(f"{place.output} is written, and could not be shown"):
            report.print_result(place.output, settings, totals, seconds, resumed=resumed, measured_rate=measured_rate)
            report.print_audit(audit)
            if settings.options.baseline is not None:
                report.print_drift(records.read(place.output, records.Manifest))
    has_report = (exceeded is None or not place.is_staged) and write_report(place.output)
    report.print_next(place.output, totals, has_report=has_report, is_complete=exceeded is None)
    if exceeded is not None:
        raise over_error_limit(place, exceeded, _allowing(settings, place.output, exceeded))


def _match_again(patterns: Sequence[str], planned: Sequence[Source]) -> Matched:
    """Looks up the input again after the run has read it, see `sources.refresh`.

    Raises:
        RunError: A pattern matches nothing any more, or cannot be looked up.
    """
    try:
        return refresh(patterns, planned)
    except UsageError as error:
        raise RunError(f"the input cannot be looked up again: {error}; no _SUCCESS was written") from error


def over_error_limit(place: Place, exceeded: ExceededLimit, allowing: str | None = None) -> OverErrorLimitError:
    """Makes the error of a run with too many bad rows. It says which error limit is exceeded, and what to do.

    Args:
        place: The folders that the run wrote to.
        exceeded: The error limit.
        allowing: The command that resumes the run and allows the bad rows; None if it is not known.
    """
    output, dead = place.output, files.join(place.work, DEAD_LETTERS)
    raised = f"{FLAG}={exceeded.raised}"
    resuming = f"resume with: {allowing}" if allowing else f"give the run's command again with {raised}"
    if place.is_staged:
        return OverErrorLimitError(
            exceeded,
            f"{output} is still the complete output that it was before; see {dead}, then fix model or rows, or "
            f"allow bad rows and {resuming}",
        )
    if exceeded.example:
        return OverErrorLimitError(
            exceeded,
            "no _SUCCESS was written; repair model or rows and start anew with --overwrite, or allow bad rows and "
            f"{resuming}",
        )
    replay = typed(["keyjoin", "replay", f"--run={output}"])
    return OverErrorLimitError(
        exceeded,
        f"no _SUCCESS was written; see {dead}, then fix model or rows, see {replay} --help, or allow bad rows and "
        f"{resuming}",
    )


def _allowing(settings: LoadedSettings, output: str, exceeded: ExceededLimit) -> str | None:
    """Returns the command that resumes a run and allows its bad rows.

    None if it would be too long to read, or needs flags that are not recorded: those of Beam, or --overwrite.
    """
    if settings.run is not None:
        return None
    words = [word for word in command(settings.options, output) if not word.startswith(FLAG)]
    return to_paste([*words, f"{FLAG}={exceeded.raised}"])


def _check(place: Place, sources: Sequence[Source], now: Mapping[str, Source], unit: Unit) -> list[str]:
    """Compares the sources and the parts with the receipts.

    Returns:
        Unexpected files of an earlier attempt: no receipt names them.

    Raises:
        RunError: The ledger does not add up, or another unexpected file has the name of a part.
    """
    temp, written = place.temp, files.list_below(place.work)
    # Parts that the new result keeps unchanged are still in the output folder.
    both = {**files.list_below(place.output), **written} if place.is_staged else written
    found = ledger.problems(sources, now, read_receipts(temp), both, unit)
    first = next(found, None)
    if first is not None:
        others = sum(1 for _ in found)  # Counted and not kept: there may be one for each of a million parts.
        more = f" (and {others} more)" if others else ""
        raise RunError(
            f"the ledger does not add up: {first}{more}; no _SUCCESS was written: give the same command again, which "
            "resumes the run"
        )
    for part in read_receipts(temp):
        for name, _ in written_of(part):
            written.pop(name, None)
    unnamed = [name for name in written if is_part(name) and not is_temporary(name)]
    ours = of_sources(unnamed, sources)
    other = next((name for name in unnamed if name not in ours and not is_unfinished(name)), None)
    if other is not None:
        raise RunError(
            f"{files.join(place.work, other)} is not of this run, and readers would take it for rows; no _SUCCESS was "
            "written: move it away, and give the same command again, which resumes the run"
        )
    return sorted(ours)
