"""Workers with an accelerator get a machine type that supports it; other machine types are refused."""

import re
from types import SimpleNamespace

import pytest
from apache_beam.options.pipeline_options import PipelineOptions, WorkerOptions

from pipeline.job.accelerators import MACHINES, Hint, check
from pipeline.job.dataflow import machine_for, set_defaults
from pipeline.job.graph import Job
from pipeline.options.run_options import parse_run
from pipeline.plan.chunk_size import Expected
from pipeline.plan.preflight import Plan
from tests.conftest import ROOT
from transforms.errors import UsageError
from transforms.formats.spec import FormatSpec

KNOWN = [(kind, number) for kind, numbers in MACHINES.items() for number in numbers]
SHOWN = re.compile(r"--accelerator '([^']*)'")


def plan(accelerator: str | None, model: int = 0) -> Plan:
    handler = SimpleNamespace(shared=True)
    job = Job(FormatSpec("jsonl"), 64 << 20, None, handler, None, "gs://b/out", accelerator=accelerator)  # type: ignore[arg-type]
    expected, settings = Expected(0.0, 64 << 20), SimpleNamespace(run=None)
    return Plan(
        job=job,
        sources=[],
        skipped=[],
        twins=(),
        settings=settings,  # type: ignore[arg-type]
        by_content=False,
        findings=(),
        expected=expected,
        model=SimpleNamespace(bytes=model),  # type: ignore[arg-type]
        memory=None,
    )


def settled(accelerator: str | None, *flags: str) -> tuple[str | None, str]:
    """The resource hint that is sent to Dataflow, and the machine type of all other workers."""
    options = PipelineOptions(["--project=p", "--region=r", *flags])
    found = set_defaults(plan(accelerator), options).job.accelerator
    return found, options.view_as(WorkerOptions).machine_type


@pytest.mark.parametrize(("kind", "number"), KNOWN)
def test_the_hint_names_a_machine_that_has_the_accelerator(kind: str, number: int) -> None:
    hint = f"type:{kind};count:{number};install-nvidia-driver"
    check(hint, None)
    sent, others = settled(hint)
    assert sent is not None
    assert others == "n2-standard-4"
    machine = Hint.of(sent).machine
    assert machine in {m.name for m in MACHINES[kind][number]}
    check(sent, "n2-standard-4")  # the machine type of workers without the accelerator
    for other in ("n2-standard-4", "e2-standard-2"):
        with pytest.raises(UsageError, match=f"--machine_type={other} cannot have {number} of {kind}") as caught:
            check(hint, other)
        remedy = SHOWN.search(str(caught.value).replace("=", " "))
        assert remedy is not None
        check(remedy[1], other)
        assert settled(remedy[1], f"--machine_type={other}") == (remedy[1], other)


def test_the_commands_of_the_docs_name_an_accelerator_and_a_machine_that_has_it() -> None:
    commands = SHOWN.findall((ROOT / "docs" / "dataflow.md").read_text())
    assert len(commands) == 2
    for text in commands:
        given = parse_run(["--model=m", "--input=i", "--output=o", f"--accelerator={text}"], "")[0].accelerator
        check(given, None)
        sent, _ = settled(given)
        assert sent is not None
        assert sent.endswith(";install-nvidia-driver")
        assert str(Hint.of(sent).machine).startswith("g2-standard-")


def test_the_table_of_the_docs_has_every_accelerator() -> None:
    text = (ROOT / "docs" / "dataflow.md").read_text()
    rows = [line.split("|")[1:4] for line in text.splitlines() if line.startswith("| `nvidia-")]
    shown = {
        kind: [int(n) for n in counts.split(",")] for kinds, _, counts in rows for kind in re.findall("`(.*?)`", kinds)
    }
    assert shown == {kind: list(numbers) for kind, numbers in MACHINES.items()}


def test_a_machine_type_that_fits_is_taken() -> None:
    assert settled("type:nvidia-l4;count:1", "--machine_type=g2-standard-8") == (
        "type:nvidia-l4;count:1;machine_type:g2-standard-8",
        "g2-standard-8",
    )
    for fits in ("n1-standard-4", "n1-highmem-2", "n1-custom-4-8192", "custom-4-8192"):
        check("type:nvidia-tesla-t4;count:1", fits)
    assert settled(None) == (None, "n2-standard-4")


def test_what_no_machine_has_is_refused() -> None:
    with pytest.raises(UsageError, match=r"a worker has 1, 2, 4, 8 of nvidia-l4; give one of these as count"):
        check("type:nvidia-l4;count:3", None)
    with pytest.raises(UsageError, match=r"name one: --accelerator='type:own;count:1;machine_type:MACHINE'"):
        check("type:own;count:1", None)
    check("type:own;count:1;machine_type:x1", None)


def test_a_large_model_gets_a_larger_machine() -> None:
    fitting = MACHINES["nvidia-l4"][1]
    assert [machine_for(plan(None, size << 30), fitting).name for size in (0, 8, 20, 1000)] == [
        "g2-standard-4",
        "g2-standard-8",
        "g2-standard-16",
        "g2-standard-32",
    ]
