"""Implements `keyjoin replay`, which scores dead letters again and writes the rows that now succeed into their parts.

`replay` writes the changed parts to a separate folder. Once all of them are whole, it puts them in place, see
`pipeline.run_folder.replace`. If it is killed before that, the output is unchanged. If it is killed later, the next
command on the output finishes the replacement.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from pipeline.compat import beam as beam_compat
from pipeline.compat.startup import collect_garbage
from pipeline.job.progress import Phase, Progress, Result
from pipeline.model import model_process
from pipeline.model.model_folder import newest_version
from pipeline.options.command_options import ReplayOptions
from pipeline.options.config import shortened
from pipeline.options.flag import flags_of
from pipeline.options.groups import FieldOptions
from pipeline.options.run_options import RunOptions, command
from pipeline.plan.preflight import Inputs, Plan, prepare
from pipeline.report.write import write_report
from pipeline.run_folder import ledger, manifest, records, resume
from pipeline.run_folder.lock import locked
from pipeline.run_folder.names import JOB, MANIFEST, PARTS
from pipeline.run_folder.place import in_place, own_names, staged
from pipeline.run_folder.records import Job, Manifest
from pipeline.run_folder.replace import finish, is_ready
from pipeline.run_folder.resume import Earlier, Stage
from pipeline.run_folder.settle import IfExceeded, over_error_limit, settle
from pipeline.run_folder.unexpected_files import check_files
from pipeline.run_folder.writable import check_changeable
from pipeline.terminal.amounts import with_noun
from pipeline.terminal.exit_codes import Exit
from pipeline.terminal.messages import show, typed, visible
from pipeline.terminal.progress import shown
from pipeline.terminal.report import print_line
from pipeline.terminal.signals import in_the_background
from pipeline.terminal.warning import errors_as_warnings
from transforms import formats
from transforms.errors import RunError, UsageError
from transforms.formats.base import Block, Reader
from transforms.reasons import DEAD_LETTERS
from transforms.records import PartReceipt, Source
from transforms.replay_part import NO_REPAIRS, Repaired, keys, load_scored, read_rows, replay_part
from transforms.split_into_chunks import open_plain
from transforms.storage import files
from transforms.storage.sources import Matched
from transforms.threads import in_threads
from transforms.write_part import written_of
from transforms.write_receipts import LISTED, read_list, receipt_path, write_list


def main(given: ReplayOptions, progress: Progress) -> Exit:
    """Runs the command.

    Args:
        given: The options of the command.
        progress: Counts what the command has done. It takes the result, too.

    Returns:
        `Exit.COMPLETE`.

    Raises:
        UsageError: The folder holds no run that has ended, or the model does not fit. No part was changed.
        RunError: A file of the output or a source has changed since the run, a file cannot be written, or the result
            exceeds an error limit.
    """
    with shown(given.progress, progress):
        return _replay(given, progress)


def _replay(given: ReplayOptions, progress: Progress) -> Exit:
    given = dataclasses.replace(given, model=given.model and newest_version(given.model))
    collect_garbage()
    beam_compat.quiet()
    run: str = given.run
    progress.enter(Phase.PLANNING)
    check_files(run)
    if not own_names(run) & {JOB, MANIFEST}:
        raise UsageError(f"{run} holds no run of keyjoin; give the folder that was its --output")
    check_changeable(run, "replay")
    with locked(run) as prove_lock:
        if is_ready(run):
            print_line("resumes", "an interrupted command: keyjoin puts its new result in place")
            finish(run, prove_lock)
        earlier, document = _ended(run)
        options = _options(run, document, given)
        if not document.totals.dead:
            show(f"{visible(run)} has no dead letters; there is nothing to do")
            progress.result = Result(run, document.totals)
            return Exit.COMPLETE
        if earlier.stage is not Stage.COMPLETE:
            _check_parts(run, document)
        repaired = read_rows(given.rows, formats.load(document.format).reader) if given.rows else NO_REPAIRS
        _check_keys(run, earlier, given.rows, repaired.rows)
        progress.enter(Phase.LOADING)
        with _prepared(options, earlier, document) as plan:
            changed, joined = in_the_background(lambda: _stage(run, earlier, plan, repaired.rows, progress))
        rate = progress.rate()
        progress.enter(Phase.FINISHING)
        prove_lock()
        if changed or earlier.stage is not Stage.COMPLETE:
            totals = _commit(run, earlier, document, plan, _record(plan, repaired, document, joined))
            finish(run, prove_lock)
        else:
            totals = document.totals
            with errors_as_warnings(f"{run} is as it was, and could not be cleaned up"):
                manifest.clear(run)
    _conclude(run, joined, totals, options)
    progress.result = Result(run, totals, rate)
    return Exit.COMPLETE


def _ended(run: str) -> tuple[Earlier, Manifest]:
    """Returns the run and its manifest.

    Raises:
        UsageError: The folder holds no run, the run has not ended, or an unfinished run will replace its output.
    """
    earlier = _find_run(run)
    if isinstance(earlier.record, Job) and _is_over_error_limit(run, earlier.record):
        # A run on a remote runner that exceeds an error limit keeps `_keyjoin/job.json`, so that it can be resumed. A
        # replay ends that run instead.
        manifest.clear(run)
        earlier = _find_run(run)
    ended = earlier.record
    if isinstance(ended, Job) or (earlier.stage is Stage.COMMITTED and not ended.totals.dead):
        again = typed(shortened(command(ended.options, run)))
        raise UsageError(f"--run {run} holds a run that {earlier.stage.value}; finish it first: {again}")
    new, begun = staged(run).work, resume.unfinished(run)
    if begun is not None and earlier.stage is Stage.COMPLETE:
        again = typed(shortened([*command(begun.record.options, run), *_replacing(begun)]))
        raise UsageError(
            f"--run {run} has a new run that {begun.stage.value}, in {new}; finish it first: {again}; or delete {new}"
        )
    manifest.clear(run)  # a run that was killed after its commit leaves temporary files
    return earlier, ended


def _replacing(begun: Earlier) -> list[str]:
    recorded = begun.record.options
    return ["--overwrite"] * recorded.overwrite + ["--incremental"] * recorded.incremental


def _find_run(run: str) -> Earlier:
    earlier = resume.find_earlier(run)
    if earlier is None:
        raise UsageError(f"{run} holds no run of keyjoin; give the folder that was its --output")
    return earlier


def _is_over_error_limit(run: str, job: Job) -> bool:
    """Returns whether the run of `_keyjoin/job.json` also has a manifest that says that it exceeds an error limit."""
    made = records.read(run, Manifest)
    return made is not None and made.status == records.OVER_ERROR_LIMIT and made.settings() == job.settings()


def _check_parts(run: str, document: Manifest) -> None:
    """Reads back all parts and dead letter files of a run without `_SUCCESS`.

    `keyjoin verify --discard` may have deleted `_SUCCESS` because one of these files is damaged.

    Raises:
        RunError: A file is missing or damaged.
    """
    pairs = (pair for part in read_list(files.join(run, PARTS)) for pair in written_of(part))
    whole = in_threads(lambda pair: (pair[0], files.read_back(files.join(run, pair[0])) == pair[1]), pairs)
    damaged = next((name for name, is_whole in whole if not is_whole), None)
    if damaged is not None:
        again = typed(shortened(command(document.options, run)))
        raise RunError(f"{run}: {damaged} is not what was written; the run's own command writes it again: {again}")


def _options(run: str, document: Manifest, given: ReplayOptions) -> RunOptions:
    """Returns the options of the run, with the options of this command in their place where it has any."""
    pinned = given.model_sha256 or (None if given.model else document.model.sha256)
    anew = {name: getattr(given, name) for name in ("constant", *flags_of(FieldOptions))}
    return dataclasses.replace(
        document.options,
        output=run,
        model=given.model or document.model.path,
        # Which ops and modules to trust is never read from the output folder: someone may have edited it. A module is
        # code that keyjoin would run.
        model_ops=given.model_ops,
        model_sha256=pinned,
        model_libraries=given.model_libraries,
        custom_objects=given.custom_objects,
        **{name: value for name, value in anew.items() if value},
    )


def _check_keys(run: str, earlier: Earlier, path: str | None, repaired: Mapping[str, bytes]) -> None:
    """Reports repaired rows whose keys have no dead letter: they change nothing.

    Raises:
        UsageError: The key of a repaired row belongs to no source of the run.
    """
    known = {source.path for source in earlier.sources or ()}
    strange = next((key for key in repaired if key.rpartition("#")[0] not in known), None)
    if strange is not None:
        raise UsageError(f"--rows {path}: {strange} is no key of this run; take it from its {DEAD_LETTERS}/")
    without = repaired.keys() - set(keys(_dead(run), run)) if repaired else ()
    if without:
        print_line("skipped", f"{with_noun(len(without), 'fixed row')} without a dead letter, such as {min(without)}")


def _dead(run: str) -> Iterator[PartReceipt]:
    return (part for part in read_list(files.join(run, PARTS)) if part.dead)


@contextlib.contextmanager
def _prepared(options: RunOptions, earlier: Earlier, document: Manifest) -> Iterator[Plan]:
    """Makes a plan, as for a run over the same sources.

    Raises:
        UsageError: The model is wrong, or its predictions have other names or shapes than those in the parts.
    """
    settings = manifest.settings(options, document.format)
    inputs = Inputs(document.format, Matched(list(earlier.sources or ()), []), settings)
    with prepare(options, inputs, local=True, kept=manifest.kept_of(document), check_rows=False) as plan:
        before, now = document.model.predictions, plan.settings.model.predictions
        if before != now:
            raise UsageError(
                f"{options.model} gives the predictions {list(now)}, the run's model gave {list(before)}, and a part "
                "cannot hold both; give a model with the same ones, or run again with --overwrite"
            )
        shapes, other = document.model.output_shapes, plan.settings.model.output_shapes
        if shapes != other:
            raise UsageError(
                f"{options.model} gives predictions of the shapes {other}, the run's model gave {shapes}, and a part "
                "cannot hold both; give a model with the same ones, or run again with --overwrite"
            )
        yield plan


def _stage(
    run: str, earlier: Earlier, plan: Plan, repaired: Mapping[str, bytes], progress: Progress
) -> tuple[bool, int]:
    """Scores the dead letters again, and writes the changed parts and the lists of receipts to the separate folder.

    Returns:
        Whether any part changes, and how many more rows succeed now.

    Raises:
        RunError: A source, a part or its dead letters have changed since the run.
    """
    job, joined, changed, place = plan.job, 0, False, staged(run)
    fmt, model = formats.load(job.format), job.handler.load_model()
    sources = {source.path: source for source in earlier.sources or ()}
    progress.plan_replay(run, sources.values(), _dead(run))
    progress.model_seconds = model_process.process().processor_seconds
    progress.enter(Phase.SCORING)
    for path, parts in itertools.groupby(_dead(run), key=lambda part: part.chunk.source):
        for part, block in _with_blocks(sources[path], parts, fmt.reader, progress):
            made = replay_part(part, block, repaired, fmt, job.handler, model, job.layout, run, place.work, place.temp)
            if made is not None:
                changed, joined = True, joined + made.joined - part.joined
            progress.replayed(part, (made or part).dead)
    _list_receipts(run, place.temp)
    return changed, joined


def _list_receipts(run: str, temp: str) -> None:
    """Writes lists with the receipts of all parts: new receipts of changed parts, and former receipts of all others."""

    def now(part: PartReceipt) -> PartReceipt:
        path = receipt_path(temp, part.chunk.part)
        return next(read_list(path)) if part.dead and files.read_small(path) is not None else part

    receipts = map(now, read_list(files.join(run, PARTS)))
    for number in itertools.count():
        some = list(itertools.islice(receipts, LISTED))
        if not some:
            return
        write_list(temp, number, "00", some)


def _with_blocks(
    source: Source, parts: Iterable[PartReceipt], reader: Reader, progress: Progress
) -> Iterator[tuple[PartReceipt, Block]]:
    """Yields parts of a source, each with the rows of its chunk.

    Raises:
        RunError: The source cannot be read, or its rows have changed since the run.
    """
    try:
        with open_plain(source) as file:
            for part in parts:
                progress.begin()
                block = load_scored(file, part, reader)
                progress.read()
                yield part, block
    except OSError as error:
        raise RunError(
            f"{source.path} cannot be read: {error}; a replay needs it: put it back, or give the command in the "
            "folder where the run was started"
        ) from error


def _record(plan: Plan, repaired: Repaired, document: Manifest, joined: int) -> records.Replay:
    """Makes the record of this replay for the manifest."""
    used = plan.settings.model
    return records.Replay(
        model=records.UsedModel(path=used.path, sha256=used.sha256, inputs=used.inputs),
        versions=plan.settings.versions,
        rows_sha256=repaired.sha256,
        dead_letters=document.totals.bad,
        joined=joined,
    )


def _commit(run: str, earlier: Earlier, document: Manifest, plan: Plan, said: records.Replay) -> ledger.Totals:
    """Writes the lists and the manifest of the new result.

    Returns:
        The ledger of the new result.

    Raises:
        RunError: The ledger does not add up, or the replay would take a complete output over an error limit. The
            output is then unchanged.
    """
    place, sources = staged(run), earlier.sources or ()
    lineage = tuple(dict.fromkeys([*document.lineage, *plan.settings.lineage]))
    settings = msgspec.structs.replace(document.settings(), replays=(*document.replays, said), lineage=lineage)
    # The input is not looked up again, because sources may be gone by now. The run recorded which ones it read.
    read = Matched(list(sources), list(document.skipped))
    is_complete = earlier.stage is Stage.COMPLETE
    if_exceeded = IfExceeded.DISCARD if is_complete else IfExceeded.REPLACE
    settled = settle(
        place, settings, sources, document.seconds, now=read, if_exceeded=if_exceeded, measured=document.measured
    )
    if settled.exceeded is not None and is_complete:
        raise RunError(f"{settled.exceeded}; {run} is still the complete output that it was before: fix model or rows")
    return settled.totals


def _conclude(run: str, joined: int, totals: ledger.Totals, options: RunOptions) -> None:
    """Prints the result and writes the report.

    Raises:
        RunError: The result exceeds an error limit.
    """
    with errors_as_warnings(f"{run} is written, and could not be shown"):
        _print_result(run, joined, totals)
    write_report(run)
    exceeded = options.max_bad_rows.exceeded(totals.dead, totals.rows)
    if exceeded is not None:
        raise over_error_limit(in_place(run), exceeded)


def _print_result(run: str, joined: int, totals: ledger.Totals) -> None:
    bad = ", ".join(f"{code} {count:,}" for code, count in totals.dead.items())
    print_line("joined now", with_noun(joined, "row"))
    print_line("still bad", f"{with_noun(totals.bad, 'row')}{f' ({bad})' if bad else ''}")
    print_line("output", run)
