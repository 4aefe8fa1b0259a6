"""Error limits: how many bad rows a complete run may have, in all and by reason."""

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from transforms.errors import UsageError, nearest
from transforms.reasons import Reason

FLAG = "--max_bad_rows"
ALL = "all"  # the name of the limit for bad rows of any reason
NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE]-?\d{1,2})?", re.ASCII)


class Limit(NamedTuple):
    """A number of rows, or a share of the rows read.

    Attributes:
        text: As given: `10` is a number, `0.01` and `1.0` are shares.
    """

    text: str

    @property
    def is_ratio(self) -> bool:
        """Whether it is a share."""
        return not self.text.isdigit()

    @property
    def value(self) -> Fraction:
        """The number or the share, exactly: 0.29 of 100 rows are 29, which no float says."""
        return Fraction(self.text)

    def allows(self, bad: int, rows: int | Fraction) -> bool:
        """Whether so many bad rows among so many rows are within the limit.

        >>> Limit("0.01").allows(1, 100), Limit("0").allows(1, 100)
        (True, False)
        """
        return bad <= (self.value * rows if self.is_ratio else self.value)


class ExceededLimit(NamedTuple):
    """A limit that is exceeded.

    Attributes:
        name: Whose limit: a reason code, or `ALL`.
        limit: The limit.
        bad: How many rows count for it.
        rows: Rows read.
        reason: The reason code of most of these bad rows.
        early: Whether rows are left that were not read.
        example: What was wrong with a row that has no dead letter, since the run stopped before; or empty.
    """

    name: str
    limit: Limit
    bad: int
    rows: int
    reason: str
    early: bool
    example: str = ""

    @property
    def flag(self) -> str:
        """The limit as it is given."""
        return f"{FLAG}={self.limit.text}" if self.name == ALL else f"{FLAG} {self.name}={self.limit.text}"

    def __str__(self) -> str:
        """What is exceeded, by how much, and by what."""
        first = "the first " if self.early else ""
        what, often = ("bad", f", most often {self.reason}") if self.name == ALL else (self.reason, "")
        stopped = " whatever follows" if self.early else ""
        example = f" ({self.example})" if self.example else ""
        return (
            f"{self.bad} of {first}{self.rows} rows are {what}, more than {self.flag} allows{stopped}{often}{example}"
        )


class ErrorLimits:
    """Limits that must all be kept.

    Attributes:
        limits: By reason code, and by `ALL`, which is always among them.
    """

    def __init__(self, limits: Mapping[str, Limit]) -> None:
        """Keeps them."""
        self.limits = limits

    def __eq__(self, other: object) -> bool:
        """Whether the limits are the same, in the same spelling."""
        return isinstance(other, ErrorLimits) and self.limits == other.limits

    @classmethod
    def parse(cls, texts: Sequence[str]) -> "ErrorLimits":
        """Reads what was given.

        >>> ErrorLimits.parse(["0.1,model_error=0", "null=5"]).texts()
        {'all': '0.1', 'model_error': '0', 'null': '5'}

        Args:
            texts: Limits with commas between them: `LIMIT` for all bad rows, `REASON=LIMIT` for those of a reason.

        Raises:
            UsageError: One of them is no limit, has no known reason, is given twice, or has no effect.
        """
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
        """The error limits of a manifest, see `texts`."""
        return cls.parse(cls.items(texts))

    @staticmethod
    def items(texts: Mapping[str, str]) -> list[str]:
        """What to give for limits as `texts` has them."""
        return [text if name == ALL else f"{name}={text}" for name, text in texts.items()]

    def texts(self) -> dict[str, str]:
        """The limits as given, for the manifest."""
        return {name: limit.text for name, limit in self.limits.items()}

    def exceeded(self, dead: Mapping[str, int], rows: int, good_to_come: int | None = None) -> ExceededLimit | None:
        """The limit that is exceeded, whatever is still to come; limits of a reason are looked at first.

        A run that would end within its error limits has none at any time.

        Args:
            dead: Bad rows by reason, so far.
            rows: Rows, so far, good and bad.
            good_to_come: More good rows than that cannot follow; None if no row does.
        """
        bad = sum(dead.values())
        most = Fraction(rows) if good_to_come is None else self._most_rows(rows - bad + good_to_come)
        for name, limit in sorted(self.limits.items(), key=lambda item: item[0] == ALL):
            count = bad if name == ALL else dead.get(name, 0)
            if limit.is_ratio and most is None:
                continue
            if not limit.allows(count, most or 0):
                often = name if name != ALL else max(dead, key=lambda reason: dead[reason])
                return ExceededLimit(name, limit, count, rows, often, good_to_come is not None)
        return None

    def _most_rows(self, good: int) -> Fraction | None:
        """How many rows a run with so many good ones has at most, if it keeps the limit for all; None if any number.

        The others are bad: at most N, or a share W, and then the good ones are a share of at least 1 - W.
        """
        limit = self.limits[ALL]
        if not limit.is_ratio:
            return good + limit.value
        return good / (1 - limit.value) if limit.value < 1 else None


DEFAULT = Limit("0.01")


def _limit(text: str) -> Limit:
    limit = Limit(text)
    if not NUMBER.fullmatch(text) or (limit.is_ratio and limit.value > 1):
        raise UsageError(f"{FLAG}: {text or '(nothing)'} is neither a number of rows nor a ratio from 0.0 to 1.0")
    return limit


def _check_effect(name: str, limit: Limit, whole: Limit) -> None:
    if limit.is_ratio == whole.is_ratio and limit.value > whole.value:
        raise UsageError(
            f"{FLAG} {name}={limit.text} has no effect, since all bad rows together may be {whole.text}; "
            f"raise that too: {FLAG} {limit.text},{name}={limit.text}"
        )
