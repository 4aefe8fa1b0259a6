"""Writes the report of a run to its output folder, once the result of the run is final."""

from pipeline.run_folder.names import REPORT, is_unfinished, whole_name
from pipeline.run_folder.place import own_names
from pipeline.terminal.messages import typed
from pipeline.terminal.warning import warn
from transforms.storage import files


def write_report(output: str) -> bool:
    """Writes `_keyjoin/report.html`. If that fails, prints a warning: the result of the run is final by then.

    The caller holds the lock of the folder, or is the only one that follows a job.

    Args:
        output: The output folder.

    Returns:
        Whether the report is written.
    """
    path = files.below(output, REPORT)
    try:
        # Imported here, because only the end of a run needs the library of templates.
        from pipeline.report import content, facts

        stale = [name for name in own_names(output) if is_unfinished(name) and whole_name(name) == REPORT]
        files.delete_files(output, stale)  # left by a run that was killed while it wrote its report
        files.write_whole(path, [content.make_page(facts.gather(output)).encode()])
        return True
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  no fault of a report may fail a run
        cause = str(error) or type(error).__name__
        warn(f"{path} is not written: {cause}; make it with: {typed(['keyjoin', 'report', output])}")
        return False
