"""Feeds model inputs from the folders of a source: `date=2026-11-27/a.parquet` gives its rows a field `date`.

Spark, Hive, DuckDB and pyarrow write such folders, see https://cwiki.apache.org/confluence/display/hive/tutorial. They
leave the field out of the rows. A value is text, as in CSV: it may feed a number. It feeds the model and is not written
into output rows, because the parts are in folders of the same names.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from transforms import columns
from transforms.errors import UsageError
from transforms.formats.base import Block, Instance
from transforms.mapping import defaults
from transforms.records import BadRow, Feature

FLAG = "--partition_fields"
NULL = "__HIVE_DEFAULT_PARTITION__"  # Hive's and Spark's folder of the rows whose field is null
FOLDER = " (folder)"  # marks the field in messages, and keeps it apart from a field of a row that has its name


def of(path: str) -> dict[str, str | None]:
    """Returns the fields that the folders of a path hold, in order. A null is None.

    Args:
        path: Path of a file.

    Raises:
        UsageError: A name or value is not UTF-8 in percent-encoding, or two folders have the same name.

    >>> of("lake/date=2026-11-27/country=C%C3%B4te d'Ivoire/a.parquet")
    {'date': '2026-11-27', 'country': "Côte d'Ivoire"}
    >>> of(f"x={NULL}/y=/a=b.csv")
    {'x': None, 'y': ''}
    """
    found: dict[str, str | None] = {}
    for folder in path.split("/")[:-1]:
        encoded, sign, value = folder.partition("=")
        if not sign or not encoded:
            continue
        try:
            name, text = unquote(encoded, errors="strict"), unquote(value, errors="strict")
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{path}: the folder {folder} is not UTF-8 in percent-encoding ({error.reason}); rename it, or leave "
                f"out {FLAG}"
            ) from error
        if name in found:
            raise UsageError(f"{path}: two folders give a value to {name}; rename one, or leave out {FLAG}")
        found[name] = None if text == NULL else text
    return found


def names(paths: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the fields that the folders of all files hold.

    Args:
        paths: Paths of files.

    Raises:
        UsageError: The files have no such folders, or two files have folders of other names.
    """
    first = tuple(of(paths[0]))
    for path in paths:
        if (found := tuple(of(path))) != first:
            raise UsageError(
                f"{path} has {_described(found)}, and {paths[0]} has {_described(first)}; give files whose folders "
                f"have the same names in the same order, or leave out {FLAG}"
            )
    if not first:
        raise UsageError(f"{FLAG}: {paths[0]} has no folder named FIELD=VALUE; leave the flag out")
    return first


def _described(found: Sequence[str]) -> str:
    return f"folders for {', '.join(found)}" if found else "no folder named FIELD=VALUE"


