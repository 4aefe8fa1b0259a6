"""Decides which fields of a row feed which input of the model.

keyjoin decides this once, before the run, from the signature, the flags and a sample of rows.
"""

import itertools
import json
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from transforms.columns import B64, READ_AS
from transforms.dtypes import STRING
from transforms.errors import UsageError, nearest
from transforms.formats.base import OBJECTS, Instance, RowTraits
from transforms.mapping import defaults, fitting, input_names, row_paths, sparse
from transforms.mapping.name_lists import FORM, Path, names_text
from transforms.records import INSTANCE, Feature
from transforms.saved_model.model import KEY, SPARSE, Contract, Tensor
from transforms.scoring.padding import with_padding

Sample = Sequence[Mapping[str, Any]]
INPUT_MAP = "--input_map"
SHOWN = 60  # characters of a row in a message


def map_inputs(
    contract: Contract,
    sample: Sample,
    stacked: Sequence[str | Path] = (),
    renamed: Mapping[str, str | Path] | None = None,
    *,
    traits: RowTraits = OBJECTS,
    strict: bool = False,
    missing: Mapping[str, str] | None = None,
    pads: Mapping[str, str] | None = None,
    elsewhere: Collection[str] = (),
) -> tuple[Feature, ...]:
    """Finds the fields that feed each data input of a model.

    The rules apply in this order:

    1. The fields that `stacked` and `renamed` name feed their inputs.
    2. If no flag names fields, a row that is only `{"b64": …}` is the value of the model's only input, as in
       TensorFlow Serving.
    3. An input takes the field of its own name.
    4. If the bytes of a row may feed an input, see `RowTraits.raw_feeds`, they feed the model's only input or its only
       input of serialized tf.Examples. This input has to be one string per row.
    5. If the model has only one input, it takes the only field that fits.

    An open size of the signature stays open, because each row has its own size. If the signature gives an input no
    rank, the input takes the most frequent rank in the sample.

    Args:
        contract: The contract of the signature.
        sample: Sampled rows. If there are none, the field of an input's own name feeds it where rule 5 would apply.
        stacked: Scalar fields that are stacked into one input, a matrix. They may be inside objects.
        renamed: Input -> field. The field may be inside objects, see `transforms.mapping.row_paths`.
        traits: The traits of the rows' format.
        strict: Whether numbers have to be JSON numbers of the input's own kind.
        missing: Field -> the text of the value to use where the field is missing or null. Fields that feed no input
            are not checked here, see `check_missing`.
        pads: Input -> the text of its padding value. Inputs without a feature are ignored.
        elsewhere: Names of fields that rows have and the sample does not show, see `transforms.mapping.partitions`.
            They feed the inputs that have their names, or that `stacked` or `renamed` gives them.

    Returns:
        One feature for each data input.

    Raises:
        UsageError: No field feeds an input, several fields could feed it, its field holds no values, or the sample
            does not settle an open shape.
    """
    renamed, missing = renamed or {}, missing or {}
    if sample and isinstance(sample[0], Instance):
        feature = _whole_value(contract, sample, named_fields(stacked, renamed, missing))
        return with_padding([feature._replace(strict=strict)], pads or {})
    known = [t.name for t in contract.inputs]
    for name in renamed:
        if name not in known:
            raise input_names.unknown(INPUT_MAP, name, known)
    open_ = [t for t in contract.inputs if t.name not in renamed]
    rows = () if traits.flat_lists else sample
    paths: dict[str, tuple[Path, ...]] = {}
    paths |= {name: (row_paths.find(name, field, rows),) for name, field in renamed.items()}
    if stacked:
        if len(open_) != 1:
            raise UsageError(
                f"--features feeds one input, and {[t.name for t in open_]} are left; map others with --input_map"
                f"{_why_data(contract)}"
            )
        paths[open_[0].name] = row_paths.find_all(stacked, rows)
    if traits.flat_lists:
        _check_no_objects(paths)
    objects = not (traits.flat_lists or traits.text_cells)
    if not paths and objects and _most(takes_whole(contract.inputs, row) for row in sample):
        (tensor,) = contract.inputs
        return (Feature(tensor.name, tensor.dtype, (1,) if tensor.shape else (), (B64,), is_base64=True),)
    unseen = {*missing, *elsewhere}
    unfed = [error for name, some in paths.items() for path in some if (error := _absent(name, path, sample, unseen))]
    for tensor in open_:
        if tensor.name not in paths:
            try:
                known_names = {*_names(sample), *unseen}
                paths[tensor.name] = _field_of(contract, tensor, sample, known_names, traits=traits)
            except UsageError as error:
                unfed.append(str(error))
    if unfed:
        raise UsageError("; ".join(unfed))
    made = [_of_paths(tensor, paths[tensor.name], sample, traits=traits) for tensor in contract.inputs]
    made = [_with_missing(feature._replace(strict=strict), missing) for feature in made]
    _check_fields(made)
    return with_padding(made, pads or {})


