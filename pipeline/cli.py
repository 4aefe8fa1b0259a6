"""Reads the command line of `keyjoin`, runs the command, and turns its result into an exit code and one line."""

import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pipeline import VERSION
from pipeline.compat import process, startup
from pipeline.model import model_process
from pipeline.run_folder.names import SUCCESS
from pipeline.terminal import signals
from pipeline.terminal.exit_codes import Exit
from pipeline.terminal.messages import flush_output, open_streams, set_quiet, show, show_failure
from pipeline.terminal.warning import logged_warnings
from transforms.errors import RunError, UsageError, nearest, notes_of
from transforms.reasons import Reason
from transforms.storage.remedies import described

if TYPE_CHECKING:
    from pipeline.options.run_options import RunOptions

Options = TypeVar("Options", bound="RunOptions")


class Command(NamedTuple):
    """A command of keyjoin.

    Attributes:
        topic: What the command is for, as a heading of `keyjoin --help`.
        summary: What the command does, in one line.
        call: Runs the command with the arguments that follow its name.
    """

    topic: str
    summary: str
    call: Callable[[Sequence[str]], Exit]


def _run(argv: Sequence[str]) -> Exit:
    started = time.monotonic()  # before the imports: the user waits for them too
    from pipeline.job.progress import Progress
    from pipeline.options.config import expanded
    from pipeline.options.run_options import parse_run
    from pipeline.terminal.progress import shown

    argv = expanded(argv, "keyjoin run")
    options, beam_args = parse_run(argv, "keyjoin run")
    if options.overwrite or options.incremental or not os.path.exists(os.path.join(options.output, SUCCESS)):
        model_process.process()  # TensorFlow starts in that process while Beam starts in this one
    progress = Progress(started)
    with shown(options.progress, progress):
        startup.import_beam(argv)
        from pipeline.commands.run import run

        with _connected(options) as connected:
            return run(connected, beam_args, progress)


def _check(argv: Sequence[str]) -> Exit:
    started = time.monotonic()
    from pipeline.job.progress import Progress
    from pipeline.options.config import expanded
    from pipeline.options.run_options import check_parser
    from pipeline.terminal.events import Complete
    from pipeline.terminal.progress import show_event, shown

    argv = expanded(argv, "keyjoin check")
    options, beam_args = check_parser("keyjoin check").read_known(argv)
    model_process.process()
    progress = Progress(started)
    with shown(options.progress, progress, is_run=False):
        startup.import_beam(argv)
        from pipeline.commands.run import check

        with _connected(options) as connected:
            code = check(connected, beam_args, progress)
        show_event(Complete.of(progress))
        return code


def _config(argv: Sequence[str]) -> Exit:
    from pipeline.commands.config import main

    return main(argv)


def _connected(options: "Options") -> "contextlib.AbstractContextManager[Options]":
    """Connects a run to standard input and output if its paths are `-`."""
    if "-" not in (*options.input, options.output):
        return contextlib.nullcontext(options)
    from pipeline.terminal import pipes

    return pipes.connected(options)


def _inspect(argv: Sequence[str]) -> Exit:
    from pipeline.options.command_options import inspect_parser

    given = inspect_parser().read(argv)
    from pipeline.commands.inspect import main

    return main(given)


def _wrap(argv: Sequence[str]) -> Exit:
    from pipeline.options.command_options import wrap_parser

    given = wrap_parser().read(argv)
    from pipeline.commands.wrap import main

    return main(given)


def _predict(argv: Sequence[str]) -> Exit:
    from pipeline.options.command_options import predict_parser

    given = predict_parser().read(argv)
    from pipeline.commands.predict import main

    return main(given)


def _replay(argv: Sequence[str]) -> Exit:
    started = time.monotonic()
    from pipeline.options.command_options import replay_parser

    given = replay_parser().read(argv)
    model_process.process()
    from pipeline.commands.replay import main
    from pipeline.job.progress import Progress

    return main(given, Progress(started))


