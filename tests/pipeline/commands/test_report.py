"""`report.html` is written at the end of every run, and `keyjoin report` makes it again and prints the same."""

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

from pipeline.report import facts
from pipeline.report.distributions import moved
from pipeline.report.document import Caps, Note
from pipeline.report.drift import Drift
from pipeline.run_folder.names import REPORT, STATISTICS, SUCCESS
from pipeline.terminal.amounts import size
from tests.conftest import BOSTON, ROOT, Result
from tests.support.reports import Page

Run = Callable[..., Result]
GOOD = {"features": [0.1] * 13}
HOSTILE = "<script>alert(1)</script>\u202e"


def page_of(done: Result) -> str:
    return Page((done.output / REPORT).read_text()).text


@pytest.fixture
def run(keyjoin: Run, lines: Callable[..., str]) -> Callable[..., Result]:
    """Scores rows, with Boston's model."""

    def call(*rows: Any, flags: tuple[str, ...] = ()) -> Result:
        return keyjoin("run", f"--model={BOSTON / 'model'}", f"--input={lines(*rows)}", *flags)

    return call


def test_a_run_writes_its_report(run: Callable[..., Result]) -> None:
    done = run(*[GOOD] * 99, {"features": None})
    text = page_of(done)
    assert "The run is complete. Each of the 100 rows is joined to its prediction or is a dead letter." in text
    assert "null: 1 row, null value." in text
    assert f"in.jsonl#{99 * (len(json.dumps(GOOD)) + 1)} (line 100)" in text
    assert f"keyjoin replay --run={done.output}" in text


def test_the_time_section_has_the_figures_of_the_manifest(run: Callable[..., Result], keyjoin: Run) -> None:
    done = run(*[GOOD] * 99)
    document = json.loads((done.output / "_keyjoin/manifest.json").read_text())
    measured, seconds, estimate = document["measured"], document["seconds"], document["estimate"]
    said = [re.split(r" {2,}", line.strip()) for line in keyjoin("report", str(done.output)).out.splitlines()]
    spans = [float(line[1]) for line in said if line[-1].endswith("%") and "until" in line[0]]
    assert spans[0] == pytest.approx(measured["startup_seconds"], abs=0.051)
    assert sum(spans) == pytest.approx(seconds, abs=0.16)
    last, rows, _ = measured["timeline"][-1]
    rates = [line for line in said if re.fullmatch(r"[\d.]+ to [\d.]+", line[0]) and len(line) == 2]
    idle, scored = rates[-2:]
    assert (idle[0], idle[1]) == (f"0.0 to {measured['startup_seconds']:.1f}", "0")
    assert scored[1] == f"{rows / (last - measured['startup_seconds']):,.0f}"
    assert ["seconds", f"{estimate['seconds']:,.1f}", f"{seconds:,.1f}"] in said
    assert ["memory", size(estimate["memory"]), size(measured["peak_memory"])] in said
    written = document["totals"]["written_bytes"]
    assert ["bytes of the parts", f"{estimate['output_bytes']:,}", f"{written:,}"] in said
    assert ["most rows of a model call", f"{document['model']['batch_size']:,}"] in said


def test_the_command_prints_what_the_page_shows(run: Callable[..., Result], keyjoin: Run) -> None:
    done = run(*[GOOD] * 99, {"features": None})
    before = (done.output / REPORT).read_bytes()
    (done.output / REPORT).unlink()
    again = keyjoin("report", str(done.output))
    assert again.code == 0
    assert (done.output / REPORT).read_bytes() == before
    page = page_of(done)
    for line in again.out.splitlines()[:-1]:
        for cell in re.split(r" {2,}", line.strip(" =")):
            assert cell.partition("…")[0].strip().removeprefix("not shown: ")[:100] in page


def test_verify_accepts_the_report(run: Callable[..., Result], keyjoin: Run) -> None:
    done = run(GOOD)
    assert keyjoin("verify", f"--run={done.output}", "--read_data=100%").code == 0
    (done.output / REPORT).unlink()
    assert keyjoin("verify", f"--run={done.output}", "--read_data=100%").code == 0


