"""Implements `keyjoin predict`, which answers one request of online prediction from a file or standard input.

Request and response have the row format of TensorFlow Serving's REST API:
https://www.tensorflow.org/tfx/serving/api_rest. Online prediction of AI Platform and Vertex AI uses the same format.
"""

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.compat.startup import import_session
from pipeline.model import check_model
from pipeline.model.model_folder import model_folder, newest_version
from pipeline.options.command_options import PredictOptions
from pipeline.terminal.exit_codes import Exit
from pipeline.terminal.messages import show_json
from transforms import columns
from transforms.dtypes import STRING
from transforms.errors import ModelError, RunError, UsageError, nearest
from transforms.formats import jsonl
from transforms.formats.jsonl import encode
from transforms.mapping import feature_mapping, row_paths
from transforms.mapping.name_lists import Path as FieldPath
from transforms.records import Feature
from transforms.saved_model import constants, loader
from transforms.saved_model import model as models
from transforms.saved_model.contract import find_contract
from transforms.saved_model.echoed_keys import strange_keys
from transforms.saved_model.loader import DEFAULT
from transforms.saved_model.output_shapes import is_open
from transforms.scoring import padding
from transforms.scoring.groups import Group, by_shape, largest

MEMBERS = ("instances", "signature_name", "parameters")
EXAMPLE = '{"instances": [{"features": [1.0, 2.0]}]}'


def main(options: PredictOptions) -> Exit:
    """Runs the command.

    Args:
        options: The options of the command.

    Returns:
        `Exit.COMPLETE`.

    Raises:
        UsageError: The model or an instance is wrong.
        RunError: The model raised an error, or its outputs are not one for each row.
    """
    instances, signature = read_request(options.instances, options.signature)
    options = dataclasses.replace(options, model=newest_version(options.model), signature=signature)
    if options.model_sha256:
        check_model.identify(options.model, options.model_sha256)
    with model_folder(options.model, options.custom_objects) as folder:
        import_session(options.model_libraries)
        loading = check_model.loading(options)
        loaded = loader.load(folder, loading)
        fields = {name for instance in instances if isinstance(instance, dict) for name in instance}
        every = [*loaded.inputs, *(constant.name for constant in loaded.constants)]
        named = fields | feature_mapping.resolve(options.input_map, every, fields).keys()
        constants.check(loaded.constants, named, instances[0])
        if left := constants.defaults(loaded.inputs, named):
            loaded = loader.load(folder, loading.with_constants(left))
    check_model.warn(options.model, loaded.findings, options.model_ops)
    renamed = feature_mapping.resolve(options.input_map, list(loaded.inputs), fields)
    pads = padding.resolve(options.pad, list(loaded.inputs))
    request = Request(instances, options.features, renamed, options.missing, pads, options.strict_types)
    contract = _contract(loaded, options.signature, options.key_input, request)
    answer = {"predictions": predict(loaded, contract, request)}
    show_json(json.dumps(answer, ensure_ascii=sys.stdout.encoding.lower() != "utf-8"))
    return Exit.COMPLETE


