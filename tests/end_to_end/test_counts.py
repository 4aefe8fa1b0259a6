"""Checks the cost of a chunk by counts. No clock is read, so the result does not depend on the machine or its load.

A change that adds Python code or an object for each row, bytes to the join, or memory fails here.
See benchmarks/NOTES.md.
"""

import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.metrics import monitoring_infos

from pipeline.compat import beam as beam_compat
from pipeline.job import waves
from pipeline.job.graph import build_chunks
from pipeline.job.stop_early import Watch
from pipeline.options.beam_flags import pipeline_options
from pipeline.options.error_limits import ErrorLimits
from pipeline.options.run_options import parse_run
from pipeline.plan.preflight import Plan, find_inputs, prepare
from tests.conftest import Result
from tests.support import cost_counters, counted_workloads, models
from tests.support.counted_workloads import WORKS, Passage
from transforms import formats
from transforms.split_into_chunks import chunks_of

SLACK = 1.2
LARGE = 10
SOME_OBJECTS = 1_000  # objects that are created whatever the number of rows
ELEMENT_COUNT, BYTE_SIZE = monitoring_infos.ELEMENT_COUNT_URN, monitoring_infos.SAMPLED_BYTE_SIZE_URN
GROUP_BY_KEY = "beam:transform:group_by_key:v1"


class Today(NamedTuple):
    """What a step costs now; more than `SLACK` times as much is a regression.

    Attributes:
        peak: Peak memory in bytes, for each byte of a large chunk.
        row_lines: Lines of Python executed for each row; only TFRecord still has any.
        row_objects: Objects created for each row, each by a call: strings for TensorFlow, and records for tfx_bsl and
            for their checksums.
    """

    peak: float
    row_lines: int = 0
    row_objects: int = 0