def test_rows_are_hostile_and_the_page_is_not(run: Callable[..., Result]) -> None:
    done = run({**GOOD, HOSTILE: HOSTILE}, {"features": HOSTILE}, flags=("--max_bad_rows=1",))
    made = (done.output / REPORT).read_text()
    assert "<script" not in made
    assert "\u202e" not in made
    assert "<script>alert(1)</script>\\u202e" in Page(made).text


def test_no_value_of_a_row_is_shown_with_report_rows_0(run: Callable[..., Result], keyjoin: Run) -> None:
    rows = ({**GOOD, "name": "SECRET"}, {"features": "SECRET"})
    done = run(*rows, flags=("--max_bad_rows=1", "--report_rows=0"))
    over = run(*rows, flags=("--max_bad_rows=0", "--report_rows=0"))
    assert ("SECRET" in done.out + done.err + over.out + over.err, done.code, over.code) == (False, 0, 1)
    assert "in.jsonl#" in done.out
    assert "in.jsonl#" in over.err
    again = keyjoin("report", str(done.output))
    assert "SECRET" not in (done.output / REPORT).read_text() + again.out
    assert "in.jsonl#" in page_of(done)
    assert "SECRET" in keyjoin("report", str(done.output), "--report_rows=1").out


def test_a_run_over_its_error_limit_has_a_report(run: Callable[..., Result], keyjoin: Run) -> None:
    done = run(GOOD, *[{"features": None}] * 2, flags=("--max_bad_rows=1",))
    assert done.code == 1
    assert "error limit, all bad rows1: exceeded" in page_of(done)
    again = keyjoin("report", str(done.output))
    assert again.code == 0
    assert "no, over the error limit" in again.out or "no, unfinished" in again.out


def test_an_unfinished_run_shows_what_is_known(run: Callable[..., Result], keyjoin: Run) -> None:
    done = run(GOOD, GOOD)
    manifest = json.loads((done.output / "_keyjoin/manifest.json").read_text())
    job = {name: manifest[name] for name in ("schema_version", "options", "format", "model", "versions")}
    (done.output / SUCCESS).unlink()
    (done.output / "_keyjoin/manifest.json").unlink()
    (done.output / "_keyjoin/job.json").write_text(json.dumps({**job, "sources_sha256": "0" * 64}))
    receipts = done.output / "_keyjoin/temp/receipts"
    receipts.mkdir(parents=True)
    receipt = (done.output / "_keyjoin/parts.jsonl").read_bytes()
    (receipts / "in-00000-of-00001.jsonl.json").write_bytes(receipt)
    (receipts / "in-00001-of-00001.jsonl.json").write_bytes(b"{")
    again = keyjoin("report", str(done.output))
    assert again.code == 0
    assert "The run is unfinished. The report shows the parts that were written so far." in again.out
    assert "rows read" in again.out
    assert "Resume the run:" in again.out


def test_a_replay_writes_the_report_again(run: Callable[..., Result], keyjoin: Run, tmp_path: Path) -> None:
    done = run(*[GOOD] * 99, {"features": None})
    fixed = tmp_path / "fixed.jsonl"
    fixed.write_text(json.dumps({"key": done.dead()[0]["key"], "row": json.dumps(GOOD)}) + "\n")
    assert "There are no dead letters." not in page_of(done)
    assert keyjoin("replay", f"--run={done.output}", f"--rows={fixed}").code == 0
    assert "There are no dead letters." in page_of(done)


def test_an_added_file_changes_the_report(keyjoin: Run, lines: Callable[..., str], tmp_path: Path) -> None:
    folder = Path(lines(GOOD)).parent
    flags = (f"--model={BOSTON / 'model'}", f"--input={folder}", f"--output={tmp_path / 'out'}")
    done = keyjoin("run", *flags)
    lines(GOOD, GOOD, name="more.jsonl")
    assert keyjoin("run", *flags, "--incremental").code == 0
    assert "Each of the 3 rows" in page_of(done)


