"""`keyjoin compare` matches rows by their place in the source, in every format, and finds each difference."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from tests.conftest import ROOT, Result
from tests.support import models
from tests.support.models import save, spec
from tests.support.verified_runs import forge
from transforms.storage import files

Run = Callable[..., Result]
ROWS: list[dict[str, Any]] = [
    {"x": [n - 8.0, 0.5, 3.0], "s": "é\n"} if n % 5 else {"x": [0.5], "s": ""} for n in range(24)
]
KEPT = ("--max_bad_rows=0.5", "--non_finite=keep", "--batch_dependence=allow")


def outputs(folder: Path, factor: float = 1.0) -> str:
    """A model with predictions of several dtypes and shapes, some of them NaN."""

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        first = x[:, 0] * factor
        return {
            "score": tf.math.log(first),  # NaN below 0
            "one": first[:, None],
            "vector": tf.sqrt(x * factor),
            "matrix": tf.stack([x * factor, x], axis=1),
            "half": tf.cast(first / 3, tf.float16),
            "wide": tf.cast(first, tf.float64) / 3,
            "label": tf.where(first > 0, '["+"]', "-"),
            "count": tf.cast(first, tf.int64) + 2**53,
            "flag": first > 0,
        }

    return save(folder, call, spec("x", 3))


@pytest.fixture
def source(tmp_path: Path) -> str:
    """The flag that reads two files, one of them compressed."""
    (tmp_path / "in").mkdir()
    text = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    (tmp_path / "in/a.jsonl").write_bytes(text + b"\n" + text)
    (tmp_path / "in/b.jsonl.gz").write_bytes(gzip.compress(text))
    return f"--input={tmp_path}/in"


def compare(keyjoin: Run, one: Result, other: Result, *flags: str) -> tuple[Result, dict[str, Any]]:
    """Compares two outputs. Returns the result, and the figures of --json."""
    done = keyjoin("compare", str(one.output), str(other.output), *flags)
    said = keyjoin("compare", str(one.output), str(other.output), *flags, "--json")
    assert (done.err, said.err, said.code) == ("", "", done.code), done.err
    return done, json.loads(said.out)


FORMATS = [
    ("jsonl", "apart"),
    ("jsonl", "null"),
    ("csv", "apart"),
    ("csv", "null"),
    ("parquet", "apart"),
    ("parquet", "null"),
    ("avro", "apart"),
    ("tfrecord", "apart"),
    ("tfrecord", "null"),
]


@pytest.mark.parametrize(("name", "bad_rows"), FORMATS)
def test_every_format_has_the_same_predictions(
    keyjoin: Run, model: Callable[..., str], source: str, name: str, bad_rows: str
) -> None:
    flags = (f"--model={model(outputs)}", source, *KEPT)
    one = keyjoin("run", *flags)
    other = keyjoin(
        "run", *flags, f"--output_format={name}", "--chunk_bytes=200", f"--bad_rows={bad_rows}", "--output_fields=row"
    )
    assert (one.code, other.code) == (0, 0), other.err
    done, said = compare(keyjoin, one, other)
    assert done.code == 0, done.out
    scored = sum(len(row["x"]) == 3 for row in ROWS)
    assert (said["rows"], [a["rows"] for a in said["only_in"]]) == (3 * scored, [0, 0])
    assert {p["name"]: (p["rows"], p["equal"]) for p in said["predictions"]} == dict.fromkeys(
        ["score", "one", "vector", "matrix", "half", "wide", "label", "count", "flag"], (3 * scored, 3 * scored)
    )
    assert done.out.splitlines()[-1] == f"same: all {3 * scored} rows"