def check_rows(sample: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> None:
    """Refuses rows for which the folders give no fields, or fields that the rows have too.

    Args:
        sample: Sampled rows.
        fields: The names of the fields that folders hold.

    Raises:
        UsageError: The rows are JSON values without fields, or have a field of that name.
    """
    if fields and any(isinstance(row, Instance) for row in sample):
        raise UsageError(f"{FLAG} gives rows fields, and the rows are JSON values without any; leave the flag out")
    twice = next((name for name in fields if any(name in row for row in sample)), None)
    if twice is not None:
        raise UsageError(f"the rows have a field {twice}, and so do the folders of the files; leave out {FLAG}")


def marked(features: Sequence[Feature], fields: Sequence[str], paths: Sequence[str]) -> tuple[Feature, ...]:
    """Marks in features the fields whose values are in folders, see `Feature.in_folder`.

    Args:
        features: The features that feed the model's inputs.
        fields: The names of the fields that folders hold.
        paths: Paths of all sources.

    Raises:
        UsageError: An input that takes lists is fed from a folder, or a folder's value does not fit its input.
    """
    made = list[Feature]()
    for feature in features:
        in_folder = tuple(len(path) == 1 and path[0] in fields for path in feature.paths)
        if any(in_folder):
            name = feature.fields[in_folder.index(True)]
            if feature.is_sparse or (len(in_folder) == 1 and feature.shape not in ((), (1,))):
                raise UsageError(
                    f"the folders give {name} one value, and the model's input {feature.name} takes lists; feed it "
                    "from another field with --input_map, or stack fields with --features"
                )
            feature = feature._replace(in_folder=in_folder)
            _check_values(feature, paths)
        made.append(feature)
    return tuple(made)


def _check_values(feature: Feature, paths: Sequence[str]) -> None:
    seen = set[tuple[str | None, ...]]()
    for path in paths:
        values = of(path)
        found = tuple(values[name] for name, inside in zip(feature.fields, feature.in_folder, strict=True) if inside)
        if found in seen:
            continue
        seen.add(found)
        shape = feature.shape if len(feature.fields) == 1 else ()
        for text in found:
            try:
                if text is not None:
                    defaults.value(_text(text, shape), feature.dtype, shape)
            except ValueError as error:
                raise UsageError(
                    f"{path}: the folder's value {text!r} does not feed the model's input {feature.name} "
                    f"({feature.dtype}): {error}; rename the folder, or give the other files alone"
                ) from error


def _text(value: str, shape: tuple[int | None, ...]) -> str:
    """Writes a value as `defaults.value` reads it: there a text that begins with `[` is a list."""
    return json.dumps([value]) if shape and value.startswith("[") else value


def inputs(block: Block, features: Sequence[Feature]) -> tuple[pa.RecordBatch, list[BadRow]]:
    """Returns the model's inputs and the bad rows of a block, as `Block.inputs` does, with the values of folders.

    Args:
        block: The rows. The path of their source gives the values.
        features: The model's inputs, and the fields that feed them.
    """
    if not any(feature.in_folder for feature in features):
        return block.inputs(features)
    values = of(block.source)
    # The rows lack the field, so its value is the field's default for these rows.
    batch, bad = block.inputs([_with_values(feature, values) for feature in features])
    schema = columns.empty(features).schema
    arrays = [batch[feature.name] for feature in features]
    in_folders = {name for f in features for name, inside in zip(f.fields, f.in_folder, strict=False) if inside}
    for field, column in columns.default_columns(features).items():
        if field not in in_folders:
            arrays.append(batch[column])
        else:  # only a null takes the default of `--missing`
            is_null = values.get(field) is None
            arrays.append(pa.array(np.full(batch.num_rows, is_null), pa.bool_()))
    return pa.RecordBatch.from_arrays(arrays, schema=schema), bad


def _with_values(feature: Feature, values: Mapping[str, str | None]) -> Feature:
    """Returns a feature in which the value of a folder is the default of a field that no row has."""
    if not feature.in_folder:
        return feature
    shape = feature.shape if len(feature.fields) == 1 else ()
    fields, missing = list(feature.fields), list(feature.missing or [None] * len(feature.fields))
    for at, name in enumerate(feature.fields):
        if feature.in_folder[at]:
            fields[at], text = name + FOLDER, values.get(name)
            missing[at] = missing[at] if text is None else _text(text, shape)
    known = any(text is not None for text in missing)
    return feature._replace(fields=tuple(fields), missing=tuple(missing) if known else (), in_folder=())


def in_rows(features: Sequence[Feature]) -> list[Feature]:
    """Returns the features with only the fields that rows hold.

    >>> in_rows([Feature("x", "int64", (3,), ("a", "date", "b"), in_folder=(False, True, False))])[0][2:4]
    ((2,), ('a', 'b'))
    """
    found = []
    for feature in features:
        if feature.in_folder:
            kept = [at for at, inside in enumerate(feature.in_folder) if not inside]
            if not kept:
                continue
            feature = feature._replace(
                shape=(len(kept),) if len(kept) > 1 else (),
                fields=tuple(feature.fields[at] for at in kept),
                inside=tuple(feature.inside[at] for at in kept) if feature.inside else (),
                missing=tuple(feature.missing[at] for at in kept) if feature.missing else (),
                in_folder=(),
            )
        found.append(feature)
    return found
