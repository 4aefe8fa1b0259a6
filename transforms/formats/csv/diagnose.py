"""Explains why a record is bad. It looks at one record at a time, so it is used only for records that are bad."""

import shlex
from collections.abc import Mapping, Sequence

from transforms.dtypes import STRING
from transforms.formats.csv.dialect import Dialect
from transforms.formats.jsonl import diagnose
from transforms.formats.jsonl.diagnose import SHOWN, Number
from transforms.formats.slices import Why
from transforms.mapping import numbers
from transforms.reasons import Reason
from transforms.records import Feature

__all__ = ["SHOWN", "count", "explain"]
NULLS = ("na", "n/a", "#n/a", "nan", "null", "none", "nil", "\\n", "-", ".", "?")  # in small letters


def count(record: bytes, found: int, width: int, dialect: Dialect) -> Why:
    """Explains a record that does not have a cell for each column.

    Args:
        record: The record.
        found: How many cells it has; 0 if bytes follow the closing quote of a cell.
        width: How many columns there are.
        dialect: The dialect of the text.
    """
    escaped = [chr(mark) for mark in (dialect.quote, dialect.delimiter) if mark and b"\\" + bytes([mark]) in record]
    escaped += ["the line end"] * record.endswith(b"\\")
    hint = f"; a backslash before {escaped[0]} is text in CSV, see docs/formats.md" if escaped else ""
    if not found:
        return Reason.NOT_CSV.value, f"bytes follow the closing quote of a cell{hint}"
    return (
        Reason.WRONG_CELLS.value,
        f"{_counted(found, 'cell')}, and there {'is' if width == 1 else 'are'} {_counted(width, 'column')}{hint}",
    )


def explain(record: bytes, cells: Mapping[str, bytes], features: Sequence[Feature], dialect: Dialect) -> Why:
    """Explains a record with all cells.

    Args:
        record: The record.
        cells: Column -> cell, as spelled.
        features: The model's inputs, and the fields that feed them.
        dialect: The dialect of the text.
    """
    try:
        record.decode()
    except UnicodeDecodeError as error:
        return Reason.NOT_UTF8.value, f"byte {error.start} of the row: {error.reason}"
    for feature in features:
        for at, field in enumerate(feature.fields):
            has_default = feature.has_default(at)
            found = _explain_cell(cells.get(field), feature, dialect, has_default=has_default)
            if found:
                return found[0].value, f"column {field}: {found[1]}"
    raise AssertionError(f"nothing is wrong with {record!r}")


def _explain_cell(
    cell: bytes | None, feature: Feature, dialect: Dialect, *, has_default: bool
) -> tuple[Reason, str] | None:
    if len(feature.fields) == 1 and feature.shape not in ((), (1,)):
        return Reason.WRONG_SHAPE, f"one value where a list of the shape {list(feature.shape)} is expected"
    value = None if cell is None else dialect.value(cell)
    if value is None or (feature.dtype != STRING and value in (b"", *dialect.nulls)):
        if has_default:
            return None
        if cell is None:
            return Reason.MISSING, "not in the file"
        is_empty = cell == b"" or value == b""
        return Reason.NULL, "empty" if is_empty else f"{_shown(cell.decode())}, which --null_values names"
    text = value.decode()
    if feature.dtype == STRING:
        return None
    if feature.dtype == "bool":
        return None if text in ("true", "false", "1", "0") else (Reason.WRONG_TYPE, f"{_shown(text)}, not a bool")
    if "float" in feature.dtype and text in numbers.WORDS:
        return None
    if not numbers.spells(text):
        return Reason.WRONG_TYPE, f"{_shown(text)}, not a number{_hint(text)}"
    return diagnose.explain_leaf(Number(text), feature._replace(strict=False))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _hint(text: str) -> str:
    """Returns the remedy for a text that many programs write where they mean a number or no value."""
    if text.lower() in NULLS:
        return f"; if it means no value, give --null_values={shlex.quote(text)}"
    if text.count(",") == 1 and numbers.spells(text.replace(",", ".")):
        return "; write a point in place of the decimal comma"
    return ""


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")
