"""The machine type, the number of workers and the job name that keyjoin chooses for Dataflow."""

import doctest
from types import SimpleNamespace

import pytest

from pipeline.job import dataflow
from pipeline.job.dataflow import job_name, machine_for, most_workers
from pipeline.plan.chunk_size import Expected

GIGABYTE = 1 << 30


def test_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(dataflow) == (0, 2)


@pytest.mark.parametrize(
    ("model", "chunk", "predictions", "shared", "machine"),
    [
        (0, 64 << 20, 0.0, False, "n2-standard-4"),
        (0, GIGABYTE, 0.3, False, "n2-highmem-4"),
        (GIGABYTE - 1, 64 << 20, 0.0, False, "n2-standard-4"),
        (GIGABYTE - 1, GIGABYTE, 0.0, False, "n2-highmem-4"),
        (GIGABYTE, 64 << 20, 0.0, True, "n2-standard-4"),
        (10 * GIGABYTE, 64 << 20, 0.0, True, "n2-highmem-4"),
        (60 * GIGABYTE, 64 << 20, 0.0, True, "n2-highmem-32"),
        (1000 * GIGABYTE, 64 << 20, 0.0, True, "n2-highmem-32"),
    ],
)
def test_machines_have_the_memory_for_the_model(
    model: int, chunk: int, predictions: float, shared: bool, machine: str
) -> None:
    job = SimpleNamespace(chunk_bytes=chunk, handler=SimpleNamespace(shared=shared))
    plan = SimpleNamespace(model=SimpleNamespace(bytes=model), job=job, expected=Expected(predictions, chunk))
    assert machine_for(plan).name == machine  # type: ignore[arg-type]


def test_workers_grow_with_the_input() -> None:
    assert [most_workers(size) for size in (0, 1, 4 * GIGABYTE, 4 * GIGABYTE + 1, 10**15)] == [1, 1, 1, 2, 1000]


def test_a_job_is_named_after_its_output_alone() -> None:
    names = [job_name(path) for path in ("gs://b/out", "gs://b/out/", "gs://b/other/out", "gs://b/Ü 1" + "x" * 99)]
    assert names[0] == names[1] != names[2]
    assert all(len(name) <= 63 and name.islower() and name[0].isalpha() and name.isascii() for name in names)