def _of_paths(tensor: Tensor, paths: Sequence[Path], sample: Sample, *, traits: RowTraits) -> Feature:
    """Makes the feature of an input that the values at some paths feed."""
    for path in paths if traits.flat_lists else ():
        _check_flat(tensor, path[0], sample)
    inside = tuple(path[1:] for path in paths) if any(path[1:] for path in paths) else ()
    if inside and len(paths) == 1:
        sample = [{paths[0][0]: row_paths.at(row, paths[0])} for row in sample]
    feature = _feature(tensor, tuple(path[0] for path in paths), sample, traits=traits)
    if tensor.is_parsed and feature.fields and not traits.flat_lists and _are_texts(sample, feature.fields[0]):
        raise _wants_examples(tensor, f"the rows' field {feature.fields[0]} holds text", feature.fields[0])
    return feature._replace(inside=inside)


def _check_no_objects(paths: Mapping[str, Sequence[Path]]) -> None:
    """Refuses paths into objects, because tf.Examples have no objects."""
    found = next(((name, path) for name, some in paths.items() for path in some if len(path) > 1), None)
    if found is not None:
        raise UsageError(
            f"--features or --input_map leads {found[0]} into {found[1][0]}, and tf.Examples have no objects; name a "
            "feature"
        )


def _check_flat(tensor: Tensor, field: str, sample: Sample) -> None:
    """Refuses a field that is a feature list of SequenceExamples, because its values are lists of lists."""
    lists = [row[field] for row in sample if isinstance(row.get(field), list)]
    if _most(any(isinstance(value, list) for value in values[:1]) for values in lists):
        raise UsageError(
            f"the rows' field {field} is a feature list of tf.train.SequenceExamples, and keyjoin feeds the model's "
            f"input {tensor.name} only from their context; with --signature, name one that takes serialized "
            "SequenceExamples"
        )


def named_fields(
    stacked: Sequence[str | Path], renamed: Mapping[str, str | Path], missing: Mapping[str, str]
) -> tuple[str, ...]:
    """Returns the names in `--features`, `--input_map` and `--missing`, for messages."""
    return (*(name if isinstance(name, str) else ".".join(name) for name in stacked), *renamed, *missing)


def _with_missing(feature: Feature, missing: Mapping[str, str]) -> Feature:
    """Adds the defaults of its fields to a feature.

    Raises:
        UsageError: The input does not take one of the defaults.
    """
    texts = tuple(missing.get(".".join(path)) for path in feature.paths)
    if not any(text is not None for text in texts):
        return feature
    if feature.is_sparse:
        raise UsageError(
            f"--missing gives the field {'.'.join(feature.paths[0])} a value, and the rows have objects of indices and "
            "values in it; write an empty object into rows without a value: "
            '{"indices": [], "values": []}'
        )
    shape = feature.shape if len(texts) == 1 else ()
    for field, text in zip(feature.fields, texts, strict=True):
        try:
            if text is not None:
                defaults.value(text, feature.dtype, shape, feature.varied)
        except ValueError as error:
            shown = describe(Tensor(feature.name, feature.dtype, shape, ""))
            raise UsageError(
                f"--missing gives the field {field} a value that the model's input {feature.name} ({shown}) does not "
                f"take: {error}; give one of that dtype, or a JSON list of that shape"
            ) from error
    return feature._replace(missing=texts)


def check_missing(features: Sequence[Feature], missing: Mapping[str, str]) -> None:
    """Refuses defaults for fields that feed no input.

    Args:
        features: The features that feed the model's inputs.
        missing: Field -> the text of its default.

    Raises:
        UsageError: A field with a default feeds no input.
    """
    fed = [".".join(path) for feature in features for path in feature.paths]
    strange = next((field for field in missing if field not in fed), None)
    if strange is not None:
        raise UsageError(
            f"--missing names the field {strange}, which feeds no input of the model{nearest(strange, fed)}; name one "
            f"of {fed}"
        )


