"""Encodes columns as the cells of delimited text.

A number has the shortest spelling that reads back as the same number, as in JSON. A float that is not finite is `NaN`,
`inf` or `-inf`, which pandas, Polars and DuckDB read. A vector takes one column for each value. Other lists and objects
are JSON text in one cell. A null is an empty cell, and an empty string is `""`.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms import columns
from transforms.formats.csv.dialect import Dialect
from transforms.formats.jsonl import encode as json_text

Columns = list[tuple[str, pa.Array]]


def flatten(added: Sequence[tuple[str, pa.Array]]) -> Columns:
    """Splits columns of vectors into columns of single values.

    >>> flatten([("p", pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2)))])[1][0]
    'p_1'
    """
    found: Columns = []
    for name, array in added:
        if pa.types.is_fixed_size_list(array.type) and not pa.types.is_nested(array.type.value_type):
            found += [(f"{name}_{at}", pc.list_element(array, at)) for at in range(array.type.list_size)]
        else:
            found.append((name, array))
    return found


def encode(array: pa.Array, dialect: Dialect) -> pa.LargeBinaryArray:
    """Encodes a column as cells. A value that the dialect cannot spell is null.

    >>> encode(pa.array(["a,b", "", None]), Dialect(ord(","), ord('"'))).to_pylist()
    [b'"a,b"', b'""', b'']
    """
    if pa.types.is_null(array.type):
        return pa.array([b""] * len(array), pa.large_binary())
    if pa.types.is_nested(array.type):
        return _spelled(pc.if_else(array.is_valid(), json_text.encode(array), None), dialect)
    if pa.types.is_floating(array.type):
        return _floats(array)
    if pa.types.is_integer(array.type) or pa.types.is_boolean(array.type):
        return pc.fill_null(array.cast(pa.string()), "").cast(pa.large_binary())
    return _spelled(array, dialect)


def _floats(array: pa.Array) -> pa.LargeBinaryArray:
    texts = json_text.encode(pc.fill_null(array, 0.0)).cast(pa.string())
    values = array.to_numpy(zero_copy_only=False)
    if not np.isfinite(values).all():
        words = pc.if_else(pc.is_nan(array), "NaN", array.cast(pa.string()))
        texts = pc.fill_null(pc.if_else(pc.is_finite(array), texts, words), "")
    return texts.cast(pa.large_binary())


def _spelled(array: pa.Array, dialect: Dialect) -> pa.LargeBinaryArray:
    """Spells texts. Only those that need quotes are spelled one by one."""
    kind = array.type
    is_text = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_large_string(kind)
    texts = (array if is_text else array.cast(pa.string())).cast(pa.large_binary())
    special = "[" + "".join(rf"\x{byte:02x}" for byte in dialect.special) + "]"
    quoted = pc.fill_null(pc.or_(pc.match_substring_regex(texts, special), pc.equal(pc.binary_length(texts), 0)), False)
    if dialect.nulls:
        quoted = pc.or_(quoted, pc.is_in(texts, pa.array(dialect.nulls, texts.type)))
    if pc.any(quoted, min_count=0).as_py():
        spelled = [dialect.spell(value) for value in texts.filter(quoted).to_pylist()]
        missing = texts.is_null()
        texts = pc.replace_with_mask(texts, quoted, pa.array(spelled, pa.large_binary()))
        return pc.if_else(missing, b"", texts)
    return pc.fill_null(texts, b"")


def records(cells: columns.Fragments, ends: pa.Scalar | pa.Array, dialect: Dialect) -> pa.LargeBinaryArray:
    """Joins the cells of records, and their line ends."""
    between = pa.scalar(dialect.delimiter_text, pa.large_binary())
    return columns.join([*[part for cell in cells for part in (between, cell)][1:], ends])
