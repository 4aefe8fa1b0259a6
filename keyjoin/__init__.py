"""keyjoin's Python API: scores the rows of a Beam pipeline and gives each prediction back to its row.

Everything else in keyjoin's packages may change from one release to the next.
"""

from typing import TYPE_CHECKING, Any

from pipeline import VERSION
from transforms.errors import RunError, UsageError
from transforms.reasons import Reason

if TYPE_CHECKING:
    from transforms.keyed_predict import DeadRow, KeyedPredict

__version__ = VERSION
__all__ = ["DeadRow", "KeyedPredict", "Reason", "RunError", "UsageError", "__version__"]


def __getattr__(name: str) -> Any:
    """Imports Beam once a name that needs it is used."""
    if name in ("DeadRow", "KeyedPredict"):
        from transforms import keyed_predict

        return getattr(keyed_predict, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
