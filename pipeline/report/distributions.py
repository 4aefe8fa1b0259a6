"""Shows the distributions of a run's predictions and features, and how far they moved from a baseline."""

from collections import Counter
from collections.abc import Iterator, Sequence

from pipeline.report import charts
from pipeline.report.document import Block, Caps, Figure, Level, Note, Table, rest
from pipeline.report.drift import THRESHOLD, Drift
from pipeline.terminal.amounts import with_noun
from transforms.statistics import (
    LISTED,
    Column,
    Role,
    Statistics,
    edges_and_counts,
    is_constant,
    maximum,
    minimum,
    quantiles,
)

BARS = 30  # of a histogram
NAMED = 10  # texts of a chart, and columns of a warning
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
DRIFT_COUNTS = ("outside the baseline", "values", "values of the baseline")
NAMES = ("1 %", "25 %", "median", "75 %", "99 %")


def distributions(found: Statistics, role: Role, caps: Caps, *, with_texts: bool) -> Iterator[Block]:
    """Yields the tables and figures of the features or of the predictions of a run.

    Args:
        found: The statistics of the run.
        role: Whether to show features or predictions.
        caps: How much to show at most.
        with_texts: Whether texts of rows may be shown.
    """
    columns = [column for column in found.columns if column.role == role]
    if not columns:
        yield Note(f"No {role} was counted.")
        return
    yield from _warnings(columns, role)
    yield from _tables(columns[: caps.columns])
    for column in columns[: caps.columns]:
        if column.bins:
            yield _numbers(column)
        elif column.texts and with_texts:
            yield _texts(column)
    left_out = max(0, len(columns) - caps.columns) + found.left_out.get(role, 0)
    if left_out:
        yield Note(f"Not shown: {with_noun(left_out, role)}.")


def moved(found: Sequence[Drift], baseline: str, caps: Caps) -> Iterator[Block]:
    """Yields how far features and predictions moved from those of a baseline, as sizes of the effect.

    Args:
        found: The drift of each column.
        baseline: The output folder of the baseline.
        caps: How much to show at most.
    """
    names = [one.name for one in found if one.verdict == "moved"]
    few = sum(one.verdict == "too few rows" for one in found)
    said = f"{with_noun(len(names), 'column')} moved: {_listed(names)}" if names else "No column moved"
    if few and not names:
        said = "No column with a verdict moved" if few < len(found) else "No column has a verdict"
    alone = Counter(one.verdict for one in found if one.verdict.startswith("only"))
    level: Level = "warning" if names or alone else "good" if few < len(found) else "plain"
    yield Note(f"Compared with {baseline}. {said}.", level)
    if few:
        yield Note(
            f"{with_noun(few, 'column')} without a verdict: too few rows, so chance alone moves the PSI that far."
        )
    for verdict, amount in sorted(alone.items()):
        yield Note(f"Not compared: {with_noun(amount, 'column')} {verdict}.")
    ordered = sorted(found, key=lambda one: (one.verdict != "moved", -one.psi))[: 2 * caps.columns]
    yield Table(
        f"Drift, the largest first. A column moved if its PSI is above {THRESHOLD}. Noise is the PSI that two equal "
        "distributions have on average for these numbers of rows. Values outside the baseline are below its least or "
        "above its greatest, or texts that it does not have",
        ("name", "role", "verdict", "PSI", "noise", "largest CDF distance", *DRIFT_COUNTS),
        [*map(_drift_row, ordered)],
        rest(len(found), len(ordered), "column"),
    )


def _drift_row(one: Drift) -> tuple[str, ...]:
    sizes = (f"{size:.3f}" for size in (one.psi, one.floor, one.cdf_distance))
    return (one.name, one.role, one.verdict, *sizes, *(f"{count:,}" for count in (one.outside, one.n, one.m)))


