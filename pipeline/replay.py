"""`keyjoin replay`: scores the dead letters of a run again, and puts the rows that succeed now into their places.

    a run that has ended -> parts are staged in the temporary folder, nothing else changes
                         -> `_SUCCESS` goes, `_job.json` says that parts are being replaced
                         -> what was staged is put in place -> commit

Killed before `_SUCCESS` goes, nothing has changed. Killed later, the same command puts in place what was staged; and
the run's own command keeps the parts that are in place, and scores those again that are not whole.
"""

import argparse
import contextlib
import dataclasses
import shlex
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from pipeline import ledger, manifest, record, resume
from pipeline.commit import commit, over_budget
from pipeline.exits import Exit
from pipeline.lock import locked
from pipeline.names import JOB, MANIFEST, PARTS, STAGED, TEMP, is_unfinished
from pipeline.options import (
    Parser,
    RunOptions,
    add_mapping_arguments,
    add_trust_arguments,
    command,
    pairs_of,
)
from pipeline.preflight import Inputs, Plan, prepare
from pipeline.record import Job, LoadedSettings, Manifest, Replaying
from pipeline.report import say
from pipeline.resume import Earlier, Stage
from pipeline.signals import in_the_background
from pipeline.startup import collect_garbage, quiet_beam
from pipeline.warning import only_told
from transforms import files, formats
from transforms.chunks import open_plain
from transforms.errors import RunError, UsageError
from transforms.reasons import DEAD_LETTERS
from transforms.receipts import RECEIPTS, list_receipts, read_list, read_receipts
from transforms.records import PartReceipt, Source
from transforms.replay import NOTHING_MENDED, Mended, keys, put, read_rows, replay_part
from transforms.sources import Matched
from transforms.threads import in_threads
from transforms.write import written_of


def parser() -> Parser:
    """The parser of `replay`."""
    made = Parser(
        prog="keyjoin replay",
        allow_abbrev=False,
        description="Scores the dead letters of a run again, and puts the rows that succeed now into their places.",
    )
    add = made.add_argument
    add("--run", required=True, metavar="DIR", help="the --output of the run")
    add(
        "--rows",
        metavar="FILE",
        help="mended rows by key: lines like those of dead letters, of which key and row count",
    )
    add("--model", metavar="DIR", help="another model with the same predictions (default: the run's own, unchanged)")
    add_trust_arguments(made)
    add_mapping_arguments(made)
    return made


def main(argv: Sequence[str]) -> Exit:
    """Runs the command.

    Raises:
        UsageError: A flag is wrong, there is no run that has ended, or the model does not fit; nothing was changed.
        RunError: Something is not what the run wrote or read, a file cannot be written, or there is no `_SUCCESS`
            since still too many rows are bad.
    """
    given = parser().parse_args(argv)
    collect_garbage()
    quiet_beam()
    run: str = given.run
    if not files.names_in(run) & {JOB, MANIFEST}:
        raise UsageError(f"--run {run} holds no run of keyjoin; give the folder that was its --output")
    with locked(run) as prove_lock:
        earlier, document = _ended(run, prove_lock)
        options = _options(run, document, given)
        if not document.totals.dead:
            print(f"{run} has no dead letters; there is nothing to do")
            return Exit.COMPLETE
        if earlier.stage is not Stage.COMPLETE:
            _check_parts(run, document)
        mended = read_rows(given.rows, formats.load(document.format)) if given.rows else NOTHING_MENDED
        _check_keys(run, earlier, given.rows, mended.rows)
        with _prepared(options, earlier, document) as plan:
            joined = in_the_background(lambda: _stage(run, earlier, plan, mended.rows))
        prove_lock()
        if any(True for _ in _staged(run)) or earlier.stage is not Stage.COMPLETE:
            _begin(run, earlier, document, _record(plan, mended, document, joined))
            totals = _put(run, prove_lock)
        else:
            totals = document.totals
            with only_told(f"{run} is as it was, and could not be cleaned up"):
                manifest.clear(run)
    with only_told(f"{run} is written, and could not be shown"):
        _print_result(run, joined, totals)
    breach = options.max_bad_rows.breach(totals.dead, totals.rows)
    if breach is not None:
        raise over_budget(run, breach)
    return Exit.COMPLETE


