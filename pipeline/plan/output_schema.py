"""Plans the types of a row's own fields in parts of another format, from the first rows of the sources."""

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import pyarrow as pa

from pipeline.plan.read_sample import Head
from pipeline.run_folder import manifest
from transforms import formats
from transforms.errors import UsageError
from transforms.formats import convert, schemas
from transforms.formats.base import Block
from transforms.formats.spec import FormatSpec
from transforms.records import BadRow, Layout


def with_schema(spec: FormatSpec, kept: manifest.Kept | None, heads: Iterable[Head], layout: Layout) -> FormatSpec:
    """Returns the format with the types of the fields that are written, if the parts have another format.

    Args:
        spec: The format of the sources and of the parts.
        kept: What the unfinished run recorded; None for a new run.
        heads: The first rows of the sources.
        layout: The fields of an output row.

    Raises:
        UsageError: A field has several types, the format of the parts cannot hold its type, or most of the first rows
            do not fit.
    """
    if not spec.output:
        return spec
    if spec.any_header:
        raise UsageError(
            "--schema_drift=union keeps the columns of each file, and --output_format gives all parts one "
            "schema; leave one of them out"
        )
    if kept:
        return msgspec.structs.replace(spec, schema=kept.schema)
    blocks = [head.block for head in heads]
    merged = schemas.merge(convert.instances(block, layout).schema() for block in blocks)
    schema = schemas.select(merged, layout)
    for field in schema:
        _check_field(field, spec.output, layout)
    spec = msgspec.structs.replace(spec, schema=schemas.to_text(schema))
    _check_rows(spec, blocks, layout)
    return spec


def _check_field(field: pa.Field, output: str, layout: Layout) -> None:
    kinds = schemas.mixed(field)
    problem = f"values of several types in the first rows, {' and '.join(kinds)}" if kinds else None
    if schemas.is_empty(field.type):
        problem = "only objects without fields in the first rows"
    if problem:
        left_out = "" if layout.instance else f"leave it out with --exclude_fields={field.name}, or "
        raise UsageError(
            f"field {field.name} has {problem}, and a field of {output} parts has one type; {left_out}write the format "
            "of the input"
        )


def _check_rows(spec: FormatSpec, blocks: Sequence[Block], layout: Layout) -> None:
    """Converts the first rows, so that a run in which most rows cannot be written is refused."""
    fmt, bad, count = formats.load(spec), list[BadRow](), 0
    for block in blocks:
        rows = np.arange(len(block.positions))
        own, misfits = convert.own_fields(block, rows, convert.schema_of(fmt), layout)
        if own:
            fitting = pa.array(np.delete(rows, [one.row for one in misfits]))
            joined = fmt.writer.encode(pa.table(own).take(fitting))
            bad += joined.bad
        bad += misfits
        count += len(rows)
    if 2 * len(bad) > count:
        problem = f"{len(bad)} of the first {count} rows cannot be written as {spec.output}"
        raise UsageError(f"{problem}; the first one: {bad[0].message}")
