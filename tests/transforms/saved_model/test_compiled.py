"""keyjoin recognizes models that XLA compiles for each shape, and makes every call of a run with the same shape."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Result
from tests.support import models, xla_models
from tests.support.xla_models import JAX
from transforms.errors import ModelError, UsageError
from transforms.saved_model import loader
from transforms.saved_model.compiled import Compiled, check_accelerator, check_devices
from transforms.saved_model.model import Contract, Model, Tensor
from transforms.scoring.bisect import FEWER, MULTIPLE
from transforms.scoring.score import score

MODEL = str(JAX / "model")
X, Y = Tensor("x", "float32", (), "x:0"), Tensor("y", "float32", (), "y:0")
CONSTANT = Contract("s", (X,), (Y,), constant_rows=True)


def test_a_keras_model_of_the_jax_backend_gives_what_keras_gives() -> None:
    made = json.loads((JAX / "predictions.json").read_text())
    loaded = loader.load(MODEL)
    found = loaded({"x": np.array(made["x"], np.float32)})
    np.testing.assert_allclose(found["output_0"], made["predictions"], rtol=1e-6)
    assert str(loaded.compiled) == "by XLA (exported from JAX or torch)"
    assert not loaded.stateful


@pytest.mark.parametrize("platforms", [(), ("CPU",)])
def test_a_program_runs_on_the_cpu_if_it_was_exported_for_it_or_for_no_platform(
    model: Callable[..., str], platforms: tuple[str, ...]
) -> None:
    loaded = loader.load(model(xla_models.program, platforms))
    assert loaded({"x": np.ones((5, 3), np.float32)})["y"].tolist() == [[2.0] * 3] * 5
    assert [finding.kind.value for finding in loaded.findings] == ["compiled"]


def test_a_function_that_is_compiled_is_recognized_and_others_are_not(model: Callable[..., str]) -> None:
    assert str(loader.load(model(xla_models.jit)).compiled) == "by XLA (jit_compile=True)"
    assert loader.load(model(models.plain)).compiled is None


@pytest.mark.parametrize("command", ["run", "check", "inspect"])
def test_a_model_that_was_exported_for_a_gpu_only_is_refused_before_the_run(
    keyjoin: Callable[..., Result], model: Callable[..., str], tmp_path: Path, command: str
) -> None:
    (tmp_path / "in.jsonl").write_text('{"x": [1, 2, 3]}\n')
    flags = [] if command == "inspect" else [f"--input={tmp_path}/in.jsonl", f"--output={tmp_path}/out"]
    result = keyjoin(command, f"--model={model(xla_models.program, ('CUDA', 'TPU'))}", *flags)
    assert result.code == 2
    assert "was exported for CUDA and TPU only, and this machine computes on CPU" in result.err
    assert 'jax2tf_kwargs={"native_serialization_platforms": ("cpu", "cuda")}' in result.err


def test_a_program_whose_platform_is_not_checked_is_loaded(model: Callable[..., str]) -> None:
    loaded = loader.load(model(xla_models.program, ("CUDA",), ("platform",)))
    assert loaded({"x": np.ones((2, 3), np.float32)})["y"].tolist() == [[2.0] * 3] * 2


@pytest.mark.parametrize(
    ("platforms", "devices", "said"),
    [
        ((), {"CPU", "GPU"}, None),
        (("CPU", "CUDA"), {"CPU", "GPU"}, None),
        (("CPU",), {"CPU"}, None),
        (("CPU",), {"CPU", "GPU"}, "CUDA_VISIBLE_DEVICES=-1"),
        (("CUDA",), {"CPU"}, "exported for CUDA only"),
        (("TPU",), {"CPU", "GPU"}, "exported for TPU only"),
    ],
)
def test_devices_are_those_that_a_model_was_exported_for(
    platforms: tuple[str, ...], devices: set[str], said: str | None
) -> None:
    if said is None:
        check_devices("m", Compiled("x", platforms), devices)
        return
    with pytest.raises(UsageError, match=said):
        check_devices("m", Compiled("x", platforms), devices)


def test_workers_with_a_gpu_need_a_model_that_was_exported_for_it() -> None:
    hint = "type:nvidia-l4;count:1"
    with pytest.raises(UsageError, match="exported for CPU only, and --accelerator=type:nvidia-l4;count:1"):
        check_accelerator("m", Compiled("x", ("CPU",)), hint)
    for fine in (Compiled("x", ("CPU", "CUDA")), Compiled("x"), None):
        check_accelerator("m", fine, hint)
    check_accelerator("m", Compiled("x", ("CPU",)), None)


def recorded(refuses: frozenset[int], sizes: list[int]) -> Model:
    def call(x: Any) -> list[Any]:
        sizes.append(len(x))
        if refuses & set(x.tolist()):
            raise ModelError("refused")
        return [x * 10]

    return Model({"x": X}, {"y": Y}, call)


@given(
    chunks=st.lists(st.integers(0, 60), max_size=5),
    batch_size=st.integers(1, 20),
    refuses=st.frozensets(st.integers(0, 59), max_size=3),
)
def test_every_call_has_the_same_number_of_rows_but_for_rows_that_are_called_alone(
    chunks: list[int], batch_size: int, refuses: frozenset[int]
) -> None:
    sizes: list[int] = []
    called = recorded(refuses, sizes)
    for rows in chunks:
        x = np.arange(rows, dtype=np.float32)
        scored = score(called, CONSTANT, {"x": x}, rows, batch_size, keep_non_finite=True)
        assert scored.outputs["y"].tolist() == [10.0 * row for row in range(rows) if row not in refuses]
        assert {bad.row for bad in scored.bad} == {row for row in refuses if row < rows}
    alone = {1, MULTIPLE, *FEWER} if refuses else set()  # XLA compiles these few sizes once a run
    assert set(sizes) <= {batch_size, *alone}


def test_a_run_calls_a_compiled_model_with_one_size_in_all_chunks(
    keyjoin: Callable[..., Result], model: Callable[..., str], tmp_path: Path
) -> None:
    for number, rows in enumerate((700, 3, 97)):
        lines = [json.dumps({"x": [row, number, 0.5]}) for row in range(rows)]
        (tmp_path / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    flags = [f"--input={tmp_path}/*.jsonl", f"--model={model(xla_models.jit)}", "--batch_dependence=allow"]
    result = keyjoin("run", *flags, "--chunk_bytes=4000")
    assert (result.code, len(result.rows())) == (0, 800)
    assert all(row["y"] == sum(row["x"]) for row in result.rows())
    # All calls have the same size, also those at the end of a chunk, and it is no larger than a chunk.
    assert {row["rows"] for row in result.rows()} == {result.manifest()["model"]["batch_size"]}
    assert result.manifest()["model"]["batch_size"] % 96 == 0
    assert result.manifest()["model"]["batch_size"] < 700
    assert len(result.parts()) > 4


def test_wrap_and_inspect_take_an_export_of_jax(keyjoin: Callable[..., Result], tmp_path: Path) -> None:
    wrapped = str(tmp_path / "wrapped")
    assert keyjoin("wrap", f"--model={MODEL}", f"--output={wrapped}").code == 0
    result = keyjoin("inspect", f"--model={wrapped}")
    assert "compiled   by XLA (exported from JAX or torch)\n" in result.out
    assert json.loads(keyjoin("inspect", f"--model={wrapped}", "--json").out)["compiled"] in result.out
    made = json.loads((JAX / "predictions.json").read_text())
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"x": x}) + "\n" for x in made["x"]))
    ran = keyjoin("run", f"--input={tmp_path}/in.jsonl", f"--model={wrapped}")
    assert ran.code == 0
    found = [row["prediction"] for row in ran.rows()]
    np.testing.assert_allclose(found, made["predictions"], rtol=1e-6)
