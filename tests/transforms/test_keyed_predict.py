"""KeyedPredict in a custom pipeline: each dictionary comes out once, joined or as a dead letter."""

import datetime
import decimal
from pathlib import Path
from typing import Any

import apache_beam as beam
import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from apache_beam.testing.util import assert_that, equal_to

from keyjoin import DeadRow, KeyedPredict
from tests.support import models
from transforms.errors import UsageError


def test_dictionaries_are_joined_or_dead(model: Any) -> None:
    rows: list[dict[str, Any]] = [
        {"x": [1, 2, 3], "id": 0},
        {"x": np.array([1, 2, 4], np.float32), "id": 1},
        {"x": [1, 2], "id": 2},
        {"id": 3},
        {"x": [1, 2, 3], "prediction": "mine", "id": 4},
        {"x": [1, 2, float("nan")], "id": 5},
        {"x": [1, 2, 3], "id": 6, "any": "thing"},
        {"x": [1, 2, object()], "id": 7},
        {"x": [1, 2, 3], "id": 8, "any": {1: float("inf"), "huge": 10**5000}},
        {"x": [1, 2, 10**5000], "id": 9},
    ]
    with beam.Pipeline("FnApiRunner") as root:
        scored = root | beam.Create(rows, reshuffle=False) | KeyedPredict(model(models.keyed), batch_size=3)
        joined = scored.joined | beam.Map(lambda row: (row["id"], row["prediction"], row.get("any")))
        assert_that(
            joined,
            equal_to([(0, [7.0], None), (1, [10.0], None), (6, [7.0], "thing"), (8, [7.0], rows[8]["any"])]),
            label="Joined",
        )
        dead = scored.dead_letters | beam.Map(lambda d: (d.row["id"], d.stage, d.reason))
        expected = [
            (2, "read", "wrong_shape"),
            (3, "read", "missing"),
            (4, "write", "collision"),
            (5, "read", "not_json"),
            (7, "read", "wrong_type"),
            (9, "read", "not_object"),
        ]
        assert_that(dead, equal_to(expected), label="Dead")


def test_rows_that_the_model_refuses_and_names_that_are_mapped(model: Any) -> None:
    rows = [{"a": i, "b": 0, "c": 0} for i in (1, 666, 2)]
    with beam.Pipeline("FnApiRunner") as root:
        transform = KeyedPredict(model(models.raising), features=("a", "b", "c"), prediction_prefix="p_")
        scored = root | beam.Create(rows) | transform
        assert_that(
            scored.joined,
            equal_to([{**rows[0], "p_prediction": [0.5]}, {**rows[2], "p_prediction": [1.0]}]),
            label="Joined",
        )
        dead = scored.dead_letters | beam.Map(lambda d: (type(d), d.row, d.reason))
        assert_that(dead, equal_to([(DeadRow, rows[1], "model_error")]), label="Dead")


def test_values_that_lack_fields_inside_of_objects_and_strict_types(model: Any) -> None:
    rows: list[dict[str, Any]] = [{"r": {"a": 1}, "b": 2, "c": 3}, {"b": None, "c": 3}, {"r": {"a": "1"}, "c": 3}]
    given = {"features": (("r", "a"), "b", "c"), "missing": {"r.a": 1, "b": 2}, "prediction_prefix": "p_"}
    with beam.Pipeline("FnApiRunner") as root:
        made = root | beam.Create(rows, reshuffle=False)
        scored = made | KeyedPredict(model(models.plain), **given)
        assert_that(scored.joined | beam.Map(lambda row: row["p_prediction"]), equal_to([[7.0]] * 3), label="Joined")
        strict = made | "Strict" >> KeyedPredict(model(models.plain), strict_types=True, **given)
        dead = strict.dead_letters | "Reason" >> beam.Map(lambda d: (d.row, d.reason))
        assert_that(dead, equal_to([(rows[2], "wrong_type")]), label="Dead")
    with pytest.raises(UsageError, match="--missing names the field d"):
        KeyedPredict(model(models.plain), features=("a", "b", "c"), missing={"d": 1})


