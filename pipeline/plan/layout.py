"""Turns the options into the layout of an output row, and refuses a layout that has a field name twice."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.options.groups import OutputOptions
from transforms.errors import UsageError, nearest
from transforms.formats.base import Block, Format, RowTraits
from transforms.mapping.name_lists import repeated
from transforms.records import INSTANCE, PREDICTION, Feature, Layout
from transforms.saved_model.model import KEY, Tensor

ROW = "row"
LINEAGE = RUN, MODEL = "keyjoin_run", "keyjoin_model"


def wanted(options: OutputOptions, outputs: Collection[str]) -> list[str]:
    """Returns the outputs that `--output_fields` names, by their old or new names.

    Args:
        options: The output options.
        outputs: All outputs of the model.
    """
    known = _known(options, outputs)
    return [known[name] for name in options.output_fields if name in known]


def _known(options: OutputOptions, outputs: Iterable[str]) -> dict[str, str]:
    """Returns each name that a prediction may be given by -> the output of the model."""
    return {name: output for output in outputs for name in (output, _new_name(options, output))}


def _new_name(options: OutputOptions, output: str) -> str:
    """Returns the name of an output's field in an output row."""
    return options.rename.get(output, options.prediction_prefix + output)


def make_layout(
    options: OutputOptions,
    error_field: str | None,
    outputs: Sequence[str],
    sample: Sequence[Mapping[str, Any]],
    fmt: Format,
    features: Sequence[Feature],
) -> Layout:
    """Chooses the fields of an output row. The texts of the lineage are still empty.

    Args:
        options: The output options.
        error_field: The field for the error message of a bad row; None if bad rows are not written.
        outputs: The model's predictions, in order.
        sample: Some rows; may be empty.
        fmt: The reader of the rows and the writer of the parts.
        features: The features that feed the model's inputs.

    Raises:
        UsageError: A name is unknown, or an output row would have it twice.
    """
    requested, instance = (
        options.output_fields,
        fmt.reader.traits.whole_values and not all(feature.fields for feature in features),
    )
    if instance:
        _check_instance(options)
    known = _known(options, outputs)
    _check_rename(options, outputs)
    named = [known[name] for name in requested if name in known]
    own = tuple(name for name in requested if name not in known and name not in (ROW, KEY))
    if own:
        _check_own(own, options, known, sample)
    written = named or (outputs if ROW in requested else [])
    own_key = options.lineage or (KEY in requested and KEY not in named and options.key_field is None)
    layout = Layout(
        ROW in requested or bool(own),
        own or options.include_fields,
        options.exclude_fields,
        KEY if own_key else None,
        options.key_field,
        tuple((output, _new_name(options, output)) for output in written),
        error_field,
        instance,
        _scalars(options, fmt.writer.traits),
        lineage=tuple(dict.fromkeys(LINEAGE if options.lineage else (), "").items()),
    )
    if instance and len(written) == 1:
        layout = layout._replace(predictions=((written[0], PREDICTION),))
    if not instance:
        _check_sample(layout, sample)
    _check_twice(layout, sample)
    return layout._replace(order=_order(options, layout, known))


