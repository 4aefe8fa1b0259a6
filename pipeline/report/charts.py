"""Computes the shapes of the charts: numbers in, the coordinates of an SVG picture out.

`page.html` draws them. A coordinate is in units of the picture's own width and height, from its top left corner.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
LEAST = 2.0  # the least size of a shape, so that one row of a million can be seen
WIDTH, HEIGHT = 300, 96  # of bars, without their labels
WIDE = 440  # the width of a line chart and of a flow
LINE = 18  # the height of a line of text


class Shape(NamedTuple):
    """An area in a picture.

    Attributes:
        kind: What it stands for. The style sheet has a colour for each kind.
        path: Its outline, as an SVG path.
    """

    kind: str
    path: str


class Label(NamedTuple):
    """A text in a picture.

    Attributes:
        x: Where the anchor is.
        y: The base line.
        text: The text.
        anchor: Which point of the text is at x: `start`, `middle` or `end`.
    """

    x: float
    y: float
    text: str
    anchor: str = "start"


class Picture(NamedTuple):
    """A chart."""

    width: int
    height: int
    shapes: Sequence[Shape]
    labels: Sequence[Label] = ()


def number(value: float) -> str:
    """Writes a number with three significant digits.

    >>> [number(value) for value in (0, 123456, 0.000012, -2.5, 1e30)]
    ['0', '123,000', '1.2e-05', '-2.5', '1e+30']
    """
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if 1000 <= abs(rounded) < 1e9 else f"{rounded:.3g}"


def bars(lows: Numbers, highs: Numbers, counts: npt.NDArray[np.int64]) -> Picture:
    """Draws a histogram.

    Args:
        lows: Where each bar begins, ascending. float64, (bars,).
        highs: Where each bar ends. float64, (bars,).
        counts: The height of each bar. int64, (bars,).
    """
    least, most = float(lows[0]), float(highs[-1])
    span = (most - least) or 1.0
    lefts = (lows - least) / span * (WIDTH - LEAST)
    widths = np.maximum((highs - lows) / span * (WIDTH - LEAST), LEAST)
    heights = np.where(counts > 0, np.maximum(counts / max(int(counts.max()), 1) * HEIGHT, LEAST), 0)
    path = "".join(
        f"M{left:.1f} {HEIGHT}v{-height:.1f}h{width:.1f}v{height:.1f}z"
        for left, width, height in zip(lefts, widths, heights, strict=True)
        if height
    )
    labels = (
        Label(0, HEIGHT + LINE - 4, number(least)),
        Label(WIDTH, HEIGHT + LINE - 4, number(most), "end"),
    )
    return Picture(WIDTH, HEIGHT + LINE, (_base(), Shape("value", path)), labels)


def _base() -> Shape:
    return Shape("axis", f"M0 {HEIGHT}h{WIDTH}v1h-{WIDTH}z")


def named_bars(counts: Sequence[tuple[str, int]]) -> Picture:
    """Draws horizontal bars, each with its name above it.

    Args:
        counts: The name and the length of each bar. There is at least one.
    """
    most = max(count for _, count in counts) or 1
    step = LINE + 12
    path = "".join(
        f"M0 {at * step + LINE}h{max(count / most * WIDTH, LEAST):.1f}v7H0z"
        for at, (_, count) in enumerate(counts)
        if count
    )
    labels = [
        label
        for at, (name, count) in enumerate(counts)
        for label in (
            Label(0, at * step + LINE - 5, name),
            Label(WIDTH, at * step + LINE - 5, f"{count:,}", "end"),
        )
    ]
    return Picture(WIDTH, len(counts) * step, (Shape("value", path),), labels)


def line(times: Numbers, values: Numbers) -> Picture:
    """Draws a value that changes over time, as an area below a step line.

    Args:
        times: The start of each step, and the end of the last one, in seconds. float64, (steps + 1,).
        values: The value of each step. float64, (steps,).
    """
    width = WIDE
    xs = (times - times[0]) / max(float(times[-1] - times[0]), 1e-9) * width
    ys = HEIGHT - values / max(float(values.max()), 1e-9) * HEIGHT + LINE
    steps = "".join(f"H{left:.1f}V{y:.1f}" for left, y in zip(xs[:-1], ys, strict=True))
    bottom = HEIGHT + LINE
    shapes = (
        Shape("axis", f"M0 {bottom}h{width}v1h-{width}z"),
        Shape("value", f"M0 {bottom}{steps}H{width}V{bottom}z"),
    )
    labels = (
        Label(0, LINE - 5, f"{number(float(values.max()))} rows/s"),
        Label(0, bottom + LINE - 4, f"{number(float(times[0]))} s"),
        Label(width, bottom + LINE - 4, f"{number(float(times[-1]))} s", "end"),
    )
    return Picture(width, bottom + LINE, shapes, labels)


def flow(total: tuple[str, int], streams: Sequence[tuple[str, str, int]]) -> Picture:
    """Draws a stream that splits into others. Widths are in proportion, and at least two units.

    Args:
        total: The name and the count of the stream.
        streams: The kind, the name and the count of each stream that it splits into.
    """
    width, height, bar = WIDE, 2 * HEIGHT, 10
    sizes = [max(count / max(total[1], 1) * height, LEAST) if count else 0.0 for *_, count in streams]
    start, end, middle = bar, WIDE * 2 // 5, (bar + WIDE * 2 // 5) / 2
    shapes, labels = [], []
    left = top = 0.0
    for (kind, name, amount), size in zip(streams, sizes, strict=True):
        shapes.append(
            Shape(
                f"{kind} stream",
                f"M{start} {left:.1f}C{middle} {left:.1f} {middle} {top:.1f} {end} {top:.1f}v{size:.1f}"
                f"C{middle} {top + size:.1f} {middle} {left + size:.1f} {start} {left + size:.1f}z",
            )
        )
        shapes.append(Shape(kind, f"M{end} {top:.1f}h{bar}v{size:.1f}h-{bar}z"))
        labels.append(Label(end + bar + 6, top + max(size / 2, 6) + 5, f"{name}  {amount:,}"))
        left += size
        top += max(size, LINE) + 6
    shapes.append(Shape("read", f"M0 0h{bar}v{max(left, LEAST):.1f}h-{bar}z"))
    labels.append(Label(bar + 6, max(left / 2, 6) + 5, f"{total[0]}  {total[1]:,}"))
    return Picture(width, round(max(top, left, LINE)), shapes, labels)


def histogram(
    lows: Numbers, highs: Numbers, counts: npt.NDArray[np.int64], most: int
) -> tuple[Numbers, Numbers, npt.NDArray[np.int64]]:
    """Merges fine bins into bars for a picture. The counts add up to the same total.

    Up to `most` bins stay as they are. More of them become bars of one width, at least that of the widest bin. Where
    the outermost 2 % of the values need more than half of the width, they are in the first and last bar.

    Args:
        lows: The lower edge of each bin, ascending. float64, (bins,). There is at least one.
        highs: The upper edge of each bin. float64, (bins,).
        counts: The values in each bin. int64, (bins,).
        most: The most bars.

    Returns:
        The lower edges, the upper edges and the counts of the bars.
    """
    if len(counts) <= most:
        return lows, highs, counts
    sums = np.cumsum(counts)
    total = int(sums[-1])
    first, last = np.searchsorted(sums, (0.01 * total, 0.99 * total))
    least, most_value = float(lows[0]), float(highs[-1])
    core = float(highs[last] - lows[first])
    if core > 0 and most_value - least > 2 * core:
        least, most_value = max(least, float(lows[first])), min(most_value, float(highs[last]))
    inside = (highs > least) & (lows < most_value)
    widest = float((highs - lows)[inside].max())
    bars = int(np.clip((most_value - least) / widest, 1, most)) if widest else most
    edges = np.linspace(least, most_value, bars + 1)
    # The number of values below each edge. Within a bin, values are taken as evenly spread.
    points = np.column_stack((lows, highs)).ravel()
    below = np.column_stack((sums - counts, sums)).ravel().astype(np.float64)
    sums_below = np.rint(np.interp(edges, points, below)).astype(np.int64)
    sums_below[0], sums_below[-1] = 0, total
    return edges[:-1], edges[1:], np.diff(sums_below)


def rates(points: Sequence[tuple[float, int, int]]) -> tuple[Numbers, Numbers]:
    """Computes rows a second between points of a timeline.

    Args:
        points: Seconds since the start, rows and bytes up to then, in order.

    Returns:
        The times of the points that differ, and the rate between each and the next. float64.
    """
    kept = [points[0]] if points else []
    for point in points[1:]:
        if point[0] > kept[-1][0]:
            kept.append(point)
    pairs = itertools.pairwise(kept)
    return np.array([point[0] for point in kept]), np.array([(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs])
