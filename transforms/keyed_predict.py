"""Scores dictionaries with keyjoin's scoring inside your own Beam pipeline."""

import base64
import decimal
import functools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import RunInference

from transforms.errors import UsageError
from transforms.formats import jsonl
from transforms.mapping.feature_mapping import check_missing, map_inputs, named
from transforms.mapping.name_lists import Path
from transforms.predict import KeyedChunkHandler, from_ipc
from transforms.reasons import Reason
from transforms.records import BadRow, Features, unpack_bad, without
from transforms.saved_model import loader
from transforms.saved_model.constants import check as check_constants
from transforms.saved_model.constants import defaults
from transforms.saved_model.contract import find_contract
from transforms.saved_model.loader import Loading

DEAD: Final = "dead_letters"


class DeadRow(NamedTuple):
    """A dictionary that could not be scored.

    Attributes:
        row: The input dictionary, unchanged.
        stage: The stage that failed: `read`, `predict` or `write`.
        reason: The value of a `Reason`.
        message: The cause, in one line.
    """

    row: dict[str, Any]
    stage: str
    reason: str
    message: str


TaggedDeadRow = beam.pvalue.TaggedOutput[Literal["dead_letters"], DeadRow]


class KeyedPredict(beam.PTransform[beam.PCollection[dict[str, Any]], Any]):
    """Scores dictionaries and adds each prediction to the dictionary that it was made from.

    Input:  PCollection[dict[str, Any]]; the values may be bytes and NumPy values
    Output: joined, dead_letters = PCollection[dict[str, Any]], PCollection[DeadRow]; every input is in
            exactly one of the two

    >>> rows | KeyedPredict("model/", input_map={"keras_tensor": "features"})  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str,
        *,
        features: Sequence[str | Path] = (),
        input_map: Mapping[str, str | Path] | None = None,
        pad: Mapping[str, str | float] | None = None,
        missing: Mapping[str, Any] | None = None,
        strict_types: bool = False,
        signature: str = "serving_default",
        key_input: str | None = None,
        batch_size: int = 1024,
        prediction_prefix: str = "",
        model_ops: str | None = None,
        model_libraries: Sequence[str] = (),
        constants: Mapping[str, Any] | None = None,
        tf32: bool = False,
    ) -> None:
        """Loads the model once, to check the arguments against it.

        Args:
            model: Folder of a SavedModel.
            features: Scalar fields that make up the model's input, as the columns of a matrix. A tuple names a field
                inside objects: `("a", "b")`.
            input_map: Model input -> field. A tuple names a field inside objects: `("a", "b")`. Without `input_map`,
                the field of the same name feeds an input. An input with a default in the model keeps that default
                unless `input_map` names it. A row with a field of such an input's name is then a dead letter.
            pad: Model input -> the value that pads its rows to the longest row of a call. Rows of other inputs with an
                open size are grouped by shape.
            missing: Field -> the value to use where the field is missing or null. `a.b` is a field inside an object.
            strict_types: Whether numbers have to be of the input's own kind. By default, strings and whole floats
                can also feed number inputs.
            signature: The signature to call.
            key_input: The input that takes the key, if its name is not `key`.
            batch_size: Most rows of one model call.
            prediction_prefix: Text before the names of the outputs.
            model_ops: How to handle a model that does more than compute, see
                `transforms.model_safety.model_ops.judge`.
            model_libraries: Python modules that register the model's own ops, such as `tensorflow_text`. Workers
                need these modules, too.
            constants: Model input -> the value that it has for all rows.
            tf32: Whether a GPU may round the factors of float32 products to 10 bits. TensorFlow has one such setting
                for all models of a process, and loading this model sets it.

        Raises:
            UsageError: The model cannot be loaded, or no field feeds one of its inputs.
        """
        super().__init__()
        given = tuple(_texts(constants or {}).items())
        loading = Loading(signature, model_ops, libraries=tuple(model_libraries), constants=given, tf32=tf32)
        loaded = loader.load(model, loading)
        mapped = (input_map or {}).keys()
        check_constants(loaded.constants, mapped, in_python=True)
        if left := defaults(loaded.inputs, mapped):
            loading = loading.with_constants(left)
            loaded = loader.load(model, loading)
        # Inputs that keep their defaults -> the argument that would feed them, for the message of a dead letter.
        self.left = {c.name: f"constants={{{c.name!r}: VALUE}}" for c in loaded.constants if c.value is None}
        self.left |= {name: f"input_map={{{name!r}: {name!r}}}" for name, _ in left}
        contract = find_contract(loaded, signature, key_input)
        pads = {name: str(value) for name, value in (pad or {}).items()}
        if unknown := sorted(pads.keys() - {tensor.name for tensor in contract.inputs}):
            raise UsageError(f"pad names {unknown[0]}, but the model's inputs are {[t.name for t in contract.inputs]}")
        texts = _texts(missing or {})
        fed = map_inputs(contract, [], features, input_map, strict=strict_types, missing=texts, pads=pads)
        check_missing(fed, texts)
        self.needed = frozenset(field for feature in fed for field in feature.fields)
        self.whole = () if features or input_map else contract.inputs  # inputs that may take a row as a whole
        load = functools.partial(loader.load, model, loading)
        self.handler = KeyedChunkHandler(load, contract, fed, min(batch_size, contract.most))
        self.prefix = prediction_prefix

    def expand(self, rows: beam.PCollection[dict[str, Any]]) -> Any:  # Beam warns about every type for several outputs
        """Wires the steps."""
        size = self.handler.batch_size
        return (
            rows
            | "BatchRows" >> beam.BatchElements(min_batch_size=1, max_batch_size=size)
            | "ReadRows" >> beam.Map(self._read).with_output_types(list[Features])
            | "RunInference" >> RunInference(self.handler)
            | "JoinRows" >> beam.FlatMap(self._join).with_outputs(DEAD, main="joined")
        )

    def _read(self, rows: list[dict[str, Any]]) -> list[Features]:
        unmapped = [found for number, row in enumerate(rows) if (found := self._unmapped(number, row))]
        mapped = without(len(rows), unmapped)
        raws = [_raw(named(self.whole, rows[number]), self.needed) for number in mapped]
        inputs, bad = jsonl.FORMAT.reader.parse(raws, range(len(raws))).inputs(self.handler.features)
        bad = [one._replace(row=int(mapped[one.row])) for one in bad]
        return [Features("", inputs, (rows, sorted([*unmapped, *bad])))]

    def _unmapped(self, number: int, row: Mapping[str, Any]) -> BadRow | None:
        """Returns a bad row if the row has a field named like an input that keeps its default.

        No input reads this field, but its value may be meant for that input.
        """
        name = min(self.left.keys() & row.keys(), default=None)
        if name is None:
            return None
        return BadRow(
            number,
            "read",
            Reason.COLLISION.value,
            f"the row has a field {name}, and the model's input {name} is left to its default; feed it with "
            f"{self.left[name]}, or rename the field",
        )

    def _join(self, result: Any) -> Iterator[dict[str, Any] | TaggedDeadRow]:
        rows, unread = result.example.payload
        predictions = result.inference
        good = np.delete(np.arange(len(rows)), [bad.row for bad in unread])
        lost = unpack_bad(predictions.bad)
        unscored = [bad._replace(row=int(good[bad.row])) for bad in lost]
        scored = np.delete(good, [bad.row for bad in lost])
        for bad in [*unread, *unscored]:
            yield _dead(rows, bad)
        for row, prediction in zip(scored, from_ipc(predictions.columns).to_pylist(), strict=True):
            named = {self.prefix + name: _text(value) for name, value in prediction.items()}
            taken = sorted(named.keys() & rows[row].keys())
            if taken:
                found = BadRow(int(row), "write", Reason.COLLISION.value, f"the row already has a field {taken[0]}")
                yield _dead(rows, found)
            else:
                yield {**rows[row], **named}


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Converts values to texts as the command line takes them."""
    return {n: v if isinstance(v, str) else json.dumps(v, default=_plain) for n, v in values.items()}


def _raw(row: Mapping[str, Any], needed: Collection[str]) -> bytes:
    """Writes the fields that the model needs as JSON. Other fields may have values that JSON lacks."""
    try:
        return json.dumps({name: row[name] for name in row if name in needed}, default=_plain).encode()
    except (TypeError, ValueError, RecursionError) as error:
        # A JSON string, which is no object: the reader makes the row a dead letter whose message has this text.
        return json.dumps(f"not to be written as JSON: {error}").encode()


def _plain(value: Any) -> Any:
    """Converts values that JSON lacks: bytes to the form of TensorFlow Serving's REST API, NumPy values to Python's.

    Decimals, which Parquet and Avro have, are numbers. Dates and other values feed no input.
    """
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, decimal.Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    return {"unsupported": type(value).__name__}


def _text(value: Any) -> Any:
    """Decodes the strings of a model, which are bytes, to text where they are UTF-8."""
    if isinstance(value, list):
        return [_text(item) for item in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value


def _dead(rows: Sequence[dict[str, Any]], bad: BadRow) -> TaggedDeadRow:
    return beam.pvalue.TaggedOutput(DEAD, DeadRow(rows[bad.row], bad.stage, bad.reason, bad.message))
