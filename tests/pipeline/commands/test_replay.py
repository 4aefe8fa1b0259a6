"""`keyjoin replay`: a repaired row is written in its place, as if it had been good from the start."""

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from pipeline.cli import main
from pipeline.run_folder import manifest, records
from tests.conftest import Result
from tests.support import examples, models
from tests.support.interrupted_run import content
from tests.support.verified_runs import forge
from transforms.storage.compression import CODECS, codec_of, decompressed
from transforms.write_part import dead_letters_name
from transforms.write_receipts import encode, read_list

BAD = {3: b'{"x": "bad"}', 4: b"{}", 11: b'{"x": [1, 2]}', 12: b"not JSON", 19: b'{"x": [1, 2, "\xff"]}'}
REPAIRED = {n: json.dumps({"x": [n, 1, 2]}).encode() for n in BAD}
GOOD = {n: json.dumps({"id": n, "x": [n, 0, 1]}).encode() for n in range(20)}
WIDTH = 40  # bytes of every row, so that repaired rows start at the same positions as the bad ones
LAYOUTS = {
    "rows": [],
    "keys and predictions": ["--output_fields=key,prediction"],
    "picked fields": ["--exclude_fields=id"],
    "left join": ["--bad_rows=null"],
    "left join of picked fields": ["--bad_rows=null", "--include_fields=x", "--output_fields=row,key"],
}


def written(folder: Path, rows: dict[int, bytes], suffix: str) -> None:
    """Writes rows of the same width to `data`."""
    text = b"".join(row.ljust(WIDTH) + b"\n" for row in rows.values())
    data = folder / "data"
    data.mkdir(parents=True)
    codec = codec_of(suffix)
    (data / f"a{suffix}").write_bytes(codec.compress(text) if codec else text)


