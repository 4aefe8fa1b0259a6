"""Implements `keyjoin compare`, which compares the predictions of two outputs, or of two models, row by row."""

import contextlib
import dataclasses
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.compat.startup import collect_garbage
from pipeline.job.progress import Phase, Progress
from pipeline.options import kinds
from pipeline.options.command_options import CompareOptions
from pipeline.options.run_options import parse_run
from pipeline.terminal.comparison import document, print_json, print_text
from pipeline.terminal.events import Compared
from pipeline.terminal.exit_codes import Exit
from pipeline.terminal.messages import is_quiet, show_error
from pipeline.terminal.progress import show_event, shown
from pipeline.verification.compare_outputs import Output, compare_outputs, open_output
from transforms.errors import RunError, UsageError
from transforms.storage import files
from transforms.storage.remedies import described


def main(given: CompareOptions, rest: Sequence[str], argv: Sequence[str]) -> Exit:
    """Runs the command.

    Args:
        given: The options of the command.
        rest: The two outputs, or the flags of `run`.
        argv: All arguments, for the page.

    Returns:
        `Exit.COMPLETE` if the outputs are the same, within the tolerances; otherwise `Exit.FAILED`.

    Raises:
        UsageError: The outputs cannot be compared: a flag is wrong, an output is not complete, their sources differ, a
            file cannot be read, or a run fails. A gate of a release can tell that from a difference by its exit code.
    """
    collect_garbage()
    try:
        with _folders(given, rest) as folders:
            progress = Progress()
            with shown(given.progress, progress, is_run=False):
                progress.enter(Phase.CHECKING)
                one, other = (open_output(path)._replace(label=label) for path, label in folders)
                found = compare_outputs(one, other, given.tolerance, progress)
                figures = document(found)
            (print_json if given.json else print_text)(figures)
            if given.report is not None:
                _write_page(given.report, figures, (one, other), ["keyjoin", "compare", *argv])
    except (RunError, ValueError, OSError) as error:  # a ValueError says why a word is no path
        raise UsageError(described(error) if isinstance(error, OSError) else str(error)) from error
    code = Exit.COMPLETE if found.is_same else Exit.FAILED
    show_event(Compared(exit_code=code, rows=found.rows))
    return code


def _write_page(path: str, figures: Mapping[str, Any], outputs: Sequence[Output], words: Sequence[str]) -> None:
    from pipeline.report.comparison import make_page  # imports the library of templates

    files.write_whole(path, [make_page(figures, outputs, words).encode()])
    show_error(f"keyjoin: {path} has this as a page with charts")


@contextlib.contextmanager
def _folders(given: CompareOptions, rest: Sequence[str]) -> Iterator[Sequence[tuple[str, str]]]:
    """Yields the folders to compare, and what to call them. The outputs of two models are deleted afterwards."""
    if given.model_b is None:
        if len(rest) != 2 or any(word.startswith("-") for word in rest):
            words = f", not {' '.join(rest)}" if rest else ""
            raise UsageError(f"give two output folders{words}: keyjoin compare OUT_A OUT_B; see keyjoin compare --help")
        yield [(path, path) for path in map(kinds.PATH.parse, rest)]
        return
    with tempfile.TemporaryDirectory(prefix="keyjoin-compare-") as folder:
        options, beam_args = parse_run([*rest, f"--output={files.join(folder, 'a')}"], "keyjoin compare")
        if "-" in options.input:
            raise UsageError("--input - can be read only once, and two models read it; give files")
        from pipeline.commands.run import run  # imports Beam, which two finished runs do not need
        from pipeline.run_folder.settle import OverErrorLimitError

        found = []
        for name, model, which in (("a", options.model, "model"), ("b", given.model_b, "model_b")):
            if not is_quiet():
                show_error(f"keyjoin: scores the rows with {model}")
            output, progress = files.join(folder, name), Progress(run=which)
            # Discards what the run prints to standard output: rows, and the command to verify a folder that is deleted.
            with contextlib.redirect_stdout(io.StringIO()), shown(given.progress, progress):
                try:
                    run(dataclasses.replace(options, output=output, model=model), beam_args, progress)
                except OverErrorLimitError as error:  # its own remedy names the folder, which is deleted
                    raise UsageError(
                        f"{model}: {error.exceeded}; fix model or rows, or raise {error.exceeded.flag} and give the "
                        "command again"
                    ) from error
            found.append((output, model))
        yield found
