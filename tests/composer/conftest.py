"""Fixtures: one Airflow of each version for all tests of this folder, and stand-ins for Google's services."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from pipeline.cli import main
from tests.cloud.dataflow_api import DataflowApi
from tests.composer import endpoint, running_airflow
from tests.composer.running_airflow import VERSIONS, Airflow
from tests.conftest import BOSTON
from tests.support.store import BUCKET, Store, running

DAY = "2026-11-22"  # a run due on the next day scores the rows of this day
OUTPUT = f"output/{DAY}/"


class Cloud(NamedTuple):
    """The stand-ins for Google's services.

    Attributes:
        store: Cloud Storage, with the Boston rows of DAY and the model.
        api: Dataflow.
        output: The files that the job writes to its output folder, by name.
        environment: Variables that direct a process to the stand-ins.
    """

    store: Store
    api: DataflowApi
    output: dict[str, bytes]
    environment: dict[str, str]

    def finish(self, **changed: bytes | None) -> None:
        """Does a job's work: writes its output, with some files changed or (None) missing."""
        for name, content in {**self.output, **changed}.items():
            if content is not None:
                self.store.put(OUTPUT + name, content)


@pytest.fixture(scope="package")
def output() -> dict[str, bytes]:
    """The output of keyjoin for the Boston rows, run with the same paths as the job."""
    with pytest.MonkeyPatch.context() as patch, running(patch) as store:
        _fill(store)
        places = (f"--input=gs://{BUCKET}/input/{DAY}/*.jsonl", f"--model=gs://{BUCKET}/model")
        assert main(["run", *places, f"--output=gs://{BUCKET}/{OUTPUT}".rstrip("/")]) == 0
        return store.objects(OUTPUT)


@pytest.fixture(scope="package")
def running_cloud(output: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    # Only Airflow's process uses these stand-ins; this process stays as it is.
    store, api = Store(), DataflowApi(hold_seconds=30)
    try:
        with endpoint.serving(api, tmp_path_factory.mktemp("certificates")) as led:
            yield Cloud(store, api, output, {**led, "STORAGE_EMULATOR_HOST": store.address})
    finally:
        store.close()


@pytest.fixture
def cloud(running_cloud: Cloud) -> Cloud:
    """The cloud before the first run. Each new job finishes its work at once."""
    store, api = running_cloud.store, running_cloud.api
    store.clear()
    _fill(store)
    for kept in (api.jobs, api.launches, api.requests):
        kept.clear()
    api.refuse = lambda _: None
    api.run = lambda _: running_cloud.finish()
    return running_cloud


def _fill(store: Store) -> None:
    for path in sorted((BOSTON / "data").glob("*.jsonl")):
        store.put(f"input/{DAY}/{path.name}", path.read_bytes())
    for path in sorted((BOSTON / "model").rglob("*")):
        if path.is_file():
            store.put(f"model/{path.relative_to(BOSTON / 'model')}", path.read_bytes())


@pytest.fixture(scope="package", params=VERSIONS)
def airflow(
    running_cloud: Cloud, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Airflow]:
    """An Airflow of each version."""
    with running_airflow.running(
        request.param, tmp_path_factory.mktemp("airflow"), **running_cloud.environment
    ) as found:
        yield found