def _order(options: OutputOptions, layout: Layout, known: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the names of the fields in the order of `--output_fields`; empty if that is the usual order.

    With `row` the order is the usual one, because the fields of each row are its own. The error comes last.
    """
    if ROW in options.output_fields or layout.instance:
        return ()
    key = {KEY: layout.key_field} if layout.key_field else {}
    new = {name: _new_name(options, output) for name, output in known.items()}
    order = [new.get(name) or key.get(name, name) for name in options.output_fields]
    usual = [*dict(layout.predictions).values(), *(name for name in (layout.key, layout.key_field) if name)]
    if not layout.include and order == usual[: len(order)]:
        return ()
    return (*dict.fromkeys([*order, *usual]), *((layout.error,) if layout.error else ()), *dict(layout.lineage))


def _scalars(options: OutputOptions, traits: RowTraits) -> bool:
    """Whether a prediction of one value a row is written as a scalar.

    Raises:
        UsageError: The parts have only lists.
    """
    if options.scalars and traits.flat_lists:
        raise UsageError("--scalars is for JSON Lines, and each field of a tf.Example is a list; leave the flag out")
    return options.scalars or traits.typed or traits.text_cells


def _check_rename(options: OutputOptions, outputs: Sequence[str]) -> None:
    name = next((name for name in options.rename if name not in outputs), None)
    if name is not None:
        raise UsageError(f"--rename names {name}, which is no prediction of {list(outputs)}{nearest(name, outputs)}")


def _check_own(
    own: Sequence[str], options: OutputOptions, known: Collection[str], sample: Sequence[Mapping[str, Any]]
) -> None:
    """Checks the names in `--output_fields` that are not predictions: each is a field of the rows."""
    fields = sorted({name for row in sample for name in row})
    for name in own:
        if sample and name not in fields:
            raise UsageError(
                f"--output_fields names {name}, which is neither row, nor key, nor a prediction of {list(known)}, nor "
                f"a field of the rows{nearest(name, [*known, ROW, KEY, *fields])}"
            )
    both = next((name for name in options.output_fields if name in known and name in fields), None)
    if both is not None:
        raise UsageError(
            f"--output_fields names {both}, which is a prediction and a field of the rows; name the prediction with "
            f"--rename {both}=NAME"
        )
    if ROW in options.output_fields:
        raise UsageError(
            f"--output_fields names row, which is all fields of a row, and the field {own[0]}; leave one of them out"
        )


def check_written(fmt: Format, block: Block, layout: Layout, outputs: Sequence[Tensor]) -> None:
    """Writes a part without rows.

    Args:
        fmt: The format of the rows and of the parts.
        block: Some rows.
        layout: The fields of an output row.
        outputs: The model's predictions.

    Raises:
        UsageError: The format of the parts has no such name of a field, or two fields would have the same name.
    """
    kinds = {tensor.name: _kind(tensor) if fmt.writer.traits.text_cells else pa.float32() for tensor in outputs}
    none = pa.record_batch({output: pa.nulls(0, kinds[output]) for output, _ in layout.predictions})
    fmt.writer.write(block.take([]), [], none, layout)


def _kind(tensor: Tensor) -> pa.DataType:
    """Returns a type of the tensor's shape: text has a column for each value of a vector."""
    size = tensor.shape[0] if tensor.shape is not None and len(tensor.shape) == 1 else None
    return pa.list_(pa.float32(), size) if size else pa.float32()


def _check_instance(options: OutputOptions) -> None:
    given = {
        "--key_field": options.key_field,
        "--include_fields": options.include_fields,
        "--exclude_fields": options.exclude_fields,
        "--prediction_prefix": options.prediction_prefix,
        "--rename": options.rename,
    }
    flag = next((flag for flag, value in given.items() if value), None)
    if flag is not None:
        raise UsageError(
            f"{flag} is for rows with fields, and the rows are JSON values: each is written as "
            f'{{"{INSTANCE}": …, "{PREDICTION}": …}}; leave the flag out'
        )


def _check_sample(layout: Layout, sample: Sequence[Mapping[str, Any]]) -> None:
    fields = sorted({name for row in sample for name in row})
    own = (layout.key_field,) if layout.key_field else ()
    for name in (*layout.include, *layout.exclude, *own):
        if sample and name not in fields:
            raise UsageError(f"the rows have no field {name}{nearest(name, fields)}; they have {fields}")


def _check_twice(layout: Layout, sample: Sequence[Mapping[str, Any]]) -> None:
    own = [INSTANCE] if layout.instance and layout.row else [layout.key_field] if layout.key_field else []
    added = [*layout.added, *own]
    twice = repeated(added)
    if twice is not None:
        raise UsageError(f"two fields of an output row would be called {twice}; rename {_renaming(layout, twice)}")
    if not layout.row or layout.instance:
        return
    for name in added:
        written = name in layout.include if layout.include else name not in layout.exclude
        # If only a few rows have the field, these rows become dead letters. If most have it, the names must change.
        if written and 2 * sum(name in row for row in sample) > len(sample):
            raise UsageError(
                f"the rows already have a field {name}; rename {_renaming(layout, name)}, "
                f"or leave the field out with --exclude_fields={name}"
            )


def _renaming(layout: Layout, name: str) -> str:
    if name == layout.error:
        return "what says why a row is bad with --error_field=NAME"
    return "predictions with --prediction_prefix=TEXT or --rename"
