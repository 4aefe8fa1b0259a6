"""Resolves flags of the form `INPUT=…` to the model's inputs, whose names may contain equals signs."""

from collections.abc import Collection, Iterable
from typing import TypeVar

from transforms.errors import UsageError, nearest

T = TypeVar("T")
RENAME = "save the model with another name for one of them"


def resolve(
    flag: str,
    pairs: Iterable[tuple[str, T | str]],
    inputs: Collection[str],
    fields: Collection[str] | None = None,
    remedy: str = RENAME,
) -> dict[str, T | str]:
    """Finds the input that each text of a flag names.

    If a name contains an equals sign, the text alone does not show where the name ends. The model's inputs do.

    Args:
        flag: The name of the flag, for messages.
        pairs: The texts of the flag, each split at any one of its equals signs. If the second value of a pair is not
            a text, the first value is the exact name of the input.
        inputs: Names of the model's inputs.
        fields: Names of the rows' fields, if the flag names a field after the input. If a text could name several
            inputs, the reading whose field exists in the rows wins. None if the flag names no fields.
        remedy: What to do about a text that could name several inputs, for messages.

    Returns:
        Input -> the value that the flag gives for it.

    Raises:
        UsageError: A pair names no input or could name several, or an input is named twice.

    >>> resolve("--pad", [("a", "b=0"), ("c", "0")], ["a=b", "c"])
    {'a=b': '0', 'c': '0'}
    """
    found: dict[str, T | str] = {}
    for given, to in pairs:
        name, value = (given, to) if not isinstance(to, str) else _read(flag, f"{given}={to}", inputs, fields, remedy)
        if name not in inputs:
            raise unknown(flag, given, inputs)
        if name in found:
            raise UsageError(f"{flag} names the model input {name} twice; name it once")
        found[name] = value
    return found


def _read(
    flag: str, text: str, inputs: Collection[str], fields: Collection[str] | None, remedy: str
) -> tuple[str, str]:
    """Splits a text into an input and the rest; returns two empty texts if no input fits.

    Raises:
        UsageError: The text could name several inputs.
    """
    ways = [(name, text[len(name) + 1 :]) for name in inputs if text.startswith(f"{name}=")]
    if fields is not None:
        ways = [way for way in ways if way[1]]  # a field cannot have an empty name
    if len(ways) > 1:
        likely = [way for way in ways if way[1] in (fields or ())]
        if len(likely) != 1:
            names = [name for name, _ in ways]
            raise UsageError(
                f"{flag} {text} can be read in {len(ways)} ways, as the model has the inputs {names}; {remedy}"
            )
        ways = likely
    return ways[0] if ways else ("", "")


def unknown(flag: str, name: str, inputs: Collection[str]) -> UsageError:
    """Makes the error for a name that is not the name of an input.

    Args:
        flag: The flag that gives the name.
        name: The name.
        inputs: Names of the model's inputs.
    """
    known = sorted(inputs)
    return UsageError(f"{flag} names {name}, but the model's inputs are {known}{nearest(name, known)}")