def test_a_report_that_cannot_be_made_is_a_warning(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(output: str) -> None:
        raise ValueError(f"a fault in {output}")

    monkeypatch.setattr(facts, "gather", fail)
    done = run(GOOD)
    assert done.code == 0
    assert done.complete()
    assert "warning: " in done.err
    assert f"report.html is not written: a fault in {done.output}; make it with: keyjoin report" in done.err


def test_a_complete_run_without_a_report_gets_one(keyjoin: Run, lines: Callable[..., str], tmp_path: Path) -> None:
    flags = (f"--model={BOSTON / 'model'}", f"--input={lines(GOOD)}", f"--output={tmp_path / 'out'}")
    done = keyjoin("run", *flags)
    (done.output / REPORT).rename(done.output / f"_keyjoin/_report.html.{'0' * 32}.tmp")  # as after a kill
    assert keyjoin("run", *flags).code == 0
    assert "The run is complete." in page_of(done)
    assert [path.name for path in (done.output / "_keyjoin").iterdir() if path.suffix == ".tmp"] == []


def test_a_run_is_compared_with_a_baseline(run: Callable[..., Result], keyjoin: Run) -> None:
    base = run(*[{"features": [0.1 * at] * 13} for at in range(200)])
    moved = run(*[{"features": [30.0 + 0.1 * at] * 13} for at in range(200)])
    again = keyjoin("report", str(moved.output), f"--baseline={base.output}")
    assert again.code == 0
    assert f"Compared with {base.output}. 14 columns moved: features[0], features[1]" in again.out
    assert f"Compared with {base.output}. 14 columns moved: features[0], features[1]" in page_of(moved)
    same = keyjoin("report", str(base.output), f"--baseline={base.output}")
    assert f"Compared with {base.output}. No column moved." in same.out
    few = run({"features": [1.0] * 13})
    assert "too few rows" in keyjoin("report", str(few.output), f"--baseline={base.output}").out
    refused = keyjoin("report", str(base.output), f"--baseline={base.output.parent}")
    assert refused.code == 2
    assert f"--baseline {base.output.parent} holds no finished run with" in refused.err


def test_a_run_without_joined_rows_says_so_and_can_be_a_baseline(run: Callable[..., Result], keyjoin: Run) -> None:
    bad = run({"features": None}, flags=("--max_bad_rows=100%",))
    assert bad.code == 0
    assert "No row is joined." in page_of(bad)
    good = run(GOOD)
    assert "No row is joined." not in page_of(good)
    again = keyjoin("report", str(good.output), f"--baseline={bad.output}")
    assert (again.code, again.err) == (0, "")
    assert "Not compared: 14 columns only in the run." in again.out


def test_columns_that_only_the_baseline_has_are_a_warning() -> None:
    lost = Drift("x", "feature", 0, 9, 0, 0.0, 0.0, 0.0, "only in the baseline")
    same = Drift("y", "feature", 9, 9, 0, 0.0, 0.0, 0.0, "same")
    first, second, _ = moved([lost, same], "base", Caps())
    assert isinstance(first, Note)
    assert isinstance(second, Note)
    assert first.level == "warning"
    assert second.text == "Not compared: 1 column only in the baseline."


def test_a_run_without_statistics_is_not_compared(run: Callable[..., Result], keyjoin: Run) -> None:
    base, done = run(GOOD), run(GOOD)
    (done.output / STATISTICS).unlink()
    again = keyjoin("report", str(done.output), f"--baseline={base.output}")
    assert again.code == 2
    assert f"{done.output} has no {STATISTICS} to compare with --baseline" in again.err


def test_constant_and_non_finite_predictions_are_flagged(run: Callable[..., Result]) -> None:
    text = page_of(run(*[GOOD] * 3))
    assert "1 prediction with the same value in all rows: prediction." in text
    assert "13 features with the same value in all rows" in text


def test_a_notebook_shows_the_report(run: Callable[..., Result], tmp_path: Path) -> None:
    done = run({**GOOD, "name": HOSTILE})
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(f"import keyjoin\nkeyjoin.report({str(done.output)!r})")]
    )
    config = Config({"KernelManager": {"transport": "ipc", "ip": str(tmp_path / "kernel")}})
    NotebookClient(notebook, resources={"metadata": {"path": str(ROOT)}}, config=config).execute()
    data = notebook.cells[0].outputs[-1].data
    shown = data["text/html"]
    assert data["text/plain"].startswith("Verdict\n=======\nThe run is complete.")
    frame = HTMLParser()
    found: list[tuple[str, dict[str, str | None]]] = []
    frame.handle_starttag = lambda tag, attrs: found.append((tag, dict(attrs)))  # type: ignore[method-assign]
    frame.feed(shown)
    ((tag, attributes),) = found
    assert (tag, attributes["sandbox"]) == ("iframe", "")
    assert attributes["srcdoc"] == (done.output / REPORT).read_text()