class Request(NamedTuple):
    """Instances, and the options that map their fields to the model's inputs.

    Attributes:
        instances: JSON objects with one field for each input; or plain values, for a model with one input.
        stacked: Scalar fields that are stacked into one input, see `--features`.
        renamed: Input -> field that feeds it, see `--input_map`.
        missing: Field -> its value, as text, in instances where it is missing or null, see `--missing`.
        pads: Input -> the value, as text, that pads its rows to one length, see `--pad`.
        strict: Whether numbers have to be JSON numbers of the input's own kind, see `--strict_types`.
    """

    instances: Sequence[Any]
    stacked: Sequence[str | FieldPath] = ()
    renamed: Mapping[str, str | FieldPath] = {}
    missing: Mapping[str, str] = {}
    pads: Mapping[str, str] = {}
    strict: bool = False

    def rows(self, inputs: Sequence[models.Tensor]) -> list[Mapping[str, Any]]:
        """Returns the instances as objects. A plain value becomes an object with the name of the only input.

        Args:
            inputs: The model's inputs.

        Raises:
            UsageError: An instance is a plain value, but the model has several inputs or an option names a field.
        """
        fields = feature_mapping.named_fields(self.stacked, self.renamed, self.missing)
        return [feature_mapping.named(inputs, instance, fields) for instance in self.instances]

    def features(
        self,
        contract: models.Contract,
        rows: Sequence[Mapping[str, Any]],
        stacked: Sequence[str | FieldPath],
        renamed: Mapping[str, str | FieldPath],
    ) -> tuple[Feature, ...]:
        """Decides which fields feed each input, see `feature_mapping.map_inputs`.

        Args:
            contract: The inputs and outputs of the model's signature.
            rows: The instances as objects.
            stacked: Scalar fields that are stacked into one input.
            renamed: Input -> field that feeds it.

        Returns:
            One feature for each input.

        Raises:
            UsageError: An input has no field, or a field does not fit it.
        """
        return feature_mapping.map_inputs(
            contract, rows, stacked, renamed, strict=self.strict, missing=self.missing, pads=self.pads
        )


def _contract(loaded: models.Model, signature: str, key_input: str | None, request: Request) -> models.Contract:
    def example(contract: models.Contract, stacked: Sequence[str | FieldPath] | None = None) -> models.Arrays | None:
        rows = request.rows(contract.inputs)
        own = {t.name: request.renamed[t.name] for t in contract.inputs if t.name in request.renamed}
        features = request.features(contract, rows, request.stacked if stacked is None else stacked, own)
        group = largest(_inputs(rows, features), features)
        return group and group.whole

    def own_keys(key: models.Tensor) -> Any:
        path = row_paths.find(key.name, request.renamed.get(key.name, key.name), request.instances)
        if not all(row_paths.leads(instance, path) for instance in request.instances):
            return None
        found = example(models.Contract(signature, (key,), ()), ())
        return found and found[key.name]

    every = [*loaded.outputs, *loaded.unfit]
    alone = len(request.instances) == 1
    return find_contract(loaded, signature, key_input, example, own_keys, wanted=every, alone=alone)


def read_request(path: str, signature: str) -> tuple[list[Any], str]:
    """Reads a request.

    Args:
        path: The file; `-` is standard input.
        signature: The signature of the command line. The request may name another one if this is the default.

    Returns:
        The instances, and the name of the signature to call.

    Raises:
        UsageError: The file cannot be read or is not a request, or request and command line name different signatures.
    """
    try:
        # Read as bytes, so that `json` detects the encoding and the locale makes no difference.
        text = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        request = json.loads(text, object_pairs_hook=_members)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--instances {path}: {error}; give a file such as {EXAMPLE}") from error
    request = request if isinstance(request, dict) else {}
    _check_members(path, request)
    instances = request.get("instances")
    if not isinstance(instances, list) or not instances or None in instances:
        raise UsageError(f"--instances {path}: no list of objects or values called instances in it; write {EXAMPLE}")
    return instances, _signature(path, request.get("signature_name", signature), signature)


