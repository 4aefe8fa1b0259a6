"""keyjoin's Python API: scores the rows of a Beam pipeline, and shows the report of a run.

Everything else in keyjoin's packages may change from one release to the next.
"""

from typing import TYPE_CHECKING, Any

from pipeline import VERSION
from transforms.errors import RunError, UsageError
from transforms.reasons import Reason

if TYPE_CHECKING:
    from pipeline.report.notebook import Report, report
    from transforms.keyed_predict import DeadRow, KeyedPredict

__version__ = VERSION
__all__ = ["DeadRow", "KeyedPredict", "Reason", "Report", "RunError", "UsageError", "__version__", "report"]


def __getattr__(name: str) -> Any:
    """Imports Beam, or what a report needs, once a name that needs it is used."""
    if name in ("DeadRow", "KeyedPredict"):
        from transforms import keyed_predict

        return getattr(keyed_predict, name)
    if name in ("Report", "report"):
        from pipeline.report import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