def _verify(argv: Sequence[str]) -> Exit:
    started = time.monotonic()
    from pipeline.options.command_options import verify_parser

    given = verify_parser().read(argv)
    if given.read_data is None and given.rescore is None:
        # `import_beam` hides packages that remote paths need, unless argv names such a path. With these two flags
        # `verify` reads sources, which may be remote although argv does not name them. Without the flags it reads none.
        startup.import_beam(argv)
    from pipeline.commands.verify import main
    from pipeline.job.progress import Progress

    return main(given, Progress(started))


def _compare(argv: Sequence[str]) -> Exit:
    from pipeline.options.command_options import compare_parser

    given, rest = compare_parser().read_known(argv)
    if given.model_b is not None:
        model_process.process()
        startup.import_beam(argv)
    # Else the sources may be remote although argv does not name them, so nothing is hidden from Beam, see `_verify`.
    from pipeline.commands.compare import main

    return main(given, rest, argv)


def _completion(argv: Sequence[str]) -> Exit:
    from pipeline.commands.completion import main

    return main(argv)


def _report(argv: Sequence[str]) -> Exit:
    from pipeline.options.command_options import report_parser

    given = report_parser().read(argv)
    startup.import_beam(argv)
    from pipeline.commands.report import main

    return main(given)


BEFORE, SCORE, AFTER, SETUP = "before a run", "score rows", "after a run", "set up"
COMMANDS = {
    "inspect": Command(BEFORE, "shows what a model takes and gives", _inspect),
    "wrap": Command(BEFORE, "adds a key to a trained model", _wrap),
    "check": Command(BEFORE, "scores sampled rows and prints the plan; writes nothing", _check),
    "config": Command(BEFORE, "prints a job file with the flags of a run", _config),
    "run": Command(SCORE, "scores rows and joins each prediction to its row", _run),
    "predict": Command(SCORE, 'answers {"instances": […]} with {"predictions": […]}', _predict),
    "verify": Command(AFTER, "checks whether an output is still what its run wrote", _verify),
    "replay": Command(AFTER, "scores dead letters again", _replay),
    "compare": Command(AFTER, "compares the predictions of two outputs, or models, by row", _compare),
    "report": Command(AFTER, "makes the report of an output again, and prints it as text", _report),
    "completion": Command(SETUP, "prints a script that completes flags in bash, zsh or fish", _completion),
}
EXAMPLES = """\
keyjoin inspect --model model/
keyjoin check --model model/ --input rows.csv --output out/
keyjoin run --model model/ --input rows.csv --output out/"""
HELP = ("-h", "--help", "help")
ALL_HELP = "keyjoin --help all lists the exit codes and the reasons of dead letters, too."


def usage(*, everything: bool = False) -> str:
    """Returns the text of `keyjoin --help`.

    Args:
        everything: Whether to list the exit codes and the reasons of dead letters, too.
    """
    lines = ["usage: keyjoin COMMAND [flags]"]
    for topic in (BEFORE, SCORE, AFTER, SETUP):
        found = ((name, command.summary) for name, command in COMMANDS.items() if command.topic == topic)
        lines += ["", f"{topic}:", *(f"  {name:<11} {summary}" for name, summary in found)]
    lines += ["", "examples:", *(f"  {line}" for line in EXAMPLES.split("\n")), ""]
    if not everything:
        return "\n".join([*lines, "Each command has its own --help, and takes --quiet and --verbose.", ALL_HELP])
    lines += ["exit codes:", *(f"  {code.value:<3} {code.title}: {code.sentence}" for code in Exit)]
    lines += ["", "reasons of dead letters:", *(f"  {r.value:<15} {r.sentence}" for r in Reason)]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> Exit:
    """Runs a command line and prints each error to standard error, in one line.

    Args:
        argv: The arguments, without the program's name.

    Returns:
        The exit code.
    """
    with _events(argv):
        try:
            code = _call(argv)
            flush_output()
        except (UsageError, RunError, OSError) as error:
            # OSError comes from the operating system: the disk is full, too many files are open, or a folder is
            # missing. Its text names the file.
            text = described(error) if isinstance(error, OSError) else error
            code = Exit.USAGE if isinstance(error, UsageError) else Exit.FAILED
            show_failure(f"keyjoin: error: {text}{_how_to_resume(argv, error)}", code)
        except KeyboardInterrupt as stopped:
            is_terminated = getattr(stopped, "signal", signal.SIGINT) == signal.SIGTERM
            code = Exit.TERMINATED if is_terminated else Exit.INTERRUPTED
            show_failure(f"keyjoin: stopped{_how_to_resume(argv, stopped)}", code)
        return code


