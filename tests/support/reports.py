"""Makes the facts of a run, and the figures of a comparison, that show given texts everywhere, and reads a page."""

from collections import Counter
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from pipeline.options.run_options import parse_run
from pipeline.report.drift import Drift
from pipeline.report.facts import Facts, Letter, SourceTotals, State
from pipeline.run_folder import records
from pipeline.run_folder.ledger import Totals
from pipeline.run_folder.records import Fed, JobCost, Listed, Lists, Manifest, Measured
from pipeline.terminal.comparison import document
from pipeline.verification.compare_outputs import Alone, Comparison, Output
from tests.support.counts import columns_of
from tests.support.output_states import loaded
from transforms import formats
from transforms.comparison.read_predictions import Outputs
from transforms.comparison.tally import Place, Tally
from transforms.comparison.tolerance import Tolerance
from transforms.formats.spec import FormatSpec
from transforms.reasons import Reason
from transforms.records import Chunk, PartReceipt
from transforms.statistics import Statistics, count_predictions

PAYLOADS = {
    "script": "<script>alert(1)</script>",
    "image": '"><img src=x onerror=alert(1)>',
    "attribute": '" onmouseover="alert(1)" x=\'',
    "single quote": "' autofocus onfocus='alert(1)",
    "svg": "</text></svg><svg onload=alert(1)>",
    "style": "</style><style>*{display:none}</style>",
    "title": "</title><script>alert(1)</script>",
    "comment": "<!-- --!> <![CDATA[ ]]>",
    "link": "javascript:alert(1)",
    "template": "{{7*7}}{% raw %}{# x #}${7*7}#{7*7}",
    "entities": "&lt;script&gt;&#x3c;&amp;&",
    "bidi": "a\u202eb\u2066c\u2069\u200fd",
    "invisible": "\u200b\ufeff\u00ad\U000e0041",
    "control": "\x00\x1b]0;x\x07\x1b[2J\r\n\x85\u2028",
    "surrogate": "\udcff\ud800",
    "combining": "Z" + "\u0300" * 500,
    "long": "x" * 1_048_576,
    "long and hostile": "<\"'&\u202e" * 200_000,
}
REASONS = [reason.value for reason in Reason]
TIMELINE = tuple((float(at), at * at, at) for at in range(120))
VOID = {"meta"}  # elements without an end tag, see https://html.spec.whatwg.org/#void-elements


def facts_of(text: str, *, many: int = 1, report_rows: int = 5) -> Facts:
    """Facts in which every text that does not come from keyjoin is the given one.

    Args:
        text: The text. In a path it has no NUL character, as none can.
        many: How many there are of all that a run may have many of.
        report_rows: How many rows the report shows.
    """
    path = text.replace("\0", "") or "x"
    names = [f"{path}{at or ''}" for at in range(many)]
    flags = [f"--input={path}", f"--model={path}", f"--output={path}", f"--constant={path.replace('=', '')}c=1"]
    options, _ = parse_run([*flags, f"--report_rows={report_rows}"], "keyjoin run")
    model = records.ModelFiles(path=path, sha256="0" * 64)
    found = loaded(records.Settings(options=options, format=FormatSpec("jsonl"), model=model, versions={path: path}))
    made = msgspec.structs.replace(
        found.model,
        inputs={name: Fed(dtype="float32", shape=(2, None), fields=(name, name)) for name in names},
        predictions={name: name for name in names},
        output_shapes=dict.fromkeys(names, (1,)),
        signature=path,
        key_input=path,
    )
    dead = dict.fromkeys(REASONS[: max(1, min(many, len(REASONS)))], many)
    totals = Totals(2 * many, many, dead, many, 10, 20, many, 5, many, dict.fromkeys(names, many))
    listed = Listed(bytes=1, crc32c="00000000")
    record = Manifest(
        options=options,
        format=found.format,
        model=made,
        versions=found.versions,
        status=records.COMPLETE,
        totals=totals,
        files=Lists(parts=listed, sources=listed, statistics=listed),
        skipped=(),
        seconds=2.5,
        cost=JobCost(
            workers=many,
            machine_type=path,
            hours=(0.1, 0.2),
            vcpu_hours=(1.0, 2.0),
            price=(0.5, 0.75),
            currency=path,
            unknown=(),
            prices=path,
        ),
        measured=Measured(startup_seconds=1.0, timeline=TIMELINE, peak_memory=1),
    )
    return Facts(
        path,
        State.COMPLETE,
        record,
        totals,
        None,
        report_rows,
        path,
        [dict.fromkeys((f"{text}{at}" for at in range(many)), text) for _ in range(min(many, report_rows))],
        {reason: [Letter(path, 1, text, text)] * 3 for reason in dead},
        [SourceTotals(path, 1, 1, 0)] * min(many, 10),
        many,
        statistics_of(text, many),
        path,
        [Drift(name, "feature", many, many, many, 0.5, 0.01, 0.2, "moved") for name in (*names, text)],
    )


