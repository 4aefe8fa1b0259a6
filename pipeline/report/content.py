"""Decides what a report shows of the facts, and in which order and words."""

import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.options.error_limits import ALL
from pipeline.options.run_options import command
from pipeline.report import charts, page
from pipeline.report.distributions import distributions, moved
from pipeline.report.document import NOT_RECORDED, Block, Caps, Figure, Note, Section, Table, command_block, rest
from pipeline.report.facts import Facts, Letter, State
from pipeline.run_folder.records import Job, LoadedModel, Manifest, Measured
from pipeline.terminal.amounts import size, with_noun
from pipeline.terminal.cost import cost_lines
from pipeline.terminal.messages import at_line
from transforms.reasons import DEAD_LETTERS, remedy_of, title_of
from transforms.records import Feature
from transforms.storage import files

MOST_STREAMS = 9  # reasons in the flow picture; the rest are one stream
MOST_NAMES = 40  # inputs, outputs and packages


def make_page(facts: Facts) -> str:
    """Makes the page of a run, see `page.render`.

    Args:
        facts: The facts of the run.
    """
    return page.render(f"keyjoin: {facts.output}", functools.partial(sections, facts))


def sections(facts: Facts, caps: Caps) -> list[Section]:
    """Returns the sections of a report, in order.

    Args:
        facts: The facts of a run.
        caps: How much to show at most.
    """
    return [
        Section("Verdict", list(_verdict(facts))),
        Section("Rows", list(_ledger(facts, caps))),
        *_values(facts, caps),
        Section("Time", list(_time(facts))),
        *([Section("Joined rows", list(_joined(facts, caps)))] if facts.report_rows else []),
        Section("Dead letters", list(_dead_letters(facts, caps))),
        Section("Configuration", list(_configuration(facts))),
    ]


def _values(facts: Facts, caps: Caps) -> Iterator[Section]:
    if facts.statistics is None:
        yield Section("Predictions and features", [Note(f"Their distributions are {NOT_RECORDED}.")])
        return
    with_texts = facts.report_rows > 0
    yield Section("Predictions", list(distributions(facts.statistics, "prediction", caps, with_texts=with_texts)))
    yield Section("Features", list(distributions(facts.statistics, "feature", caps, with_texts=with_texts)))
    if facts.drift is not None:
        yield Section("Drift", list(moved(facts.drift, str(facts.baseline), caps)))


def _verdict(facts: Facts) -> Iterator[Block]:
    totals = facts.totals
    if facts.state is State.COMPLETE:
        each = "The row" if totals.rows == 1 else f"Each of the {with_noun(totals.rows, 'row')}"
        yield Note(
            f"The run is complete. {each} is joined to its prediction or is a dead letter.",
            "good",
        )
        if not totals.joined:
            yield Note("No row is joined.", "warning")
    elif facts.state is State.UNFINISHED:
        yield Note("The run is unfinished. The report shows the parts that were written so far.", "bad")
    else:
        yield Note(f"The run is {facts.state.value}.", "bad")
    record = facts.record
    seconds = record.seconds if isinstance(record, Manifest) else None
    bad = f"{totals.bad:,} ({charts.number(100 * totals.bad / max(totals.rows, 1))} %)" if totals.bad else "0"
    rows = [
        ("complete", "yes" if facts.state is State.COMPLETE else f"no, {facts.state.value}"),
        ("rows read", f"{totals.rows:,}"),
        ("joined", f"{totals.joined:,}"),
        ("dead letters", bad),
        *_limits(facts),
        ("finished", _ended(facts)),
        ("seconds", NOT_RECORDED if seconds is None else f"{seconds:,.1f}"),
        ("model sha256", record.model.sha256),
        ("keyjoin", record.versions.get("keyjoin", NOT_RECORDED)),
        *_audit(record),
        ("not checked", "whether the files are still what the run wrote: see verify below"),
    ]
    yield Table("The run in short", ("what", "result"), rows)


def _limits(facts: Facts) -> Iterator[tuple[str, str]]:
    dead = facts.totals.dead
    for name, limit in facts.record.options.max_bad_rows.limits.items():
        found = facts.totals.bad if name == ALL else dead.get(name, 0)
        of = "all bad rows" if name == ALL else name
        result = "kept" if limit.allows(found, facts.totals.rows) else "exceeded"
        yield f"error limit, {of}", f"{limit.text}: {result}"


def _ended(facts: Facts) -> str:
    if not isinstance(facts.record, Manifest):
        return "no"
    return NOT_RECORDED if facts.ended is None else f"{facts.ended:%Y-%m-%d %H:%M} UTC, by the time of the manifest"


def _audit(record: Manifest | Job) -> Iterator[tuple[str, str]]:
    audit = record.audit if isinstance(record, Manifest) else None
    if audit is None:
        yield "not checked", "whether rows that are scored alone get the same predictions: see --audit"
        return
    close = f", and {audit.close:,} but for the last digits" if audit.close else ""
    yield "audit", f"of {audit.rows:,} random rows, scored alone, {audit.equal:,} get the same prediction{close}"
    yield "largest difference of the audit", charts.number(audit.largest_difference)


