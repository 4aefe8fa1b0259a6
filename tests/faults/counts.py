"""The figures that the suite counts: told at its end, and held in docs/testing.md, which has to be current."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
LINE = re.compile(r"^\| ([^|]+?) \| ([\d,]+) \|$", re.MULTILINE)


class Counts:
    """What was counted so far, by name."""

    def __init__(self, *, soak: bool) -> None:
        self.soak = soak
        self.found: dict[str, int] = {}
        self._documented = {name: int(number.replace(",", "")) for name, number in LINE.findall(PAGE.read_text())}

    def __call__(self, name: str, number: int) -> None:
        """Keeps a figure; a soak has others than the page."""
        self.found[name] = number
        if not self.soak:
            held = self._documented.get(name)
            assert held == number, f"docs/testing.md has {held} for {name!r}, counted were {number}: correct it there"

    def lines(self) -> list[str]:
        width = max(map(len, self.found), default=0)
        return [f"{name:<{width}}  {number:>8,}" for name, number in self.found.items()]