def _absent(name: str, path: Path, sample: Sample, unseen: Collection[str]) -> str | None:
    """Returns an error text if no sampled row has the field that feeds an input.

    Returns None if a row has the field, if the field is one of `unseen`, or if there are no sampled rows.
    """
    if not sample or ".".join(path) in unseen or any(row_paths.leads(row, path) for row in sample):
        return None
    names, field = _names(sample), ".".join(path)
    return (
        f"the rows have no field {field}{nearest(field, names)} to feed the model's input {name}; they have {names}: "
        "name another with --features or --input_map"
    )


def _check_unnamed(value: Any, fields: Sequence[str]) -> None:
    """Refuses flags that name fields, for a row that is a JSON value without fields."""
    if fields:
        raise UsageError(
            f"--features, --input_map and --missing name fields ({', '.join(fields)}), and the rows are JSON values "
            f"without any, such as {json.dumps(value)[:SHOWN]}; leave the flags out"
        )


def _whole_value(contract: Contract, sample: Sample, fields: Sequence[str]) -> Feature:
    """Makes the feature of a model's only input from rows that are JSON values without fields.

    Raises:
        UsageError: A flag names fields, the model has several inputs, or the input takes serialized tf.Examples.
    """
    _check_unnamed(sample[0][INSTANCE], fields)
    shown = json.dumps(sample[0][INSTANCE])[:SHOWN]
    names = [tensor.name for tensor in contract.inputs]
    if len(names) != 1:
        example = ", ".join(f"{json.dumps(name)}: …" for name in names)
        raise UsageError(
            f"the rows are JSON values, such as {shown}, which feed a model with one data input, and this one has "
            f"{names}; write each row as an object, {{{example}}}"
        )
    (tensor,) = contract.inputs
    if tensor.is_parsed and _are_texts(sample, INSTANCE):
        raise _wants_examples(tensor, f"the rows are texts, such as {shown}")
    return _feature(tensor, (INSTANCE,), sample, traits=OBJECTS)._replace(fields=())


def _are_texts(sample: Sample, field: str) -> bool:
    """Whether most rows have text in a field.

    The check is needed because some texts happen to parse as serialized tf.Examples, without any value.
    """
    return _most(isinstance(fitting.leaf(row.get(field)), str) for row in sample)


def _wants_examples(tensor: Tensor, given: str, field: str | None = None) -> UsageError:
    """Makes the error for JSON rows whose model input takes serialized tf.Examples.

    Args:
        tensor: The input.
        given: What the rows hold instead of Examples, for the message.
        field: The field that would feed the input; None if each row is the value itself.
    """
    bytes_ = f'{{"{B64}": …}}'
    return UsageError(
        f"the model's input {tensor.name} takes serialized tf.Examples, and {given}; "
        "give rows of --format tfrecord, or name a signature that takes the fields themselves with --signature; "
        f"bytes of Examples in JSON are written {bytes_ if field is None else f'{{{json.dumps(field)}: {bytes_}}}'}"
    )


def resolve(pairs: Mapping[str, str | Path], inputs: Sequence[str], fields: Collection[str]) -> dict[str, str | Path]:
    """Resolves `--input_map` to the model's inputs and the rows' fields, see `input_names.resolve`.

    Args:
        pairs: Input -> field, as `name_lists.pairs` read them from the flag.
        inputs: Names of the model's inputs.
        fields: Names of the rows' fields.

    Returns:
        Input -> field.

    Raises:
        UsageError: A pair names no input or could name several, or an input is named twice.
    """
    return input_names.resolve(INPUT_MAP, pairs.items(), inputs, fields, f"write {FORM}")


def takes_whole(inputs: Sequence[Tensor], row: Mapping[str, Any]) -> bool:
    """Whether a whole row is the value of the only input: a row `{"b64": …}`, for an input of one string per row."""
    is_value = len(row) == 1 and isinstance(row.get(B64), str)
    return is_value and len(inputs) == 1 and inputs[0].dtype == STRING and inputs[0].shape in ((), (1,), None)


def named(inputs: Sequence[Tensor], row: Any, fields: Sequence[str] = ()) -> Mapping[str, Any]:
    """Returns the row as an object. If the row is the value of the only input, the object maps the input's name to it.

    Args:
        inputs: The model's inputs.
        row: The row.
        fields: Names of fields that feed the inputs, see `fields`. If there are any, the row has to be an object.

    Raises:
        UsageError: The row is a value without fields, and the flags name fields or the model has several inputs.
    """
    if isinstance(row, Mapping) and (fields or not takes_whole(inputs, row)):
        return row
    _check_unnamed(row, fields)
    if len(inputs) != 1:
        raise UsageError(
            f"{json.dumps(row)[:SHOWN]} is no object, and the model has the inputs {[t.name for t in inputs]}; write "
            f"{{{', '.join(f'{json.dumps(t.name)}: …' for t in inputs)}}}"
        )
    return {inputs[0].name: row}


