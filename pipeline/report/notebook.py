"""Shows the report of an output in a notebook."""

from typing import NamedTuple

from markupsafe import escape

from pipeline.report import content, facts, text
from pipeline.report.document import Caps
from pipeline.terminal.messages import columns, typed
from transforms.errors import RunError


class Report(NamedTuple):
    """The report of an output folder. A notebook shows the page, `print` and a Python prompt show the text.

    Attributes:
        output: The output folder.
        page: The HTML page, as a run writes it to `_keyjoin/report.html`.
        text: The same as text.
    """

    output: str
    page: str
    text: str

    def _repr_html_(self) -> str:
        # The frame runs no script and has no access to the notebook, whatever the page holds.
        return (
            f'<iframe sandbox="" width="100%" height="700" style="border: 1px solid #8888; box-sizing: border-box" '
            f'title="Report of {escape(self.output)}" srcdoc="{escape(self.page)}"></iframe>'
        )

    def __repr__(self) -> str:
        """Returns the text. A notebook keeps it beside the page, for viewers that show no HTML."""
        return self.text


def report(output: str, *, report_rows: int | None = None, baseline: str | None = None) -> Report:
    """Makes the report of an output folder, and writes nothing.

    Args:
        output: The output folder of a run, finished or not.
        report_rows: How many joined rows to show; None for the number that the run was given.
        baseline: The output folder of a finished run, to compare distributions with; None for the one that
            the run was given.

    Raises:
        UsageError: The folder holds no run, or one of the two runs has no statistics to compare.
        RunError: A file of the run is damaged or cannot be read.
    """
    try:
        found = facts.gather(output, report_rows, baseline)
    except FileNotFoundError as error:
        lists = typed(["keyjoin", "verify", f"--run={output}"])
        raise RunError(f"{error.filename or output} is gone; this lists what is missing: {lists}") from error
    return Report(output, content.make_page(found), text.render(content.sections(found, Caps()), columns()))