def test_rows_that_were_scored_once_are_counted(run: Callable[..., Result]) -> None:
    done = run(GOOD, GOOD, GOOD, flags=("--dedup",))
    assert done.manifest()["totals"]["saved"] == 2
    cells = '<th scope="row">with the inputs of another row, which --dedup scored for them</th><td class="n">2</td>'
    assert cells in (done.output / REPORT).read_text()


def test_a_folder_without_a_run_is_refused(keyjoin: Run, tmp_path: Path) -> None:
    done = keyjoin("report", str(tmp_path))
    assert done.code == 2
    assert f"{tmp_path} holds no run of keyjoin; give the folder that was its --output" in done.err
    assert not (tmp_path / "_keyjoin").exists()


@pytest.mark.parametrize("name", ["parts.jsonl", "sources.jsonl"])
def test_a_list_that_is_gone_is_named(run: Callable[..., Result], keyjoin: Run, name: str) -> None:
    done = run(GOOD)
    (done.output / "_keyjoin" / name).unlink()
    again = keyjoin("report", str(done.output))
    assert again.code == 1
    assert f"_keyjoin/{name} is gone; this lists what is missing: keyjoin verify --run=" in again.err


def test_a_part_that_is_gone_is_said(run: Callable[..., Result], keyjoin: Run) -> None:
    done = run(GOOD)
    for part in done.output.glob("in*.jsonl"):
        part.unlink()
    again = keyjoin("report", str(done.output))
    assert again.code == 0
    assert "No joined row can be read from the parts" in again.out
    assert "There is no joined row to show." not in again.out


def test_a_manifest_with_dead_letters_of_no_rows_has_a_report(run: Callable[..., Result], keyjoin: Run) -> None:
    done = run(GOOD, {"features": None}, flags=("--max_bad_rows=1",))
    manifest = done.output / "_keyjoin/manifest.json"
    found = json.loads(manifest.read_text())
    found["totals"]["rows"] = 0
    manifest.write_text(json.dumps(found))
    assert "no _SUCCESS that fits the manifest" in keyjoin("report", str(done.output)).out


def test_a_damaged_dead_letter_is_named(run: Callable[..., Result], keyjoin: Run) -> None:
    done = run(*[GOOD] * 99, {"features": None})
    letters = done.output / "_keyjoin/dead_letters/in-00000-of-00001.jsonl"
    letters.write_bytes(b"{" + letters.read_bytes())
    again = keyjoin("report", str(done.output))
    assert again.code == 1
    assert f"{letters} is damaged" in again.err


@pytest.mark.parametrize(
    "altered",
    [{"bins": [[16256, -3]]}, {"bins": [[16256, 10**30]]}, {"bins": [[1 << 16, 1]]}, {"bits": 17}, {"rows": 0}],
    ids=["negative", "huge", "no_bin", "bits", "more_than_rows"],
)
def test_damaged_statistics_are_named(run: Callable[..., Result], keyjoin: Run, altered: dict[str, Any]) -> None:
    done = run(GOOD)
    counted = done.output / STATISTICS
    found = json.loads(counted.read_text())
    found["columns"][0] |= altered
    counted.write_text(json.dumps(found))
    again = keyjoin("report", str(done.output))
    assert again.code == 1
    assert f"{counted} is damaged" in again.err


def test_a_link_in_place_of_the_folder_is_not_followed(
    run: Callable[..., Result], keyjoin: Run, tmp_path: Path
) -> None:
    done = run(GOOD)
    own, away = done.output / "_keyjoin", tmp_path / "away"
    shutil.move(own, away)
    own.symlink_to(away)
    before = (away / "report.html").stat().st_mtime_ns
    assert keyjoin("report", str(done.output)).code in (1, 2)
    assert (away / "report.html").stat().st_mtime_ns == before
