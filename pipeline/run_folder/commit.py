"""The commit: what was written is compared with the receipts, and made the result."""

from collections.abc import Mapping, Sequence

from pipeline.options.error_limits import ExceededLimit
from pipeline.run_folder import ledger, manifest
from pipeline.run_folder.names import is_part, is_temporary, is_unfinished
from pipeline.run_folder.place import Place
from pipeline.run_folder.records import LoadedSettings
from pipeline.run_folder.unexpected_files import of_sources
from pipeline.terminal import report
from pipeline.terminal.messages import quoted
from transforms.errors import RunError, UsageError
from transforms.reasons import DEAD_LETTERS
from transforms.records import Source
from transforms.storage import files
from transforms.storage.sources import Matched, refresh
from transforms.write_part import written_of
from transforms.write_receipts import read_receipts


def commit(
    place: Place,
    settings: LoadedSettings,
    sources: Sequence[Source],
    now: Matched,
    totals: ledger.Totals,
    seconds: float,
    *,
    success: bool,
    mark: bool | None = None,
    keep: bool = False,
) -> None:
    """Checks what was written, deletes what no receipt names, and makes the rest the result.

    Args:
        place: Where the run writes.
        settings: See `manifest.commit`, as are those below.
        sources: The input files as they were before the run.
        now: What the input is after it.
        totals: The ledger.
        seconds: What it took.
        success: Whether no limit was exceeded.
        mark: Whether `_SUCCESS`, or what stands for it, is written; None if it depends on `success`.
        keep: Whether what is needed to go on stays.

    Raises:
        RunError: The ledger does not add up.
    """
    unnamed = _check(place, sources, {source.path: source for source in now.sources})
    report.print_unnamed(unnamed)
    files.delete_files(place.work, unnamed)
    marked = place.mark if (success if mark is None else mark) else None
    manifest.commit(
        place.work, settings, sources, now.skipped, totals, seconds, success=success, mark=marked, keep=keep
    )


def look_again(patterns: Sequence[str], planned: Sequence[Source]) -> Matched:
    """What the input is now that it was read, see `sources.refresh`.

    Raises:
        RunError: Some pattern matches nothing any more, or cannot be looked up.
    """
    try:
        return refresh(patterns, planned)
    except UsageError as error:
        raise RunError(f"the input cannot be looked up again: {error}; no _SUCCESS was written") from error


def over_error_limit(place: Place, exceeded: ExceededLimit) -> RunError:
    """The error of a run with more bad rows than a limit allows: what was exceeded, and what to do."""
    output, dead = place.output, files.join(place.work, DEAD_LETTERS)
    if place.is_staged:
        return RunError(
            f"{exceeded}; see {dead}, then raise the error limit and give the same command again, which resumes the "
            f"run, or fix model or rows; {output} is still the complete output that it was before"
        )
    if exceeded.example:
        return RunError(
            f"{exceeded}; repair model or rows and start anew with --overwrite, or raise {exceeded.flag} and give the "
            "command again, which resumes the run; no _SUCCESS was written"
        )
    replay = quoted(["keyjoin", "replay", f"--run={output}"])
    return RunError(
        f"{exceeded}; see {dead}, then raise the error limit and give the run's command again, "
        f"which resumes the run, or fix model or rows, see {replay} --help; no _SUCCESS was written"
    )


def _check(place: Place, sources: Sequence[Source], now: Mapping[str, Source]) -> list[str]:
    """Compares sources and parts with the receipts.

    Returns:
        Files of an earlier attempt that no receipt names.

    Raises:
        RunError: The ledger does not add up.
    """
    temp, written = place.temp, files.list_below(place.work)
    # Parts that are to stay as they are lie in the output still.
    both = {**files.list_below(place.output), **written} if place.is_staged else written
    found = ledger.problems(sources, now, read_receipts(temp), both)
    first = next(found, None)
    if first is not None:
        others = sum(1 for _ in found)  # Counted, not kept: there may be one for each of a million parts.
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
