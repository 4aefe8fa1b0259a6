"""Reads and checks error limits: how many bad rows a complete run may have, in total and for each reason."""

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from pipeline.terminal.amounts import part_of
from transforms.errors import UsageError, nearest
from transforms.reasons import Reason

FLAG = "--max_bad_rows"
ALL = "all"  # the name of the limit of bad rows of all reasons together
COUNT = re.compile(r"\d+(?:_\d+)+", re.ASCII)  # digits in groups
NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE]-?\d{1,2})?", re.ASCII)
THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+", re.ASCII)


class Limit(NamedTuple):
    """A limit of bad rows: a number of rows, or a ratio to the rows read.

    Attributes:
        text: The text that the user gave: `10` is a number of rows, `0.01` and `1.0` are ratios. For a percentage, the
            ratio.
    """

    text: str

    @classmethod
    def parse(cls, text: str) -> "Limit | None":
        """Reads a number of rows, or a ratio: `5%` and `0.05`, with or without a space before `%`.

        `5%` becomes the ratio 0.05 and `1_000` becomes 1000, so that a record has one spelling.

        Args:
            text: The text that the user gave.

        Returns:
            The limit; None if the text is no such number, or a ratio above 1.

        >>> [Limit.parse(text) for text in ("5 %", "0.05", "1_000", "1.5")]
        [Limit(text='0.05'), Limit(text='0.05'), Limit(text='1000'), None]
        """
        number = text.removesuffix("%").rstrip(" ") if text.endswith("%") else text
        limit = cls(number.replace("_", "") if COUNT.fullmatch(number) else number)
        if not NUMBER.fullmatch(limit.text):
            return None
        if text.endswith("%"):
            sign, digits, exponent = Decimal(limit.text).as_tuple()
            ratio = f"{Decimal((sign, digits, int(exponent) - 2)):f}"  # exact, unlike a division
            limit = cls(ratio if "." in ratio else f"{ratio}.0")
        return None if limit.is_ratio and limit.value > 1 else limit

    @property
    def is_ratio(self) -> bool:
        """Whether the limit is a ratio."""
        return not self.text.isdigit()

    @property
    def value(self) -> Fraction:
        """The number or the ratio, exactly.

        A float is not exact: as floats, 0.29 * 100 is less than 29.
        """
        return Fraction(self.text)

    def allows(self, bad: int, rows: int | Fraction) -> bool:
        """Returns whether a number of bad rows is within the limit.

        Args:
            bad: Bad rows.
            rows: All rows, good and bad; only a ratio depends on them.

        >>> Limit("0.01").allows(1, 100), Limit("0").allows(1, 100)
        (True, False)
        """
        return bad <= (self.value * rows if self.is_ratio else self.value)


class ExceededLimit(NamedTuple):
    """An error limit that a run exceeds.

    Attributes:
        name: What the limit applies to: a reason code, or `ALL`.
        limit: The limit.
        bad: Number of bad rows that count towards the limit.
        rows: Number of rows read.
        reason: The most frequent reason code among these bad rows.
        early: Whether the run stopped before it read all rows.
        raised: The value of `--max_bad_rows` that allows these bad rows, at this share of all rows.
        example: The error of one bad row, if the run stopped before it wrote that row's dead letter; otherwise empty.
    """

    name: str
    limit: Limit
    bad: int
    rows: int
    reason: str
    early: bool
    raised: str
    example: str = ""

    @property
    def flag(self) -> str:
        """The flag and its value, as a user types them."""
        return f"{FLAG}={self.limit.text}" if self.name == ALL else f"{FLAG} {self.name}={self.limit.text}"

    def __str__(self) -> str:
        """Returns the message: the number of bad rows, the limit, and the most frequent reason."""
        bad = part_of(self.bad, self.rows, "row", of_first=self.early)
        what, often = ("bad", f", most often {self.reason}") if self.name == ALL else (self.reason, "")
        stopped = " whatever follows" if self.early else ""
        example = f" ({self.example})" if self.example else ""
        return f"{bad} {what}, more than {self.flag} allows{stopped}{often}{example}"


