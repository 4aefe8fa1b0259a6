"""Implements `keyjoin report`, which makes the report of an output folder again and prints it as text."""

import dataclasses
from collections.abc import Sequence

from pipeline.options import kinds
from pipeline.options.flag import flag
from pipeline.options.parser import OptionsParser
from pipeline.report.notebook import report
from pipeline.run_folder.names import REPORT
from pipeline.terminal.exit_codes import Exit
from pipeline.terminal.messages import show
from transforms.storage import files


@dataclasses.dataclass(frozen=True, kw_only=True)
class PageOptions:
    """The options of `report`."""

    run: str = flag(kinds.PATH, "the --output of the run", required=True, metavar="DIR", positional=True)
    report_rows: int | None = flag(
        kinds.whole(least=0),
        "joined rows that the report shows, at most 50; 0: no value, message or text of any row (default: as the run "
        "was given)",
        metavar="ROWS",
    )
    baseline: str | None = flag(
        kinds.PATH,
        "the --output of another finished run: shows how far features and predictions moved from it (default: the "
        "--baseline of the run)",
        metavar="DIR",
    )


def parser() -> OptionsParser[PageOptions]:
    """Returns the parser of `report`."""
    return OptionsParser(PageOptions, "keyjoin report", "Makes the report of an output again, and prints it as text.")


def main(argv: Sequence[str]) -> Exit:
    """Runs the command.

    Args:
        argv: The arguments after the command's name.

    Returns:
        `Exit.COMPLETE`, also for a run that is unfinished or over its error limit.

    Raises:
        UsageError: A flag is wrong, or the folder holds no run.
        RunError: A file of the run is damaged, or the report cannot be written.
    """
    given = parser().read(argv)
    made = report(given.run, report_rows=given.report_rows, baseline=given.baseline)
    path = files.below(given.run, REPORT)
    files.write_whole(path, [made.page.encode()])
    show(made.text)
    show(f"\n{path} has this as a page with charts")
    return Exit.COMPLETE
