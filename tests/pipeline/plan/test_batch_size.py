"""keyjoin derives the batch size from the rows, the signature and `--batch_size`."""

import json
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest

from pipeline.model.model_process import ModelProcess
from pipeline.options.run_options import parse_run
from pipeline.plan import batch_size, preflight, sample
from pipeline.plan.batch_dependence import Verdict
from tests.conftest import Result
from tests.support import models
from tests.support.blocks import block_of
from transforms.compat import tensorflow
from transforms.formats import jsonl
from transforms.records import Feature
from transforms.saved_model.loader import ALL_CORES, ONE_CORE, Loading, load
from transforms.saved_model.model import Contract, Model, Tensor
from transforms.threads import THREADS


@pytest.mark.parametrize(
    ("threads", "chunk_bytes", "size", "cores"),
    [
        (2, 1 << 20, 384, ONE_CORE),
        (6, 1 << 20, 192, ONE_CORE),
        (7, 1 << 20, 12_288, ALL_CORES),
        (2, 340, 12_288, ALL_CORES),
    ],
)
def test_a_chunk_has_a_batch_for_each_core_or_a_batch_has_all(
    threads: int,
    chunk_bytes: int,
    size: int,
    cores: int,
    keyjoin: Callable[..., Result],
    lines: Any,
    model: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sample, "THREADS", threads)
    flags = (f"--input={lines(*[{'x': [1, 2, 3]}] * 600)}", f"--chunk_bytes={chunk_bytes}")
    with mock.patch.object(ModelProcess, "load", autospec=True, side_effect=ModelProcess.load) as loaded:
        done = keyjoin("run", *flags, f"--model={model(models.keyed)}")
    assert done.complete()
    assert done.manifest()["model"]["batch_size"] == size
    assert {call.args[2].cores for call in loaded.call_args_list} == {cores}


@pytest.mark.parametrize("cores", [ONE_CORE, ALL_CORES])
def test_a_call_computes_on_so_many_cores(cores: int, model: Any) -> None:
    session = tensorflow.Session
    with mock.patch.object(session, "__init__", autospec=True, side_effect=session.__init__) as made:
        load(model(models.keyed), Loading(cores=cores))
    assert made.call_args.kwargs["config"].inter_op_parallelism_threads == THREADS
    assert made.call_args.kwargs["config"].intra_op_parallelism_threads == (cores or THREADS)


def test_the_plan_and_the_manifest_have_it(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    flags = (f"--input={lines({'x': [1, 2, 3]}, {'x': [3, 2, 1]})}", f"--model={model(models.keyed)}")
    for more, size in (([], 12_288), (["--batch_size=7"], 7)):
        done = keyjoin("run", *flags, *more)
        assert done.manifest()["model"]["batch_size"] == size
        assert f"batch        {size:,} rows a call\n" in done.out


def test_no_call_before_a_run_has_more_large_rows_than_the_run_s_own_calls() -> None:
    """Four rows of 1 MB: 96 copies of one row, or two batches of 192 rows, would take about 100 times the input."""
    sizes = list[int]()

    def call(x: np.ndarray) -> tuple[np.ndarray]:
        sizes.append(len(x))
        return (np.array([len(text) for text in x]),)

    x, y = Tensor("x", "string", (), ""), Tensor("n", "int64", (), "")
    called, contract = Model({"x": x}, {"n": y}, call), Contract("s", (x,), (y,))
    rows = [{"x": chr(97 + row) * (1 << 20)} for row in range(4)]
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    beginning = sample.Sample(jsonl.FORMAT.reader, block_of(jsonl.FORMAT, data), rows, 1 << 25, len(data), ())
    options, _ = parse_run(["--input=i", "--model=m", "--output=o"], "run")
    features = (Feature("x", "string", (), ("x",)),)
    size = batch_size.choose(options, options.accelerator, beginning, contract, features, 12_288)
    few = beginning.arrays(features, 4)
    assert few is not None
    assert batch_size.fit(called, contract, few, size) == size == 6_144
    assert (
        preflight._choose_sizes(options, beginning, called, contract, features, size)[1].verdict is Verdict.INDEPENDENT
    )
    assert max(sizes) <= 64
