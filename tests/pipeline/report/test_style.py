"""Colours of text and charts have the contrast that WCAG 2.2 asks for, in light, dark and print."""

import re
from collections.abc import Mapping

import pytest

from pipeline.report.page import _style

TEXT, GRAPHICS = 4.5, 3.0  # least contrast: https://www.w3.org/TR/WCAG22/#contrast-minimum, #non-text-contrast
SURFACES = ("page", "band")


def palettes() -> dict[str, dict[str, str]]:
    """The colours of each variant: name -> hexadecimal digits."""
    found = [
        dict(re.findall(r"--(\w+): #(\w+)", block)) for block in re.findall(r":root \{(.*?)\}", _style(), re.DOTALL)
    ]
    light, dark, printed = found
    return {"light": light, "dark": {**light, **dark}, "print": {**light, **printed}}


def luminance(colour: str) -> float:
    """The relative luminance, see https://www.w3.org/TR/WCAG22/#dfn-relative-luminance."""
    digits = "".join(2 * digit for digit in colour) if len(colour) == 3 else colour
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """The contrast ratio, see https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def test_the_contrast_is_that_of_the_definition() -> None:
    assert contrast("000", "ffffff") == pytest.approx(21)
    assert contrast("777777", "ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("variant", ["light", "dark", "print"])
def test_text_and_charts_can_be_read(variant: str) -> None:
    colours: Mapping[str, str] = palettes()[variant]
    texts = {
        *re.findall(r"[{;]\s*color: var\(--(\w+)\)", _style()),
        *re.findall(r"text \{ fill: var\(--(\w+)\)", _style()),
    }
    shapes = set(re.findall(r"\.\w+ \{ fill: var\(--(\w+)\)", _style())) - {"rule"}  # the axis is decoration
    assert texts >= {"text", "quiet", "good", "warning", "bad", "link"}
    assert shapes >= {"value", "joined", "dead"}
    for names, least in ((texts, TEXT), (shapes, GRAPHICS)):
        low = {(name, on): contrast(colours[name], colours[on]) for name in names for on in SURFACES}
        assert {pair: ratio for pair, ratio in low.items() if ratio < least} == {}


def test_every_colour_is_a_variable() -> None:
    """Otherwise a colour has no dark variant, and no test."""
    rules = re.sub(r":root \{.*?\}", "", _style(), flags=re.DOTALL)
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b|rgba?\(|hsla?\(", rules) == []
