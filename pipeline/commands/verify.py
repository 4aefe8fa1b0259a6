"""Implements `keyjoin verify`, which checks whether an output is still what its run wrote.

It prints each difference, and the commands that repair it. Only `--discard` changes anything.
"""

import dataclasses
import math
from collections.abc import Iterator

from pipeline.compat.startup import collect_garbage
from pipeline.job.progress import Phase, Progress
from pipeline.model.model_folder import newest_version
from pipeline.options.command_options import VerifyOptions
from pipeline.options.config import shortened
from pipeline.options.run_options import command
from pipeline.run_folder.lock import locked
from pipeline.run_folder.names import MANIFEST, SUCCESS
from pipeline.run_folder.writable import check_changeable
from pipeline.terminal.amounts import with_noun
from pipeline.terminal.events import Verified
from pipeline.terminal.exit_codes import Exit
from pipeline.terminal.messages import show, typed, visible
from pipeline.terminal.progress import show_event, shown
from pipeline.verification.check_files import Record, check_content, check_lists, check_names, read_record, sample
from pipeline.verification.check_rows import rescore_rows
from pipeline.verification.findings import Findings
from transforms import formats
from transforms.scoring.rescore import Agreement
from transforms.storage import files


def main(given: VerifyOptions, progress: Progress) -> Exit:
    """Runs the command.

    Args:
        given: The options of the command.
        progress: Counts what is read.

    Returns:
        `Exit.COMPLETE` without findings, otherwise the code of the findings.

    Raises:
        UsageError: The folder holds no run, or `--model` is not the model of the run.
        RunError: The run is not complete, or a file cannot be read.
    """
    given = dataclasses.replace(given, model=given.model and newest_version(given.model))
    collect_garbage()
    findings = Findings()
    lines: list[str] = []
    with shown(given.progress, progress, is_run=False):
        progress.enter(Phase.CHECKING)
        record, found = read_record(given.run)
        findings.extend(found)
        if record is not None and not findings.extend(check_lists(given.run, record.manifest)):
            lines = list(_check_rest(given, record, findings, progress))
    findings.print_more()
    for line in (_result(given, record, findings), *lines):
        show(visible(line))
    discarded = given.discard and findings.in_output
    if discarded:
        check_changeable(given.run, "verify")
        with locked(given.run):
            files.delete_tree(files.join(given.run, SUCCESS))
        show(f"{SUCCESS} is deleted: readers do not take {visible(given.run)} for a result until it is written again")
    again = shortened(command(record.manifest.options, given.run)) if record is not None and record.proven else None
    for advice in findings.advice(given.run, again, "" if discarded else _discard_command(given)):
        show(advice)
    by_kind = {kind.title: count for kind, count in sorted(findings.kinds.items())}
    show_event(Verified(exit_code=findings.code, findings=by_kind))
    return findings.code


def _check_rest(given: VerifyOptions, record: Record, findings: Findings, progress: Progress) -> Iterator[str]:
    """Checks the files against the lists: names and sizes, then the content and rows that the options ask for.

    The lists must have passed their own check before.

    Yields:
        One line for each check, which says how much it covered.
    """
    run, document = given.run, record.manifest
    findings.extend(check_names(run))
    parts = document.totals.parts
    if given.read_data is None:
        yield "--read_data=100% reads the contents, too"
    else:
        reader = formats.load(document.format).reader
        picked = sample(run, given.read_data, document.totals)
        progress.expect(Phase.READING, picked.bytes, picked.parts)
        findings.extend(check_content(run, picked.is_picked, findings.names, reader, progress))
        count = math.ceil(given.read_data * parts)
        yield f"read: {count:,} of {with_noun(parts, 'part')}, with their dead letters and their bytes of the sources"
    if given.rescore is None or given.model is None:  # one is never given without the other
        return
    if not record.proven:
        yield f"scored again: no rows, since {MANIFEST} is not the one of {SUCCESS}"
        return
    options = dataclasses.replace(
        document.options,
        model=given.model,
        model_libraries=given.model_libraries,
        custom_objects=given.custom_objects,
    )
    counted = rescore_rows(run, options, given.rescore, document, findings, progress)
    said = [f"{counted[agreement]:,} {agreement.value}" for agreement in Agreement if counted[agreement]]
    left_out = ", without rows of parts with replayed rows" if document.totals.replayed else ""
    yield f"scored again: {', '.join(said) or 'no rows'}{left_out}"


def _result(given: VerifyOptions, record: Record | None, findings: Findings) -> str:
    """Returns the verdict, with what it rests on."""
    if findings.kinds or record is None:
        return f"{given.run} is not what was written: {findings.counted()}"
    totals = record.manifest.totals
    counts = {"part": totals.parts, "row": totals.joined, "dead letter": totals.bad}
    share = given.read_data
    checked = (
        "sizes only, contents not read"
        if share is None
        else f"sizes, and the contents of {share * 100:g}% of the parts"
    )
    listed = ", ".join(with_noun(count, what) for what, count in counts.items())
    return f"{given.run} is what was written ({checked}): {listed}"


def _discard_command(given: VerifyOptions) -> str:
    """Returns the `verify` command that makes the same file checks and deletes `_SUCCESS` if they find differences."""
    share = [] if given.read_data is None else [f"--read_data={given.read_data * 100:g}%"]
    return typed(["keyjoin", "verify", f"--run={given.run}", *share, "--discard"])
