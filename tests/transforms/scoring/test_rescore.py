"""`keyjoin verify --rescore`: scores rows again, one at a time, and compares the predictions."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.terminal.exit_codes import Exit
from pipeline.verification import check_rows
from pipeline.verification.check_rows import pick, spread
from tests.conftest import Result
from tests.support import models
from tests.support.examples import example, floats, written
from tests.support.verified_runs import FULL, PART, flip, forge, model_of
from transforms.formats.base import Block
from transforms.formats.jsonl.read import LinesBlock
from transforms.records import Chunk, PartReceipt
from transforms.scoring.rescore import Agreement, agree
from transforms.storage import files


class TestRescore:
    """Rows scored again, one at a time."""

    def test_a_prediction_of_another_row_differs(
        self, verify: Callable[..., Result], out: Path, made: list[str]
    ) -> None:
        """Checksums cannot reveal this: the files match their receipts, but the predictions belong to other rows."""
        path = out / PART
        lines = path.read_bytes().splitlines(keepends=True)
        ends = [line.partition(b'"prediction"') for line in lines]
        swapped = [heads[0] + b"".join(tails[1:]) for heads, tails in zip(ends, [*ends[1:], ends[0]], strict=True)]
        path.write_bytes(b"".join(swapped))

        def receipt(text: bytes) -> bytes:
            receipts = [json.loads(line) for line in text.splitlines()]
            for one in receipts:
                if one["chunk"]["part"] == PART:
                    now = files.read_back(str(path))
                    assert now is not None
                    one["bytes"], one["checksum"] = now
            return b"".join(json.dumps(one).encode() + b"\n" for one in receipts)

        forge(out, lambda d: d, lists={"_keyjoin/parts.jsonl": receipt})
        assert verify(out, FULL).code == 0
        done = verify(out, FULL, "--rescore=1000", model_of(made), "--discard")
        assert done.code == Exit.DIFFERING, done.out
        differing = [line for line in done.out.splitlines() if line.startswith("differing  ")]
        assert len(differing) == len(lines)
        for said in differing:
            path, position, line = re.findall(r"differing  (.*a\.jsonl)#(\d+) \(line (\d+)\): ", said)[0]
            assert Path(path).read_bytes()[: int(position)].count(b"\n") == int(line) - 1
        assert "expected prediction [" in differing[0]
        assert "; its part has prediction [" in differing[0]
        assert f"scored again: {48 - len(lines)} equal, {len(lines)} differing" in done.out
        assert "the model gives different predictions for the same row" in done.out
        assert (out / "_SUCCESS").exists()

    def test_a_row_of_another_key_or_field_differs(
        self, keyjoin: Callable[..., Result], verify: Callable[..., Result], made: list[str], monkeypatch: Any
    ) -> None:
        flags = [*made[:-1], "--output_fields=key,prediction"]
        done = keyjoin("run", *flags)
        assert done.code == 0, done.err
        again = (done.output, "--rescore=5", model_of(made))
        assert "scored again: 5 equal" in verify(*again).out
        monkeypatch.setattr(check_rows, "rescore", shifted(check_rows.rescore))
        said = verify(*again)
        assert said.code == Exit.DIFFERING
        assert ": expected key " in said.out

    @pytest.mark.parametrize(
        ("build", "flags"),
        [
            (models.last_column, ["--prediction_prefix=p_"]),
            (models.named_key, ["--key_input=row_number", "--include_fields=x"]),
            (models.plain, ["--batch_size=1", "--exclude_fields=x"]),
        ],
    )
    def test_models_and_layouts(
        self,
        keyjoin: Callable[..., Result],
        verify: Callable[..., Result],
        made: list[str],
        model: Any,
        build: Any,
        flags: Any,
    ) -> None:
        chosen = f"--model={model(build)}"
        done = keyjoin("run", made[0], chosen, *made[2:-1], *flags)
        assert done.code == 0, done.err
        assert "scored again: 48 equal" in verify(done.output, "--rescore=99", chosen).out

    def test_many_dtypes(
        self, keyjoin: Callable[..., Result], verify: Callable[..., Result], lines: Any, model: Any
    ) -> None:
        row = {"image": [[[1], [2]], [[3], [0.1]]], "name": "é", "flag": True, "count": 255}
        other = {**row, "name": {"b64": "/w=="}, "flag": False, "count": 1}
        chosen = f"--model={model(models.many)}"
        done = keyjoin("run", f"--input={lines(row, other)}", chosen, "--prediction_prefix=p_")
        assert done.code == 0, done.err
        assert "scored again: 2 equal" in verify(done.output, "--rescore=2", chosen).out

    def test_tf_examples(
        self, keyjoin: Callable[..., Result], verify: Callable[..., Result], model: Any, tmp_path: Path
    ) -> None:
        records = [example(x=floats(n, 2, 0.1), nan=floats(float("nan"))) if n % 4 else b"bad" for n in range(20)]
        (tmp_path / "e.tfrecord").write_bytes(written(records))
        chosen = f"--model={model(models.keyed)}"
        flags = [f"--input={tmp_path / 'e.tfrecord'}", chosen, "--chunk_bytes=300", "--max_bad_rows=5"]
        for more in ([], ["--output_fields=prediction,key"]):
            done = keyjoin("run", *flags, *more)
            assert done.code == 0, done.err
            assert "scored again: 15 equal" in verify(done.output, "--rescore=20", chosen, FULL).out

    def test_damaged_parts_are_not_scored(self, verify: Callable[..., Result], out: Path, made: list[str]) -> None:
        flip(out / PART)
        done = verify(out, "--rescore=48", model_of(made))
        assert done.code == Exit.ALTERED
        assert "1 altered" in done.out
        assert "differing" not in done.out
        flip(out / "_SUCCESS", 30)
        assert (
            "scored again: no rows, since _keyjoin/manifest.json is not the one"
            in verify(out, "--rescore=1", model_of(made)).out
        )

    def test_the_model_has_to_be_named_and_that_of_the_run(
        self, verify: Callable[..., Result], out: Path, model: Any
    ) -> None:
        for flags, said in (
            (["--rescore=1"], "a model is code: name it with --model=DIR"),
            (["--rescore=0", "--model=m"], "--rescore: 0 is not a whole number from 1"),
            (["--rescore=1", "--model=nowhere"], "no model at nowhere; give the one of the run, "),
            (["--rescore=1", f"--model={model(models.plain)}"], "is not the model of the run, "),
            (["--model=m"], "--model is for --rescore=N"),
            *(([f"--read_data={share}"], f"{share} is not a share") for share in ("5", "0%", "101%", "x%", "nan%")),
        ):
            done = verify(out, *flags)
            assert (done.code, said in done.err) == (2, True), done.err

    def test_a_manifest_that_does_not_fit_its_model(
        self, verify: Callable[..., Result], out: Path, made: list[str]
    ) -> None:
        fed = {"dtype": "float32", "shape": [3], "fields": ["x"]}
        for changed in (
            {"inputs": {"y": fed}},
            {"inputs": {"x": {**fed, "dtype": "string"}}},
            {"key_outputs": {"y": False}},
        ):
            forge(out, lambda d, changed=changed: d["model"].update(changed), lists={})
            done = verify(out, "--rescore=1", model_of(made))
            assert (done.code, "does not fit" in done.err, done.err.count("\n")) == (2, True, 1), done.err


def shifted(original: Any) -> Any:
    """Makes the comparison look for each row at the place of the next one."""

    def call(block: Block, part: LinesBlock, *rest: Any) -> Any:
        first, *others = part.data.splitlines(keepends=True)
        return original(block, LinesBlock("", b"".join([*others, first])), *rest)

    return call


@given(st.lists(st.integers(0, 9), max_size=9), st.integers(1, 50))
def test_rows_are_picked_over_all_parts(joined: list[int], count: int) -> None:
    def part(number: int, rows: int) -> PartReceipt:
        return PartReceipt(Chunk("s", "", 0, 0, number, 0, f"{number}"), 0, rows, 0, rows, {}, 0, 0, 0, 0, 0)

    total = sum(joined)
    picked = list(pick([part(*pair) for pair in enumerate(joined)], spread(total, count)))
    rows = [sum(joined[: one.part.chunk.number]) + row for one in picked for row in one.rows]
    assert all(0 <= row < one.part.joined for one in picked for row in one.rows)
    assert len(rows) == len(set(rows)) == min(count, total)
    steps = np.diff([-1, *rows, total])
    assert not rows or steps.max() <= total / len(rows) + 1


EPS = float(np.finfo(np.float32).eps)


@pytest.mark.parametrize(
    ("scored", "found", "expected"),
    [
        (np.float32([[0.1, 0]]), [0.1, 0.0], Agreement.EQUAL),
        (np.float32([[0.1, 1]]), [0.1, 1 + EPS], Agreement.CLOSE),
        (np.float32([[1e-9, 1]]), [1.1e-9, 1.0], Agreement.CLOSE),
        (np.float32([1e-9]), 1.1e-9, Agreement.OTHER),
        (np.float32([1]), 1.001, Agreement.OTHER),
        (np.float32([[1, 2]]), [1.0], Agreement.OTHER),
        (np.float32([[1, 2]]), None, Agreement.OTHER),
        (np.float32([1]), "1.0", Agreement.OTHER),
        (np.float32([1]), {"a": 1.0}, Agreement.OTHER),
        (np.float32([np.nan]), None, Agreement.EQUAL),
        (np.float32([1]), None, Agreement.OTHER),
        (np.float32([np.inf]), 1.0, Agreement.OTHER),
        (np.float64([1]), 1 + 1e-9, Agreement.CLOSE),
        (np.float64([1]), 1 + 1e-7, Agreement.OTHER),
        (np.float16([0.1]), 0.099975586, Agreement.EQUAL),
        (np.array([1], ml_dtypes.bfloat16), 1.01, Agreement.CLOSE),
        (np.int64([[2**62 + 1]]), [2**62 + 1], Agreement.EQUAL),
        (np.int64([[2**62 + 1]]), [2**62], Agreement.OTHER),
        (np.array([True]), False, Agreement.OTHER),
        (np.array([b"\xff"], object), {"b64": "/w=="}, Agreement.EQUAL),
        (np.array([b"a"], object), "b", Agreement.OTHER),
    ],
)  # fmt: skip
def test_how_predictions_agree(scored: Any, found: Any, expected: Agreement) -> None:
    assert agree(scored, found)[0] is expected


def test_what_an_example_cannot_hold_does_not_differ() -> None:
    assert agree(np.float64([1 / 3]), [float(np.float32(1 / 3))], float_dtype="float32") == (Agreement.EQUAL, 0.0)
