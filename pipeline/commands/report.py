"""Implements `keyjoin report`, which makes the report of an output folder again and prints it as text."""

from pipeline.options.command_options import PageOptions
from pipeline.report.notebook import report
from pipeline.run_folder.names import REPORT
from pipeline.terminal.exit_codes import Exit
from pipeline.terminal.messages import show
from transforms.storage import files


def main(given: PageOptions) -> Exit:
    """Runs the command.

    Args:
        given: The options of the command.

    Returns:
        `Exit.COMPLETE`, also for a run that is unfinished or over its error limit.

    Raises:
        UsageError: The folder holds no run.
        RunError: A file of the run is damaged, or the report cannot be written.
    """
    made = report(given.run, report_rows=given.report_rows, baseline=given.baseline)
    path = files.below(given.run, REPORT)
    files.write_whole(path, [made.page.encode()])
    show(made.text)
    show(f"\n{path} has this as a page with charts")
    return Exit.COMPLETE
