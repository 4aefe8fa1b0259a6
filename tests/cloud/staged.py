"""Reads and searches what was staged for a job, and changes it to run on this machine."""

import base64
import binascii
import bz2
import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from apache_beam.internal import pickler
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2 as api
from google.cloud import dataflow
from google.protobuf import json_format, struct_pb2

from tests.support.store import BUCKET, Store

PICKLED = "beam:dofn:pickled_python_info:v1"


def options_of(job: dataflow.Job) -> dict[str, Any]:
    """The pipeline options that workers receive."""
    return dict(worker_options(job)["options"])


def worker_options(job: dataflow.Job) -> struct_pb2.Struct:
    """The options that Dataflow passes to Beam's boot program."""
    environment = dataflow.Environment.pb(job.environment)
    made = struct_pb2.Struct()
    json_format.ParseDict(json_format.MessageToDict(environment.sdk_pipeline_options), made)
    return made


def read_pipeline(store: Store, job: dataflow.Job) -> Any:
    """The staged pipeline; checks it against the hash that the job names."""
    options = options_of(job)
    text = _object(store, options["pipelineUrl"])
    assert hashlib.sha256(text).hexdigest() == options["pipelineProtoHash"]
    return api.Pipeline.FromString(text)


def _object(store: Store, url: str) -> bytes:
    name = url.removeprefix(f"gs://{BUCKET}/")
    return store.objects(name)[""]


def artifacts(pipeline: Any) -> Iterator[tuple[str, Any]]:
    """The names of staged files on workers, each with its artifact proto."""
    for environment in pipeline.components.environments.values():
        for dependency in environment.dependencies:
            yield api.ArtifactStagingToRolePayload.FromString(dependency.role_payload).staged_name, dependency


def bring_here(pipeline: Any, store: Store, workers: str, folder: Path) -> None:
    """Changes a pipeline to use workers and staged files of this machine; nothing else of it changes.

    Args:
        pipeline: The proto, changed in place.
        store: The storage to which the pipeline was staged.
        workers: Address of the service that starts workers.
        folder: Folder to copy the staged files to.
    """
    folder.mkdir()
    for name, artifact in artifacts(pipeline):
        staged = api.ArtifactUrlPayload.FromString(artifact.type_payload)
        (folder / name).write_bytes(_object(store, staged.url))
        artifact.type_urn = common_urns.artifact_types.FILE.urn
        artifact.type_payload = api.ArtifactFilePayload(
            path=str(folder / name), sha256=staged.sha256
        ).SerializeToString()
    external = api.ExternalPayload(endpoint={"url": workers}).SerializeToString()
    for environment in pipeline.components.environments.values():
        assert environment.urn == common_urns.environments.DOCKER.urn
        environment.urn, environment.payload = common_urns.environments.EXTERNAL.urn, external


def images(pipeline: Any) -> set[str]:
    """The container images in which the steps run."""
    used = {step.environment_id for step in pipeline.components.transforms.values() if step.environment_id}
    found = (api.DockerPayload.FromString(pipeline.components.environments[name].payload) for name in used)
    return {payload.container_image for payload in found}


def steps(pipeline: Any, urn: str) -> dict[str, Any]:
    """The steps of one kind (URN), by name."""
    return {t.unique_name: t for t in pipeline.components.transforms.values() if t.spec.urn == urn}


def replace_functions(pipeline: Any, names: Sequence[str], wrap: Callable[[Any], Any]) -> None:
    """Wraps the DoFns of these steps; fails if a step does not exist."""
    found = steps(pipeline, common_urns.primitives.PAR_DO.urn)
    for name in names:
        payload = api.ParDoPayload.FromString(found[name].spec.payload)
        assert payload.do_fn.urn == PICKLED, payload.do_fn.urn
        function, *rest = pickler.loads(payload.do_fn.payload)
        payload.do_fn.payload = pickler.dumps((wrap(function), *rest))
        found[name].spec.payload = payload.SerializeToString()


def unpacked(pipeline: Any) -> bytes:
    """All bytes of a pipeline, including its pickled payloads, decompressed."""
    payloads = [step.spec.payload for step in pipeline.components.transforms.values()]
    payloads += [coder.spec.payload for coder in pipeline.components.coders.values()]
    payloads += [windowing.window_fn.payload for windowing in pipeline.components.windowing_strategies.values()]
    for step in steps(pipeline, common_urns.primitives.PAR_DO.urn).values():
        payloads.append(api.ParDoPayload.FromString(step.spec.payload).do_fn.payload)
    return b"\n".join([pipeline.SerializeToString(), *payloads, *map(_decompressed, payloads)])


def _decompressed(payload: bytes) -> bytes:
    try:
        packed = base64.b64decode(payload, validate=True)
    except binascii.Error:
        return b""
    for decompress in (bz2.decompress, zlib.decompress):
        try:
            return decompress(packed)
        except (OSError, ValueError, zlib.error):
            continue
    return packed
