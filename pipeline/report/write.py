"""Writes the report of a run to its output folder, once the result of the run is final."""

from pipeline.run_folder.names import REPORT
from pipeline.terminal.messages import quoted
from pipeline.terminal.warning import warn
from transforms.storage import files


def write_report(output: str) -> None:
    """Writes `_keyjoin/report.html`. If that fails, prints a warning: the result of the run is final by then.

    Args:
        output: The output folder.
    """
    path = files.below(output, REPORT)
    try:
        # Imported here, because only the end of a run needs the library of templates.
        from pipeline.report import facts, page

        files.write_whole(path, [page.render(facts.gather(output)).encode()])
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  no fault of a report may fail a run
        cause = str(error) or type(error).__name__
        warn(f"{path} is not written: {cause}; make it with: {quoted(['keyjoin', 'report', output])}")
