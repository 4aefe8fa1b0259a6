"""Draws the benchmark's document as an SVG bar chart: the seconds of each program, grouped by the number of rows."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

BASE = "keyjoin"
WIDTH, MARGIN = 760, 24
BAR_LEFT, BAR_WIDTH = 120, 470  # The rest of the width holds the label of the longest bar.
BAR_HEIGHT, STEP, HEAD = 20, 30, 44
# An embedded picture does not know the page's colours: it has its own background and follows the system's dark mode.
STYLE = """
text { font: 14px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.ground { fill: #ffffff } .bar { fill: #9aa4af } .base { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .ground { fill: #0d1117 } .bar { fill: #6e7681 } .base { fill: #4493f8 }
}
"""


def draw(document: Mapping[str, Any]) -> str:
    """Draws a document of `benchmarks/run` as SVG."""
    groups: dict[int, list[Mapping[str, Any]]] = {}
    for result in document["results"]:
        groups.setdefault(result["rows"], []).append(result)
    height = 2 * MARGIN + sum(HEAD + STEP * len(results) for results in groups.values()) - STEP + BAR_HEIGHT
    svg = ET.Element("svg", xmlns="http://www.w3.org/2000/svg", role="img", viewBox=f"0 0 {WIDTH} {height}")
    svg.set("width", str(WIDTH))
    svg.set("height", str(height))
    ET.SubElement(svg, "title").text = "Seconds that each program took, whole processes from start to exit"
    ET.SubElement(svg, "style").text = STYLE
    ET.SubElement(svg, "rect", {"class": "ground", "width": "100%", "height": "100%", "rx": "8"})
    top = MARGIN
    for rows, results in groups.items():
        _text(svg, MARGIN, top + 14, f"{rows:,} rows on {document['cores']} cores: seconds, and times {BASE}", "title")
        _bars(svg, top + HEAD, sorted(results, key=lambda result: float(result["seconds"])))
        top += HEAD + STEP * len(results)
    ET.indent(svg)
    return ET.tostring(svg, encoding="unicode") + "\n"


def _bars(svg: ET.Element, top: int, results: Sequence[Mapping[str, Any]]) -> None:
    longest = max(result["seconds"] for result in results)
    for at, result in enumerate(results):
        y, width = top + at * STEP, max(1.0, BAR_WIDTH * result["seconds"] / longest)
        shade = "base" if result["program"] == BASE else "bar"
        sizes = {"x": BAR_LEFT, "y": y, "width": f"{width:.1f}", "height": BAR_HEIGHT, "rx": 2}
        ET.SubElement(svg, "rect", {"class": shade, **{name: str(size) for name, size in sizes.items()}})
        ratio = result["seconds_ratio"]
        _text(svg, BAR_LEFT - 10, y + 15, result["program"], "name").set("text-anchor", "end")
        said = f"{result['seconds']:.1f} s" + ("" if ratio is None else f", {ratio:.1f}\u00d7")
        _text(svg, BAR_LEFT + round(width) + 8, y + 15, said, "seconds")


def _text(svg: ET.Element, x: int, y: int, said: str, kind: str) -> ET.Element:
    text = ET.SubElement(svg, "text", {"class": kind, "x": str(x), "y": str(y)})
    text.text = said
    return text
