"""What is left of a command line for Beam: checked, because Beam itself ignores what it does not know."""

import argparse
import weakref
from collections.abc import Sequence
from typing import Any, TypeVar

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import create_runner

from pipeline.options.flags import Parser, run_parser
from transforms.errors import UsageError, nearest

View = TypeVar("View", bound=PipelineOptions)

LOCAL = "FnApiRunner"
# DirectRunner first looks for Prism, which it downloads; keyjoin means the runner in this process.
LOCAL_NAMES = (None, "DirectRunner", "FnApiRunner", "BundleBasedDirectRunner", "SwitchingDirectRunner")

# Beside the options, not in them: Beam copies and pickles all that is in them.
_views: "weakref.WeakKeyDictionary[_Options, dict[type[PipelineOptions], PipelineOptions]]"
_views = weakref.WeakKeyDictionary()


class _Options(PipelineOptions):
    """Beam's options; they make each view of themselves once.

    Beam asks for a few of them 270 times a graph, and each time makes a parser of all its flags: a third of the
    time of a small graph. Views share their values, so one is as good as another.
    """

    def view_as(self, cls: type[View]) -> View:
        views: dict[Any, Any] = _views.setdefault(self, {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        view: View = views[cls]
        return view


def pipeline_options(args: Sequence[str]) -> PipelineOptions:
    """Beam's options, with the local runner where none or DirectRunner is named.

    Raises:
        UsageError: Neither keyjoin nor Beam knows a flag, or a flag loses data on the local runner.
    """
    _check_known(args)
    try:
        options = _Options(list(args))
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
    # Beam does so when a pipeline begins; but what is read before that needs the same credentials.
    FileSystems.set_options(options)
    return options


def is_local(options: PipelineOptions) -> bool:
    """Whether the runner is the one in this process."""
    return bool(options.view_as(StandardOptions).runner == LOCAL)


def _check_known(args: Sequence[str]) -> None:
    parser: Any = Parser(prog="keyjoin run", allow_abbrev=False, add_help=False)
    for options in _with_children(PipelineOptions):
        try:
            options._add_argparse_args(parser)
        except (argparse.ArgumentError, AttributeError):
            continue  # two of Beam's own classes define the same flag
    unknown = [arg for arg in parser.parse_known_args(list(args))[1] if arg]
    if unknown:
        flag = unknown[0].partition("=")[0]
        ours = [f for action in run_parser("keyjoin run")._actions for f in action.option_strings]
        known = ours + [f for action in parser._actions for f in action.option_strings]
        raise UsageError(f"neither keyjoin nor Beam knows {unknown[0]}{nearest(flag, known)}; see keyjoin run --help")


def _with_children(options: type[PipelineOptions]) -> list[type[PipelineOptions]]:
    return [options, *(c for child in options.__subclasses__() for c in _with_children(child))]