def _warnings(columns: Sequence[Column], role: Role) -> Iterator[Note]:
    constant = [column.name for column in columns if column.rows > 1 and is_constant(column)]
    broken = [column.name for column in columns if _not_finite(column)]
    if constant:
        yield Note(f"{with_noun(len(constant), role)} with the same value in all rows: {_listed(constant)}.", "warning")
    if broken:
        yield Note(f"{with_noun(len(broken), role)} with NaN or infinite values: {_listed(broken)}.", "warning")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def _not_finite(column: Column) -> int:
    return column.nan + column.positive_infinity + column.negative_infinity


def _tables(columns: Sequence[Column]) -> Iterator[Table]:
    """Yields a table of the columns of numbers, and one of the columns of texts."""
    numbers = [column for column in columns if column.kind == "number"]
    texts = [column for column in columns if column.kind == "text"]
    if numbers:
        header = ("name", "values", "missing", "NaN", "infinite", "least", *NAMES, "greatest")
        yield Table("Numbers. Quantiles are exact within 0.8 %, and have three digits", header, [*map(_row, numbers)])
    if texts:
        rows = [(one.name, f"{one.rows:,}", f"{one.missing:,}", _different(one)) for one in texts]
        yield Table("Texts", ("name", "values", "missing", "different"), rows)


def _row(column: Column) -> tuple[str, ...]:
    counts = (column.rows, column.missing, column.nan, column.positive_infinity + column.negative_infinity)
    least, greatest = minimum(column), maximum(column)
    if least is None or greatest is None:
        return (column.name, *(f"{amount:,}" for amount in counts), *"-" * (len(QUANTILES) + 2))
    values = (least, *quantiles(column, QUANTILES).tolist(), greatest)
    return (column.name, *(f"{amount:,}" for amount in counts), *map(charts.number, values))


def _different(column: Column) -> str:
    return f"{len(column.texts):,}" if not column.other else f"more than {LISTED:,}"


def _marks(column: Column) -> list[str]:
    marks = [("constant", column.rows > 1 and is_constant(column)), ("NaN or infinite", _not_finite(column))]
    return [mark for mark, is_so in marks if is_so]


def _numbers(column: Column) -> Figure:
    lows, highs, counts = charts.histogram(*edges_and_counts(column), BARS)
    median = charts.number(float(quantiles(column, [0.5])[0]))
    least, greatest = column.least or 0.0, column.greatest or 0.0
    names = [f"{charts.number(low)} to {charts.number(high)}" for low, high in zip(lows, highs, strict=True)]
    is_cut = least < lows[0] or greatest > highs[-1]
    if least < lows[0]:
        names[0] = f"below {charts.number(highs[0])}"
    if greatest > highs[-1]:
        names[-1] = f"from {charts.number(lows[-1])}"
    rows = [(name, f"{amount:,}") for name, amount in zip(names, counts.tolist(), strict=True) if amount]
    most = f"{int(counts.max()):,}"
    summary = f"{with_noun(column.finite, 'finite value')}, median {median}. The highest bar has {most}."
    summary += " Values beyond the axis are in the first and last bar." if is_cut else ""
    table = Table(f"Values of {column.name}", ("from, to", "values"), rows)
    return Figure(column.name, summary, charts.bars(lows, highs, counts), table, _marks(column))


def _texts(column: Column) -> Figure:
    shown = column.texts[:NAMED]
    others = column.rows - sum(amount for _, amount in shown)
    bars = [*shown, *([("all others", others)] if others else [])]
    exact = "The counts are exact."
    if column.error:
        exact = f"The list is approximate: each count may be {column.error:,} too low."
    summary = f"{with_noun(column.rows, 'text')}, {_different(column)} different. {exact}"
    rows = [(text, f"{amount:,}") for text, amount in bars]
    table = Table(f"Most frequent texts of {column.name}", ("text", "rows"), rows)
    return Figure(column.name, summary, charts.named_bars(bars), table, _marks(column))
