"""A naive version of keyjoin, to compare results with: one line at a time, without caches or optimisations."""

import json
import re

import numpy as np

# A number in a string, which proto3's JSON mapping accepts for a float.
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class BadRowError(Exception):
    """This row cannot be scored."""


def refuse(word: str) -> None:
    raise BadRowError(f"{word} is not JSON")


def predict(raw: bytes) -> np.float32:
    """The model of tests/faults/attempt.py for one row."""
    try:
        pairs = json.loads(raw.decode(), object_pairs_hook=list, parse_constant=refuse)
    except ValueError as error:
        raise BadRowError("not JSON") from error
    if not raw.strip().startswith(b"{"):
        raise BadRowError("not an object")
    names = [name for name, _ in pairs]
    if names.count("x") != 1 or "prediction" in names:
        raise BadRowError("x is missing or ambiguous, or there is a prediction already")
    x = dict(pairs)["x"]
    if isinstance(x, list):
        x = [float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value for value in x]
    if not isinstance(x, list) or len(x) != 3 or any(type(value) not in (int, float) for value in x):
        raise BadRowError("x is not a list of three numbers")
    with np.errstate(over="ignore"):
        values = np.array(x, np.float32)
    if not np.isfinite(values).all() or values[0] == 666:
        raise BadRowError("out of range, or what the model refuses")
    a, b, c = values * np.array([0.5, -1.25, 3], np.float32)
    with np.errstate(over="ignore"):
        score = np.float32((a + b) + c)
    if not np.isfinite(score):
        raise BadRowError("not finite")
    return score


def score(data: bytes) -> tuple[list[tuple[bytes, np.float32]], list[bytes]]:
    """Joined rows with their predictions, and bad rows; both in input order, without line ends."""
    joined, bad = [], []
    for line in data.split(b"\n"):
        raw = line.removesuffix(b"\r") if line.strip(b" \t\r") else b""
        if not raw:
            continue
        try:
            joined.append((raw, predict(raw)))
        except BadRowError:
            bad.append(raw)
    return joined, bad
