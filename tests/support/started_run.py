"""Prepares the output folder of a run whose graph the test runs by itself."""

import msgspec

from pipeline.plan.preflight import Plan
from pipeline.run_folder import resume
from pipeline.run_folder.records import Run

RUN = "0123456789ab"


def begin(plan: Plan, *, overwrite: bool = False) -> str:
    """Prepares the output folder of a plan for its graph, and returns the id of the run."""
    settings = msgspec.structs.replace(plan.settings, run=Run(id=RUN))
    resume.begin(plan.job.place, settings, plan.sources, None, [], overwrite=overwrite)
    return RUN
