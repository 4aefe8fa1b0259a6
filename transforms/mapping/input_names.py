"""Reads flags of the form `INPUT=…` by the names of the model's inputs, which may hold equals signs themselves."""

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
    """Which input each text is for: where a name holds an equals sign, the text alone does not tell.

    Args:
        flag: Its name, for messages.
        pairs: What was given: a text, split at any of its equals signs. A pair with something else than a text names
            its input exactly.
        inputs: Names of the model's inputs.
        fields: Names of the rows' fields, if what follows the input names one: a field that the rows have decides
            between several inputs.
        remedy: What to do about a text that can be read in several ways.

    Returns:
        Input -> what is given for it.

    Raises:
        UsageError: A pair names no input, or can be read in several ways, or an input is named twice.

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
    """The input and the rest of a text; an input that is none if no input fits."""
    ways = [(name, text[len(name) + 1 :]) for name in inputs if text.startswith(f"{name}=")]
    if fields is not None:
        ways = [way for way in ways if way[1]]  # no field has an empty name
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
    """Refuses a name that is no input's.

    Args:
        flag: What names it.
        name: The name.
        inputs: Names of the model's inputs.
    """
    known = sorted(inputs)
    return UsageError(f"{flag} names {name}, but the model's inputs are {known}{nearest(name, known)}")
