"""Defines how far two values of a prediction may differ and still count as the same."""

import math
from typing import NamedTuple


class Tolerance(NamedTuple):
    """The largest difference of two values that counts as none.

    Attributes:
        value: The difference.
        is_relative: Whether it is relative to the larger magnitude of the two values.
    """

    value: float = 0.0
    is_relative: bool = False

    @classmethod
    def parse(cls, text: str) -> "Tolerance":
        """Reads a tolerance: `1e-5` is absolute, `0.1%` is relative.

        Raises:
            ValueError: The text is neither.

        >>> Tolerance.parse("1e-5"), Tolerance.parse("1%")
        (Tolerance(value=1e-05, is_relative=False), Tolerance(value=0.01, is_relative=True))
        """
        is_relative = text.endswith("%")
        try:
            value = float(text.removesuffix("%")) / (100 if is_relative else 1)
        except ValueError:
            value = -1
        if not 0 <= value < math.inf:
            raise ValueError(f"{text!r} is not a difference such as 1e-5, or a relative one such as 0.1%")
        return cls(value, is_relative)

    def __str__(self) -> str:
        """Returns the text that `parse` reads."""
        return f"{self.value * 100:.15g}%" if self.is_relative else f"{self.value:.15g}"


EXACT = Tolerance()
