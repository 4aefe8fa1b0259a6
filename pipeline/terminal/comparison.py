"""Prints how the predictions of two outputs differ, as text or as JSON."""

import json
import math
from collections.abc import Iterator
from typing import Any

from pipeline.terminal.amounts import every, part_of, with_noun
from pipeline.terminal.messages import show, show_json, visible
from pipeline.terminal.report import print_line, table
from pipeline.verification.compare_outputs import Comparison, RowKeys
from transforms.comparison.tally import SHARES, Tally

NAMES = ("A", "B")
WIDTH = 24  # characters of a value


def document(found: Comparison) -> dict[str, Any]:
    """Returns the figures of a comparison as JSON has them. A figure that is not finite, or that none has, is null."""
    keys = [RowKeys(side) for side in found.outputs]
    alone = [
        {"rows": alone.rows, "keys": [side.key(*row) for row in alone.first]}
        for side, alone in zip(keys, found.alone, strict=True)
    ]
    return {
        "same": found.is_same,
        "verdict": verdict(found),
        "outputs": [side.label for side in found.outputs],
        "rows": found.rows,
        "only_in": alone,
        "predictions_only_in": list(found.names),
        "predictions": [_of_tally(tally, keys[0]) for tally in found.tallies],
    }


def _of_tally(tally: Tally, keys: RowKeys) -> dict[str, Any]:
    figures = ("rows", "equal", "within", "other_shape", "non_finite", "argmax_rows", "argmax_equal")
    return {
        "name": tally.name,
        "tolerance": str(tally.tolerance),
        **{name: getattr(tally, name) for name in figures},
        "largest_difference": tally.largest if tally.values else None,
        "mean_difference": tally.mean,
        "largest_relative_difference": tally.largest_relative if tally.values else None,
        "quantiles": {str(share): tally.quantile(share) for share in SHARES},
        "distribution": [
            (low, high if math.isfinite(high) else None, count) for low, high, count in tally.distribution
        ],
        "correlation": tally.correlation,
        "worst": [
            {
                "key": keys.key(one.part, one.first, one.number),
                "difference": one.difference if math.isfinite(one.difference) else None,
                "relative_difference": one.relative if math.isfinite(one.relative) else None,
                "values": [_plain(values) for values in one.values],
            }
            for one in tally.worst
        ],
    }


def _plain(values: list[Any]) -> Any:
    """Returns values as JSON has them: one value alone, NaN and infinity as null, bytes as text."""
    found = [
        value.decode("utf-8", "backslashreplace")
        if isinstance(value, bytes)
        else None
        if isinstance(value, float) and not math.isfinite(value)
        else value
        for value in values
    ]
    return found[0] if len(found) == 1 else found


def print_json(figures: dict[str, Any]) -> None:
    """Prints the figures of a comparison as one JSON object."""
    show_json(json.dumps(figures, indent=1, ensure_ascii=False))


def print_text(figures: dict[str, Any]) -> None:
    """Prints the figures of a comparison as text. The last line is the verdict."""
    for name, path in zip(NAMES, figures["outputs"], strict=True):
        print_line(name, path)
    print_line("rows", f"{figures['rows']:,} with predictions in A and B")
    for name, alone in zip(NAMES, figures["only_in"], strict=True):
        if alone["rows"]:
            print_line(f"only in {name}", f"{with_noun(alone['rows'], 'row')}, such as {alone['keys'][0]}")
    for name, names in zip(NAMES, figures["predictions_only_in"], strict=True):
        if names:
            print_line(f"only in {name}", f"the predictions {', '.join(names)}")
    for one in figures["predictions"]:
        show()
        _print_prediction(one)
    show()
    show(visible(figures["verdict"]))


def _print_prediction(figures: dict[str, Any]) -> None:
    rows = figures["rows"]
    print_line("prediction", figures["name"])
    print_line("equal", share(figures["equal"], rows, "row"))
    if figures["tolerance"] != "0" and figures["largest_difference"] is not None:  # texts are equal or differ
        print_line("tolerance", f"{share(figures['within'], rows, 'row')} differ by at most {figures['tolerance']}")
    if figures["other_shape"]:
        print_line("shape", f"{part_of(figures['other_shape'], rows, 'row', 'have')} another number of values")
    if figures["non_finite"]:
        print_line("not finite", f"NaN or infinite in A or in B only: {with_noun(figures['non_finite'], 'value')}")
    if figures["largest_difference"]:
        quantiles = ", ".join(f"{value:.3g} at {float(share):.0%}" for share, value in figures["quantiles"].items())
        print_line("difference", f"mean {figures['mean_difference']:.3g}, largest {figures['largest_difference']:.3g}")
        print_line("quantiles", f"of differences: {quantiles}")
        print_line("relative", f"largest {figures['largest_relative_difference']:.3g}, of the larger value")
    if figures["correlation"] is not None:
        print_line("correlation", f"{figures['correlation']:.6g}")
    if figures["argmax_rows"]:
        print_line(
            "largest at", f"the same place in {share(figures['argmax_equal'], figures['argmax_rows'], 'vector')}"
        )
    if figures["worst"]:
        show(table([("worst rows", "A", "B", "difference", "relative"), *_worst(figures["worst"])]))


def _worst(worst: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for one in worst:
        sizes = ("" if size is None else f"{size:.3g}" for size in (one["difference"], one["relative_difference"]))
        yield (one["key"], *map(_shortened, as_texts(*one["values"])), *sizes)


def as_texts(one: Any, other: Any) -> tuple[str, str]:
    """Returns the values of a row in both outputs as text: of vectors, those that differ most, with their place.

    >>> as_texts(1.5, None), as_texts([1.0, 2.5, 3.0], [1.0, 2.75, 3.0])
    (('1.5', 'null'), ('[1] 2.5', '[1] 2.75'))
    """
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other) and one:
        at = max(range(len(one)), key=lambda at: _apart(one[at], other[at]))
        return f"[{at}] {as_text(one[at])}", f"[{at}] {as_text(other[at])}"
    return as_text(one), as_text(other)


def _apart(one: Any, other: Any) -> float:
    if one == other:
        return 0
    return abs(one - other) if isinstance(one, int | float) and isinstance(other, int | float) else math.inf


def as_text(value: Any) -> str:
    """Returns the values of a prediction as text: a number with nine digits, which tell two float32 apart."""
    return f"{value:.9g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _shortened(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def share(count: int, of: int, what: str) -> str:
    """Returns a share and its numbers. Less than all is never rounded up to 100 %.

    >>> share(9999, 10000, "row"), share(0, 0, "row")
    ('99.9 % (9,999 of 10,000 rows)', '100 % (0 of 0 rows)')
    """
    percent = math.floor(1000 * count / of) / 10 if of else 100
    return f"{percent:g} % ({count:,} of {with_noun(of, what)})"


def verdict(found: Comparison) -> str:
    """Returns one line that says whether the outputs are the same, and else where they differ."""
    if found.is_same:
        return f"same: {every(found.rows, 'row')}"
    why = [
        f"{tally.rows - tally.within:,} of {with_noun(tally.rows, 'row')} of {tally.name}"
        + (f" by more than {tally.tolerance}" if str(tally.tolerance) != "0" and tally.values else "")
        for tally in found.tallies
        if not tally.is_same
    ]
    for name, alone, names in zip(NAMES, found.alone, found.names, strict=True):
        why += [f"{with_noun(alone.rows, 'row')} with predictions only in {name}"] if alone.rows else []
        why += [f"only {name} has {', '.join(names)}"] if names else []
    return f"differ: {'; '.join(why)}"
