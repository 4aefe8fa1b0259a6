"""A cloud on this machine: Google Cloud Storage, Dataflow and the metadata service, each as a stand-in."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from apache_beam.io.gcp import gcsio
from apache_beam.runners.dataflow.internal import apiclient

from tests.cloud.dataflow_api import DataflowApi
from tests.support.store import BUCKET, Store, running

PROJECT, REGION = "my-project", "europe-west1"


class Cloud(NamedTuple):
    """The running stand-ins.

    Attributes:
        store: Google Cloud Storage and the metadata service.
        api: Dataflow.
        flags: Flags that send a job to the stand-ins.
    """

    store: Store
    api: DataflowApi
    flags: tuple[str, ...]


@contextlib.contextmanager
def running_cloud(patch: pytest.MonkeyPatch, api: DataflowApi | None = None) -> Iterator[Cloud]:
    """Starts the stand-ins. This process and its child processes use them in place of Google's services."""
    api = api or DataflowApi()
    with running(patch) as store, api.serving() as url:
        patch.setattr(apiclient, "create_storage_client", gcsio.create_storage_client)  # a new client for each store
        flags = ("--runner=DataflowRunner", f"--dataflow_endpoint={url}", f"--project={PROJECT}", f"--region={REGION}")
        places = (f"--staging_location=gs://{BUCKET}/staging", f"--temp_location=gs://{BUCKET}/scratch")
        yield Cloud(store, api, (*flags, *places))
