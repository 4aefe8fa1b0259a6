"""Formats counts, durations, sizes and sums of money for people."""

import math


def with_noun(number: int, what: str) -> str:
    """Returns a number with its noun.

    >>> with_noun(1, "part"), with_noun(2000, "row")
    ('1 part', '2,000 rows')
    """
    return f"{number:,} {what}{'s' * (number != 1)}"


def first(number: int, what: str) -> str:
    """Returns the first ones of many, with their number.

    >>> first(1, "row"), first(2000, "row")
    ('the first row', 'the first 2,000 rows')
    """
    return f"the first {what}" if number == 1 else f"the first {with_noun(number, what)}"


def every(number: int, what: str) -> str:
    """Returns all of some, with their number.

    >>> every(0, "row"), every(1, "row"), every(2000, "row")
    ('no row', 'the only row', 'all 2,000 rows')
    """
    return f"no {what}" if not number else f"the only {what}" if number == 1 else f"all {with_noun(number, what)}"


def part_of(part: int, whole: int, what: str, verb: str = "are", *, of_first: bool = False) -> str:
    """Returns a part of some, with its verb.

    Args:
        part: How many there are in the part.
        whole: How many there are in all.
        what: The noun, for one.
        verb: `are` or `have`, or a verb that is alike for one and for many.
        of_first: Whether they are the first ones of more.

    >>> [part_of(part, 3, "row") for part in (0, 1, 2)]
    ['0 of 3 rows are', '1 of 3 rows is', '2 of 3 rows are']
    >>> part_of(1, 1, "row", of_first=True), part_of(1, 1, "row", "have"), part_of(1, 5, "row", "would fail")
    ('the first row is', 'the only row has', '1 of 5 rows would fail')
    """
    verb = {"are": "is", "have": "has"}.get(verb, verb) if part == 1 else verb
    if part == whole == 1:
        return f"{first(1, what) if of_first else every(1, what)} {verb}"
    return f"{part:,} of {first(whole, what) if of_first else with_noun(whole, what)} {verb}"


def duration(seconds: float) -> str:
    """Formats a duration with two digits, in the unit that reads best.

    >>> [duration(seconds) for seconds in (0.42, 38.1, 119, 431, 20_000, 400_000)]
    ['0.4 s', '38 s', '2 min', '7.2 min', '5.6 h', '110 h']
    """
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * length:
            return f"{_rounded(seconds / length)} {unit}"
    return f"{_rounded(seconds)} s"


def size(count: float) -> str:
    """Formats a number of bytes with two digits, in the unit that reads best.

    >>> [size(count) for count in (0, 512, 2_345, 310_400_000, 1_240_000_000, 5.6e12)]
    ['0 bytes', '512 bytes', '2.3 kB', '310 MB', '1.2 GB', '5.6 TB']
    """
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= length:
            return f"{_rounded(count / length)} {unit}"
    return f"{round(count)} bytes"


def money(amount: float, currency: str) -> str:
    """Formats a sum of money.

    >>> money(0.004, "USD"), money(1234.5, "EUR")
    ('0.01 USD', '1,234.50 EUR')
    """
    return f"{max(amount, 0.01):,.2f} {currency}"


def between(low: str, high: str) -> str:
    """Formats a range of two texts; one of them if both are equal.

    >>> between("2 h", "3 h"), between("2 h", "2 h")
    ('2 h to 3 h', '2 h')
    """
    return low if low == high else f"{low} to {high}"


def _rounded(value: float) -> str:
    if value < 0.95:
        return f"{value:.1f}"
    digits = max(0, 1 - math.floor(math.log10(value)))
    rounded = round(value, 1 - math.floor(math.log10(value)))
    return f"{rounded:,.{digits}f}".removesuffix(".0")
