"""Reads lines that are a JSON value without fields, such as `[1.0, 2.0]`: instances that feed the model's only input.

AI Platform and Vertex AI take such instances, https://cloud.google.com/vertex-ai/docs/predictions/get-batch-predictions,
and write `{"instance": [1.0, 2.0], "prediction": …}`. keyjoin wraps each value in an object,
`{"instance": [1.0, 2.0]}`, and reads that line instead.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from transforms import columns
from transforms.formats.base import Instance
from transforms.formats.jsonl import diagnose, split
from transforms.formats.jsonl.encode import text
from transforms.reasons import Reason
from transforms.records import INSTANCE, BadRow, Feature, Rows

HEAD, TAIL = f'{{"{INSTANCE}": ', "}\n"


def wrapped(data: bytes, rows: Rows) -> tuple[bytes, Rows]:
    r"""Wraps the value of each line in an object. Returns the new lines and their places.

    >>> wrapped(b"1\n[2]\n", split.rows(b"1\n[2]\n", first=True))[0]
    b'{"instance": 1}\n{"instance": [2]}\n'
    """
    starts = split.first_not_space(data, rows)
    ends = split.last_not_space(data, rows.starts, rows.ends) + 1
    if not len(starts):
        return b"", rows
    lines = columns.join([text(HEAD), columns.gather(data, starts, ends), text(TAIL)])
    bounds = np.concatenate([[0], np.cumsum(columns.sizes(lines))]).astype(np.int64)
    return columns.contents(lines).to_pybytes(), Rows(bounds[:-1], bounds[1:] - 1, rows.blank)


def inner(line: bytes) -> bytes:
    """Returns the value in a line of `wrapped`. The line is given without its newline, and so is the value."""
    return line[len(HEAD) : -1]


def named(features: Sequence[Feature]) -> list[Feature]:
    """Returns the features that feed the model from lines of `wrapped`."""
    return [feature._replace(fields=feature.fields or (INSTANCE,)) for feature in features]


def explain(line: bytes, bad: BadRow) -> BadRow:
    """Changes the reason and the message for a line of `wrapped`, so that they describe the value in it."""
    problem = diagnose.syntax(inner(line))
    if problem is not None and bad.reason != Reason.NOT_UTF8.value:
        return bad._replace(reason=Reason.NOT_JSON.value, message=problem)
    return bad._replace(message=bad.message.replace(f"field {INSTANCE}: ", "the value: ", 1))


def instances(values: Sequence[Any]) -> list[dict[str, Any]]:
    """Makes sampled rows of values."""
    return [Instance({INSTANCE: value}) for value in values]


def is_value(value: Any) -> bool:
    """Whether a JSON value may be an instance: not null, not an object, and not a list of objects other than base64.

    >>> import json
    >>> [is_value(json.loads(line)) for line in ('[1, 2]', '"a"', "{}", '[{"x": 1}]', '[{"b64": "AA=="}]', "null")]
    [True, True, False, False, True, False]
    """
    if value is None or isinstance(value, dict):
        return False
    while isinstance(value, list) and value:
        value = value[0]
    return not isinstance(value, dict) or value.keys() == {columns.B64}