def _ledger(facts: Facts, caps: Caps) -> Iterator[Block]:
    totals = facts.totals
    by_size = sorted(totals.dead.items(), key=lambda item: (-item[1], item[0]))
    others = sum(amount for _, amount in by_size[MOST_STREAMS:])
    streams = [
        ("joined", "joined", totals.joined),
        *(("dead", reason, amount) for reason, amount in by_size[:MOST_STREAMS]),
        *([("dead", "other reasons", others)] if others else []),
    ]
    rows = [("rows read", f"{totals.rows:,}", ""), ("joined", f"{totals.joined:,}", "")]
    rows += [(reason, f"{amount:,}", title_of(reason)) for reason, amount in by_size]
    yield Figure(
        "Where the rows went",
        f"{with_noun(totals.rows, 'row')} read: {totals.joined:,} joined, {with_noun(totals.bad, 'dead letter')}. "
        "A stream is drawn at least two units wide.",
        charts.flow(("rows read", totals.rows), streams),
        Table("Rows read, joined, and dead letters by reason", ("what", "rows", "meaning"), rows),
    )
    more = [("blank lines", totals.blank), ("joined by a replay", totals.replayed)]
    more += [("with the inputs of another row, which --dedup scored for them", totals.saved)]
    more += [(f"{field} filled in by --missing", amount) for field, amount in list(totals.filled.items())[: caps.rows]]
    counted = [(what, f"{amount:,}") for what, amount in more if amount]
    if counted:
        yield Table("Other counts", ("what", "rows"), counted, rest(len(totals.filled), caps.rows, "field"))
    if facts.sources:
        listed = [(one.path, f"{one.rows:,}", f"{one.joined:,}", f"{one.bad:,}") for one in facts.sources]
        left_out = with_noun(facts.other_sources, "more source") if facts.other_sources else ""
        yield Table("Rows of each source", ("source", "rows read", "joined", "dead letters"), listed, left_out)


def _time(facts: Facts) -> Iterator[Block]:
    totals, model = facts.totals, facts.record.model
    measured, rows = None, []
    if isinstance(facts.record, Manifest):
        measured = facts.record.measured
        rows.append(("seconds", f"{facts.record.seconds:,.1f}"))
    rows += [
        ("bytes of the sources", f"{totals.read_bytes:,}"),
        ("bytes of the parts", f"{totals.written_bytes:,}"),
        ("parts", f"{totals.parts:,}"),
        ("most rows of a model call", f"{model.batch_size:,}"),
    ]
    if measured is None:
        yield Note(f"The rate over time, and what start-up and memory took, are {NOT_RECORDED}.")
    else:
        peak = measured.peak_memory
        rows.append(("most memory", NOT_RECORDED if peak is None else size(peak)))
        yield from _rates(measured)
    yield Table("Time and sizes", ("what", "figure"), rows)
    if measured is not None and isinstance(facts.record, Manifest):
        yield from _phases(measured, facts.record.seconds)
    yield from _estimate(facts)


def _estimate(facts: Facts) -> Iterator[Block]:
    record = facts.record
    if record.estimate is None or not isinstance(record, Manifest):
        yield Note(f"An estimate to compare with is {NOT_RECORDED}.")
        return
    estimate, measured = record.estimate, record.measured
    memory, peak = estimate.memory, None if measured is None else measured.peak_memory
    rows = [
        ("seconds", f"{estimate.seconds:,.1f}", f"{record.seconds:,.1f}"),
        ("memory", *(NOT_RECORDED if count is None else size(count) for count in (memory, peak))),
        ("bytes of the parts", f"{estimate.output_bytes:,}", f"{facts.totals.written_bytes:,}"),
    ]
    yield Table("Estimated before the run, and what it took", ("what", "estimate", "actual"), rows)


def _phases(measured: Measured, seconds: float) -> Iterator[Table]:
    """Yields where the seconds of the last attempt went."""
    ends = [0.0, measured.startup_seconds, max((point[0] for point in measured.timeline), default=0.0), seconds]
    if ends != sorted(ends):  # the run scored no row
        return
    names = ("start-up, until the first rows could be scored", "until the last rows were scored", "until the end")
    spans = [end - start for start, end in itertools.pairwise(ends)]
    rows = [
        (name, f"{span:,.1f}", f"{100 * span / seconds:.0f} %" if seconds else "-")
        for name, span in zip(names, spans, strict=True)
    ]
    yield Table("Where the seconds went", ("phase", "seconds", "share"), rows)