def test_strings_and_bytes(model: Any) -> None:
    row = {"image": [[[1.0], [2.0]], [[3.0], [4.0]]], "name": b"\xff", "flag": True, "count": 1}
    with beam.Pipeline("FnApiRunner") as root:
        scored = (
            root | beam.Create([row, {**row, "name": "é"}]) | KeyedPredict(model(models.many), prediction_prefix="p_")
        )
        labels = scored.joined | beam.Map(lambda r: r["p_label"])
        assert_that(labels, equal_to([b"\xff/1", "é/1"]))


def test_errors_are_reported_when_the_transform_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no model at /nowhere"):
        KeyedPredict("/nowhere")
    with pytest.raises(UsageError, match="leaves its shape open"):
        KeyedPredict(models.save(tmp_path / "model", lambda x: {"y": x}, tf.TensorSpec(None, tf.float32, name="x")))


def _parquet(path: Path, table: pa.Table) -> list[dict[str, Any]]:
    pq.write_table(table, path)
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def _avro(path: Path, table: pa.Table) -> list[dict[str, Any]]:
    types: dict[str, Any] = {
        "a": {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2},
        "b": "long",
        "day": {"type": "int", "logicalType": "date"},
        "at": {"type": "long", "logicalType": "timestamp-micros"},
        "raw": "bytes",
        "ratio": "double",
        "nested": {"type": "record", "name": "n", "fields": [{"name": "c", "type": "double"}]},
    }
    fields = [{"name": name, "type": kind} for name, kind in types.items()]
    with path.open("wb") as file:
        fastavro.writer(file, {"type": "record", "name": "r", "fields": fields}, table.to_pylist())
    with path.open("rb") as file:
        return list(fastavro.reader(file))  # type: ignore[arg-type]


@pytest.mark.parametrize("rows_of", [_parquet, _avro])
def test_rows_of_files_keep_values_that_json_lacks(rows_of: Any, model: Any, tmp_path: Path) -> None:
    table = pa.table(
        {
            "a": pa.array([decimal.Decimal("1.50"), decimal.Decimal("2.00")], pa.decimal128(6, 2)),
            "b": [1, 2],
            "day": [datetime.date(2013, 1, 1), datetime.date(1969, 1, 1)],
            "at": pa.array(
                [datetime.datetime(2013, 1, 1, tzinfo=datetime.timezone.utc)] * 2, pa.timestamp("us", "UTC")
            ),
            "raw": [b"\xff", b""],
            "ratio": [float("nan"), float("inf")],
            "nested": [{"c": 3.0}, {"c": 4.0}],
        }
    )
    rows = rows_of(tmp_path / "rows", table)
    given: Any = {"features": ("a", "b", ("nested", "c")), "prediction_prefix": "p_"}
    with beam.Pipeline("FnApiRunner") as root:
        made = root | beam.Create(rows, reshuffle=False)
        scored = made | KeyedPredict(model(models.plain), **given)
        joined = scored.joined | beam.Map(lambda row: (repr({n: row[n] for n in row if n != "p_prediction"}), row))
        expected = [(repr(row), [float(row["a"]) / 2 - 1.25 * row["b"] + 3 * row["nested"]["c"]]) for row in rows]
        found = joined | beam.MapTuple(lambda text, row: (text, row["p_prediction"]))
        assert_that(found, equal_to(expected), label="Joined")
        dates = made | "Dates" >> KeyedPredict(model(models.plain), **{**given, "features": ("a", "b", "day")})
        dead = dates.dead_letters | "Reason" >> beam.Map(lambda d: (d.row["b"], d.reason))
        assert_that(dead, equal_to([(1, "wrong_type"), (2, "wrong_type")]), label="Dead")
