"""Implements `keyjoin config`, which prints the job file of the given flags."""

from collections.abc import Sequence

from pipeline.options.config import as_yaml, expanded
from pipeline.options.run_options import parse_run
from pipeline.terminal.exit_codes import Exit
from pipeline.terminal.messages import show

PROG = "keyjoin config"


def main(argv: Sequence[str]) -> Exit:
    """Runs the command.

    Args:
        argv: The arguments after the command's name: flags of `run`.

    Returns:
        `Exit.COMPLETE`.

    Raises:
        UsageError: A flag is wrong or unknown, or a file that `--config` names is wrong.
    """
    options, beam_args = parse_run(expanded(argv, PROG), PROG)
    if beam_args:
        from pipeline.options.beam_flags import check_known  # imports Beam, which keyjoin's own flags do not need

        beam_args = check_known(beam_args)
    show(as_yaml(options, beam_args).rstrip("\n"), is_result=True)
    return Exit.COMPLETE
