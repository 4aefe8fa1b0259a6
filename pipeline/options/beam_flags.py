"""Checks the flags that keyjoin passes on to Beam.

Beam ignores flags that it does not know, so a misspelt flag would silently become a default.
"""

import argparse
import re
from collections.abc import Sequence
from typing import Any

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import create_runner

from pipeline.compat.beam import OptionsWithViews
from pipeline.options.flag import flags_of
from pipeline.options.parser import with_underscores
from pipeline.options.run_options import RunOptions, run_parser
from transforms.errors import UsageError, nearest

FLAG = re.compile(r"--[\w-]+")
LOCAL = "FnApiRunner"
# DirectRunner first tries the Prism runner, and downloads it. For each of these names keyjoin uses `LOCAL`, the runner
# in this process.
LOCAL_NAMES = (None, "DirectRunner", "FnApiRunner", "BundleBasedDirectRunner", "SwitchingDirectRunner")


def pipeline_options(args: Sequence[str]) -> PipelineOptions:
    """Reads Beam's options, and sets the local runner if the flags name no runner, or one of `LOCAL_NAMES`.

    Args:
        args: The words of the command line that are not keyjoin's flags.

    Raises:
        UsageError: Neither keyjoin nor Beam knows a flag, Beam does not accept a value, the runner is unknown or
            cannot be used here, or a flag loses data on the local runner.
    """
    args = check_known(args)
    try:
        options = OptionsWithViews(args)
        runner = options.view_as(StandardOptions).runner
        create_runner(runner or LOCAL)
    except SystemExit as error:
        raise UsageError(f"Beam does not accept {' '.join(args)}; see the lines above") from error
    except (ValueError, ImportError, AttributeError) as error:
        known = [*StandardOptions.KNOWN_RUNNER_NAMES, "PrismRunner", "PortableRunner"]
        if runner in known:
            raise UsageError(
                f"--runner={runner} cannot be used here: {error}; choose another one of {known}"
            ) from error
        raise UsageError(f"Beam has no runner {runner}{nearest(str(runner), known)}; it has {known}") from error
    if runner in LOCAL_NAMES:
        workers = options.get_all_options().get("direct_num_workers", 1)
        if workers != 1:
            raise UsageError(
                f"--direct_num_workers={workers} loses rows on Beam's local runner (docs/runners.md); leave it out: "
                "keyjoin uses all cores within a chunk"
            )
        mode = options.get_all_options().get("direct_running_mode", "in_memory")
        if mode != "in_memory":
            raise UsageError(
                f"--direct_running_mode={mode} loses rows on Beam's local runner (docs/runners.md), or fails; leave it "
                "out: keyjoin uses all cores within a chunk"
            )
        options.view_as(StandardOptions).runner = LOCAL
    # Beam does this when a pipeline starts. keyjoin reads files before that, with the same credentials.
    FileSystems.set_options(options)
    return options


def is_local(options: PipelineOptions) -> bool:
    """Returns whether the pipeline runs on the local runner, in this process."""
    return bool(options.view_as(StandardOptions).runner == LOCAL)


def check_known(args: Sequence[str]) -> list[str]:
    """Checks the names of Beam's flags, and no values. Hyphens and underscores in these names are alike.

    Args:
        args: The words of the command line that are not keyjoin's flags.

    Returns:
        The words, with Beam's own spelling of the names.

    Raises:
        UsageError: Neither keyjoin nor Beam knows a flag.
    """
    parser = _beam_parser()
    names = FLAG.findall(parser.format_usage())
    words = with_underscores(args, {name.removeprefix("--") for name in names})
    unknown = [arg for arg in parser.parse_known_args(words)[1] if arg]
    if unknown:
        flag = unknown[0].partition("=")[0]
        known = [*(f"--{name}" for name in flags_of(RunOptions)), *names]
        raise UsageError(f"neither keyjoin nor Beam knows {unknown[0]}{nearest(flag, known)}; see keyjoin run --help")
    return words


def _beam_parser() -> argparse.ArgumentParser:
    """Makes a parser of all of Beam's flags that raises a UsageError where argparse would end the process."""
    parsers: list[Any] = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append)
    parsers[0].error = run_parser("keyjoin run").error
    parser: argparse.ArgumentParser = parsers[0]
    return parser
