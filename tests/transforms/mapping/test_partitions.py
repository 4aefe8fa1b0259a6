"""Fields from the folders of a path: their values, and the same inputs as from fields inside the rows."""

import json
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors import UsageError
from transforms.formats import jsonl
from transforms.formats.base import Instance
from transforms.mapping import partitions
from transforms.records import BadRow, Feature

names = st.text(st.characters(exclude_characters="=/", exclude_categories=("Cs",)), min_size=1)
texts = st.text(st.characters(exclude_categories=("Cs",)))


@given(st.dictionaries(names, st.none() | texts.filter(lambda text: text != partitions.NULL), max_size=3))
def test_folders_give_what_was_encoded_into_them(fields: dict[str, str | None]) -> None:
    folders = [
        f"{quote(name, safe='')}={partitions.NULL if value is None else quote(value, safe='')}"
        for name, value in fields.items()
    ]
    assert partitions.of("/".join(["gs://lake", *folders, "a=b.jsonl"])) == fields


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["x=1/a.csv", "a.csv"], "a.csv has no folder named FIELD=VALUE, and x=1/a.csv has folders for x"),
        (["x=1/y=2/a.csv", "y=2/x=1/a.csv"], "y=2/x=1/a.csv has folders for y, x, and x=1/y=2/a.csv has folders for x"),
        (["data/a.csv"], "data/a.csv has no folder named FIELD=VALUE"),
        (["x=1/x=2/a.csv"], "two folders give a value to x"),
        (["x=%FF/a.csv"], "the folder x=%FF is not UTF-8"),
    ],
)
def test_files_whose_folders_do_not_agree_are_refused_by_name(paths: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        partitions.names(paths)


@pytest.mark.parametrize(
    ("row", "message"),
    [({"x": 1}, "the rows have a field x, and so do the folders"), (Instance(instance=1), "JSON values without any")],
)
def test_rows_that_can_have_no_such_field_are_refused(row: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        partitions.check_rows([{"y": 1}, row], ["x"])


@pytest.mark.parametrize(
    ("feature", "value", "message"),
    [
        (Feature("x", "float32", (2,), ("d",)), "1", "takes lists"),
        (
            Feature("x", "int64", (), ("d",)),
            "abc",
            r"d=abc/a.csv: the folder's value 'abc' does not feed .* x \(int64\)",
        ),
        (Feature("x", "int64", (1,), ("d",)), "[1]", r"'\[1\]' does not feed"),
        (Feature("x", "int8", (2,), ("a", "d")), "128", "'128' does not feed"),
    ],
)
def test_a_value_that_does_not_feed_its_input_is_refused_by_file(feature: Feature, value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        partitions.marked([feature], ["d"], ["d=1/a.csv", f"d={value}/a.csv"])


def read(features: list[Feature], path: str, rows: list[dict[str, Any]]) -> tuple[pa.RecordBatch, list[BadRow]]:
    lines = [json.dumps(row).encode() for row in rows]
    return partitions.inputs(jsonl.FORMAT.reader.parse(lines, range(len(lines)), path), features)


FEATURES = [
    Feature("x", "float32", (3,), ("a", "d", "b")),
    Feature("s", "string", (), ("t",)),
    Feature("t", "string", (1,), ("u",)),
    Feature("n", "int64", (), ("e",)),
]
values = st.none() | st.integers(-9, 9) | st.sampled_from(["1", "x", [1]])


@given(
    st.lists(st.fixed_dictionaries({}, optional={"a": values, "b": values}), max_size=6),
    st.none() | st.integers(-9, 9).map(str),
    st.none() | texts.filter(lambda text: text != partitions.NULL),
    st.booleans(),
)
def test_a_folder_feeds_the_model_like_a_field_of_each_row(
    rows: list[dict[str, Any]], number: str | None, text: str | None, default: bool
) -> None:
    missing = {"a": "0", "d": "7", "t": "none"} if default else {}
    features = [
        feature._replace(missing=tuple(missing.get(name) for name in feature.fields))
        if any(name in missing for name in feature.fields)
        else feature
        for feature in FEATURES
    ]
    fields = {"d": number, "e": number, "t": text, "u": text}
    path = "".join(f"{k}={partitions.NULL if v is None else quote(v, safe='')}/" for k, v in fields.items()) + "a"
    batch, bad = read(list(partitions.marked(features, list(fields), [path])), path, rows)
    expected, refused = read(features, "a", [{**row, **fields} for row in rows])
    assert batch.equals(expected)
    assert reasons(bad) == reasons(refused)


def reasons(bad: list[BadRow]) -> list[tuple[int, str]]:
    """Returns the rows and their reasons. The null of a folder is a missing field of its rows."""
    return [(one.row, "missing" if one.reason == "null" else one.reason) for one in bad]


def test_a_field_of_a_row_with_the_name_of_a_folder_is_not_used() -> None:
    features = list(partitions.marked([Feature("n", "int64", (), ("d",))], ["d"], ["d=1/a"]))
    batch, bad = read(features, "d=1/a", [{}, {"d": 2}])
    assert (batch["n"].to_pylist(), bad) == ([1, 1], [])