def _names(sample: Sample) -> list[str]:
    return sorted({name for row in sample for name in row})


def _why_data(contract: Contract) -> str:
    return f" ({contract.why_data}, so that it is data)" if contract.why_data else ""


def _field_of(
    contract: Contract, tensor: Tensor, sample: Sample, known: Collection[str], *, traits: RowTraits
) -> tuple[Path, ...]:
    """Finds the field that feeds an input that no flag maps.

    Returns:
        The path of the field, as a tuple of one path; an empty tuple if the bytes of the whole row feed the input.

    Raises:
        UsageError: No field fits, several fields fit, or the field may be text or base64.
    """
    alone, names = len(contract.inputs) == 1, _names(sample)
    if tensor.name in known:
        return ((tensor.name,),)
    parsed = [t.name for t in contract.inputs if t.is_parsed]
    if traits.raw_feeds and (alone or parsed == [tensor.name]) and tensor.dtype == STRING and tensor.shape == ():
        return ()
    if not sample:
        return ((tensor.name,),)
    fit = [n for n in names if _most(n in row and fitting.fits(row[n], tensor, traits) for row in sample)]
    if tensor.is_parsed and not traits.flat_lists:
        fit = [name for name in fit if not _are_texts(sample, name)]
        if not alone or len(fit) != 1:
            raise _wants_examples(tensor, f"the rows have the fields {names}", tensor.name)
    if fit == [B64] and alone and not traits.flat_lists:
        raise UsageError(
            f"the rows' field {B64} may be text or base64, and its rows have other fields: {names}; give its text to "
            f"the model's input {tensor.name} with --input_map {tensor.name}={B64}, or write "
            f'{{"{tensor.name}": {{"{B64}": …}}}} for base64'
        )
    if alone and len(fit) == 1:
        return ((fit[0],),)
    why = f"; {fit} all fit" if alone and fit else f"; the rows have {names}{nearest(tensor.name, names)}"
    if alone and not traits.flat_lists and (columns := _stackable(tensor, sample)):
        raise UsageError(
            f"no field of the rows feeds the model's input {tensor.name} ({describe(tensor)}){why}; {columns}"
        )
    key = tensor.dict_key if tensor.dict_key in names and tensor.dict_key.isidentifier() else ""
    raise UsageError(
        f"no field of the rows feeds the model's input {tensor.name} ({describe(tensor)}){why}; "
        f"{f'its function takes it as {key}: ' if key else ''}map one with --input_map {tensor.name}={key or 'FIELD'}"
        f"{_why_data(contract) if tensor.name == KEY else ''}{_part_of(contract, tensor)}"
    )


def _part_of(contract: Contract, tensor: Tensor) -> str:
    """Returns a remedy for an input that may be a part of a ragged or sparse input, such as `x_1` of `x`.

    The SavedModel may not say that the input is such a part, so keyjoin guesses it from the name.
    """
    name, _, number = tensor.name.rpartition("_")
    is_vector = tensor.shape in ((), None)  # as the row splits, and the values of a sparse tensor
    if not (number.isdecimal() and is_vector and not tensor.dict_key and name in [t.name for t in contract.inputs]):
        return ""
    return (
        f"; if {name} is a ragged or sparse input and {tensor.name} a part of it, save the model with its function as "
        "an attribute of the saved object (module.call = function), which says so"
    )


def _stackable(tensor: Tensor, sample: Sample) -> str:
    """Returns advice with the `--features` flag that stacks numeric fields into an input; empty if too few fit."""
    shape = tensor.shape
    if tensor.dtype in (STRING, "bool") or shape is None or len(shape) != 1 or shape == (1,):
        return ""
    named = dict.fromkeys(name for row in sample for name in row)  # in the order of the rows, not sorted
    scalar = tensor._replace(shape=())
    columns = [
        name for name in named if _most(name in row and fitting.fits(row[name], scalar, OBJECTS) for row in sample)
    ]
    if len(columns) < (shape[0] or 2):
        return ""
    flag = f"--features={shlex.quote(names_text(columns))}"
    if shape[0] in (None, len(columns)):
        return f"make it of the rows' {len(columns)} numbers, in this order, with {flag}"
    return f"make it of {shape[0]} of the rows' {len(columns)} numbers; remove the others from {flag}"


