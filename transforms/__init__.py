"""keyjoin's transforms: each one a file, named after its verb, with the pure functions that it wires."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transforms.keyed_predict import DeadRow, KeyedPredict

__all__ = ["DeadRow", "KeyedPredict"]


def __getattr__(name: str) -> Any:
    """Imports what is asked for only then, so that a command line error needs no Beam to be told."""
    if name in __all__:
        from transforms import keyed_predict

        return getattr(keyed_predict, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