def _ended(run: str, prove_lock: Callable[[], None]) -> tuple[Earlier, Manifest]:
    """The run and its manifest, once a replay of it that was killed is finished.

    Raises:
        UsageError: It has not ended.
    """
    earlier = _look(run)
    if isinstance(earlier.record, Job) and _is_over_budget(run, earlier.record):
        # What another runner than the local one leaves to go on with: it ends here.
        manifest.clear(run)
        earlier = _look(run)
    if isinstance(earlier.record, Job) and earlier.record.replaying is not None:
        say("goes on", "with a replay that was not finished: what it scored is put in place")
        files.delete_files(run, [name for name in files.list_below(run) if is_unfinished(name)])
        _put(run, prove_lock)
        earlier = _look(run)
    ended = earlier.record
    if isinstance(ended, Job) or (earlier.stage is Stage.COMMITTED and not ended.totals.dead):
        again = shlex.join(command(ended.options))
        raise UsageError(f"--run {run} holds a run that {earlier.stage.value}; let it go on first: {again}")
    manifest.clear(run)  # what a run that was killed after its commit has left
    return earlier, ended


def _look(run: str) -> Earlier:
    earlier = resume.look(run)
    if earlier is None:
        raise UsageError(f"--run {run} holds no run of keyjoin; give the folder that was its --output")
    return earlier


def _is_over_budget(run: str, job: Job) -> bool:
    """Whether a run has a manifest already, and that is the one of its `_job.json`."""
    made = record.read(run, Manifest)
    return made is not None and made.status == record.OVER_BUDGET and _settings(made) == _settings(job)


def _settings(found: Job | Manifest) -> LoadedSettings:
    return LoadedSettings(**{name: getattr(found, name) for name in LoadedSettings.__struct_fields__})


def _check_parts(run: str, document: Manifest) -> None:
    """Reads back all parts of a run without `_SUCCESS`, which may have been taken away because one is damaged.

    Raises:
        RunError: One is.
    """
    pairs = (pair for part in read_list(files.join(run, PARTS)) for pair in written_of(part))
    whole = in_threads(lambda pair: (pair[0], files.read_back(files.join(run, pair[0])) == pair[1]), pairs)
    damaged = next((name for name, is_whole in whole if not is_whole), None)
    if damaged is not None:
        again = shlex.join(command(document.options))
        raise RunError(f"{run}: {damaged} is not what was written; the run's own command writes it again: {again}")


def _options(run: str, document: Manifest, given: argparse.Namespace) -> RunOptions:
    """The run's options, but for what is given anew."""
    pinned = given.model_sha256 or (None if given.model else document.model.sha256)
    anew = {"features": given.features, "input_map": pairs_of(given.input_map)}
    return dataclasses.replace(
        document.options,
        output=run,
        model=given.model or document.model.path,
        model_ops=given.model_ops,  # what an output folder says of it is not believed
        model_sha256=pinned,
        **{name: value for name, value in anew.items() if value},
    )


def _check_keys(run: str, earlier: Earlier, path: str, mended: Mapping[str, bytes]) -> None:
    """Tells which mended rows have no dead letter, so that they change nothing.

    Raises:
        UsageError: One of them is of a source that the run has not read.
    """
    known = {source.path for source in earlier.sources or ()}
    strange = next((key for key in mended if key.rpartition("#")[0] not in known), None)
    if strange is not None:
        raise UsageError(f"--rows {path}: {strange} is no key of this run; take it from its {DEAD_LETTERS}/")
    without = mended.keys() - set(keys(_dead(run), run)) if mended else ()
    if without:
        say("left out", f"{len(without):,} mended rows that have no dead letter (any more): {min(without)}")


def _dead(run: str) -> Iterator[PartReceipt]:
    return (part for part in read_list(files.join(run, PARTS)) if part.dead)


@contextlib.contextmanager
def _prepared(options: RunOptions, earlier: Earlier, document: Manifest) -> Iterator[Plan]:
    """The model and what feeds it, as for a run over the same sources.

    Raises:
        UsageError: Something is wrong with the model, or its predictions are others.
    """
    settings = manifest.settings(options, document.format)
    inputs = Inputs(document.format, Matched(list(earlier.sources or ()), []), settings)
    with prepare(options, inputs, local=True, kept=manifest.batch_of(document.model), check_rows=False) as plan:
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


