"""Prints the plan before a run, and its result after it."""

import itertools
import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from pipeline.plan.layout import LINEAGE
from pipeline.plan.preflight import Plan
from pipeline.run_folder.ledger import Totals
from pipeline.run_folder.names import PARTS, REPORT
from pipeline.run_folder.records import Audit, LoadedSettings, Manifest
from pipeline.run_folder.resume import Start
from pipeline.terminal.amounts import every, first, with_noun
from pipeline.terminal.messages import at_line, columns, show, show_error, typed, visible
from transforms import formats
from transforms.formats.spec import FormatSpec
from transforms.mapping.feature_mapping import describe
from transforms.mapping.partitions import FOLDER
from transforms.reasons import DEAD_LETTERS, title_of
from transforms.records import Feature, PartReceipt
from transforms.saved_model.model import KEY, Contract
from transforms.storage import files
from transforms.storage.compression import codec_of
from transforms.write_part import dead_letters_name
from transforms.write_receipts import decode, read_list

SHOWN_ROWS = 3
SHOWN_PARTS = 100
SHOWN_BYTES = 1 << 20
WIDTH = 110  # characters of a row, without a terminal
LABEL = 18  # columns of a label of the result
MOST_MESSAGE = 2_000  # characters


Line = tuple[str, str]  # a label and a text


class FedInput(msgspec.Struct, frozen=True, kw_only=True):
    """A model input, and what feeds it.

    Attributes:
        name: The name of the input.
        type: Its dtype and shape, or its value if all rows have the same.
        source: The fields that feed it.
    """

    name: str
    type: str
    source: str


