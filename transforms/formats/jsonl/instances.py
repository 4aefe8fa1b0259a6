"""Lines that are no objects but values, `[1.0, 2.0]`, each of which feeds a model's only input as a whole.

AI Platform and Vertex AI take such instances, https://cloud.google.com/vertex-ai/docs/predictions/get-batch-predictions,
and write `{"instance": [1.0, 2.0], "prediction": …}`. keyjoin reads a line as if that object stood there already.
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
    r"""Lines with each value as a field of an object, and where these lie.

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
    """The value in a line of `wrapped`, without its newline."""
    return line[len(HEAD) : -1]


def named(features: Sequence[Feature]) -> list[Feature]:
    """What feeds the model, of lines of `wrapped`."""
    return [feature._replace(fields=feature.fields or (INSTANCE,)) for feature in features]


def explain(line: bytes, bad: BadRow) -> BadRow:
    """What is wrong with a line of `wrapped`, said of the value in it."""
    problem = diagnose.syntax(inner(line))
    if problem is not None and bad.reason != Reason.NOT_UTF8.value:
        return bad._replace(reason=Reason.NOT_JSON.value, message=problem)
    return bad._replace(message=bad.message.replace(f"field {INSTANCE}: ", "the value: ", 1))


def instances(values: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows of values, as a sample has them."""
    return [Instance({INSTANCE: value}) for value in values]


def is_value(value: Any) -> bool:
    """Whether a JSON value may be an instance by itself: no object, and no list of objects but of base64.

    >>> import json
    >>> [is_value(json.loads(line)) for line in ('[1, 2]', '"a"', "{}", '[{"x": 1}]', '[{"b64": "AA=="}]', "null")]
    [True, True, False, False, True, False]
    """
    if value is None or isinstance(value, dict):
        return False
    while isinstance(value, list) and value:
        value = value[0]
    return not isinstance(value, dict) or value.keys() == {columns.B64}
