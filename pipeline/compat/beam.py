"""What keyjoin replaces in Beam, or uses of its private parts; see `pipeline.compat`.

The functions here change Beam for the whole process. Each does so once, and does nothing with KEYJOIN_COMPAT=off.
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
# RunInference misses a module of another framework, and then says this, which is not so, for each model.
NOT_FOR_USERS = "Resource module is not available"


@functools.cache
def speed_up() -> None:
    """Makes small runs on the local runner faster.

    Cached: a second call would wrap what the first one has wrapped.
    """
    if compat.is_on():
        sample_often()
        inspect_once()


def sample_often() -> None:
    """Makes Beam's local runner notice sooner that a bundle has ended.

    It waits for the next tick of the thread that samples which step is busy: up to 200 ms by default. Beam has no
    option for the interval.
    """
    from apache_beam.runners.worker import statesampler

    often = functools.partial(statesampler.StateSampler, sampling_period_ms=SAMPLING_MS)
    statesampler.StateSampler = often  # type: ignore[misc,assignment]  # Beam has no setting for it


def inspect_once() -> None:
    """Makes Beam inspect the arguments of each method once.

    It inspects every method of every step eight times a graph: a third of the time that a graph takes.
    """
    from apache_beam.transforms import core

    inspect = core.get_function_args_defaults
    known: weakref.WeakKeyDictionary[Any, tuple[list[str], list[Any]]] = weakref.WeakKeyDictionary()

    def remember(function: Callable[..., Any]) -> tuple[list[str], list[Any]]:
        if not isinstance(function, MethodType):
            return inspect(function)
        # Each access to a method makes a new object; its function stays with the class.
        if function.__func__ not in known:
            known[function.__func__] = inspect(function)
        names, defaults = known[function.__func__]
        return [*names], [*defaults]

    core.get_function_args_defaults = remember  # type: ignore[assignment]  # Beam's has no types


# Beside the options, not in them: Beam copies and pickles all that is in them.
_views: "weakref.WeakKeyDictionary[OptionsWithViews, dict[type[PipelineOptions], PipelineOptions]]"
_views = weakref.WeakKeyDictionary()


class OptionsWithViews(PipelineOptions):
    """Beam's options that make each view of themselves once.

    Beam takes some views 270 times a graph, and each time makes a parser of all its flags: a third of the time of a
    small graph. That views share their values, so that one is as good as another, is Beam's own matter.
    """

    def view_as(self, cls: type[View]) -> View:
        """These options as a class of Beam's has them."""
        if not compat.is_on():
            return super().view_as(cls)
        views: dict[Any, Any] = _views.setdefault(self, {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        view: View = views[cls]
        return view


def name_files_by(function: Callable[[str], str]) -> None:
    """Makes Beam's pickles name the file that code comes from by what a function gives for the file's path.

    With KEYJOIN_COMPAT=off, pickles name the folders of this machine.
    """
    if compat.is_on():
        from apache_beam.internal import cloudpickle_pickler

        config: Any = cloudpickle_pickler.DEFAULT_CONFIG
        config.filepath_interceptor = function


def dataflow_jobs(client: Any, options: GoogleCloudOptions) -> Any:
    """The service's client for jobs, which Beam's client for Dataflow keeps to itself.

    Args:
        client: Beam's `DataflowApplicationClient`.
        options: Where the service is. With KEYJOIN_COMPAT=off its credentials are those of the environment.

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
    """Drops messages of Beam that no user can act on, and tracebacks of errors that keyjoin reports itself."""
    if not compat.is_on():
        return
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
    # Each attempt to find credentials, with its traceback; another message says that there are none.
    logging.getLogger("apache_beam.utils.retry").setLevel(logging.ERROR)
    logging.getLogger().addFilter(lambda record: NOT_FOR_USERS not in record.getMessage())