def statistics_of(text: str, many: int) -> Statistics:
    """Statistics of as many features and predictions, every third of which is a text."""
    numbers = np.array([np.nan, np.inf, -1e30, 0.1, 0.2, 5e6], np.float32)
    made = pa.record_batch(
        {"number": pa.array(numbers), "text": pa.array([b"another text", *[text.encode(errors="replace")] * 5])}
    )
    number, texts = columns_of(count_predictions(made, [("number", "number"), ("text", "text")]))
    columns = [
        msgspec.structs.replace(texts if at % 3 == 1 else number, name=f"{text}{at}", role=role)
        for role in ("feature", "prediction")
        for at in range(many + 1)
    ]
    return Statistics(tuple(columns), {"feature": many})


def compared_of(text: str, *, many: int = 1, report_rows: int = 5) -> tuple[Mapping[str, Any], tuple[Output, Output]]:
    """The figures of a comparison in which every text that does not come from keyjoin is the given one, and its outputs.

    Args:
        text: The text. In a path it has no NUL character, as none can.
        many: How many predictions there are.
        report_rows: The --report_rows of both runs.
    """
    facts = facts_of(text, report_rows=report_rows)
    path, record = facts.output, facts.record
    assert isinstance(record, Manifest)
    fmt = formats.load(FormatSpec("parquet"))
    sides = [Output(path, path, record, fmt.reader, Outputs(fmt.writer, ()), ()) for _ in range(2)]
    part = PartReceipt(Chunk(path, "", 0, 0, 0, 1, path), 0, 0, 0, 0, {}, 0, 0, 0, 0, 0)
    numbers = [[0.5, 1e-9], [1.0], [3.0], [float("nan")]]
    texts = [[text.encode(errors="replace")], [b"x"], [], []]
    tallies = []
    for at in range(2 * many):
        tally = Tally(f"{text}{at}", Tolerance.parse("1%"), is_vector=True)
        values, kind = (texts, pa.binary()) if at % 2 else (numbers, pa.float64())
        pair = [pa.array(side, pa.large_list(kind)) for side in (values, values[::-1])]
        tally.add(*pair, Place(np.arange(4), part, 0))
        tallies.append(tally)
    alone = (Alone(), Alone())
    for one in alone:
        one.rows, one.first = 9, [(part, 0, number) for number in range(5)]
    names = [f"{text}{at}" for at in range(many)]
    return document(Comparison((sides[0], sides[1]), 4, tuple(tallies), alone, (names, names))), (sides[0], sides[1])


class Page(HTMLParser):
    """Reads a page, and collects its tags, attributes and text.

    Attributes:
        tags: How often each tag is there.
        attributes: The names of all attributes.
        links: The values of all attributes that name something to load or to go to.
        text: The text between the tags, except the style sheet.
        headings: The levels of the headings, in order.
    """

    def __init__(self, page: str) -> None:
        """Reads a whole page. Every element must be closed in its place."""
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.headings: list[int] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href", "action")]
        if tag[0] == "h" and tag[1:].isdigit():
            self.headings.append(int(tag[1:]))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        assert tag == "path"
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data
