"""Runs a staged pipeline on Prism, Beam's portable runner, through the Job API."""

import contextlib
import io
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from apache_beam.metrics import monitoring_infos
from apache_beam.portability.api import (
    beam_artifact_api_pb2_grpc,
    beam_job_api_pb2,
    beam_job_api_pb2_grpc,
)
from apache_beam.runners.portability import artifact_service

START_SECONDS = 60
FAILED, DONE = beam_job_api_pb2.JobState.FAILED, beam_job_api_pb2.JobState.DONE


class Outcome(NamedTuple):
    """The result of a pipeline.

    Attributes:
        state: Its last state, of beam_job_api_pb2.JobState.
        messages: The runner's messages.
        metrics: MonitoringInfos of the whole job.
    """

    state: int
    messages: list[str]
    metrics: list[Any]

    def counters(self, namespace: str) -> dict[str, int]:
        """The counters of a namespace, by name, summed over steps."""
        found: dict[str, int] = {}
        for info in self.metrics:
            if info.labels.get("NAMESPACE") == namespace and monitoring_infos.is_counter(info):
                name = info.labels["NAME"]
                found[name] = found.get(name, 0) + monitoring_infos.extract_counter_value(info)
        return found

    def bytes_of(self, collection: str) -> float:
        """Size of a PCollection in bytes, as its coder writes it. Beam measures a sample of the elements.

        Prism flattens by writing each input separately, under a name that ends with the name of the output.
        """
        found: dict[str, dict[str, Any]] = {}
        for info in self.metrics:
            name = info.labels.get("PCOLLECTION", "")
            if name == collection or name.endswith(f"_to_{collection}"):
                found.setdefault(name, {})[info.urn] = info
        total = 0.0
        for infos in found.values():
            measured, size, *_ = monitoring_infos.extract_distribution(infos[monitoring_infos.SAMPLED_BYTE_SIZE_URN])
            elements = monitoring_infos.extract_counter_value(infos[monitoring_infos.ELEMENT_COUNT_URN])
            total += size / measured * elements
        return total


@contextlib.contextmanager
def running_prism(log: Path) -> Iterator[str]:
    """Starts Prism, yields its address, and ends it with the context."""
    with socket.create_server(("localhost", 0)) as probe:
        port = probe.getsockname()[1]
    command = [os.environ["KEYJOIN_PRISM"], f"--job_port={port}", "--serve_http=false", "--log_kind=text"]
    with log.open("wb") as said:
        prism = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    try:
        yield f"localhost:{port}"
    finally:
        prism.kill()
        prism.wait()


def run(address: str, pipeline: Any, options: Any, name: str) -> Outcome:
    """Runs a pipeline to its end.

    Args:
        address: Address of Prism.
        pipeline: The pipeline proto; its artifacts are files on this machine.
        options: The workers' options, a Struct.
        name: Name of the job.
    """
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(timeout=START_SECONDS)
        jobs = beam_job_api_pb2_grpc.JobServiceStub(channel)
        request = beam_job_api_pb2.PrepareJobRequest(job_name=name, pipeline=pipeline, pipeline_options=options)
        prepared = jobs.Prepare(request)
        _stage(prepared.artifact_staging_endpoint.url, prepared.staging_session_token)
        job = jobs.Run(beam_job_api_pb2.RunJobRequest(preparation_id=prepared.preparation_id)).job_id
        return _follow(jobs, job)


def _stage(address: str, token: str) -> None:
    with grpc.insecure_channel(address) as channel:
        artifact_service.offer_artifacts(
            beam_artifact_api_pb2_grpc.ArtifactStagingServiceStub(channel),
            artifact_service.ArtifactRetrievalService(lambda path: io.BytesIO(Path(path).read_bytes())),
            token,
        )


def _follow(jobs: Any, job: str) -> Outcome:
    state, messages = beam_job_api_pb2.JobState.UNSPECIFIED, []
    # The text of an error comes after the state that it causes, so the stream is read to its end.
    for event in jobs.GetMessageStream(beam_job_api_pb2.JobMessagesRequest(job_id=job)):
        if event.HasField("message_response"):
            messages.append(event.message_response.message_text)
        else:
            state = event.state_response.state
    found = jobs.GetJobMetrics(beam_job_api_pb2.GetJobMetricsRequest(job_id=job)) if state == DONE else None
    return Outcome(state, messages, list(found.metrics.committed) if found else [])