def _stage(run: str, earlier: Earlier, plan: Plan, mended: Mapping[str, bytes]) -> int:
    """Scores dead letters again, and stages the parts that change.

    Returns:
        How many rows succeed now.

    Raises:
        RunError: A source, a part or its dead letters are not what they were.
    """
    job, joined = plan.job, 0
    fmt, staged, model = formats.load(job.format), _stage_folder(run), job.handler.load_model()
    sources = {source.path: source for source in earlier.sources or ()}
    for path, parts in ledger.by_source(_dead(run)):
        for part, data in _with_data(sources[path], parts):
            made = replay_part(part, data, mended, fmt, job.handler, model, job.layout, run, staged)
            joined += 0 if made is None else made.joined - part.joined
    return joined


def _with_data(source: Source, parts: Sequence[PartReceipt]) -> Iterator[tuple[PartReceipt, bytes]]:
    """Parts of a source, each with the bytes of its chunk."""
    try:
        with open_plain(source) as file:
            for part in parts:
                file.seek(part.chunk.start)
                yield part, file.read(part.chunk.end - part.chunk.start)
    except (OSError, EOFError, zlib.error) as error:
        raise RunError(
            f"{source.path} cannot be read: {error}; rows find their places by it: put it back, or give the command "
            "where the run was started"
        ) from error


def _record(plan: Plan, mended: Mended, document: Manifest, joined: int) -> record.Replay:
    """What the manifest says of a replay."""
    used = plan.settings.model
    return record.Replay(
        model=record.UsedModel(path=used.path, sha256=used.sha256, inputs=used.inputs),
        versions=plan.settings.versions,
        rows_sha256=mended.sha256,
        dead_letters=document.totals.bad,
        joined=joined,
    )


def _begin(run: str, earlier: Earlier, document: Manifest, said: record.Replay) -> None:
    """Makes the folder one in which parts are being replaced. What was staged stays."""
    settings = msgspec.structs.replace(_settings(document), replays=(*document.replays, said))
    carried = Replaying(skipped=document.skipped, seconds=document.seconds)
    resume.begin(run, settings, earlier.sources or (), earlier, files.list_below(run), replaying=carried)


def _put(run: str, prove_lock: Callable[[], None]) -> ledger.Totals:
    """Puts in place what was staged, and commits; as often as need be.

    Returns:
        The ledger.

    Raises:
        RunError: What was staged is damaged, a file cannot be written, or the ledger does not add up.
    """
    earlier = _look(run)
    job = earlier.record
    if not isinstance(job, Job) or job.replaying is None:
        raise RunError(f"{run} holds no replay to finish: another run works there; wait for it, and run again")
    temp, staged = files.join(run, TEMP), _stage_folder(run)
    for part in _staged(run):
        put(part, staged, run, temp)
    list_receipts(temp)
    sources, seconds = earlier.sources or (), job.replaying.seconds
    totals = ledger.total(read_receipts(temp))
    breach = job.options.max_bad_rows.breach(totals.dead, totals.rows)
    prove_lock()
    # The sources need not be there any more: what was read of them is on record.
    read = Matched(list(sources), list(job.replaying.skipped))
    commit(run, _settings(job), sources, read, totals, seconds, success=breach is None)
    return totals


def _stage_folder(run: str) -> str:
    return files.join(run, TEMP, STAGED)


def _staged(run: str) -> Iterator[PartReceipt]:
    folder = files.join(_stage_folder(run), RECEIPTS)
    for name in sorted(files.list_below(folder)):
        yield from read_list(files.join(folder, name))


def _print_result(run: str, joined: int, totals: ledger.Totals) -> None:
    bad = ", ".join(f"{code} {count:,}" for code, count in totals.dead.items())
    say("joined now", f"{joined:,} row{'s' * (joined != 1)}")
    say("still bad", f"{totals.bad:,} row{'s' * (totals.bad != 1)}{f' ({bad})' if bad else ''}")
    say("output", run)