def _events(argv: Sequence[str]) -> contextlib.AbstractContextManager[None]:
    """Prints errors as events if the command line asks for them, also if it has another flag that is wrong."""
    if "--progress=json" in argv or ("--progress", "json") in itertools.pairwise(argv):
        from pipeline.terminal.progress import as_events

        return as_events()
    return contextlib.nullcontext()


def _call(argv: Sequence[str]) -> Exit:
    if not argv:
        show(f"keyjoin needs a command, such as:\n{EXAMPLES}\nkeyjoin --help lists all commands")
        return Exit.USAGE
    if argv[0] in ("-V", "--version", "version"):
        show(f"keyjoin {VERSION}")
        return Exit.COMPLETE
    if argv[0] in HELP and argv[1:] and argv[1] not in ("all", *HELP):
        return _call([*argv[1:2], "--help", *argv[2:]])  # `keyjoin help run`
    if argv[0] in HELP:
        show(usage(everything="all" in argv[1:2]))
        return Exit.COMPLETE
    if argv[0] not in COMMANDS:
        raise UsageError(
            f"keyjoin has no command {argv[0]}{nearest(argv[0], list(COMMANDS))}; it has {', '.join(COMMANDS)}"
        )
    with signals.stopping(), logged_warnings():
        startup.check_temporary()
        return COMMANDS[argv[0]].call(_with_verbosity(*argv))


def _with_verbosity(command: str, *argv: str) -> list[str]:
    """Sets how much is printed. Returns the arguments without --quiet and --verbose."""
    from pipeline.options.groups import VerbosityOptions
    from pipeline.options.parser import OptionsParser

    given, rest = OptionsParser(VerbosityOptions, f"keyjoin {command}", "", has_help=False).read_known(argv)
    if given.quiet and given.verbose:
        raise UsageError("--quiet and --verbose contradict each other; give one of them")
    set_quiet(given.quiet)
    if given.verbose:
        startup.print_logs()
    return rest


def _how_to_resume(argv: Sequence[str], ended: BaseException) -> str:
    """Returns how much of a run is finished, and the command that resumes it; empty if there is no run to resume."""
    if argv[:1] == ["compare"] or "--output=-" in argv or ("--output", "-") in itertools.pairwise(argv):
        return ""  # the temporary output is gone
    notes = notes_of(ended)
    if not notes and (not {"run", "replay"} & set(argv[:1]) or not isinstance(ended, KeyboardInterrupt)):
        return ""
    return "".join(f"; {text}" for text in (*notes, _resuming(["keyjoin", *argv])))


def _resuming(words: Sequence[str]) -> str:
    from pipeline.options.config import to_paste

    command = to_paste(words)
    return f"resume with: {command}" if command else "resume with the same command"


def entry() -> None:
    """Runs the program `keyjoin` and ends the process with its exit code."""
    startup.use_utf8()
    open_streams()
    startup.begin()
    code = main(sys.argv[1:])
    with contextlib.suppress(OSError):  # `main` has already turned an output error into an exit code
        flush_output()
    if code in (Exit.INTERRUPTED, Exit.TERMINATED):
        process.exit_now(code)  # sys.exit would wait until every thread finishes its work
    sys.exit(code)
