"""The time and price of a job on Dataflow, and the limits that refuse a run before it starts."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from hypothesis import given
from hypothesis import strategies as st

from pipeline.job.accelerators import Machine
from pipeline.job.cost import Fleet, cost_of, fed_share, hours_of, items_of
from pipeline.job.estimates import estimated
from pipeline.options.run_options import parse_run
from pipeline.plan import estimate, prices
from pipeline.plan.preflight import Plan, find_inputs, prepare
from pipeline.plan.prices import Prices
from tests.conftest import BOSTON, Result
from tests.support.models import plain
from transforms.errors import UsageError

MACHINE = Machine("n2-standard-4", 4, 16)
ITEMS = ("vcpu_hour", "memory_gb_hour", "disk_gb_hour", "shuffle_gb")
fleets = st.builds(Fleet, st.integers(1, 1_000), st.just(MACHINE), st.just(25), st.none())
works = st.floats(0, 1e9)


@given(works, works, fleets)
def test_more_work_takes_longer_and_costs_more(work: float, more: float, fleet: Fleet) -> None:
    found = Prices("USD", dict.fromkeys(ITEMS, 0.5), "a file")
    one, both = (cost_of((size, size), fleet, size, found) for size in (work, work + more))
    assert one.price is not None
    assert both.price is not None
    for low, high in (one.hours, one.vcpu_hours, one.price):
        assert low <= high
    assert one.hours[1] <= both.hours[1]
    assert one.price[1] <= both.price[1] * (1 + 1e-12)


@given(works, works, fleets)
def test_the_time_of_work_is_additive_beside_the_start(work: float, more: float, fleet: Fleet) -> None:
    both = hours_of(work, fleet, 0.5, 0.0) + hours_of(more, fleet, 0.5, 0.0)
    assert math.isclose(hours_of(work + more, fleet, 0.5, 0.0), both, rel_tol=1e-9, abs_tol=1e-12)


def test_each_item_is_that_of_all_workers() -> None:
    fleet = Fleet(3, MACHINE, 30, ("nvidia-l4", 2))
    expected = {
        "vcpu_hour": 24.0,
        "memory_gb_hour": 96.0,
        "disk_gb_hour": 180.0,
        "shuffle_gb": 2.0,
        "nvidia-l4": 12.0,
    }
    assert items_of(2.0, fleet, 1e9) == expected


def test_a_price_that_is_not_known_makes_the_sum_unknown() -> None:
    found = Prices("USD", {name: 1.0 for name in ITEMS if name != "shuffle_gb"}, "a file")
    cost = cost_of((1.0, 1.0), Fleet(1, MACHINE), 1e9, found)
    assert (cost.price, cost.unknown) == (None, ("shuffle_gb",))


def test_each_list_price_has_a_date_and_a_source() -> None:
    rows = json.loads(prices.TABLE.read_text())["prices"]
    assert {row["item"] for row in rows} == set(ITEMS)
    for row in rows:
        time.strptime(row["date"], "%Y-%m-%d")
        assert row["source"]
    assert prices.read("us-central1", None).of == {row["item"]: row["price"] for row in rows}
    assert prices.read("mars-north1", None).of == {}


@pytest.mark.parametrize("text", ["", "[1]", '{"vcpu_hour": -1}', '{"vcpu_hour": "x"}', '{"currency": 1}'])
def test_a_file_that_has_no_prices_is_refused_with_an_example(tmp_path: Path, text: str) -> None:
    (tmp_path / "prices.json").write_text(text)
    with pytest.raises(UsageError, match="is no JSON object of prices") as refused:
        prices.read(None, f"{tmp_path}/prices.json")
    example = str(refused.value).partition("write one as ")[2]
    (tmp_path / "prices.json").write_text(example)
    assert set(prices.read(None, f"{tmp_path}/prices.json").of) == set(ITEMS)


@pytest.fixture
def flags(tmp_path: Path, model: Callable[..., str]) -> list[str]:
    (tmp_path / "rows.jsonl").write_text('{"x": [1, 2, 3]}\n' * 100)
    return [f"--input={tmp_path}/rows.jsonl", f"--model={model(plain)}", f"--output={tmp_path}/out"]


def on_dataflow(flags: list[str], *more: str, region: str = "us-central1") -> Plan:
    options, beam_args = parse_run([*flags, *more], "keyjoin run")
    beam_options = PipelineOptions(["--runner=DataflowRunner", f"--region={region}", *beam_args])
    with prepare(options, find_inputs(options), local=False) as plan:
        return estimated(plan, options, beam_options, time.monotonic())


def test_a_job_has_workers_hours_and_a_price(flags: list[str]) -> None:
    plan = on_dataflow(flags)
    cost = plan.settings.cost
    assert cost is not None
    assert plan.settings.estimate is not None
    assert (cost.workers, cost.machine_type, cost.currency) == (1, "n2-standard-4", "USD")
    assert "2023-09-18" in cost.prices
    assert cost.price is not None
    assert cost.price[0] > 0
    assert plan.settings.estimate.output_bytes > 0
    cost = on_dataflow(flags, "--num_workers=3", "--worker_machine_type=e2-highmem-8").settings.cost
    assert cost is not None
    assert (cost.workers, cost.machine_type) == (3, "e2-highmem-8")


def test_a_job_beyond_its_limits_is_refused_with_figures(flags: list[str]) -> None:
    with pytest.raises(UsageError, match=r"--max_hours=0.001 is less than the .* with 1 worker,.*--max_num_workers=2"):
        on_dataflow(flags, "--max_hours=0.001")
    with pytest.raises(UsageError, match=r"--max_cost=0.0001 is less than the 0.0\d USD that this job costs"):
        on_dataflow(flags, "--max_cost=0.0001")
    assert on_dataflow(flags, "--max_cost=5", "--max_hours=1").settings.cost is not None


def test_an_unknown_price_is_named_and_a_file_gives_it(flags: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--max_cost=5 needs the price of vcpu_hour, memory_gb_hour") as refused:
        on_dataflow(flags, "--max_cost=5", region="europe-west6")
    assert prices.EXAMPLE in str(refused.value)
    (tmp_path / "mine.json").write_text(prices.EXAMPLE)
    plan = on_dataflow(flags, "--max_cost=5", f"--prices={tmp_path}/mine.json", region="europe-west6")
    assert plan.settings.cost is not None
    assert plan.settings.cost.currency == "EUR"


def test_an_accelerator_without_a_price_makes_it_unknown(flags: list[str]) -> None:
    cost = on_dataflow(flags, "--accelerator=type:nvidia-l4;count:1").settings.cost
    assert cost is not None
    assert (cost.unknown, cost.machine_type) == (("nvidia-l4",), "g2-standard-4")


def test_the_share_of_an_accelerator_that_rows_can_feed(tmp_path: Path) -> None:
    flags = [f"--input={BOSTON}/data/*.jsonl", f"--model={BOSTON}/model", f"--output={tmp_path}/out"]
    plan = on_dataflow(flags, "--accelerator=type:nvidia-l4;count:1")
    assert plan.settings.cost is not None
    one, two = (fed_share(plan, Fleet(1, MACHINE, 25, ("nvidia-l4", count))) for count in (1, 2))
    assert one is not None
    assert two is not None
    assert plan.settings.cost.fed_share == one
    assert one == 2 * two > 0
    assert plan.trial is not None
    slow = plan._replace(trial=plan.trial._replace(read_seconds=10 * plan.trial.read_seconds))
    assert math.isclose(fed_share(slow, Fleet(1, MACHINE, 25, ("nvidia-l4", 1))) or 0, one / 10)
    assert fed_share(plan, Fleet(1, MACHINE, 25, ("tpu-v9", 1))) is None
    assert fed_share(plan, Fleet(1, MACHINE)) is None


def test_a_run_here_beyond_its_hours_is_refused_before_it_writes(
    keyjoin: Callable[..., Result], flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(estimate, "GRAPH_SECONDS", 7200.0)
        for command in ("run", "check"):
            done = keyjoin(command, *flags, "--max_hours=1")
            assert done.code == 2
            assert "--max_hours=1 is less than the 2 h" in done.err
            assert not (tmp_path / "out").exists()
    assert "--max_cost=1 is for Dataflow" in keyjoin("check", *flags, "--max_cost=1").err
    assert "--prices=x.json is for Dataflow; leave it out" in keyjoin("check", *flags, "--prices=x.json").err
    assert "not PrismRunner" in keyjoin("check", *flags, "--max_hours=1", "--runner=PrismRunner").err
    assert keyjoin("run", *flags, "--max_hours=1").complete()