def _most(votes: Iterable[bool]) -> bool:
    """Whether most votes are true. One bad row in the sample must not decide for the others."""
    counted = list(votes)
    return 2 * sum(counted) > len(counted)


def describe(tensor: Tensor) -> str:
    """Returns a tensor's dtype and shape for messages, such as `float32 [N, 13]`.

    >>> describe(Tensor("x", "float32", (13, None), "x:0"))
    'float32 [N, 13, ?]'
    """
    if tensor.kind:
        return f"{tensor.kind} {describe(tensor._replace(kind=''))}"
    if tensor.shape is None:
        return f"{tensor.dtype} of any shape"
    return f"{tensor.dtype} [{', '.join(['N', *('?' if s is None else str(s) for s in tensor.shape)])}]"


def _feature(tensor: Tensor, fields: tuple[str, ...], sample: Sample, *, traits: RowTraits) -> Feature:
    if len(fields) > 1:
        if tensor.shape not in ((len(fields),), (None,), None):
            raise UsageError(
                f"--features gives {len(fields)} values a row, and input {tensor.name} is {describe(tensor)}; "
                "name as many fields as the input has columns"
            )
        return Feature(tensor.name, tensor.dtype, (len(fields),), fields)
    if not fields:
        return Feature(tensor.name, tensor.dtype, (), fields)
    shape = tensor.shape
    if shape is None or None in shape:
        shapes = [fitting.settled(row[fields[0]], tensor, traits) for row in sample if row.get(fields[0]) is not None]
        shape = _open_shape(tensor, fields[0], shapes, traits=traits)
    if 0 in shape:
        raise _no_values(tensor, fields[0], shape)
    is_sparse = tensor.kind == SPARSE and _most(sparse.is_object(row.get(fields[0])) for row in sample)
    return Feature(tensor.name, tensor.dtype, shape, fields, is_sparse=is_sparse, ragged_rank=tensor.ragged_rank)


def _no_values(tensor: Tensor, field: str, shape: Sequence[int | None]) -> UsageError:
    return UsageError(
        f"the model's input {tensor.name} ({describe(tensor)}) would get no values: the rows' field {field} gives it "
        f"the shape {list(shape)}; fix the rows, or export the model without that input"
    )


def _open_shape(
    tensor: Tensor, field: str, shapes: Sequence[tuple[int, ...] | None], *, traits: RowTraits
) -> tuple[int | None, ...]:
    """Finds the shape of an input with open sizes, from the shapes of the sampled values.

    Args:
        tensor: The input.
        field: The field that feeds it.
        shapes: The shape of each sampled value; None for a value that does not fit.
        traits: The traits of the rows' format.

    Returns:
        The shape without the batch dimension; None for a size that stays open.

    Raises:
        UsageError: The sample does not settle the rank, or holds no values.
    """
    if traits.flat_lists and tensor.ragged_rank > 1:
        raise UsageError(
            f"the model's input {tensor.name} ({describe(tensor)}) takes lists of lists of different lengths, and the "
            f"flat lists of tf.Examples do not say where an inner list ends; give rows as JSON lines, in which the "
            f"field {field} is such as [[1, 2], [3]]"
        )
    known = [shape for shape in shapes if shape is not None]
    shape = tensor.shape
    if shape is None and known:
        shape = (None,) * Counter(map(len, known)).most_common(1)[0][0]
    if shape is None or (traits.flat_lists and shape.count(None) > 1) or (shapes and not known):
        raise UsageError(
            f"input {tensor.name} leaves its shape open ({describe(tensor)}), and the first rows' field {field} "
            "does not settle it; export the model with a fixed shape"
        )
    if known and all(0 in found for found in known):
        raise _no_values(tensor, field, known[0])
    return shape


def _check_fields(features: Sequence[Feature]) -> None:
    read_as: dict[Path, Any] = {}
    for feature in features:
        for path in feature.paths:
            kind = (READ_AS[feature.dtype], feature.shape if len(feature.fields) == 1 else ())
            if read_as.setdefault(path, kind) != kind:
                raise UsageError(
                    f"field {'.'.join(path)} feeds inputs of different dtypes or shapes; give each a field of its own"
                )
    for path, other in itertools.permutations(read_as, 2):
        if other[: len(path)] == path:
            raise UsageError(
                f"field {'.'.join(path)} feeds an input, and so does {'.'.join(other)} inside of it; map one of "
                "them to another field with --input_map"
            )
