"""Replaces functions of Beam, and uses its private names, see `pipeline.compat`.

These changes apply to the whole process. With KEYJOIN_COMPAT=off keyjoin changes nothing of Beam.
"""

import functools
import logging
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any, TypeVar

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from transforms import compat

View = TypeVar("View", bound=PipelineOptions)

SAMPLING_MS = 5
# Part of a message that RunInference logs for each model. The message is false. Beam imports `resource` together with a
# module of another framework, and if that framework is not installed, Beam takes `resource` to be missing.
NOT_FOR_USERS = "Resource module is not available"


@functools.cache
def speed_up() -> None:
    """Makes small runs on the local runner faster.

    The function is cached, because a second call would wrap Beam's functions a second time.
    """
    if compat.is_on():
        sample_often()
        inspect_once()


def sample_often() -> None:
    """Makes Beam's local runner detect the end of a bundle sooner.

    A thread of Beam samples which step is busy, every 200 ms by default. The runner waits for its next sample before it
    ends a bundle. Beam has no option for the interval.
    """
    from apache_beam.runners.worker import statesampler

    often = functools.partial(statesampler.StateSampler, sampling_period_ms=SAMPLING_MS)
    statesampler.StateSampler = often  # type: ignore[misc,assignment]  # Beam has no setting for it


def inspect_once() -> None:
    """Makes Beam inspect the arguments of each method only once.

    Without this, Beam inspects every method of every step eight times for each graph. That takes a third of the time
    that a graph takes.
    """
    from apache_beam.transforms import core

    inspect = core.get_function_args_defaults
    known: weakref.WeakKeyDictionary[Any, tuple[list[str], list[Any]]] = weakref.WeakKeyDictionary()

    def remember(function: Callable[..., Any]) -> tuple[list[str], list[Any]]:
        if not isinstance(function, MethodType):
            return inspect(function)
        # Each access to a method makes a new object, so a cache by method would never hit. Its function stays the same.
        if function.__func__ not in known:
            known[function.__func__] = inspect(function)
        names, defaults = known[function.__func__]
        return [*names], [*defaults]

    core.get_function_args_defaults = remember  # type: ignore[assignment]  # Beam's has no types


# The views are kept outside of the options, because Beam copies and pickles every attribute of options.
_views: "weakref.WeakKeyDictionary[OptionsWithViews, dict[type[PipelineOptions], PipelineOptions]]"
_views = weakref.WeakKeyDictionary()


class OptionsWithViews(PipelineOptions):
    """Beam's options, with a cache of their views.

    Beam asks for some views 270 times for each graph, and each time makes a parser of all its flags. That takes a third
    of the time of a small graph. Beam's views of the same options share their values, so a cached view is as good as a
    new one.
    """

    def view_as(self, cls: type[View]) -> View:
        """Returns these options as an instance of one of Beam's classes of options."""
        if not compat.is_on():
            return super().view_as(cls)
        views: dict[Any, Any] = _views.setdefault(self, {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        view: View = views[cls]
        return view


def name_files_by(function: Callable[[str], str]) -> None:
    """Changes the names of source files that Beam writes into pickles of code.

    With KEYJOIN_COMPAT=off, pickles contain folder names of this machine.

    Args:
        function: Takes the path of a source file, and returns the name to write.
    """
    if compat.is_on():
        from apache_beam.internal import cloudpickle_pickler

        config: Any = cloudpickle_pickler.DEFAULT_CONFIG
        config.filepath_interceptor = function


def dataflow_jobs(client: Any, options: GoogleCloudOptions) -> Any:
    """Returns Dataflow's client for jobs, a private attribute of Beam's client for Dataflow.

    With KEYJOIN_COMPAT=off this function makes a new client, with the credentials of the environment.

    Args:
        client: Beam's `DataflowApplicationClient`.
        options: The address of the service, and whether it needs credentials.

    Returns:
        A `google.cloud.dataflow.JobsV1Beta3Client`.
    """
    if compat.is_on():
        return client._jobs_client
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import dataflow

    endpoint = options.dataflow_endpoint.rstrip("/")
    local = "localhost" in endpoint
    anonymous: Any = AnonymousCredentials()  # type: ignore[no-untyped-call]  # Google's has no types
    return dataflow.JobsV1Beta3Client(
        credentials=anonymous if options.no_auth else None,
        transport="rest" if local else None,
        client_options={"api_endpoint": endpoint if local else endpoint.removeprefix("https://")},
    )


def quiet() -> None:
    """Hides messages of Beam that no user can act on, and tracebacks of errors that keyjoin reports itself.

    With --verbose, the root logger prints messages of the level INFO, and nothing is hidden.
    """
    if not compat.is_on() or logging.getLogger().isEnabledFor(logging.INFO):
        return
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
    # Beam logs a warning and a traceback for each attempt to find credentials. Another message reports that there are
    # none.
    logging.getLogger("apache_beam.utils.retry").setLevel(logging.ERROR)
    logging.getLogger().addFilter(lambda record: NOT_FOR_USERS not in record.getMessage())