TODAY = {
    "mixed": {"read": Today(3.2), "score": Today(0.3), "write": Today(2.6)},
    "keyed": {"read": Today(3.2), "score": Today(0.3), "write": Today(1.7)},
    "wide": {"read": Today(2.2), "score": Today(0.2), "write": Today(2.1)},
    "text": {"read": Today(1.1), "score": Today(0.1), "write": Today(2.0)},
    "strings": {"read": Today(1.5), "score": Today(0.4, 0, 2), "write": Today(2.4)},
    # Its texts vary in length, so that few records have the same layout.
    "tfrecord": {"read": Today(3.9, 11, 2), "score": Today(0.3), "write": Today(4.5, 11, 2)},
    "alike": {"read": Today(3.1, 1, 2), "score": Today(0.3), "write": Today(3.7, 1, 2)},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with cost_counters.in_turn():
        yield


@pytest.fixture(scope="module", params=WORKS)
def passages(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Passage, Passage]:
    """A small and a large chunk of the same rows."""
    work, folder = WORKS[request.param], tmp_path_factory.mktemp(request.param)
    small, large = (Passage(work, work.small * times, folder) for times in (1, LARGE))
    assert small.part.joined == small.rows
    assert large.part.joined == large.rows
    return request.param, small, large


@pytest.mark.parametrize("step", Passage.steps)
def test_python_is_by_the_slice_and_not_by_the_row(passages: tuple[str, Passage, Passage], step: str) -> None:
    name, small, large = passages
    today = TODAY[name][step]
    few, many = (cost_counters.steps(getattr(passage, step)) for passage in (small, large))
    slices, more = large.slices(step), large.rows - small.rows
    assert many.lines <= few.lines * (slices + 1) + SLACK * today.row_lines * more + large.blocks()
    # If a library loops over rows, the count of calls shows it.
    calls = few.calls * (slices + 1) + SLACK * (today.row_lines + today.row_objects) * more
    assert many.calls <= calls + 6 * large.blocks()
    assert many.objects <= SLACK * today.row_objects * large.rows + SOME_OBJECTS


@pytest.mark.parametrize("step", Passage.steps)
def test_a_step_holds_few_times_its_chunk(passages: tuple[str, Passage, Passage], step: str) -> None:
    name, _, large = passages
    # A text field that the model does not use is held only once, so the workload "text" has the lowest figure.
    assert cost_counters.peak(getattr(large, step)) <= SLACK * TODAY[name][step].peak * large.chunk.end


LOOPS = {
    "loop": "for row in rows:\n  row",
    "comprehension": "[row for row in rows]",
    "generator": "sum(row for row in rows)",
    "lookup": "{row: row for row in rows}",
}


@pytest.mark.parametrize("loop", LOOPS)
def test_the_gate_sees_a_loop_over_rows(loop: str) -> None:
    code = compile(LOOPS[loop], f"{cost_counters.OWN}looping.py", "exec")
    assert cost_counters.steps(lambda: exec(code, {"rows": range(1_000)})).lines >= 1_000  # noqa: S102


def test_the_gate_sees_calls_objects_and_memory() -> None:
    found = cost_counters.steps(lambda: list(map(lambda row: [row], range(10_000))))  # noqa: C417  as a library would
    assert found.calls >= 10_000
    assert found.objects >= 10_000
    assert cost_counters.peak(lambda: bytes(1 << 20)) >= 1 << 20
    assert cost_counters.peak(lambda: np.zeros(1 << 20, np.uint8)) >= 1 << 20
    assert cost_counters.peak(lambda: pa.array(range(1 << 17), pa.int64()).take(pa.array([0]))) >= 1 << 20
    assert cost_counters.peak(lambda: None) < 1 << 16


# Bytes that cross the join

JOIN_BYTES = 10  # bytes a row, for a model with one float output
RECEIPT_BYTES = 8_000  # bytes a chunk: 600 of them the receipt, with the long paths that pytest makes; the rest counts


def test_ten_bytes_a_row_cross_the_join(keyjoin: Callable[..., Result], model: Any, tmp_path: Path) -> None:
    chunk = counted_workloads.write(WORKS["mixed"], 50_000, tmp_path)
    flags = (f"--input={chunk.source}", f"--model={model(models.dense)}", "--input_map", "x=features")
    sizes = (chunk.end // 3, chunk.end // 30)
    totals = [keyjoin("run", *flags, f"--chunk_bytes={size}").manifest()["totals"] for size in sizes]
    assert [found["joined"] for found in totals] == [50_000, 50_000]
    assert totals[0]["shuffled_bytes"] <= JOIN_BYTES * 50_000
    few, many = (found["parts"] for found in totals)
    assert many > 5 * few
    assert totals[1]["shuffled_bytes"] - totals[0]["shuffled_bytes"] <= RECEIPT_BYTES * (many - few)


# The graph


@pytest.fixture
def plan(tmp_path: Path, model: Any) -> Callable[..., Any]:
    """Prepares a job on this number of rows, in about this number of chunks."""
    beam_compat.quiet()

    def make(rows: int, chunks: int) -> Any:
        chunk = counted_workloads.write(WORKS["mixed"], rows, tmp_path)
        flags = [f"--input={chunk.source}", f"--model={model(models.dense)}", f"--output={tmp_path}/{chunks}"]
        flags += ["--input_map", "x=features", "--batch_size=960", f"--chunk_bytes={chunk.end // chunks}"]
        options, _ = parse_run(flags, "run")
        return prepare(options, find_inputs(options), local=True)

    return make


class Ran(NamedTuple):
    """A pipeline that ran, with its counts.

    Attributes:
        chunks: Number of chunks in its input.
        steps: (name, kind) of each step.
        elements: PCollection -> number of its elements.
        largest: Size in bytes of the largest sampled element that enters a GroupByKey, as Beam's coders write it.
        own: Number of calls of functions of keyjoin's transforms.
        calls: Number of calls of functions written in Python, in any module.
    """

    chunks: int
    steps: list[tuple[str, str]]
    elements: dict[str, int]
    largest: int
    own: int
    calls: int


def run_one(plan: Plan) -> Ran:
    """Runs all chunks of a plan in one pipeline, as a wave does."""
    job = plan.job
    chunks = list(
        chunks_of(plan.sources[0], formats.load(job.format).reader, job.chunk_bytes, job.chunk_rows, job.temp)
    )
    root = beam.Pipeline(options=pipeline_options([]))
    build_chunks(root | "CreateChunks" >> beam.Create(chunks, reshuffle=False), job)
    graph = root.to_runner_api().components.transforms.values()
    with cost_counters.called() as calls:
        result = root.run()
        result.wait_until_finish()
    infos = [(info.urn, info.labels.get("PCOLLECTION"), info) for info in result.monitoring_infos()]
    joined = [pcoll for t in graph if t.spec.urn == GROUP_BY_KEY for pcoll in t.inputs.values()]
    return Ran(
        len(chunks),
        sorted((t.unique_name, t.spec.urn) for t in graph),
        {at: monitoring_infos.extract_counter_value(i) for urn, at, i in infos if urn == ELEMENT_COUNT},
        # the distribution is (count, sum, least, most)
        max(monitoring_infos.extract_distribution(i)[3] for urn, at, i in infos if urn == BYTE_SIZE and at in joined),
        calls[cost_counters.TRANSFORMS],
        calls[cost_counters.ANY],
    )


ALL_SLACK = 1.5  # wider: Beam's own calls are included, and differ between versions of Python


def test_the_graph_costs_a_chunk_the_same_however_many_there_are(plan: Callable[..., Any]) -> None:
    ran = []
    for chunks in (10, 20, 200):  # the run with 10 only warms up: it also imports
        with plan(4_000, chunks) as planned:
            ran.append(run_one(planned))
    _, few, many = ran
    assert many.steps == few.steps
    assert [name for name, _ in many.steps if name.endswith("CoGroupByKey")] == ["JoinPredictions/CoGroupByKey"]
    assert len([kind for _, kind in many.steps if kind == GROUP_BY_KEY]) == 1
    # A PCollection has one element a chunk, two where receipts and predictions meet, or one in all; never one a row.
    assert many.elements.keys() == few.elements.keys()
    for run in (few, many):
        assert set(run.elements.values()) == {1, run.chunks, 2 * run.chunks}
    assert Counter(n // few.chunks for n in few.elements.values()) == Counter(
        n // many.chunks for n in many.elements.values()
    )
    assert few.largest <= JOIN_BYTES * (4_000 // few.chunks) + RECEIPT_BYTES
    more = many.chunks - few.chunks
    assert many.own - few.own <= 1.02 * more * few.own / few.chunks
    assert many.calls - few.calls <= ALL_SLACK * more * few.calls / few.chunks


def test_a_run_holds_a_wave_however_many_there_are(plan: Callable[..., Any], monkeypatch: Any) -> None:
    """The memory of a run does not grow with the number of its waves.

    What a wave leaves behind is left after each of them. Something else that grows once, such as a table of the
    interpreter, does not grow in each pair of waves. So the pair that grew least decides.
    """
    held, peaks, objects = [], [], []
    original = waves.build_chunks

    def build(*arguments: Any, **named: Any) -> Any:
        current, most = tracemalloc.get_traced_memory()
        held.append(current + pa.total_allocated_bytes())
        peaks.append(most)
        objects.append(sys.getallocatedblocks())
        tracemalloc.reset_peak()
        return original(*arguments, **named)

    monkeypatch.setattr(waves, "build_chunks", build)
    with plan(40_000, 20) as planned:
        size = sum(source.size for source in planned.sources)
        tracemalloc.start()
        try:
            waves.run_waves(planned, pipeline_options([]), size // 10, Watch(ErrorLimits.parse([]), planned.sources, 1))
        finally:
            tracemalloc.stop()
    assert len(held) == 10
    # The receipts of two waves take 30 KB, their predictions 32 KB and their text 1.7 MB. Beam keeps a few KB.
    assert least_growth(held) <= 16_384, held
    assert least_growth(objects) <= 500, objects
    assert min(peaks[5:]) <= SLACK * peaks[2], peaks


def least_growth(counts: Sequence[int]) -> int:
    """The least that two waves add, from the third wave on: the first ones also import and fill caches."""
    return min(later - earlier for earlier, later in zip(counts[2:], counts[4:], strict=False))
