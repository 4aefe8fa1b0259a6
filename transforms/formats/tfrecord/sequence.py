"""Reads the feature lists of tf.train.SequenceExamples.

A SequenceExample has its `context` where an Example has its features, with the same field number and type. So keyjoin
reads the context's features, and appends predictions to them, as it does for an Example
(core/example/example.proto of TensorFlow). Only the feature lists need other rules: they feed no input, because their
values are lists of lists, and keyjoin keeps them in each output row that has the row's own fields.
"""

from collections.abc import Mapping
from typing import Any

from transforms.formats.tfrecord import wire
from transforms.formats.tfrecord.parse import parse

# Numbers of fields: of SequenceExample (an Example has no field of that number), of FeatureLists, of an entry of its
# map, and of FeatureList.
FEATURE_LISTS = 2
ENTRY = 1
NAME, VALUE = 1, 2
FEATURE = 1


def lists_of(record: bytes) -> dict[str, bytes]:
    """Returns the feature lists of a record, an Example or a SequenceExample: name -> the serialized FeatureList.

    As everywhere in protobuf, messages that come twice are merged, and the last entry of a name counts.

    Raises:
        ValueError: The feature lists do not parse.
    """
    found = {}
    try:
        for entry in _all(b"".join(_all(record, FEATURE_LISTS)), ENTRY):
            name, value = b"".join(_all(entry, NAME)[-1:]), b"".join(_all(entry, VALUE))
            found[name.decode()] = value
            _features(value)
    except ValueError as error:
        raise ValueError(f"its feature_lists do not parse as those of a tf.train.SequenceExample: {error}") from error
    return found


def encode(lists: Mapping[str, bytes]) -> bytes:
    """Encodes feature lists as the field of a SequenceExample; without lists there is no such field."""
    entries = [
        wire.delimited(ENTRY, wire.delimited(NAME, name.encode()) + wire.delimited(VALUE, lists[name]))
        for name in sorted(lists)
    ]
    return wire.delimited(FEATURE_LISTS, b"".join(entries)) if entries else b""


def values_of(record: bytes) -> dict[str, list[list[Any]]]:
    """Returns the feature lists of a record: name -> the values of each of its features. It skips damaged ones."""
    try:
        return {name: _features(value) for name, value in sorted(lists_of(record).items())}
    except ValueError:
        return {}


def _features(feature_list: bytes) -> list[list[Any]]:
    """Returns the values of each feature of a serialized FeatureList.

    Raises:
        ValueError: A feature does not parse.
    """
    found = []
    for feature in _all(feature_list, FEATURE):
        entry = wire.delimited(NAME, b"") + wire.delimited(VALUE, feature)
        example = parse(wire.delimited(1, wire.delimited(ENTRY, entry)))
        if example is None:
            raise ValueError(f"the {len(feature)} bytes of a feature")
        values = example[""]
        found.append([] if values is None else values.tolist())
    return found


def _all(message: bytes, number: int) -> list[bytes]:
    return [content for found, content in wire.fields(message) if found == number]