def _rates(measured: Measured) -> Iterator[Figure]:
    """Yields the rate over time. The start-up is a step of its own, without rows."""
    started = [(measured.startup_seconds, 0, 0)] if any(rows for _, rows, _ in measured.timeline) else []
    idle = [point for point in measured.timeline if not point[1]]
    times, rates = charts.rates([*idle, *started, *measured.timeline[len(idle) :]])
    if not len(rates):
        return
    steps = zip(times[:-1], times[1:], rates, strict=True)
    rows = [(f"{start:.1f} to {end:.1f}", f"{rate:,.0f}") for start, end, rate in steps]
    summary = f"At most {rates.max():,.0f} rows a second, over {with_noun(len(rates), 'step')}."
    table = Table("Rows a second", ("seconds from, to", "rows a second"), rows)
    yield Figure("Rows a second over time", summary, charts.line(times, rates), table)


def _joined(facts: Facts, caps: Caps) -> Iterator[Block]:
    shown = facts.rows[: caps.rows]
    if not shown:
        if facts.totals.joined:
            yield Note("No joined row can be read from the parts: verify reports whether they are gone.", "warning")
        else:
            yield Note("There is no joined row to show.")
        return
    predicted = facts.record.model.predictions.values()
    names = dict.fromkeys(name for row in shown for name in row)
    ordered = [*(name for name in names if name in predicted), *(name for name in names if name not in predicted)]
    cells = [[str(at), *(_value(row, name) for name in ordered[: caps.fields])] for at, row in enumerate(shown, 1)]
    asked = min(facts.report_rows, facts.totals.joined)
    left_out = [rest(len(ordered), caps.fields, "field"), rest(asked, len(shown), "row")]
    yield Note("Predictions come first, then the other fields. --report_rows 0 makes a report without values of rows.")
    yield Table(
        f"The first rows of {facts.part}",
        ("row", *ordered[: caps.fields]),
        cells,
        ", ".join(text for text in left_out if text),
    )


def _value(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        return ""
    value = row[name]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)


def _dead_letters(facts: Facts, caps: Caps) -> Iterator[Block]:
    dead = facts.totals.dead
    if not dead:
        yield Note("There are no dead letters.", "good")
        return
    yield Note(f"{files.join(facts.output, DEAD_LETTERS)} has all of them, one JSON object a line.")
    for reason in sorted(dead, key=lambda reason: (-dead[reason], reason))[: caps.reasons]:
        found = facts.dead_letters.get(reason, ())
        rows = [_letter(letter, with_values=facts.report_rows > 0) for letter in found]
        caption = f"{reason}: {with_noun(dead[reason], 'row')}, {title_of(reason)}. {remedy_of(reason)}"
        header = ("row", "message", "bytes of the row") if facts.report_rows else ("row",)
        yield Table(caption, header, rows, rest(dead[reason], len(found), "dead letter"))
    if len(dead) > caps.reasons:
        yield Note(rest(len(dead), caps.reasons, "reason"))
    if isinstance(facts.record, Manifest):
        yield command_block("Score the dead letters again, after you fixed the cause", _keyjoin("replay", facts.output))


def _keyjoin(name: str, output: str, *more: str) -> list[str]:
    return ["keyjoin", name, f"--run={output}", *more]


def _letter(letter: Letter, *, with_values: bool) -> tuple[str, ...]:
    where = at_line(letter.key, letter.line)
    return (where, letter.message, letter.row) if with_values else (where,)


def _configuration(facts: Facts) -> Iterator[Block]:
    record, model = facts.record, facts.record.model
    what = "The command of the run" if isinstance(record, Manifest) else "Resume the run"
    yield command_block(what, command(record.options, facts.output))
    if isinstance(record, Manifest):
        yield command_block("Check whether the files are still those of the run", _keyjoin("verify", facts.output))
    yield Table("Model", ("what", "value"), list(_model(model)))
    fed = [(name, one.dtype, _shape(one.shape), _fields(one.feature(name))) for name, one in model.inputs.items()]
    yield Table(
        "Model inputs",
        ("input", "dtype", "shape of a row", "fields"),
        fed[:MOST_NAMES],
        rest(len(fed), MOST_NAMES, "input"),
    )
    shapes = {name: _shape(shape) for name, shape in model.output_shapes.items() if shape is not None}
    given = [(name, shapes.get(name, "open"), field) for name, field in model.predictions.items()]
    yield Table(
        "Predictions",
        ("output", "shape of a row", "field"),
        given[:MOST_NAMES],
        rest(len(given), MOST_NAMES, "output"),
    )
    if record.cost is not None:
        yield Table("Cost of the job, as estimated before it", ("what", "estimate"), list(cost_lines(record.cost)))
    yield Table("Versions", ("package", "version"), list(record.versions.items())[:MOST_NAMES])


def _model(model: LoadedModel) -> Iterator[tuple[str, str]]:
    yield "path", model.path
    yield "sha256", model.sha256
    yield "signature", model.signature
    yield "key", model.key_input or "none: predictions are matched by position"
    yield "ops", model.ops.verdict
    yield "predictions depend on other rows of their batch", model.batch_dependence.verdict.value


def _shape(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('open' if size is None else str(size) for size in shape)}]" if shape else "one value"


def _fields(feature: Feature) -> str:
    return ", ".join(".".join(path) for path in feature.paths) or "the whole row"