class ErrorLimits:
    """The error limits of a run; a complete run exceeds none of them.

    Attributes:
        limits: The limits by name: a reason code, or `ALL`, which is always there.
    """

    def __init__(self, limits: Mapping[str, Limit]) -> None:
        """Takes the limits by name."""
        self.limits = limits

    def __eq__(self, other: object) -> bool:
        """Returns whether all limits have the same text: `0.1` and `0.10` differ."""
        return isinstance(other, ErrorLimits) and self.limits == other.limits

    @classmethod
    def parse(cls, texts: Sequence[str]) -> "ErrorLimits":
        """Reads the values of --max_bad_rows.

        >>> ErrorLimits.parse(["0.1,model_error=0", "null=5"]).texts()
        {'all': '0.1', 'model_error': '0', 'null': '5'}

        Args:
            texts: The values. Each has one or several limits, separated by commas: `LIMIT` for all bad rows,
                `REASON=LIMIT` for the bad rows of one reason.

        Raises:
            UsageError: A text is not a limit, its reason is unknown, a limit is given twice, or has no effect.
        """
        grouped = next((text for text in texts if THOUSANDS.fullmatch(text)), None)
        if grouped is not None:  # else a comma separates limits
            raise UsageError(f"{FLAG}: write {grouped} as {grouped.replace(',', '_')}; a comma separates limits")
        limits: dict[str, Limit] = {}
        for item in (item.strip() for text in texts for item in text.split(",")):
            name, _, number = item.rpartition("=")
            if "=" in item and name not in (known := [reason.value for reason in Reason]):
                raise UsageError(
                    f"{FLAG} {item}: there is no reason {name or '(empty)'}{nearest(name, known)}; there are "
                    f"{', '.join(known)}"
                )
            name, limit = name or ALL, _limit(number)
            if name in limits:
                raise UsageError(f"{FLAG} limits {name} twice: {limits[name].text} and {number}; give one of them")
            limits[name] = limit
        limits.setdefault(ALL, DEFAULT)
        for name, limit in limits.items():
            _check_effect(name, limit, limits[ALL])
        return cls(limits)

    @classmethod
    def recorded(cls, texts: Mapping[str, str]) -> "ErrorLimits":
        """Reads the error limits that a manifest records, in the form of `texts`."""
        return cls.parse(cls.items(texts))

    @staticmethod
    def items(texts: Mapping[str, str]) -> list[str]:
        """Converts limits in the form of `texts` into the texts that `parse` reads."""
        return [text if name == ALL else f"{name}={text}" for name, text in texts.items()]

    def texts(self) -> dict[str, str]:
        """Returns the text of each limit by its name, for the manifest."""
        return {name: limit.text for name, limit in self.limits.items()}

    def exceeded(self, dead: Mapping[str, int], rows: int, good_to_come: int | None = None) -> ExceededLimit | None:
        """Returns a limit that the run exceeds whatever the unread rows are; None if it may still keep all limits.

        So a run that would end within its limits is never stopped early. Limits of one reason are checked before the
        limit of all bad rows.

        Args:
            dead: Number of bad rows so far, by reason code.
            rows: Number of rows so far, good and bad.
            good_to_come: The most good rows that can still follow; None if all rows are read.
        """
        bad = sum(dead.values())
        most = Fraction(rows) if good_to_come is None else self._most_rows(rows - bad + good_to_come)
        for name, limit in sorted(self.limits.items(), key=lambda item: item[0] == ALL):
            count = bad if name == ALL else dead.get(name, 0)
            if limit.is_ratio and most is None:
                continue
            if not limit.allows(count, most or 0):
                often = name if name != ALL else max(dead, key=lambda reason: dead[reason])
                raised = ",".join(self.items(self.raised(dead, rows).texts()))
                return ExceededLimit(name, limit, count, rows, often, good_to_come is not None, raised)
        return None

    def raised(self, dead: Mapping[str, int], rows: int) -> "ErrorLimits":
        """Returns these limits, those that are exceeded raised to a ratio that allows the bad rows.

        Args:
            dead: Number of bad rows, by reason code.
            rows: Number of rows, good and bad, at least 1.
        """
        limits = {ALL: _raised(self.limits[ALL], sum(dead.values()), rows)}
        for name, limit in self.limits.items():
            if name != ALL:
                found = _raised(limit, dead.get(name, 0), rows)
                # A limit of one reason above the limit of all rows has no effect, and is refused.
                limits[name] = limits[ALL] if _is_above(found, limits[ALL]) else found
        return ErrorLimits(limits)

    def _most_rows(self, good: int) -> Fraction | None:
        """Returns the most rows that a run can have if it keeps the limit of all bad rows; None if there is no maximum.

        The rows that are not good are bad. If the limit is a number N, at most N rows are bad. If the limit is a ratio
        W, good rows are at least 1 - W of all rows.

        Args:
            good: The most good rows that the run can have.
        """
        limit = self.limits[ALL]
        if not limit.is_ratio:
            return good + limit.value
        return good / (1 - limit.value) if limit.value < 1 else None


DEFAULT = Limit("0.01")


def _limit(text: str) -> Limit:
    found = Limit.parse(text)
    if found is None:
        raise UsageError(
            f"{FLAG}: {text or '(nothing)'} is neither a number of rows nor a ratio from 0.0 to 1.0, or 0% to 100%"
        )
    return found


def _raised(limit: Limit, bad: int, rows: int) -> Limit:
    """Returns a limit that allows so many bad rows: the limit itself, or a ratio of two digits after the point."""
    if limit.allows(bad, rows):
        return limit
    return Limit(f"{min(1.0, math.ceil(100 * bad / rows + 1) / 100):.2f}")


def _is_above(limit: Limit, whole: Limit) -> bool:
    return limit.is_ratio == whole.is_ratio and limit.value > whole.value


def _check_effect(name: str, limit: Limit, whole: Limit) -> None:
    if _is_above(limit, whole):
        raise UsageError(
            f"{FLAG} {name}={limit.text} has no effect, since all bad rows together may be {whole.text}; "
            f"raise that too: {FLAG} {limit.text},{name}={limit.text}"
        )