def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the folder the current one, so that sources have the same paths, and rows the same keys, in each folder."""
    monkeypatch.chdir(folder)


def repaired_rows(dead_letters: list[dict[str, Any]], left: int | None = None) -> str:
    """Writes a file of the repaired rows, without the row `left`; returns the flag that names it."""
    lines = []
    for dead_letter in dead_letters:
        number = dead_letter["position"] // (WIDTH + 1)
        if number != left:
            lines.append({"key": dead_letter["key"], "row": REPAIRED[number].ljust(WIDTH).decode()})
    Path("repaired.jsonl").write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
    return "--rows=repaired.jsonl"


def parts(output: Path) -> dict[str, bytes]:
    """Parts, decompressed, and dead letters; without the ledger."""
    found = {
        name: text
        for name, text in content(output).items()
        if name not in ("_keyjoin/parts.jsonl", "_keyjoin/sources.jsonl")
    }
    return {name: decompressed(name, text) for name, text in found.items()}


def flags_of(model: str, *more: str) -> list[str]:
    return ["--input=data/", f"--model={model}", "--chunk_bytes=200", "--output=out", *more]


@pytest.mark.parametrize(
    ("layout", "suffix", "left"),
    [
        *((layout, ".jsonl", 12) for layout in LAYOUTS),
        *(("rows", f".jsonl{codec.suffix}", 12) for codec in CODECS),
        ("rows", ".jsonl", None),
        ("left join", ".jsonl.gz", None),
    ],
)
def test_repaired_rows_stand_as_if_they_had_been_good_from_the_start(
    keyjoin: Callable[..., Result],
    model: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    layout: str,
    suffix: str,
    left: int | None,
) -> None:
    flags = flags_of(model(models.keyed), "--max_bad_rows=0.5", *LAYOUTS[layout])
    written(tmp_path / "good", GOOD | REPAIRED | ({} if left is None else {left: BAD[left]}), suffix)
    in_folder(tmp_path / "good", monkeypatch)
    assert keyjoin("run", *flags).code == 0
    written(tmp_path / "bad", GOOD | BAD, suffix)
    in_folder(tmp_path / "bad", monkeypatch)
    ran = keyjoin("run", *flags)
    assert len(ran.dead()) == len(BAD)

    done = keyjoin("replay", "--run=out", repaired_rows(ran.dead(), left))
    assert done.code == 0, done.err
    expected = len(BAD) - (left is not None)
    assert f"joined now   {expected} rows" in done.out
    assert parts(Path("out")) == parts(tmp_path / "good" / "out")
    verified = keyjoin("verify", "--run=out", "--read_data=100%")
    assert verified.code == 0, verified.out
    again = keyjoin("run", *flags)
    assert again.code == 0
    assert "nothing to do" in again.out


@pytest.mark.parametrize("layout", ["rows", "keys and predictions", "left join"])
def test_a_repaired_example_stands_where_it_belongs(
    keyjoin: Callable[..., Result], model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    good = [examples.example(x=examples.floats(n, 0, 1)) for n in range(12)]
    repaired = examples.example(x=examples.floats(1, 2, 3), t=examples.texts(b"1234"))
    bad = examples.example(x=examples.floats(1, 2), t=examples.texts(b"12345678"))
    assert len(bad) == len(repaired)
    flags = flags_of(model(models.keyed), "--max_bad_rows=0.5", *LAYOUTS[layout])
    for folder, row in (("good", repaired), ("bad", bad)):
        path = tmp_path / folder / "data" / "a.tfrecord"
        path.parent.mkdir(parents=True)
        path.write_bytes(examples.written([*good[:5], row, *good[5:]]))
        in_folder(tmp_path / folder, monkeypatch)
        done = keyjoin("run", *flags)
        assert done.code == 0, done.err
    (dead_letter,) = done.dead()
    line = {
        "key": dead_letter["key"],
        "row": base64.b64encode(examples.written([repaired])).decode(),
        "row_encoding": "base64",
    }
    Path("repaired.jsonl").write_text(json.dumps(line))
    replayed = keyjoin("replay", "--run=out", "--rows=repaired.jsonl")
    assert replayed.code == 0, replayed.err
    assert parts(Path("out")) == parts(tmp_path / "good" / "out")


@pytest.fixture(scope="module")
def finished(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, with rows that cannot be read, and two rows for which its model raises."""
    folder = tmp_path_factory.mktemp("finished")
    rows = GOOD | BAD | {n: json.dumps({"x": [666, n, 0]}).encode() for n in (8, 9)}
    written(folder, rows, ".jsonl")
    shutil.copytree(model(models.raising), folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run", *flags_of("model", "--max_bad_rows=0.5")]) == 0
    return folder


@pytest.fixture
def ran(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    """A copy of `finished`, as the current folder."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    in_folder(tmp_path, monkeypatch)
    found = Result(0, "", "", tmp_path / "out")
    assert len(found.dead()) == len(BAD) + 2
    return found


def test_a_repaired_model_scores_what_the_first_one_refused(
    keyjoin: Callable[..., Result], ran: Result, model: Any
) -> None:
    done = keyjoin("replay", "--run=out", f"--model={model(models.plain)}")
    assert done.code == 0, done.err
    assert "joined now   2 rows" in done.out
    assert len(ran.dead()) == len(BAD)
    assert [row["x"][0] for row in ran.rows()].count(666) == 2
    (replay,) = ran.manifest()["replays"]
    assert (replay["dead_letters"], replay["joined"]) == (7, 2)
    assert replay["model"]["path"] == model(models.plain)
    assert ran.manifest()["totals"]["replayed"] == 2
    assert ran.manifest()["model"]["path"] == "model"
    verified = keyjoin("verify", "--run=out", "--rescore=100", "--model=model")
    assert verified.code == 0, verified.out
    assert "without rows of parts with replayed rows" in verified.out


def test_several_replays_are_all_on_record(keyjoin: Callable[..., Result], ran: Result, model: Any) -> None:
    flag = repaired_rows(ran.dead()[:1])
    assert keyjoin("replay", "--run=out", flag).code == 0
    assert keyjoin("replay", "--run=out", f"--model={model(models.plain)}").code == 0
    assert [replay["joined"] for replay in ran.manifest()["replays"]] == [1, 2]
    digest = hashlib.sha256(Path("repaired.jsonl").read_bytes()).hexdigest()
    assert [replay["rows_sha256"] for replay in ran.manifest()["replays"]] == [digest, None]
    assert ran.manifest()["totals"]["replayed"] == 3


def test_nothing_changes_where_nothing_succeeds(keyjoin: Callable[..., Result], ran: Result) -> None:
    before = {path: path.read_bytes() for path in ran.output.rglob("*") if path.is_file()}
    done = keyjoin("replay", "--run=out")
    assert done.code == 0, done.err
    assert "joined now   0 rows" in done.out
    assert {path: path.read_bytes() for path in ran.output.rglob("*") if path.is_file()} == before


def test_a_repaired_row_that_is_still_bad_reports_its_new_error(keyjoin: Callable[..., Result], ran: Result) -> None:
    dead_letter = ran.dead()[0]
    Path("repaired.jsonl").write_text(json.dumps({"key": dead_letter["key"], "row": {"x": [1, 2, "three"]}}))
    done = keyjoin("replay", "--run=out", "--rows=repaired.jsonl")
    assert (done.code, "joined now   0 rows" in done.out) == (0, True)
    now = next(one for one in ran.dead() if one["key"] == dead_letter["key"])
    assert now["message"] != dead_letter["message"]
    assert json.loads(now["row"]) == {"x": [1, 2, "three"]}
    assert keyjoin("verify", "--run=out", "--read_data=100%").code == 0


def test_another_feature_feeds_the_model(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    path = lines(*[{"x": [n, 0, 1]} for n in range(9)], {"y": [1, 1, 1]})
    done = keyjoin("run", f"--input={path}", f"--model={model(models.keyed)}", "--max_bad_rows=1")
    replayed = keyjoin("replay", f"--run={done.output}", "--input_map", "x=y")
    assert (replayed.code, replayed.err) == (0, "")
    assert not done.dead()
    assert done.rows()[-1] == {"y": [1, 1, 1], "prediction": [2.25]}
    assert list(done.output.glob("_keyjoin/dead_letters/**/*.jsonl")) == []
    assert "no dead letters" in keyjoin("replay", f"--run={done.output}").out


def test_a_run_over_its_error_limit_gets_its_success(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    path = lines(*[{"x": [n, 0, 1]} for n in range(9)], {"x": 1}, {"x": 2})
    done = keyjoin("run", f"--input={path}", f"--model={model(models.keyed)}", "--max_bad_rows=1", "--chunk_bytes=1000")
    assert (done.code, done.complete()) == (1, False)
    assert f"keyjoin replay --run={done.output}" in done.err
    again = keyjoin("replay", f"--run={done.output}")
    assert (again.code, done.complete()) == (1, False)
    assert "2 of 11 rows" in again.err
    repaired = Path(path).parent.parent / "repaired.jsonl"
    repaired.write_text(json.dumps({"key": done.dead()[0]["key"], "row": {"x": [1, 2, 3]}}))
    last = keyjoin("replay", f"--run={done.output}", f"--rows={repaired}")
    assert (last.code, done.complete()) == (0, True)
    assert keyjoin("verify", f"--run={done.output}", "--read_data=100%").code == 0


def test_a_run_over_its_error_limit_on_another_runner_is_replayed_too(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    path = lines(*[{"x": [n, 0, 1]} for n in range(9)], {"x": 1})
    done = keyjoin("run", f"--input={path}", f"--model={model(models.keyed)}", "--max_bad_rows=0")
    # On a remote runner the graph commits, and leaves the records from which the run can be resumed.
    ended = records.read(str(done.output), records.Manifest)
    assert ended is not None
    manifest.begin(str(done.output), ended, [])
    repaired = Path(path).parent.parent / "repaired.jsonl"
    repaired.write_text(json.dumps({"key": done.dead()[0]["key"], "row": {"x": [1, 2, 3]}}))
    last = keyjoin("replay", f"--run={done.output}", f"--rows={repaired}")
    assert (last.code, done.complete()) == (0, True), last.err


def test_parts_that_were_replayed_stay_when_the_run_resumes(
    keyjoin: Callable[..., Result], ran: Result, model: Any
) -> None:
    assert keyjoin("replay", "--run=out", f"--model={model(models.plain)}").code == 0
    expected = parts(ran.output)
    lost = next(name for name in expected if name.startswith("a-00000"))
    (ran.output / lost).unlink()
    done = keyjoin("run", *flags_of("model", "--max_bad_rows=0.5"))
    assert done.code == 0, done.err
    assert parts(ran.output) == expected
    assert len(ran.manifest()["replays"]) == 1


class TestRefused:
    def test_without_a_run(self, keyjoin: Callable[..., Result], tmp_path: Path) -> None:
        for folder in (tmp_path, tmp_path / "none"):
            done = keyjoin("replay", f"--run={folder}")
            assert done.code == 2
            assert "holds no run of keyjoin" in done.err
        assert not (tmp_path / "none").exists()

    def test_a_run_that_was_not_finished(self, keyjoin: Callable[..., Result], ran: Result) -> None:
        ended = records.read(str(ran.output), records.Manifest)
        assert ended is not None
        for name in ("_SUCCESS", "_keyjoin/manifest.json"):
            (ran.output / name).unlink()
        manifest.begin(str(ran.output), ended, [])
        done = keyjoin("replay", "--run=out")
        assert done.code == 2
        assert "is unfinished; finish it first: keyjoin run --model=model" in done.err

    def test_a_discarded_run(self, keyjoin: Callable[..., Result], ran: Result) -> None:
        part = ran.parts()[0]
        part.write_bytes(part.read_bytes().replace(b"0", b"1"))
        assert keyjoin("verify", "--run=out", "--read_data=100%", "--discard").code == 4
        done = keyjoin("replay", "--run=out")
        assert (done.code, ran.complete()) == (1, False)
        assert f"{part.name} is not what was written" in done.err

    def test_a_model_that_was_changed(self, keyjoin: Callable[..., Result], ran: Result) -> None:
        os.truncate("model/saved_model.pb", 10)
        done = keyjoin("replay", "--run=out")
        assert done.code == 2
        assert "it is another model, or was changed" in done.err
        assert ran.complete()

    def test_a_model_with_other_predictions(self, keyjoin: Callable[..., Result], ran: Result, model: Any) -> None:
        done = keyjoin("replay", "--run=out", f"--model={model(models.twice)}")
        assert done.code == 2
        assert "gives the predictions ['once', 'twice'], the run's model gave ['prediction']" in done.err
        assert ran.complete()

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("{", "line 1"),
            ('{"key": "data/a.jsonl#0"}', "line 1"),
            ('{"key": "data/a.jsonl#0", "row": "1\\n2"}', "not exactly one row"),
            ('{"key": "data/a.jsonl#0", "row": "!", "row_encoding": "base64"}', "line 1"),
            ('{"key": "data/b.jsonl#0", "row": {}}', "data/b.jsonl#0 is no key of this run"),
            ('{"key": "data/a.jsonl#0", "row": {}}\n{"key": "data/a.jsonl#0", "row": {}}', "comes twice"),
        ],
    )
    def test_rows_that_are_none(self, keyjoin: Callable[..., Result], ran: Result, line: str, said: str) -> None:
        before = content(ran.output)
        Path("repaired.jsonl").write_text(line)
        done = keyjoin("replay", "--run=out", "--rows=repaired.jsonl")
        assert (done.code, said in done.err, done.err.count("\n")) == (2, True, 1), done.err
        assert content(ran.output) == before

    @pytest.mark.parametrize("position", ["1", "9223372036854775807", "[" * 100_000, '"x"', "-5"])
    def test_dead_letters_of_no_row(self, keyjoin: Callable[..., Result], ran: Result, position: str) -> None:
        """Replay refuses dead letters that point to no row, even if all checksums are correct."""
        part = next(part for part in read_list(str(ran.output / "_keyjoin/parts.jsonl")) if part.dead)
        path = ran.output / dead_letters_name(part.chunk.part)
        first, *rest = path.read_bytes().splitlines(keepends=True)
        number = json.loads(first)["position"]
        path.write_bytes(
            first.replace(b'"position": %d,' % number, b'"position": %s,' % position.encode()) + b"".join(rest)
        )
        assert path.read_bytes() != first + b"".join(rest)
        text = path.read_bytes()
        now = part._replace(dead_bytes=len(text), dead_checksum=google_crc32c.value(text))
        forge(ran.output, lambda d: d, lists={"_keyjoin/parts.jsonl": lambda t: t.replace(encode(part), encode(now))})
        done = keyjoin("replay", "--run=out")
        assert (done.code, done.err.count("\n"), "run's own command again" in done.err) == (1, 1, True), done.err

    def test_a_source_that_changed(self, keyjoin: Callable[..., Result], ran: Result) -> None:
        source = Path("data/a.jsonl")
        source.write_bytes(source.read_bytes().replace(b"1", b"2"))
        done = keyjoin("replay", "--run=out")
        assert done.code == 1
        assert "data/a.jsonl has other bytes now" in done.err
        source.unlink()
        gone = keyjoin("replay", "--run=out")
        assert gone.code in (1, 2)
        assert "data/a.jsonl" in gone.err
        assert ran.complete()

    def test_dead_letters_that_were_edited(self, keyjoin: Callable[..., Result], ran: Result) -> None:
        path = next(ran.output.glob("_keyjoin/dead_letters/*.jsonl"))
        path.write_bytes(path.read_bytes().replace(b"source", b"Source"))
        done = keyjoin("replay", "--run=out")
        assert done.code == 1
        assert "is not what was written there" in done.err


def test_rows_that_are_no_dead_letters_any_more_are_reported(keyjoin: Callable[..., Result], ran: Result) -> None:
    flag = repaired_rows([one for one in ran.dead() if one["reason"] != "model_error"])
    assert keyjoin("replay", "--run=out", flag).code == 0
    again = keyjoin("replay", "--run=out", flag)
    assert again.code == 0
    assert "skipped      5 fixed rows without a dead letter, such as data/a.jsonl#" in again.out
