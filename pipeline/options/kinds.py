"""Defines the kinds of values that flags have.

A kind reads a value, converts it back into text, and has a regular expression with which the Flex template checks it.
"""

import itertools
import keyword
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any

from pipeline.options.error_limits import ErrorLimits, Limit
from pipeline.options.flag import Kind
from transforms import formats
from transforms.comparison.tolerance import Tolerance
from transforms.errors import nearest
from transforms.mapping import name_lists
from transforms.storage.remedies import install_command

SHORTEST_SECONDS, LONGEST_SECONDS = 0.01, 1_000_000
SMALLEST_AMOUNT, LARGEST_AMOUNT = 0.0001, 1_000_000_000
SEVERAL = "Several have spaces between them"
SIZES = "64M and 64MiB are 64 x 2^20 bytes, 64MB are 64 x 10^6."
_WHOLE = re.compile(r"\d+(?:_\d+)*", re.ASCII)
_SIZE = re.compile(r"(\d+(?:_\d+)*(?:\.\d+)?) ?([kmgt]?(?:i?b)?)", re.ASCII)
TEXT = Kind()


def choice(*choices: str) -> Kind:
    """Makes the kind of a flag that takes one of these texts."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is none of {', '.join(choices)}{nearest(text, choices)}")
        return text

    return Kind(parse, choices=choices, check="|".join(choices), parameter="ENUM")


def whole(limit: int | None = None, least: int = 1) -> Kind:
    """Makes the kind of a flag that takes a whole number from `least`, 0 or 1, to a limit; None for no limit."""

    def parse(text: str) -> int:
        if not _WHOLE.fullmatch(text) or int(text) < least or (limit and int(text) > limit):
            raise ValueError(f"{text} is not a whole number from {least}{f' to {limit}' if limit else ''}")
        return int(text)

    return Kind(parse, check="[0_]*[1-9][0-9_]*" if least else "[0-9][0-9_]*", parameter="NUMBER")


def size(limit: int | None = None) -> Kind:
    """Makes the kind of a flag that takes a number of bytes from 1 to a limit, also with a unit; None for no limit.

    The units are those of GNU programs (https://www.gnu.org/software/coreutils/manual/html_node/Block-size.html):
    `64M` and `64MiB` are 64 * 2^20 bytes, `64MB` are 64 * 10^6. Upper and lower case are alike.
    """

    def parse(text: str) -> int:
        found = _SIZE.fullmatch(text.lower())
        number = Fraction(found[1].replace("_", "")) * _factor(found[2] or "") if found else Fraction(0)
        if number < 1 or number.denominator != 1 or (limit and number > limit):
            raise ValueError(f"{text} is not a size from 1{f' to {limit}' if limit else ''} bytes, such as 64M or 4GB")
        return int(number)

    return Kind(parse, check="[0-9_.]*[1-9][0-9_.]* ?([kKmMgGtT]?([iI]?[bB])?)", note=SIZES)


def _factor(unit: str) -> int:
    """Returns the bytes of a unit in lower case; an empty text is one byte."""
    power = "kmgt".find(unit[:1]) + 1 if unit[:1] not in ("", "b") else 0
    return int((1000 if unit.endswith("b") and not unit.endswith("ib") else 1024) ** power)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not SHORTEST_SECONDS <= value <= LONGEST_SECONDS:
        raise ValueError(f"{text} is not a number of seconds from {SHORTEST_SECONDS} to {LONGEST_SECONDS}")
    return value


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not SMALLEST_AMOUNT <= value <= LARGEST_AMOUNT:
        raise ValueError(f"{text} is not a number from {SMALLEST_AMOUNT} to {LARGEST_AMOUNT}")
    return value


def _share(text: str) -> float:
    found = Limit.parse(text)
    if found is None or not found.is_ratio or not found.value:
        hint = f"; write {text}%" if found is not None and not found.is_ratio else ""
        raise ValueError(f"{text} is not a share such as 5%, 0.05 or 100%{hint}")
    return float(found.value)


def _share_texts(share: float) -> list[str]:
    return [f"{share * 100:.15g}%"]


def _sha256(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise ValueError(f"{text} is not a sha256, 64 hexadecimal digits; keyjoin inspect shows it")
    return text.lower()


def _accelerator(text: str) -> str:
    if not re.fullmatch(r"type:[\w-]+;count:[1-9]\d*(;[\w:.-]+)*", text):
        raise ValueError(f"{text} is not of the form type:nvidia-l4;count:1")
    return text


SECONDS = Kind(_seconds, check="[0-9.eE+_-]+")
AMOUNT = Kind(_amount, check="[0-9.eE+_-]+")
SHARE = Kind(_share, _share_texts)
SHA256 = Kind(_sha256, check="[0-9a-fA-F]{64}")
ACCELERATOR = Kind(_accelerator, check="type:[A-Za-z0-9_-]+;count:[1-9][0-9]*(;[A-Za-z0-9_:.-]+)*")
_FORMATS = tuple(sorted(formats.FORMATS))
FORMAT = Kind(formats.known, choices=_FORMATS, check="|".join(_FORMATS), parameter="ENUM")


# Characters of delimited text. A cell is cut at bytes, so each is one byte of UTF-8.

TAB, NO_QUOTE = "tab", "none"
_NOT_DELIMITERS = "\n\r\0"


def _character(text: str) -> str:
    if len(text) != 1 or not text.isascii() or text in _NOT_DELIMITERS:
        raise ValueError(f"{text!r} is not one ASCII character other than a line end")
    return text


def _delimiter(text: str) -> str:
    return "\t" if text in (TAB, r"\t") else _character(text)


def _quote(text: str) -> str:
    return text if text == NO_QUOTE else _character(text)


def _delimiter_texts(character: str) -> list[str]:
    return [TAB if character == "\t" else character]


DELIMITER = Kind(_delimiter, _delimiter_texts, check="tab|.", note="Write a tab as tab.")
QUOTE = Kind(_quote, check="none|.")


# Paths. The Flex template accepts only paths on Cloud Storage: a job on Dataflow reads no other storage.

_SCHEME = re.compile(r"(gs|s3|hdfs|azfs|https?|file):/+(.*)", re.IGNORECASE | re.DOTALL)
_BUCKET_PAGE = re.compile(r"https://storage\.(?:googleapis|cloud\.google)\.com/(.+)")
_TF_HUB = "https://tfhub.dev/"


def _path(text: str) -> str:
    """Returns the path. Refuses a path that no file system reads as the user means it, such as a web address."""
    if "\0" in text:
        raise ValueError(f"{text!r} has a NUL, and no path has one; leave it out")
    home, scheme = os.path.expanduser(text), _SCHEME.match(text)
    if home != text:
        raise ValueError(
            f"{text}: the shell does not replace the ~ in it; write {shlex.quote(home)}, or {shlex.quote(f'./{text}')} "
            "if it is called so"
        )
    if scheme is None:
        return text
    name, rest = scheme[1].lower(), scheme[2]
    if name == "file":
        raise ValueError(f"{text} is a URL; write the path alone, {shlex.quote(f'/{rest}')}")
    if name in ("http", "https"):
        raise ValueError(f"{text} is a web address, which keyjoin neither reads nor writes; {_suggestion(text)}")
    if not text.startswith(f"{name}://") or (name != "hdfs" and not rest):
        raise ValueError(f"{text} names no bucket; write {name}://{rest or 'BUCKET/FOLDER'}")
    if install := install_command(name):
        raise ValueError(f"{text} is in a store that this installation cannot read; {install}")
    return text


def _suggestion(text: str) -> str:
    if page := _BUCKET_PAGE.fullmatch(text):
        return f"write gs://{page[1]}"
    if text.startswith(_TF_HUB):  # https://www.tensorflow.org/hub/hosting, "Compressed hosting"
        archive = shlex.quote(f"{text}?tf-hub-format=compressed")
        return f"to read it, download it: mkdir model && curl -L {archive} | tar -xzC model, and give --model=model"
    return f"to read it, download it: curl -LO {shlex.quote(text)}, and give the file"


PATH = Kind(_path)
CONFIG = Kind(_path, check="gs://[^/]+/.+")
MODEL = Kind(_path, check="gs://[^/]+/.+")
OUTPUT = Kind(_path, check="gs://[^/]+/.+", parameter="GCS_WRITE_FOLDER")


def _page(text: str) -> str:
    if not text.lower().endswith((".html", ".htm")):
        raise ValueError(f"{text!r} does not end in .html; a page replaces the file of its name")
    return _path(text)


PAGE = Kind(_page)
INPUTS = Kind(
    _path,
    texts=list,
    empty=tuple,
    collect=tuple,
    check="gs://[^ ]+( +gs://[^ ]+)*",
    note=f"{SEVERAL}; in place of a space in a name, write ?.",
)


# Lists of names


def _modules(text: str) -> tuple[str, ...]:
    found = name_lists.names(text)
    for name in found:
        if not all(part.isidentifier() and not keyword.iskeyword(part) for part in name.split(".")):
            raise ValueError(
                f"{name!r} is not the name of a Python module; write it as in an import, such as tensorflow_text"
            )
    return found


def _names_texts(found: tuple[str, ...]) -> list[str]:
    return [name_lists.names_text(found)]


def _columns_texts(found: tuple[str | name_lists.Path, ...]) -> list[str]:
    return [name_lists.fields_text(found)]


NAMES = Kind(name_lists.names, _names_texts, tuple, check="[^,]+(,[^,]+)*|\\[.+\\]")
COLUMNS = Kind(name_lists.fields, _columns_texts, tuple, check="[^,]+(,[^,]+)*|\\[.+\\]")
MODULES = Kind(_modules, _names_texts, tuple, check="[^,]+(,[^,]+)*")


# Pairs: a text has one or several pairs, and all texts of a flag make one mapping.

_PAIRS = "[^ =]+=[^ ]*( +[^ =]+=[^ ]*)*"


def _once(what: str) -> Callable[[list[list[tuple[str, Any]]]], dict[str, Any]]:
    def collect(read: Iterable[Iterable[tuple[str, Any]]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in itertools.chain.from_iterable(read):
            if name in found:
                raise ValueError(f"names the {what} {name} twice; name it once")
            found[name] = value
        return found

    return collect


def _constant(text: str) -> list[tuple[str, str]]:
    name, sign, value = text.partition("=")  # splits at the first =; see `input_names.resolve` for a name that has one
    if not sign or not name:
        raise ValueError(f"{text!r} is not of the form MODEL_INPUT=VALUE")
    return [(name, value)]


def _constant_texts(found: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in found.items()]


def _rename(text: str) -> list[tuple[str, str]]:
    name, _, new = text.partition("=")
    if not name or not new:
        raise ValueError(f"{text!r} is not of the form PREDICTION=NAME")
    return [(name, new)]


def _field_texts(found: Mapping[str, str | name_lists.Path]) -> list[str]:
    return name_lists.pairs_texts(list(found.items()))


def _value_texts(found: Mapping[str, str]) -> list[str]:
    return [name_lists.values_text(found)]


def _tolerance(text: str) -> list[tuple[str, Tolerance]]:
    name, _, value = text.rpartition("=")
    return [(name, Tolerance.parse(value))]


def _tolerance_texts(found: Mapping[str, Tolerance]) -> list[str]:
    return [f"{name}={value}" if name else str(value) for name, value in found.items()]


def _padding(text: str) -> str:
    if text.find("=", 1) < 0:
        raise ValueError(f"{text!r} is not of the form MODEL_INPUT=VALUE")
    return text


CONSTANTS = Kind(_constant, _constant_texts, dict, _once("model input"), check=_PAIRS, note=f"{SEVERAL}.")
RENAMES = Kind(_rename, _constant_texts, dict, _once("prediction"), check=_PAIRS, note=f"{SEVERAL}.")
TOLERANCES = Kind(_tolerance, _tolerance_texts, dict, _once("prediction"))
PADDING = Kind(_padding, list, tuple, tuple, check="[^ ]+=[^ ]*( +[^ ]+=[^ ]*)*", note=f"{SEVERAL}.")
FIELDS = Kind(
    name_lists.pairs,
    _field_texts,
    dict,
    _once("model input"),
    check="[^ =]+=[^ ]+( +[^ =]+=[^ ]+)*|\\{.+\\}",
    note=f"{SEVERAL}; JSON has none.",
)
VALUES = Kind(
    name_lists.values,
    _value_texts,
    dict,
    _once("field"),
    check=f"{_PAIRS}|\\{{.+\\}}",
    note=f"{SEVERAL}; JSON has none.",
)


def _no_limits() -> ErrorLimits:
    return ErrorLimits.parse([])


def _limits_texts(limits: ErrorLimits) -> list[str]:
    return [",".join(ErrorLimits.items(limits.texts()))]


ERROR_LIMITS = Kind(str, _limits_texts, _no_limits, ErrorLimits.parse)
