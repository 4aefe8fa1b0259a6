"""Renders sections as one HTML page that opens offline and holds no script."""

import base64
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.report.document import Block, Caps, Section, shortened

MOST_BYTES = 300_000  # of a page
MOST_CHARACTERS = 4_000  # of any text, in front of the escapes of HTML
# Tried in order. The last one fits whatever the values are: a character takes at most five bytes, as `&#34;`.
CAPS = (Caps(), Caps(32, 12, 20, 20, 120), Caps(12, 8, 10, 10, 80), Caps(4, 4, 3, 5, 40))


def render(title: str, sections: Callable[[Caps], Sequence[Section]]) -> str:
    """Makes the page.

    The page has at most `MOST_BYTES` bytes. If all that there is to show takes more, it shows less and states what it
    does not show.

    Args:
        title: The title of the page.
        sections: Makes the sections, with a limit of how much they show.

    Raises:
        ValueError: No page fits, which is a fault of `CAPS`.
    """
    pages = (_page(title, sections(caps), caps) for caps in CAPS)
    fitting = next((page for page in pages if len(page.encode()) <= MOST_BYTES), None)
    if fitting is None:
        raise ValueError(f"no page {title} has at most {MOST_BYTES:,} bytes")
    return fitting


def _page(title: str, sections: Sequence[Section], caps: Caps) -> str:
    return _template().render(
        title=title,
        sections=sections,
        caps=caps,
        style=Markup(_style()),  # noqa: S704  keyjoin's own file
        style_hash=_hash(_style()),
        new_id=functools.partial(next, itertools.count(1)),
    )


@functools.cache
def _template() -> jinja2.Template:
    # Every value in the page goes through `_visible` and then through autoescape. Nothing else escapes.
    made = jinja2.Environment(autoescape=True, finalize=_visible, undefined=jinja2.StrictUndefined, trim_blocks=True)
    made.filters |= {"short": shortened, "groups": _groups}
    return made.from_string(resources.files(__package__).joinpath("page.html").read_text("utf-8"))


@functools.cache
def _style() -> str:
    return resources.files(__package__).joinpath("page.css").read_text("utf-8")


def _hash(text: str) -> str:
    """Returns the hash of an inline style for a Content-Security-Policy.

    Source: https://www.w3.org/TR/CSP3/#match-element-to-source-list
    """
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _visible(value: Any) -> Any:
    """Makes the control and format characters of a value visible. Text of the template itself stays as it is."""
    return shortened(value, MOST_CHARACTERS) if isinstance(value, str) and not isinstance(value, Markup) else value


def _groups(blocks: Sequence[Block]) -> Iterator[tuple[str, list[Block]]]:
    """Yields blocks of one kind that follow each other, with the name of the kind."""
    for kind, group in itertools.groupby(blocks, key=lambda block: type(block).__name__):
        yield kind, list(group)
