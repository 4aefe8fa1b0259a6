"""Describes what a job on Dataflow takes, for `keyjoin check` and for the report of a run."""

from collections.abc import Iterator

from pipeline.run_folder.records import JobCost
from pipeline.terminal import amounts


def cost_lines(cost: JobCost) -> Iterator[tuple[str, str]]:
    """Yields pairs of a name and a text.

    Args:
        cost: What the job takes.
    """
    hours = amounts.between(*(amounts.duration(3600 * hours) for hours in cost.hours))
    vcpu_hours = amounts.between(*(f"{hours:,.1f}" for hours in cost.vcpu_hours))
    workers = amounts.with_noun(cost.workers, "worker")
    yield "Dataflow", f"{hours} with {workers} of {cost.machine_type}, {vcpu_hours} vCPU-hours"
    if cost.price is None:
        yield "price", f"unknown: no price of {', '.join(cost.unknown)} ({cost.prices}); give --prices=FILE"
    else:
        price = amounts.between(*(amounts.money(amount, cost.currency) for amount in cost.price))
        yield "price", f"{price}, by {cost.prices}"
    if cost.fed_share is not None:
        share = f"{100 * cost.fed_share:.2g} %"
        yield "accelerator", f"reading the rows feeds about {share} of its peak, with 2 operations for each weight"
