"""`keyjoin`: reads the command, hands it over, and turns what comes of it into an exit code and one line."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline import model_process, startup
from pipeline.exits import Exit
from transforms.errors import RunError, UsageError
from transforms.reasons import Reason


class Command(NamedTuple):
    """A command.

    Attributes:
        summary: What it does, in one line.
        call: Runs it with its flags.
    """

    summary: str
    call: Callable[[Sequence[str]], Exit]


def _run(argv: Sequence[str]) -> Exit:
    started = time.monotonic()  # the imports are part of what a user waits for
    model_process.process()  # TensorFlow starts there while Beam does here
    from pipeline.options import parse_run

    options, beam_args = parse_run(argv, "keyjoin run")
    startup.import_beam(argv)
    from pipeline.run import run

    return run(options, beam_args, started)


def _check(argv: Sequence[str]) -> Exit:
    model_process.process()
    from pipeline.options import parse_run

    options, beam_args = parse_run(argv, "keyjoin check")
    startup.import_beam(argv)
    from pipeline.run import check

    return check(options, beam_args)


def _inspect(argv: Sequence[str]) -> Exit:
    from pipeline.inspect import main

    return main(argv)


def _wrap(argv: Sequence[str]) -> Exit:
    from pipeline.wrap import main

    return main(argv)


def _predict(argv: Sequence[str]) -> Exit:
    from pipeline.predict import main

    return main(argv)


COMMANDS = {
    "run": Command("scores rows and joins each prediction to its row", _run),
    "check": Command("same flags as run: finds out all that can be found out without running it", _check),
    "inspect": Command("shows what a model takes and gives", _inspect),
    "wrap": Command("adds a key to a trained model", _wrap),
    "predict": Command('answers {"instances": […]} with {"predictions": […]}', _predict),
}


def usage() -> str:
    """The text of `keyjoin --help`."""
    lines = ["usage: keyjoin COMMAND [flags]", "", "commands (each has its own --help):"]
    lines += [f"  {name:<9} {command.summary}" for name, command in COMMANDS.items()]
    lines += ["", "exit codes:", *(f"  {code.value}  {code.title}: {code.sentence}" for code in Exit)]
    lines += ["", "reasons of dead letters:", *(f"  {r.value:<15} {r.sentence}" for r in Reason)]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> Exit:
    """Runs a command line.

    Args:
        argv: The arguments, without the program's name.

    Returns:
        The exit code; errors are told on standard error, each in one line.
    """
    try:
        if not argv or argv[0] in ("-h", "--help", "help"):
            print(usage())
            return Exit.COMPLETE if argv else Exit.USAGE
        if argv[0] not in COMMANDS:
            raise UsageError(f"keyjoin has no command {argv[0]}; it has {', '.join(COMMANDS)}")
        return COMMANDS[argv[0]].call(argv[1:])
    except (UsageError, RunError) as error:
        print(f"keyjoin: error: {' '.join(str(error).split())}", file=sys.stderr)
        return Exit.USAGE if isinstance(error, UsageError) else Exit.FAILED
    except KeyboardInterrupt:
        print("keyjoin: interrupted; a run that was going on has no _SUCCESS", file=sys.stderr)
        return Exit.INTERRUPTED


def entry() -> None:
    """The program."""
    startup.begin()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a terminal may not know every letter
    sys.exit(main(sys.argv[1:]))