class WrittenPrediction(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction, and where it is written.

    Attributes:
        name: The name of the output.
        type: Its dtype and shape.
        field: The field of the output row.
    """

    name: str
    type: str
    field: str


def print_plan(plan: Plan, start: Start) -> None:
    """Prints the plan of a run: its input, the fields that feed the model, its output, and an earlier run to resume."""
    for line in (*input_lines(plan, start), *_mapping_lines(plan), *scoring_lines(plan)):
        print_line(*line)
    for one in written_predictions(plan):
        print_line("prediction", f"{one.name} ({one.type}) -> {one.field}")


def input_lines(plan: Plan, start: Start) -> Iterator[Line]:
    """Yields lines about an earlier run and about the input."""
    sources = plan.sources
    if start.earlier is not None:
        stage = start.earlier.stage.value
        yield "resumes", f"a run that {stage}: keyjoin checks the finished parts and scores the rest"
    if start.place.is_staged:
        yield "replaces", f"{start.place.output}, which stays complete until the new result is"
    size = sum(source.size for source in sources)
    name = plan.job.format.name + " (by content)" * plan.by_content
    yield "input", f"{with_noun(len(sources), 'file')}, {size:,} bytes, {name}"
    if plan.settings.options.limit is not None:
        yield "limit", _limit_of(plan)
    yield from _column_lines(plan)
    skipped = [f"{path} (its name begins with _ or .)" for path in plan.skipped]
    skipped += [f"{path} (the same file as {source})" for path, source in plan.twins]
    yield from (("skipped", said) for said in skipped[:SHOWN_ROWS])
    if len(skipped) > SHOWN_ROWS:
        yield "skipped", f"and {len(skipped) - SHOWN_ROWS} more such files"


def _limit_of(plan: Plan) -> str:
    """Says up to where the input is read."""
    last, unit = plan.sources[-1], formats.load(plan.job.format).reader.unit
    where = "all files" if last.end is None else f"up to {unit} {last.end:,} of {last.path}"
    return f"{first(plan.settings.options.limit or 0, 'row')}, {where}"


def _column_lines(plan: Plan) -> Iterator[Line]:
    """Yields lines about the columns of the files, how files differ, and the fields that folders give."""
    spec, headers = plan.job.format, plan.headers
    if headers.columns is not None:
        dialect = ""
        if spec.name in formats.DELIMITERS:
            source = "the first record of each file" if spec.has_header else "--columns"
            dialect = f", named by {source}, with {spec.delimiter or formats.DELIMITERS[spec.name]!r} between cells"
        yield "columns", f"{headers.columns}{dialect}"
    yield from (("differs", said) for said in headers.drift[:SHOWN_ROWS])
    if len(headers.drift) > SHOWN_ROWS:
        yield "differs", f"and {len(headers.drift) - SHOWN_ROWS} more such differences"
    if plan.folders:
        yield "folders", f"give the fields {', '.join(plan.folders)}, for the model"


def _mapping_lines(plan: Plan) -> Iterator[Line]:
    yield from (("model input", f"{one.name} ({one.type}) <- {one.source}") for one in fed_inputs(plan))


def fed_inputs(plan: Plan) -> Iterator[FedInput]:
    """Yields each model input, also those that no row feeds."""
    handler = plan.job.handler
    for tensor, feature in zip(handler.contract.inputs, handler.features, strict=True):
        yield FedInput(name=tensor.name, type=describe(tensor), source=_fed_by(feature))
    for constant, has_field in plan.constants:
        beside = "; the rows' field of that name does not feed it" * has_field
        yield FedInput(name=constant.name, type=str(constant), source=f"{constant.source}, for all rows{beside}")


def scoring_lines(plan: Plan) -> Iterator[Line]:
    """Yields lines about the key, the calls of the model, and bad rows in the parts."""
    handler = plan.job.handler
    yield "key", _key_of(handler.contract)
    fixed = handler.contract.rows
    yield "batch", rows_a_call(fixed) if fixed else f"{with_noun(handler.batch_size, 'row')} a call"
    if plan.job.layout.error:
        yield "bad rows", f"in the parts too, with null predictions and the error in {plan.job.layout.error}"


def written_predictions(plan: Plan) -> Iterator[WrittenPrediction]:
    """Yields each prediction that is written."""
    fields = dict(plan.job.layout.predictions)
    for tensor in plan.job.handler.contract.predictions:
        if tensor.name in fields:
            yield WrittenPrediction(name=tensor.name, type=describe(tensor), field=fields[tensor.name])


def rows_a_call(rows: int) -> str:
    """Describes the calls of a model whose signature fixes the number of rows of a batch."""
    if rows == 1:
        return "1 row a call: the signature fixes its batch to 1"
    return f"{rows} rows a call: the signature fixes its batch; the last call is filled up with copies of a row"


def _key_of(contract: Contract) -> str:
    if contract.key is None:
        why = f"none, since {contract.why_data}" if contract.why_data else "the model takes none"
        return f"{why}: keyjoin matches predictions by position, and checks their number in each batch"
    where = [f"{'last column of' if echo.last_column else 'output'} {echo.output}" for echo in contract.echoes]
    return f"input {contract.key.name} ({contract.key.dtype}), comes back as {' and '.join(where)}"


def _fed_by(feature: Feature) -> str:
    if feature.is_base64:
        return 'the row itself, {"b64": …}'
    inside = feature.in_folder or [False] * len(feature.fields)
    named = [".".join(path) + FOLDER * at for path, at in zip(feature.paths, inside, strict=True)]
    fields = ", ".join(named) or "the whole row"
    if feature.pad is not None:
        return f"{fields}, rows padded with {feature.pad or 'empty strings'} to the longest of a call"
    return f"{fields}, rows grouped by shape" if feature.is_open else fields


def print_line(what: str, text: str) -> None:
    """Prints a line of two columns: a label and a text."""
    show(f"{what:<12} {visible(text)}")


def complete_lines(output: str, totals: Totals, lost: Sequence[str]) -> Iterator[Line]:
    """Yields a line that a complete run has nothing left to do, or lines about its files that are lost.

    Args:
        output: Output folder.
        totals: The ledger.
        lost: Names of the files that are missing or altered since the run.
    """
    if not lost:
        yield "complete", f"{output} has {every(totals.rows, 'row')} of this input; there is nothing to do"
    yield from (("lost", f"{name} is missing or altered; keyjoin writes it again") for name in lost[:SHOWN_ROWS])
    if len(lost) > SHOWN_ROWS:
        yield "lost", f"and {with_noun(len(lost) - SHOWN_ROWS, 'more such file')}"


def print_unnamed(names: Sequence[str]) -> None:
    """Prints the files of an earlier attempt that keyjoin deletes."""
    for name in names[:SHOWN_ROWS]:
        print_line("deleted", f"{name}, left by an earlier attempt")
    if len(names) > SHOWN_ROWS:
        print_line("deleted", f"and {len(names) - SHOWN_ROWS} more such files")


def print_result(
    output: str,
    settings: LoadedSettings,
    totals: Totals,
    seconds: float,
    *,
    resumed: bool | None,
    measured_rate: float | None = None,
) -> None:
    """Prints the output folder, the counts and time of a run, examples of dead letters, a few rows, and next commands.

    Args:
        output: Output folder.
        settings: The settings of the run.
        totals: The ledger.
        seconds: Duration of this attempt, in seconds.
        resumed: Whether earlier attempts finished some of the rows; None if that is unknown.
        measured_rate: Rows a second of this attempt, without the start-up; None if it was not measured.
    """
    limit = settings.options.limit
    saved = "row" if totals.saved == 1 else "rows"
    limited = "" if limit is None else f"  limited to {first(limit, 'row')} of the input"
    show()
    print_line("output", output)
    show()
    rows: list[tuple[str, str]] = [
        ("rows read", f"{totals.rows:,}{limited}"),
        ("joined", f"{totals.joined:,}"),
        *((f"  {visible(field)}", f"{count:,}  filled in by --missing") for field, count in totals.filled.items()),
        *([("equal inputs", f"{totals.saved:,}  {saved} that another row was scored for")] if totals.saved else []),
        *_dead_rows(output, totals, with_values=settings.options.report_rows > 0),
        ("blank lines", f"{totals.blank:,}"),
        ("seconds", f"{seconds:.1f}{', without earlier attempts' * bool(resumed)}"),
        *_rate_rows(totals, seconds, resumed=resumed, measured=measured_rate),
    ]
    for name, value in rows:
        show(f"{name:<{LABEL}}{value}".rstrip())
    _print_rows(output, settings)


def _print_rows(output: str, settings: LoadedSettings) -> None:
    """Prints the first rows of the output. Those of `--lineage` are named once: they are the same in each."""
    if not settings.options.report_rows:
        return
    traced = (KEY, *LINEAGE) if settings.options.lineage else ()
    shown = list(_first_rows(output, settings.format, traced))
    if shown:
        show()
    for row in shown:
        show(visible(_shortened(row.rstrip("\r"), columns() or WIDTH)))
    if shown and traced:
        show(f"each row also has {', '.join(traced)}")


def print_drift(document: Manifest | None) -> None:
    """Prints how many columns moved from `--baseline`, and which; nothing without it."""
    if document is None or document.drift is None:
        return
    drift, base = document.drift, document.options.baseline
    counts = Counter(one.verdict for one in drift)
    said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    counted = with_noun(len(drift), "column")
    show(f"{'drift':<18}{visible(f'{counted} against {base}: {said}')}")
    moved = sorted((one for one in drift if one.verdict == "moved"), key=lambda one: -one.psi)
    for one in moved[:SHOWN_ROWS]:
        noise = f"PSI {one.psi:.2f}, {one.floor:.2g} by chance; largest CDF distance {one.cdf_distance:.2f}"
        show(f"  {visible(one.name):<16}{noise}")
    if len(moved) > SHOWN_ROWS:
        show(f"{'':<18}and {len(moved) - SHOWN_ROWS:,} more, in the report")


def print_audit(audit: Audit | None) -> None:
    """Prints the result of `--audit`; nothing without it."""
    if audit is not None:
        close = f"{audit.close:,} equal but for the last digits, " * bool(audit.close)
        said = f"{audit.equal:,} equal, {close}largest difference {audit.largest_difference:.3g}"
        show(f"{'audited':<18}{audit.rows:,} random rows, each scored alone: {said}")


def print_next(output: str, totals: Totals, *, has_report: bool, is_complete: bool) -> None:
    """Prints where the report is, and the commands that a user may want to type next.

    Args:
        output: Output folder.
        totals: The ledger.
        has_report: Whether the report of the run is written.
        is_complete: Whether the run kept its error limits. If not, its error has the commands.
    """
    show()
    if has_report:
        print_line("report", files.join(output, REPORT))
    if not is_complete:
        return
    print_line("verify", typed(["keyjoin", "verify", f"--run={output}"]))
    if totals.bad:
        print_line("repair", typed(["keyjoin", "replay", f"--run={output}"]))


def _dead_rows(output: str, totals: Totals, *, with_values: bool) -> Iterator[tuple[str, str]]:
    """Yields lines about the dead letters: how many there are of each reason, an example, and where all of them are."""
    yield "dead letters", f"{totals.bad:,}"
    if not totals.dead:
        return
    examples, names = _examples(output, totals)
    for code, count in totals.dead.items():
        yield f"  {code}", f"{count:,}  {title_of(code)}"
        if code in examples:
            letter = examples[code]
            text = at_line(letter["key"], letter["line"])
            text += f": {_shortened(letter['message'], MOST_MESSAGE)}" * with_values
            yield from (("", line) for line in _wrapped(visible(text)))
    yield "  all of them", visible(files.join(output, names[0] if len(names) == 1 else DEAD_LETTERS))


def _wrapped(text: str) -> list[str]:
    """Wraps text for the terminal; without one, it stays one line that a program can search."""
    width = columns()
    return textwrap.wrap(text, max(width - LABEL, LABEL)) if width else [text]


def _examples(output: str, totals: Totals) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Returns the first dead letter of each reason, and the names of the first dead letter files, two at most."""
    examples: dict[str, dict[str, Any]] = {}
    names, left = list[str](), totals.bad
    for part in read_list(files.join(output, PARTS)):
        if not left:
            break  # no later part has any
        if not part.dead:
            continue
        left -= sum(part.dead.values())
        name = dead_letters_name(part.chunk.part)
        names = [*names, name][:2]
        for reason in part.dead.keys() - examples.keys():
            examples[reason] = next(_dead_letters(output, [part], reason))
        if len(names) == 2 and len(examples) == len(totals.dead):
            break
    return examples, names


def _rate_rows(
    totals: Totals, seconds: float, *, resumed: bool | None, measured: float | None
) -> Iterator[tuple[str, str]]:
    if measured is not None:
        yield "rows/s", f"{measured:,.0f}, without the start-up"
    elif resumed is False and totals.rows and seconds:
        # After a resume there is no such rate: the time that earlier attempts took for their rows is not recorded.
        yield "rows/s", f"{totals.rows / seconds:,.0f}"


def _first_rows(output: str, spec: FormatSpec, left_out: Sequence[str]) -> Iterator[str]:
    """Yields the first rows of the output as text, without some fields; compressed parts are skipped."""
    left = SHOWN_ROWS
    fmt = formats.load(spec.of_parts)
    # Reads the list of parts. Listing the folder would be slow: it may hold a million parts.
    with files.open_own(files.join(output, PARTS)) as listed:
        parts = list(map(decode, itertools.islice(listed, SHOWN_PARTS)))
    for part in parts:
        if not part.bytes or codec_of(part.chunk.part):
            continue
        path = files.below(output, part.chunk.part)
        if fmt.reader.traits.line_end and not left_out:
            data = files.read_range(path, 0, min(part.bytes, SHOWN_BYTES), own=True)
            rows = data.decode("utf-8", "replace").split("\n")[:-1]
        else:
            with files.open_own(path) as file:
                block = fmt.reader.sample(file, SHOWN_BYTES)
            kept = ({name: row[name] for name in row if name not in left_out} for row in block.values()[:left])
            rows = [json.dumps(row, ensure_ascii=False, default=repr) for row in kept]
        yield from rows[:left]
        left -= len(rows[:left])
        if not left:
            return


def print_samples(output: str, parts: Iterable[PartReceipt], reason: str, *, with_values: bool) -> None:
    """Prints a few dead letters of one reason to standard error: one line each, with key and message.

    Args:
        output: The output folder.
        parts: Receipts of the parts in the output folder.
        reason: The reason code.
        with_values: Whether to print the messages, which have values of the rows.
    """
    for letter in itertools.islice(_dead_letters(output, parts, reason), SHOWN_ROWS):
        text = f"{at_line(letter['key'], letter['line'])}  {reason}"
        text += f": {_shortened(letter['message'], MOST_MESSAGE)}" * with_values
        show_error(visible(text))


def _dead_letters(output: str, parts: Iterable[PartReceipt], reason: str) -> Iterator[dict[str, Any]]:
    for part in parts:
        if reason in part.dead:
            with files.open_own(files.below(output, dead_letters_name(part.chunk.part))) as listed:
                yield from (letter for letter in map(json.loads, listed) if letter["reason"] == reason)


def _shortened(row: str, width: int) -> str:
    """Shortens a row to one line. Keeps the end of the row, where the predictions are."""
    if len(row) <= width:
        return row
    return f"{row[: width // 3]} … {row[-(width - width // 3 - 3) :]}"


def table(rows: list[tuple[Any, ...]]) -> str:
    """Formats rows as text in aligned columns.

    >>> print(table([("a", 1), ("bb", 22)]))
    a   1
    bb  22
    """
    rows = [tuple(visible(str(cell)) for cell in row) for row in rows]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
