"""Runs the graph that was staged for a job of the stand-in, in this process."""

from collections.abc import Callable

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from google.cloud import dataflow

from tests.cloud.stand_ins import Cloud

EMBEDDED = "beam:env:embedded_python:v1"


def staged(cloud: Cloud, job: dataflow.Job) -> beam_runner_api_pb2.Pipeline:
    """The graph of a job, read from storage as Dataflow reads it."""
    options = dict(job.environment.sdk_pipeline_options)["options"]
    name = dict(options)["pipelineUrl"].partition("/staging/")[2]
    return beam_runner_api_pb2.Pipeline.FromString(cloud.store.objects("staging/")[name])


def runs(cloud: Cloud) -> Callable[[dataflow.Job], None]:
    """Returns a function for `DataflowApi.run` that runs a job's graph and reports its counters."""

    def run(job: dataflow.Job) -> None:
        graph = staged(cloud, job)
        for environment in graph.components.environments.values():
            assert environment.urn == common_urns.environments.DOCKER.urn
            environment.urn, environment.payload = EMBEDDED, b""
            del environment.dependencies[:]
        result = FnApiRunner().run_via_runner_api(graph, PipelineOptions([]))
        result.wait_until_finish()
        for counter in result.metrics().query()["counters"]:
            if counter.key.metric.namespace == "ledger":
                cloud.api.set_counters(job.id, **{counter.key.metric.name: counter.committed})

    return run
