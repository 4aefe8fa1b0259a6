"""Plans the types of a row's own fields in parts of another format, from the sources' headers or first rows."""

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import pyarrow as pa

from pipeline.plan.read_sample import Head
from pipeline.run_folder import manifest
from pipeline.terminal.amounts import part_of
from transforms import formats
from transforms.errors import UsageError
from transforms.formats import convert, schemas
from transforms.formats.base import Block
from transforms.formats.spec import FormatSpec
from transforms.records import BadRow, Layout

Typed = Sequence[tuple[str, pa.Schema]]  # paths of sources, and the columns that their headers name


def with_schema(
    spec: FormatSpec,
    kept: manifest.Kept | None,
    heads: Iterable[Head],
    headers: Sequence[tuple[str, str]],
    layout: Layout,
) -> FormatSpec:
    """Returns the format with the types of the fields that are written, if the parts have another format.

    Args:
        spec: The format of the sources and of the parts.
        kept: What the unfinished run recorded; None for a new run.
        heads: The first rows of the sources.
        headers: Each header of the sources with the path of its first source, if sources may have other columns than
            the first one. Parts have the columns of all of them.
        layout: The fields of an output row.

    Raises:
        UsageError: A field has several types, the format of the parts cannot hold its type, most of the first rows do
            not fit, or a source has a column that the unfinished run does not write.
    """
    if not spec.output:
        return spec
    reader, blocks = formats.load(spec).reader, [head.block for head in heads]
    typed = [(path, reader.parse([], [], path, header).schema()) for header, path in headers]
    if kept:
        _check_kept(schemas.from_text(kept.schema), typed, layout)
        return msgspec.structs.replace(spec, schema=kept.schema)
    known = [schema for _, schema in typed] or [convert.instances(block, layout).schema() for block in blocks]
    schema = schemas.select(schemas.merge(known), layout)
    for field in schema:
        _check_field(field, typed, spec.output, layout)
    spec = msgspec.structs.replace(spec, schema=schemas.to_text(schema))
    _check_rows(spec, blocks, layout)
    return spec


def _check_kept(kept: pa.Schema, typed: Typed, layout: Layout) -> None:
    """Refuses an added source with a column that the parts do not have, or with values that need another type."""
    for path, schema in typed:
        for field in schemas.select(schemas.merge([kept, schema]), layout):
            if field.name not in kept.names:
                problem = f"{path} has a column {field.name}, which the parts of this run do not have"
            elif field.type != kept.field(field.name).type:
                types = f"{schema.field(field.name).type}, and the parts of this run have {kept.field(field.name).type}"
                problem = f"{path} has the column {field.name} as {types}"
            else:
                continue
            raise UsageError(f"{problem}; score all files again with --overwrite, or this file into another --output")


def _check_field(field: pa.Field, typed: Typed, output: str, layout: Layout) -> None:
    kinds, problem = schemas.mixed(field), None
    if kinds and typed:
        firsts: dict[str, str] = {}
        for path, schema in typed:
            if field.name in schema.names:
                firsts.setdefault(str(schema.field(field.name).type), path)
        problem = f"several types, {' and '.join(f'{kind} in {path}' for kind, path in firsts.items())}"
    elif kinds:
        problem = f"values of several types in the first rows, {' and '.join(kinds)}"
    elif schemas.is_empty(field.type):
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
        problem = f"{part_of(len(bad), count, 'row', 'cannot', of_first=True)} be written as {spec.output}"
        raise UsageError(f"{problem}; the first one: {bad[0].message}")
