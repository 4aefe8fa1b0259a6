"""Counts what the fault tests tried; the suite prints the figures at its end."""


class Counts:
    """Figures by name.

    Attributes:
        soak: Whether this session tries all faults instead of a sample.
        found: Name -> number.
    """

    def __init__(self, *, soak: bool) -> None:
        self.soak = soak
        self.found: dict[str, int] = {}

    def __call__(self, name: str, number: int) -> None:
        """Records a figure. A test that injected no fault proves nothing, so 0 fails the test."""
        assert number > 0, f"{name}: none was tried"
        self.found[name] = number

    def lines(self) -> list[str]:
        width = max(map(len, self.found), default=0)
        return [f"{name:<{width}}  {number:>8,}" for name, number in self.found.items()]
