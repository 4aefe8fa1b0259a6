"""Decides what the page of a comparison shows, and in which order and words."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.report import charts, page
from pipeline.report.document import Block, Caps, Figure, Note, Section, Table, command_block, rest
from pipeline.terminal.amounts import with_noun
from pipeline.terminal.comparison import NAMES, as_texts, share
from pipeline.verification.compare_outputs import Output
from transforms.comparison.tally import SHARES

BARS = 12  # of a chart
Document = Mapping[str, Any]  # see `pipeline.terminal.comparison.document`


def make_page(document: Document, outputs: Sequence[Output], words: Sequence[str]) -> str:
    """Makes the page of a comparison, see `page.render`.

    Args:
        document: The figures of the comparison, see `pipeline.terminal.comparison.document`.
        outputs: The two outputs.
        words: The command that compared them.
    """
    title = f"keyjoin: {' and '.join(document['outputs'])}"
    return page.render(title, functools.partial(sections, document, outputs, words))


def sections(document: Document, outputs: Sequence[Output], words: Sequence[str], caps: Caps) -> list[Section]:
    """Returns the sections of the page, in order. Predictions that differ come first.

    Args:
        document: The figures of the comparison.
        outputs: The two outputs. If a run of them was given `--report_rows 0`, no value of a row is shown.
        words: The command that compared them.
        caps: How much to show at most.
    """
    ordered = sorted(document["predictions"], key=lambda one: one["within"] == one["rows"])
    with_values = all(side.document.options.report_rows for side in outputs)
    return [
        Section("Verdict", list(_verdict(document, ordered, caps))),
        Section("Differences", list(_differences(ordered, caps))),
        Section("Rows that differ most", list(_worst(ordered, caps, with_values=with_values))),
        *([Section("Rows in one output only", list(_alone(document)))] if any(_only(document)) else []),
        Section("Outputs", [_outputs(outputs), command_block("Compare again", words)]),
    ]


def _only(document: Document) -> list[int]:
    return [alone["rows"] for alone in document["only_in"]]


def _verdict(document: Document, ordered: Sequence[Document], caps: Caps) -> Iterator[Block]:
    yield Note(document["verdict"], "good" if document["same"] else "bad")
    differ = sum(one["within"] < one["rows"] for one in ordered)
    rows = [
        ("verdict", "same" if document["same"] else "differ"),
        *((f"{name} is", label) for name, label in zip(NAMES, document["outputs"], strict=True)),
        ("rows with predictions in A and B", f"{document['rows']:,}"),
        *(
            (f"rows with predictions only in {name}", f"{rows:,}")
            for name, rows in zip(NAMES, _only(document), strict=True)
        ),
        ("predictions in A and B", f"{len(ordered):,}, of which {differ:,} differ"),
    ]
    for name, names in zip(NAMES, document["predictions_only_in"], strict=True):
        rows += [(f"predictions only in {name}", ", ".join(names))] if names else []
    yield Table("The comparison in short", ("what", "result"), rows)
    header = ("prediction", "verdict", "equal", "tolerance", "within the tolerance", "correlation")
    yield _of_each("Agreement of each prediction", header, ordered, _agreement, caps)
    if any(one["argmax_rows"] for one in ordered):
        vectors = [one for one in ordered if one["argmax_rows"]]
        of_vectors = ("prediction", "vectors with the largest value at the same place")
        yield _of_each("Agreement of the predicted class", of_vectors, vectors, _argmax, caps)


def _of_each(
    caption: str,
    header: Sequence[str],
    ordered: Sequence[Document],
    row: Callable[[Document], Sequence[str]],
    caps: Caps,
) -> Table:
    shown = [row(one) for one in ordered[: caps.columns]]
    return Table(caption, header, shown, rest(len(ordered), len(shown), "prediction"))


def _agreement(one: Document) -> tuple[str, ...]:
    verdict = "same" if one["within"] == one["rows"] else "differ"
    equal, within = (share(one[name], one["rows"], "rows") for name in ("equal", "within"))
    tolerance = "none" if one["tolerance"] == "0" else one["tolerance"]
    correlation = "-" if one["correlation"] is None else f"{one['correlation']:.6g}"
    return (one["name"], verdict, equal, tolerance, within, correlation)


def _argmax(one: Document) -> tuple[str, ...]:
    return (one["name"], share(one["argmax_equal"], one["argmax_rows"], "vectors"))


def _differences(ordered: Sequence[Document], caps: Caps) -> Iterator[Block]:
    header = ("prediction", "mean", *(f"{part:.0%}" for part in SHARES), "largest", "largest, relative")
    header = (*header, "values not finite in one", "rows of another shape")
    yield _of_each(
        "Differences of the values that are finite in A and B. Quantiles are exact to 1 %", header, ordered, _row, caps
    )
    for one in ordered[: caps.columns]:
        if len(one["distribution"]) > 1:
            yield _figure(one)


def _row(one: Document) -> tuple[str, ...]:
    figures = [one["mean_difference"], *one["quantiles"].values(), one["largest_difference"]]
    figures.append(one["largest_relative_difference"])
    shown = ("-" if figure is None else charts.number(figure) for figure in figures)
    return (one["name"], *shown, f"{one['non_finite']:,}", f"{one['other_shape']:,}")


def _figure(one: Document) -> Figure:
    equal, *ranges = one["distribution"]
    if len(ranges) > BARS:
        few = ranges[-BARS:]
        ranges = [(0.0, few[0][0], sum(count for *_, count in ranges[:-BARS])), *few]
    bars = [("no difference", equal[2]), *((_range(low, high), count) for low, high, count in ranges)]
    values = sum(count for _, count in bars)
    summary = f"{with_noun(values, 'value')} finite in A and B, of which {values - equal[2]:,} differ"
    summary += f", by at most {charts.number(one['largest_difference'])}."
    table = Table(f"Differences of {one['name']}", ("from, below", "values"), [(name, f"{n:,}") for name, n in bars])
    marks = [] if one["within"] == one["rows"] else ["differs"]
    return Figure(f"Differences of {one['name']}", summary, charts.named_bars(bars), table, marks)


def _range(low: float, high: float | None) -> str:
    if not low:
        return f"below {charts.number(high or 0)}"
    return f"{charts.number(low)} and more" if high is None else f"{charts.number(low)} to {charts.number(high)}"


def _worst(ordered: Sequence[Document], caps: Caps, *, with_values: bool) -> Iterator[Block]:
    found = [one for one in ordered if one["worst"]]
    if not found:
        yield Note("No row differs.", "good")
        return
    if not with_values:
        yield Note("The values of rows are not shown: a run was given --report_rows 0.")
    header = ("row", *(NAMES if with_values else ()), "difference", "relative")
    for one in found[: caps.columns]:
        rows = [_worst_row(row, with_values=with_values) for row in one["worst"]]
        yield Table(f"The rows with the largest differences of {one['name']}", header, rows)
    left_out = rest(len(found), caps.columns, "prediction")
    if left_out:
        yield Note(f"Not shown: {left_out}.")


def _worst_row(row: Document, *, with_values: bool) -> tuple[str, ...]:
    sizes = (row["difference"], row["relative_difference"])
    shown = ("-" if size is None else charts.number(size) for size in sizes)
    values = as_texts(*row["values"]) if with_values else []
    return (row["key"], *values, *shown)


def _alone(document: Document) -> Iterator[Table]:
    for name, alone in zip(NAMES, document["only_in"], strict=True):
        if alone["rows"]:
            caption = f"Rows with predictions only in {name}"
            yield Table(
                caption, ("row",), [(key,) for key in alone["keys"]], rest(alone["rows"], len(alone["keys"]), "row")
            )


def _outputs(outputs: Sequence[Output]) -> Table:
    documents = [side.document for side in outputs]
    rows = [
        ("output", *(side.label for side in outputs)),
        ("model", *(made.model.path for made in documents)),
        ("model sha256", *(made.model.sha256 for made in documents)),
        ("rows read", *(f"{made.totals.rows:,}" for made in documents)),
        ("joined", *(f"{made.totals.joined:,}" for made in documents)),
        ("dead letters", *(f"{made.totals.bad:,}" for made in documents)),
        ("format of the parts", *(made.format.of_parts.name for made in documents)),
        ("most rows of a model call", *(f"{made.model.batch_size:,}" for made in documents)),
    ]
    packages = dict.fromkeys(name for made in documents for name in made.versions)
    rows += [(f"version of {name}", *(made.versions.get(name, "-") for made in documents)) for name in packages]
    return Table("The outputs, and how they were made", ("what", *NAMES), rows)