def _members(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise ValueError(f"the name {name} is {count} times in an object")
    return dict(pairs)


def _check_members(path: str, request: Mapping[str, Any]) -> None:
    for name in request:
        if name == "inputs":
            raise UsageError(
                f"--instances {path}: inputs is the columnar format, and keyjoin takes rows; write {EXAMPLE}"
            )
        if name not in MEMBERS:
            raise UsageError(f"--instances {path}: unknown {name} in it{nearest(name, MEMBERS)}; write {EXAMPLE}")
    if request.get("parameters"):
        raise UsageError(f"--instances {path}: a SavedModel takes no parameters; remove parameters from the request")


def _signature(path: str, named: Any, signature: str) -> str:
    if not isinstance(named, str):
        raise UsageError(f'--instances {path}: signature_name is no text; write {{"signature_name": "{signature}", …}}')
    if signature not in (DEFAULT.signature, named):
        raise UsageError(f"--signature={signature}: the request's signature_name is {named}; remove one of them")
    return named


def predict(called: models.Model, contract: models.Contract, request: Request) -> list[dict[str, Any]]:
    """Scores the instances.

    Args:
        called: The model.
        contract: The inputs and outputs of its signature.
        request: The instances and the options for them.

    Returns:
        For each instance all outputs of the signature, also those that return the key. An instance without a key gets
        its number as key, from 0.

    Raises:
        UsageError: An instance does not fit the model.
        RunError: The model raised an error, its outputs are not one for each row, or it returned a wrong key.
    """
    rows, renamed = request.rows(contract.inputs), dict(request.renamed)
    if contract.key is not None:
        name = contract.key.name
        rows = [{name: str(n) if contract.key.dtype == STRING else n, **row} for n, row in enumerate(rows)]
        renamed.setdefault(name, (name,))
    tensors = contract.inputs if contract.key is None else (*contract.inputs, contract.key)
    whole = contract._replace(inputs=tensors, key=None, echoes=())
    features = request.features(whole, rows, request.stacked, renamed)
    feature_mapping.check_missing(features, request.missing)
    found = [
        (int(number), answer)
        for group in by_shape(_inputs(rows, features), features)
        for some in _calls(group, contract.rows)
        for number, answer in zip(some.numbers, _call(called, contract, some.arrays), strict=True)
    ]
    return [answer for _, answer in sorted(found, key=itemgetter(0))]


def _calls(group: Group, rows: int | None) -> Iterator[Group]:
    """Splits a group into the rows of each model call: one call, unless the signature fixes the number of rows."""
    size = rows or len(group.numbers)
    for start in range(0, len(group.numbers), size):
        arrays = {name: array[start : start + size] for name, array in group.arrays.items()}
        yield group._replace(numbers=group.numbers[start : start + size], arrays=arrays)


def _call(called: models.Model, contract: models.Contract, arrays: models.Arrays) -> list[dict[str, Any]]:
    """Calls the model with rows whose inputs have the same shapes, and returns all outputs of each row."""
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    rows = len(next(iter(arrays.values())))
    try:
        answer = called(arrays)
    except ModelError as error:
        raise RunError(f"the model raised: {error}; look at the instances") from error
    if any(array.ndim == 0 or len(array) != rows for array in answer.values()):
        raise RunError("the model's outputs are not one a row; inspect it with `keyjoin inspect`")
    _check_keys(contract, answer, arrays)
    open_ = {tensor.name for tensor in contract.outputs if is_open(tensor)}
    made = {name: columns.from_array(array, is_open=name in open_) for name, array in answer.items()}
    texts = {name: encode.encode(column).to_pylist() for name, column in made.items()}
    echoes = [echo.output for echo in contract.echoes]
    ordered = [t.name for t in contract.outputs if t.name not in echoes] + echoes
    return [{name: json.loads(texts[name][row]) for name in ordered} for row in range(rows)]


def _check_keys(contract: models.Contract, answer: models.Arrays, arrays: models.Arrays) -> None:
    if contract.key is None:
        return
    for echo in contract.echoes:
        strange = strange_keys(answer, echo, arrays[contract.key.name].reshape(-1))
        if strange:
            raise RunError(
                f"output {echo.output} gives back the key {strange[0]}, which no instance has: it cannot hold all of "
                f"their keys; give keys below {contract.most}"
            )


def _inputs(instances: Sequence[Any], features: Sequence[Feature]) -> pa.RecordBatch:
    raws = [json.dumps(instance).encode() for instance in instances]
    inputs, bad = jsonl.FORMAT.reader.parse(raws, range(len(raws))).inputs(features)
    if bad:
        raise UsageError(f"instance {bad[0].row}: {bad[0].message} ({bad[0].reason}); see `keyjoin inspect`")
    return inputs
