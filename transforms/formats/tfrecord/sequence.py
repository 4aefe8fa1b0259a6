"""Reads the feature lists of tf.train.SequenceExamples.

A SequenceExample has its `context` where an Example has its features, with the same field number and type. So keyjoin
reads the context's features, and appends predictions to them, as it does for an Example
(core/example/example.proto of TensorFlow). Only the feature lists need other rules: they feed no input, because their
values are lists of lists, and keyjoin keeps them in each output row that has the row's own fields.
"""

from typing import Any

from transforms.formats.tfrecord import wire

FEATURE_LISTS = 2  # the field's number in a SequenceExample; an Example has no field of that number


def lists_of(record: bytes) -> dict[str, Any]:
    """Returns the feature lists of a record, which is an Example or a SequenceExample: name -> FeatureList.

    Raises:
        ValueError: The feature lists do not parse.
    """
    if all(number != FEATURE_LISTS for number, _ in wire.fields(record)):
        return {}
    # Imported here, because the import takes seconds, and few jobs have SequenceExamples.
    from google.protobuf.message import DecodeError
    from tensorflow.core.example.example_pb2 import SequenceExample

    try:
        return dict(SequenceExample.FromString(record).feature_lists.feature_list)
    except DecodeError as error:
        raise ValueError("its feature_lists do not parse as those of a tf.train.SequenceExample") from error


def values_of(record: bytes) -> dict[str, list[list[Any]]]:
    """Returns the feature lists of a record: name -> the values of each of its features. Damaged ones are left out."""
    try:
        found = lists_of(record)
    except ValueError:
        return {}
    return {name: [_values(one) for one in found[name].feature] for name in sorted(found)}


def _values(feature: Any) -> list[Any]:
    kind = feature.WhichOneof("kind")
    return list(getattr(feature, kind).value) if kind else []
