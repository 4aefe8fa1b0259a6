"""Converts columns of numbers that are written as text or as whole floats, without rounding integers.

The rules are those of proto3's JSON mapping, https://protobuf.dev/programming-guides/json/:

- A number may be a JSON number, or a string that holds one.
- An integer may have a fraction of zeros, or an exponent.
- A float may be `NaN`, `Infinity` or `-Infinity`.

A string follows the grammar of RFC 8259, section 6: no spaces, no plus sign, no leading zeros.
"""

import decimal
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.records import Mask

NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
WORDS = ("NaN", "Infinity", "-Infinity")
DIGITS = 38  # the most digits of Arrow's 128-bit decimals
WHOLE = pa.decimal128(DIGITS, 0)
MOST_DIGITS = 20  # no 64-bit integer has more digits
_NUMBER = re.compile(NUMBER)
_FLOAT = rf"\A(?:{NUMBER}|{'|'.join(WORDS)})\z"
_INTEGER = rf"\A-?(?:0|[1-9][0-9]{{0,{DIGITS - 2}}})\z"
_ZEROS = r"\A(-?(?:0|[1-9][0-9]*))\.0+\z"


def word(value: float) -> str:
    """Returns the word for NaN or an infinity, which JSON cannot spell as a number. `float` reads it back.

    >>> word(float("-inf")), word(float("nan"))
    ('-Infinity', 'NaN')
    """
    return next(spelled for spelled in WORDS if str(float(spelled)) == str(value))


def from_text(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Converts texts to numbers; a text that is not a number, or not one that the type holds, becomes null.

    Args:
        texts: The texts. string, (rows,).
        kind: The type of the numbers: float32, float64, int64 or uint64.

    >>> from_text(pa.array(["31", "3.1e1", " 31", "9007199254740993"]), pa.int64()).to_pylist()
    [31, 31, None, 9007199254740993]
    """
    if pa.types.is_floating(kind):
        return _floats(texts, kind)
    plain = _mask(pc.match_substring_regex(texts, _INTEGER))
    if not plain.all():
        texts = pc.replace_substring_regex(texts, _ZEROS, r"\1")
        plain = _mask(pc.match_substring_regex(texts, _INTEGER))
    decimals = pc.if_else(pa.array(plain), texts, pa.scalar(None, pa.string())).cast(WHOLE)
    if not plain.all():
        others = [None if text is None else whole(text) for text in texts.filter(pa.array(~plain)).to_pylist()]
        decimals = pc.replace_with_mask(decimals, pa.array(~plain), pa.array(others, WHOLE))
    return from_decimals(decimals, kind)


def _floats(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    spelled = pc.match_substring_regex(texts, _FLOAT)
    found = pc.if_else(spelled, texts, pa.scalar(None, pa.string())).cast(kind)
    finite = pc.fill_null(pc.is_finite(found), fill_value=False)
    if pc.all(finite, min_count=0).as_py():
        return found
    kept = pc.or_(finite, pc.is_in(texts, pa.array(WORDS)))
    return pc.if_else(kept, found, pa.scalar(None, kind))


def from_decimals(decimals: pa.Array, kind: pa.DataType) -> pa.Array:
    """Converts whole decimals to integers; a number that the type does not hold becomes null.

    >>> from_decimals(pa.array([decimal.Decimal(31), decimal.Decimal(2**64)], WHOLE), pa.uint64()).to_pylist()
    [31, None]
    """
    limits = np.iinfo(str(kind))
    low, high = (pa.scalar(decimal.Decimal(int(limit)), WHOLE) for limit in (limits.min, limits.max))
    within = pc.and_(pc.greater_equal(decimals, low), pc.less_equal(decimals, high))
    return pc.if_else(within, decimals, pa.scalar(None, WHOLE)).cast(kind)


def whole(text: str) -> decimal.Decimal | None:
    """Parses a whole number; returns None if the text is not a whole number, or has too many digits for 64 bits.

    >>> whole("3.10e1"), whole("31.5"), whole("1e999999999"), whole("0x1f")
    (Decimal('31'), None, None, None)
    """
    if not spells(text):
        return None
    with decimal.localcontext(decimal.Context(prec=max(DIGITS, len(text)), Emax=decimal.MAX_EMAX)):
        try:
            number = decimal.Decimal(text)
            if not number:
                return decimal.Decimal(0)
            if number.adjusted() >= MOST_DIGITS or number != number.to_integral_value():
                return None
            return decimal.Decimal(int(number))
        except decimal.DecimalException:
            return None


def has_fraction(text: str) -> bool:
    """Whether a number, written as text, is not a whole number. The size of the number does not matter.

    >>> has_fraction("31.0"), has_fraction("1e400"), has_fraction("31.5"), has_fraction("1e-400")
    (False, False, True, True)
    """
    mantissa, _, exponent = text.lower().partition("e")
    before, _, after = mantissa.lstrip("-").partition(".")
    digits = (before + after).rstrip("0")
    return bool(digits.strip("0")) and len(digits) - len(before) > _exponent(exponent)


def _exponent(text: str) -> int:
    # No number has as many digits as an exponent of this length says, so the rest of the exponent can be cut.
    digits = text.lstrip("+-").lstrip("0")[:MOST_DIGITS] or "0"
    return -int(digits) if text.startswith("-") else int(digits)


def spells(text: str) -> bool:
    """Whether a text is a number in the grammar of RFC 8259."""
    return _NUMBER.fullmatch(text) is not None


def _mask(found: pa.Array) -> Mask:
    mask: Mask = pc.fill_null(found, fill_value=False).to_numpy(zero_copy_only=False)
    return mask
