"""Resume: files of an earlier run count if they are correct and of the same job; no other files do."""

import doctest
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from pipeline.job import progress, waves
from pipeline.terminal.signals import Stopped
from tests.conftest import ROOT, Result
from tests.support import models
from tests.support.interrupted_run import content, scored
from tests.support.paused_run import held
from transforms.errors import RunError
from transforms.records import Chunk, PartReceipt
from transforms.skip_finished import FINISHED, UNFINISHED, SkipFinished, find_finished
from transforms.storage import files
from transforms.write_part import dead_letters_name
from transforms.write_receipts import encode, read_list, receipt_path, write_receipt


class TestAfterAKill:
    """A run is killed at some point, and the same command is given again."""

    @pytest.mark.parametrize(
        ("function", "number"),
        [("transforms.write_part.write_receipt", 4), ("pipeline.run_folder.manifest.success_of", 1)],
    )
    def test_the_same_command_gives_the_bytes_of_a_run_that_was_left_alone(
        self, keyjoin: Callable[..., Result], flags: list[str], tmp_path: Path, function: str, number: int
    ) -> None:
        whole = keyjoin("run", *flags)
        assert whole.code == 0, whole.err
        output = f"--output={tmp_path / 'out-k'}"
        with held(function, number, "run", *flags, output) as (process, _):
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        killed = tmp_path / "out-k"
        assert not (killed / "_SUCCESS").exists()
        assert (killed / "_keyjoin/lock").exists()
        # A file with a temporary name may be half written.
        parts = [p for p in killed.rglob("*-of-*") if "temp" not in p.parts and p.suffix != ".tmp"]
        before = {p: p.stat().st_mtime_ns for p in parts}
        assert before
        again = keyjoin("run", *flags, output)
        assert (again.code, again.complete()) == (0, True), again.err
        assert "resumes" in again.out
        # The rate is that of the rows which an attempt scores; killed at its end, a run has none left.
        scores_again = function.endswith("write_receipt")
        assert ["without the start-up" in done.out for done in (whole, again)] == [True, scores_again]
        assert content(killed) == content(whole.output)
        kept = [p for p, written in before.items() if p.stat().st_mtime_ns == written]
        assert len(kept) >= 2

    def test_wherever_it_ends_it_resumes_and_never_looks_complete_before(
        self, keyjoin: Callable[..., Result], flags: list[str], data: Path, tmp_path: Path, monkeypatch: Any
    ) -> None:
        """Ends the run before each file operation in turn, sometimes twice, and then resumes it."""
        (data / "b.jsonl.gz").unlink()
        flags = [*flags, "--chunk_bytes=300"]
        whole = keyjoin("run", *flags)
        expected = content(whole.output)
        operations = ("write_whole", "delete_tree", "delete_files")
        left = 0

        def ending(original: Any) -> Any:
            def end(*arguments: Any, **named: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    on_main = threading.current_thread() is threading.main_thread()
                    raise Stopped(signal.SIGTERM) if on_main else OSError("killed")
                return original(*arguments, **named)

            return end

        for name in operations:
            monkeypatch.setattr(files, name, ending(getattr(files, name)))
        output = tmp_path / "out-e"
        ends, point = [], 1
        while True:
            shutil.rmtree(output, ignore_errors=True)
            codes = []
            for _ in range(1 + (point % 3 == 0)):
                left = point
                done = keyjoin("run", *flags, f"--output={output}")
                codes.append(done.code)
                if (output / "_SUCCESS").exists():
                    # `_SUCCESS` means that the output is complete, even if some files are still to be removed.
                    assert {k: v for k, v in content(output).items() if k in expected} == expected
            left = 0
            done = keyjoin("run", *flags, f"--output={output}")
            assert (done.code, done.complete()) == (0, True), (point, done.err)
            found = content(output)
            assert {
                k: v for k, v in found.items() if not k.startswith(("_keyjoin/temp", "_keyjoin/job.json"))
            } == expected, point
            ends.append(codes[0])
            if codes[0] == 0:
                break
            point += 1
        assert set(ends[:-1]) == {1, 143}
        assert len(ends) > 15  # number of file operations

    def test_stopped_it_prints_how_to_resume_and_who_holds_the_folder(
        self, keyjoin: Callable[..., Result], flags: list[str], tmp_path: Path
    ) -> None:
        output = f"--output={tmp_path / 'a folder'}"
        with held("transforms.write_part.write_receipt", 3, "run", *flags, output, "--overwrite") as (process, model):
            second = keyjoin("run", *flags, output)
            assert second.code == 2
            assert f"is in use by another run: process {process.pid} on " in second.err
            process.terminate()
            _, said = process.communicate()
        assert process.returncode == 143
        assert said.count("\n") == 1
        assert re.match(r"keyjoin: stopped; \d of 8 parts are written and stay; resume with: keyjoin run ", said)
        assert f"keyjoin run {flags[0]} " in said
        assert f"'{output}'" in said
        assert "--overwrite" in said  # the resumed run still overwrites
        with pytest.raises(ProcessLookupError):
            os.kill(model, 0)
        assert not (tmp_path / "a folder" / "_keyjoin/lock").exists()
        done = keyjoin("run", *flags, output, "--overwrite")
        assert (done.code, done.complete(), "resumes" in done.out) == (0, True, True), done.err


def test_ctrl_c_ends_it_too(flags: list[str], tmp_path: Path) -> None:
    with held("pipeline.job.waves.build_chunks", 1, "run", *flags, f"--output={tmp_path / 'o'}") as (process, _):
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert said.startswith("keyjoin: stopped; no part was finished yet; resume with: keyjoin run ")


def test_stopped_before_it_had_begun_it_prints_the_same_command(flags: list[str], tmp_path: Path) -> None:
    command = ["run", *flags, f"--output={tmp_path / 'o'}", "--overwrite"]
    with held("pipeline.run_folder.resume.begin", 1, *command) as (process, _):
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert said == f"keyjoin: stopped; resume with: {shlex.join(['keyjoin', *command])}\n"


def test_the_number_of_all_parts_is_reported_once_it_is_known(
    keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path
) -> None:
    path = lines(*[{"x": [n, 0, 1]} for n in range(9)])
    flags = [f"--input={path}", f"--model={model(models.keyed)}", f"--output={tmp_path / 'o'}"]
    flags += ["--chunk_bytes=1", "--wave_bytes=1"]
    with held("transforms.write_part.write_receipt", 5, "run", *flags) as (process, _):
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert said.startswith("keyjoin: stopped; 4 of 9 parts are written and stay; resume with: ")
    resumed = shlex.split(said.partition("resume with: ")[2])
    done = keyjoin(*resumed[1:])
    assert done.complete(), done.err


@pytest.mark.parametrize("extra", [[], ["--overwrite"]])
def test_with_many_inputs_it_prints_a_short_command(
    keyjoin: Callable[..., Result], lines: Any, model: Any, tmp_path: Path, extra: list[str]
) -> None:
    inputs = [f"--input={lines({'x': [n, 0, 1]}, name=f'{n:03}.jsonl')}" for n in range(60)]
    flags = [*inputs, f"--model={model(models.keyed)}", f"--output={tmp_path / 'o'}", "--max_bad_rows=1", *extra]
    if extra:  # a complete output stays, and the new run has a folder of its own
        assert keyjoin("run", *inputs[:1], *flags[60:-1]).code == 0
    with held("transforms.write_part.write_receipt", 5, "run", *flags) as (process, _):
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    resumed = shlex.split(said.partition("resume with: ")[2])
    assert len(said) < 1000, said
    assert not [word for word in resumed if word.startswith("--input")]
    done = keyjoin(*resumed[1:])
    assert done.out.startswith("resumes "), done.err + done.out
    assert (done.code, done.manifest()["totals"]["rows"], done.complete()) == (0, 60, True)


def test_a_run_that_fails_reports_how_many_parts_are_written(
    keyjoin: Callable[..., Result], flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise RunError("the disk is gone")

    monkeypatch.setattr(waves, "write_list", fails)
    done = keyjoin("run", *flags)
    assert (done.code, done.err.count("\n")) == (1, 1)
    written = len(done.parts())
    assert f"the disk is gone; no _SUCCESS was written; {written} parts are written and stay; resume with: " in done.err
    monkeypatch.undo()
    again = keyjoin(*shlex.split(done.err.partition("resume with: ")[2])[1:])
    assert again.complete(), again.err


def test_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(progress).failed == 0


class TestAFinishedOutput:
    """The same command is given for a complete output."""

    def test_there_is_nothing_to_do_and_no_model_is_loaded(
        self, keyjoin: Callable[..., Result], flags: list[str]
    ) -> None:
        done = keyjoin("run", *flags)
        before = {p: p.stat().st_mtime_ns for p in done.output.rglob("*")}
        argv = ["run", *flags, f"--output={done.output}"]
        code = (
            "import sys; from pipeline import cli; from pipeline.model import model_process; code = cli.main(sys.argv[1:]); "
            "print([m for m in sys.modules if m.split('.')[0] in ('tensorflow', 'keras', 'tfx_bsl')], "
            "model_process.process.cache_info().currsize, int(code))"
        )
        again = subprocess.run(
            [sys.executable, "-c", code, *argv], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert again.stdout.splitlines()[-1] == "[] 0 0"
        assert "has all 60 rows of this input; there is nothing to do" in again.stdout
        assert {p: p.stat().st_mtime_ns for p in done.output.rglob("*")} == before
        checked = keyjoin("check", *flags, f"--output={done.output}")
        assert (checked.code, "nothing to do" in checked.out) == (0, True)

    def test_a_part_that_is_lost_is_written_again(
        self, keyjoin: Callable[..., Result], flags: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done = keyjoin("run", *flags)
        expected = content(done.output)
        lost, cut = done.parts()[1], next(done.output.glob("_keyjoin/dead_letters/*.jsonl"))
        lost.unlink()
        cut.write_bytes(cut.read_bytes()[:-1])
        seen = scored(monkeypatch)
        again = keyjoin("run", *flags, f"--output={done.output}")
        assert (again.code, again.complete()) == (0, True), again.err
        assert f"{lost.name} is missing or altered" in again.out
        assert sorted(seen) == sorted({lost.name, cut.name})
        assert content(done.output) == expected

    def test_a_part_of_other_bytes_is_written_again_once_the_run_is_not_complete(
        self, keyjoin: Callable[..., Result], flags: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done = keyjoin("run", *flags)
        expected = content(done.output)
        bad = done.parts()[-1]
        bad.write_bytes(bytes(len(bad.read_bytes())))
        (done.output / "_SUCCESS").unlink()
        seen = scored(monkeypatch)
        again = keyjoin("run", *flags, f"--output={done.output}")
        assert (again.code, again.complete()) == (0, True), again.err
        assert seen == [bad.name]
        assert content(done.output) == expected

    def test_a_larger_error_limit_scores_nothing_again_and_a_smaller_one_counts(
        self, keyjoin: Callable[..., Result], flags: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        over = keyjoin("run", *flags[:-1], "--max_bad_rows=1")
        assert (over.code, over.complete()) == (1, False)
        output, written = f"--output={over.output}", [path.relative_to(over.output) for path in over.parts()]
        seen = scored(monkeypatch)
        assert keyjoin("run", *flags[:-1], "--max_bad_rows=1", output).code == 1
        assert keyjoin("run", *flags, output).complete()
        assert not {*map(str, written)} & {*seen}
        assert len(written) + len(seen) == len(over.parts())
        tight = keyjoin("run", *flags[:-1], "--max_bad_rows=1", output)
        assert (tight.code, over.complete()) == (1, True)  # a complete output stays complete
        assert len(written) + len(seen) == len(over.parts())

    def test_a_list_that_was_changed_is_not_trusted(self, keyjoin: Callable[..., Result], flags: list[str]) -> None:
        done = keyjoin("run", *flags)
        listed = done.output / "_keyjoin/parts.jsonl"
        listed.write_bytes(listed.read_bytes().replace(b'"rows":', b'"rows" :', 1))
        again = keyjoin("run", *flags, f"--output={done.output}")
        assert again.code == 2
        assert (
            "_keyjoin/parts.jsonl is not what _keyjoin/manifest.json says of it; --overwrite starts anew" in again.err
        )


class TestIncremental:
    """New files match the same globs."""

    def test_new_files_are_scored_and_the_rest_stays(
        self, keyjoin: Callable[..., Result], flags: list[str], data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done = keyjoin("run", *flags)
        output = f"--output={done.output}"
        again = keyjoin("run", *flags, output, "--incremental")
        assert (again.code, "nothing to do" in again.out) == (0, True)
        (data / "0.jsonl").write_bytes((data / "a.jsonl").read_bytes()[:300])
        seen = scored(monkeypatch)
        more = keyjoin("run", *flags, output, "--incremental")
        assert (more.code, more.complete()) == (0, True), more.err
        assert {name[:2] for name in seen} == {"0-"}
        assert content(done.output) == content(keyjoin("run", *flags).output)
        (data / "0.jsonl").write_bytes(b"{}")
        changed = keyjoin("run", *flags, output, "--incremental")
        assert (changed.code, f"{data}/0.jsonl had 300 bytes, and has 2 now" in changed.err) == (2, True)

    def test_names_that_would_change_are_refused(
        self, keyjoin: Callable[..., Result], flags: list[str], data: Path
    ) -> None:
        deep = data / "deep"
        deep.mkdir()
        shutil.move(data / "a.jsonl", deep)
        given = [f"--input={deep}/*.jsonl", *flags[1:]]
        done = keyjoin("run", *given)
        assert done.code == 0, done.err
        wider = keyjoin("run", *given, f"--input={data}/*.gz", f"--output={done.output}", "--incremental")
        assert wider.code == 2
        assert f"the parts of {deep}/a.jsonl were called a-….jsonl, and would be deep/a-….jsonl now" in wider.err


class TestFindFinished:
    """A receipt counts only if its part, dead letters and chunk match it."""

    CHUNK = Chunk("s", "/spill/s", 0, 9, 0, 2, "sub/s-00000-of-00002.jsonl")

    @pytest.fixture
    def made(self, tmp_path: Path) -> tuple[str, str]:
        output, temp = str(tmp_path), str(tmp_path / "_keyjoin/temp")
        part = files.write_whole(files.join(output, self.CHUNK.part), [b"joined"])
        dead = files.write_whole(files.join(output, dead_letters_name(self.CHUNK.part)), [b"dead"])
        write_receipt(temp, PartReceipt(self.CHUNK, 1, 3, 0, 2, {"null": 1}, *part, *dead, 8))
        return output, temp

    def test_it_is_found(self, made: tuple[str, str]) -> None:
        found = find_finished(self.CHUNK, *made)
        assert found is not None
        assert found.chunk == self.CHUNK._replace(data="")
        assert (found.bytes, found.dead_bytes) == (6, 4)

    @pytest.mark.parametrize("field", ["source", "start", "end", "number", "parts", "part"])
    def test_that_of_another_chunk_is_none(self, made: tuple[str, str], field: str) -> None:
        value = getattr(self.CHUNK, field)
        other = self.CHUNK._replace(**{field: f"{value}x" if isinstance(value, str) else value + 1})
        if field == "part":
            shutil.copy(receipt_path(made[1], self.CHUNK.part), receipt_path(made[1], other.part))
        assert find_finished(other, *made) is None

    @pytest.mark.parametrize("which", ["part", "dead_letters", "receipt"])
    @pytest.mark.parametrize("damage", [None, b"", b"JOINED", b"DEAD", b"joined "])
    def test_damage_is_seen(self, made: tuple[str, str], which: str, damage: bytes | None) -> None:
        output, temp = made
        names = {"part": self.CHUNK.part, "dead_letters": dead_letters_name(self.CHUNK.part)}
        path = Path(receipt_path(temp, self.CHUNK.part)) if which == "receipt" else Path(output, names[which])
        path.unlink() if damage is None else path.write_bytes(damage)
        assert find_finished(self.CHUNK, output, temp) is None

    def test_chunks_in_a_graph_go_one_way_or_the_other(self, made: tuple[str, str]) -> None:
        other = self.CHUNK._replace(number=1, part="sub/s-00001-of-00002.jsonl")
        with beam.Pipeline("FnApiRunner") as root:
            apart = root | beam.Create([self.CHUNK, other]) | SkipFinished(*made)
            assert_that(apart[UNFINISHED], equal_to([other]))
            numbers = apart[FINISHED] | beam.Map(lambda part: (part.chunk.number, part.bytes))
            assert_that(numbers, equal_to([(0, 6)]), label="done")


def test_the_whole_graph_skips_finished_chunks(
    keyjoin: Callable[..., Result], flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Remote runners get the whole graph."""
    from pipeline.commands import run

    done = keyjoin("run", *flags)
    expected = content(done.output)
    (done.output / "_SUCCESS").unlink()
    lost = done.parts()[2]
    lost.unlink()
    monkeypatch.setattr(run, "is_local", lambda _: False)
    seen = scored(monkeypatch)
    again = keyjoin("run", *flags, f"--output={done.output}")
    assert (again.code, again.complete()) == (0, True), again.err
    assert seen == [lost.name]
    assert content(done.output) == expected


def test_what_no_receipt_names_goes_before_a_run_is_complete(keyjoin: Callable[..., Result], flags: list[str]) -> None:
    done = keyjoin("run", *flags)
    expected = content(done.output)
    part = "a-00000-of-00099.jsonl"
    for name in (
        part,
        f"_keyjoin/dead_letters/{part}",
        f"_keyjoin/dead_letters/_{part}.{'0' * 32}.tmp",
        f"_{part}.{'0' * 32}.tmp",
    ):
        (done.output / name).write_bytes(b"old")
    (done.output / "_SUCCESS").unlink()
    again = keyjoin("run", *flags, f"--output={done.output}")
    assert f"{part}, left by an earlier attempt" in again.out
    assert content(done.output) == expected


def test_a_resumed_run_keeps_its_batch_size(
    keyjoin: Callable[..., Result], flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = keyjoin("run", *flags)
    (done.output / "_SUCCESS").unlink()
    done.parts()[0].unlink()
    from pipeline.plan import preflight

    monkeypatch.setattr(preflight, "_rows_a_call", lambda *_: 1 / 0)
    again = keyjoin("run", *flags, f"--output={done.output}")
    assert again.code == 0, again.err
    assert again.manifest()["model"] == json.loads((done.output / "_keyjoin/manifest.json").read_text())["model"]


def test_a_finished_wave_runs_no_pipeline(
    keyjoin: Callable[..., Result], flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = keyjoin("run", *flags)
    (done.output / "_SUCCESS").unlink()
    parts = list(read_list(str(done.output / "_keyjoin/parts.jsonl")))
    assert [encode(part) for part in parts] == (done.output / "_keyjoin/parts.jsonl").read_bytes().splitlines()
    monkeypatch.setattr(waves, "build_chunks", lambda *_: 1 / 0)
    assert keyjoin("run", *flags, f"--output={done.output}").complete()
