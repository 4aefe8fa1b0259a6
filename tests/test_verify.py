"""`keyjoin verify`: whatever is done to an output is noticed, said in one line each, and can be mended as it says."""

import gzip
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import manifest, verify_rows
from pipeline.cli import main
from pipeline.exits import Exit
from pipeline.names import is_inside
from pipeline.options import command, parse_run
from pipeline.verify_rows import pick
from tests import models
from tests.conftest import ROOT, Result
from tests.examples import example, floats, written
from transforms import files
from transforms.records import Chunk, PartReceipt
from transforms.rescore import Agreement, agree

ROWS = [{"x": [n, 0, 1], "n": "é"} if n % 5 else {"x": "bad"} for n in range(30)]
FULL = "--read_data=100%"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, model: Any) -> list[str]:
    """A finished run: two sources, one of them gzip, of several chunks each; its flags, the last one its output."""
    folder = tmp_path_factory.mktemp("verified")
    (folder / "in").mkdir()
    text = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS)
    (folder / "in" / "a.jsonl").write_bytes(text)
    (folder / "in" / "b.jsonl.gz").write_bytes(gzip.compress(text, mtime=0))
    flags = [f"--input={folder / 'in'}", f"--model={model(models.keyed)}", "--chunk_bytes=250", "--max_bad_rows=0.5"]
    flags.append(f"--output={folder / 'out'}")
    assert main(["run", *flags]) == 0
    return flags


@pytest.fixture
def out(made: list[str], tmp_path: Path) -> Path:
    """A copy of it."""
    return copied(made, tmp_path / "out")


def copied(made: list[str], target: Path) -> Path:
    shutil.copytree(made[-1].partition("=")[2], target)
    return target


def model_of(made: list[str]) -> str:
    return made[1]


def content(output: Path) -> dict[str, bytes]:
    found = {str(p.relative_to(output)): p.read_bytes() for p in output.rglob("*") if p.is_file()}
    return {name: text for name, text in found.items() if name not in ("_manifest.json", "_SUCCESS")}


@pytest.fixture
def verify(keyjoin: Callable[..., Result]) -> Callable[..., Result]:
    """Runs it; whatever comes of it, it never talks in tracebacks or in several lines of error."""

    def call(output: Path, *flags: str) -> Result:
        done = keyjoin("verify", f"--run={output}", *flags)
        assert done.err.count("\n") <= 1
        return done

    return call


def flip(path: Path, at: int = -1, bits: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bits
    path.write_bytes(data)


def forge(output: Path, change: Callable[[dict[str, Any]], Any], *, lists: dict[str, Callable[[bytes], bytes]]) -> None:
    """Alters a manifest and lists, and all that would give it away."""
    path = output / "_manifest.json"
    document = json.loads(path.read_text())
    for name, altered in lists.items():
        (output / name).write_bytes(altered((output / name).read_bytes()))
        now = files.read_back(str(output / name))
        assert now is not None
        document["files"][name] = {"bytes": now.bytes, "crc32c": f"{now.checksum:08x}"}
    change(document)
    path.write_text(json.dumps(document))
    (output / "_SUCCESS").write_bytes(manifest.success_of(path.read_bytes()))


def test_what_was_written_is_what_is_there(verify: Callable[..., Result], out: Path, made: list[str]) -> None:
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in out.rglob("*")}
    done = verify(out)
    assert (done.code, done.err) == (0, "")
    parts = len(list(out.glob("*-of-*")))
    expected = f"{out} is what was written: {parts} parts, 48 rows, 12 dead letters"
    assert done.out.splitlines() == [expected, "contents were not read; --read_data=100% does"]
    read = verify(out, FULL, "--rescore=7", model_of(made))
    assert read.out.splitlines() == [
        expected,
        f"read: {parts} of {parts} parts, with their dead letters and what they were made of",
        "scored again: 7 equal",
    ]
    some = verify(out, "--read_data=1%", "--condemn")
    assert (some.code, f"read: 1 of {parts} parts, " in some.out) == (0, True)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in out.rglob("*")} == before


def test_it_loads_no_model_and_no_tensorflow(out: Path) -> None:
    code = (
        "import sys; from pipeline import cli, model_process; code = cli.main(sys.argv[1:]); "
        "print([m for m in sys.modules if m.split('.')[0] in ('tensorflow', 'keras', 'tfx_bsl')], "
        "model_process.process.cache_info().currsize, int(code))"
    )
    again = [sys.executable, "-c", code, "verify", f"--run={out}", FULL]
    said = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "[] 0 0"


OWN = ["_SUCCESS", "_manifest.json", "_parts.jsonl", "_sources.jsonl"]
PART, PACKED, LETTERS = "a-00001-of-00003.jsonl", "b-00002-of-00003.jsonl.gz", "_dead_letter/a-00000-of-00003.jsonl"


def link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: dict[str, tuple[Callable[[Path], Any], Exit]] = {
    "missing": (lambda p: p.unlink(), Exit.MISSING),
    "empty": (lambda p: p.write_bytes(b""), Exit.ALTERED),
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:-1]), Exit.ALTERED),
    "longer": (lambda p: p.write_bytes(p.read_bytes() + b"\n"), Exit.ALTERED),
    "first byte": (lambda p: flip(p, 0), Exit.ALTERED),
    "last byte": (lambda p: flip(p, -1), Exit.ALTERED),
    "nested": (lambda p: p.write_bytes(b'{"a":' * 100_000), Exit.ALTERED),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*OWN, PART, PACKED, LETTERS])
def test_damage_is_noticed(verify: Callable[..., Result], out: Path, name: str, damage: str) -> None:
    harm, code = DAMAGES[damage]
    harm(out / name)
    done = verify(out, FULL)
    assert done.code == code, done.out
    first, *rest = done.out.splitlines()
    assert first.startswith(f"{code.title:<9}  {name}: expected ") or (damage, name) == ("first byte", "_SUCCESS")
    assert f"{out} is not what was written: 1 {code.title}" in rest
    if damage not in ("first byte", "last byte") or name in OWN:
        assert verify(out).code == code  # without reading parts, too


@pytest.mark.parametrize("name", [PART, PACKED, LETTERS])
@pytest.mark.parametrize("damage", ["missing", "last byte"])
def test_what_it_says_to_type_rebuilds_what_is_wrong_and_nothing_else(
    verify: Callable[..., Result],
    keyjoin: Callable[..., Result],
    made: list[str],
    tmp_path: Path,
    name: str,
    damage: str,
) -> None:
    output = made[-1].partition("=")[2]
    kept = copied(made, tmp_path / "kept")
    try:
        DAMAGES[damage][0](Path(output, name))
        Path(output, "z-00000-of-00001.jsonl").write_bytes(b"{}\n")
        said = verify(Path(output), FULL).out.splitlines()
        assert said[-3] == "to rebuild what is wrong, and nothing else:"
        condemn, again = (shlex.split(line)[1:] for line in said[-2:])
        assert condemn == ["verify", f"--run={output}", FULL, "--condemn"]
        assert (main(condemn) == 0, Path(output, "_SUCCESS").exists()) == (False, False)
        before = {p: p.stat().st_mtime_ns for p in Path(output).glob("*-of-*")}
        assert keyjoin(*again).code == 0
        assert verify(Path(output), FULL).code == 0
        assert content(Path(output)) == content(kept)
        stem = Path(name).name.partition("-of-")[0]
        rewritten = {p.name for p in Path(output).glob("*-of-*") if p.stat().st_mtime_ns != before.get(p)}
        assert {n.partition("-of-")[0] for n in rewritten} == {stem}
    finally:
        shutil.rmtree(output)
        shutil.copytree(kept, output)


@given(data=st.data())
def test_any_byte_of_any_file(made: list[str], data: st.DataObject) -> None:
    output = Path(made[-1].partition("=")[2])
    names = sorted(str(p.relative_to(output)) for p in output.rglob("*") if p.is_file())
    path = output / data.draw(st.sampled_from(names))
    before = path.read_bytes()
    try:
        flip(path, data.draw(st.integers(0, len(before) - 1)), data.draw(st.integers(1, 255)))
        assert main(["verify", f"--run={output}", FULL]) == Exit.ALTERED
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("name", ["a.jsonl", "b.jsonl.gz"])
@pytest.mark.parametrize("damage", ["missing", "longer", "first byte", "last byte"])
def test_a_source_that_is_not_what_was_read_is_told_apart(
    verify: Callable[..., Result], out: Path, made: list[str], name: str, damage: str
) -> None:
    source = Path(made[0].partition("=")[2], name)
    before = source.read_bytes()
    try:
        DAMAGES[damage][0](source)
        done = verify(out, FULL, "--condemn")
        assert done.code == (Exit.MISSING if damage == "missing" else Exit.ALTERED)
        assert f"{source}: expected " in done.out.splitlines()[0]
        assert "the output does not change by that: put the source back" in done.out
        assert (out / "_SUCCESS").exists()  # scored anew it would be something else
        assert verify(out).code == 0
    finally:
        source.write_bytes(before)


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("a-00000-of-00099.jsonl", "to rebuild"),
        ("sub/x-00000-of-00001.jsonl.gz", "to rebuild"),
        ("_dead_letter/x-00000-of-00001.jsonl", "to rebuild"),
        ("notes.txt", "move it out"),
        ("_dead_letter/sub/notes", "move it out"),
        ("_x.jsonl", None),
        (".hidden", None),
        ("_temp/receipts/a", None),
    ],
)
def test_a_file_that_no_receipt_names(verify: Callable[..., Result], out: Path, name: str, cure: str | None) -> None:
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_bytes(b"{}\n")
    done = verify(out)
    assert done.code == (Exit.COMPLETE if cure is None else Exit.ALTERED)
    if cure is not None:
        said = f"altered    {name}: expected no such file; it has 3 bytes that no receipt names"
        assert done.out.splitlines()[0] == said
        assert cure in done.out


@pytest.mark.parametrize("name", [PART, LETTERS, "_parts.jsonl"])
@pytest.mark.parametrize("harm", [link, fifo])
def test_links_and_pipes_are_not_followed(
    verify: Callable[..., Result], out: Path, name: str, harm: Callable[[Path], None]
) -> None:
    harm(out / name)
    done = verify(out, FULL)
    assert done.code == Exit.ALTERED
    assert f"{name}: expected a file; it is none" in done.out


@pytest.mark.parametrize("name", ["_SUCCESS", "_manifest.json"])
def test_a_record_behind_a_link_is_refused(verify: Callable[..., Result], out: Path, name: str) -> None:
    link(out / name)
    done = verify(out)
    assert (done.code, f"{name} is no file; move it away" in done.err) == (2, True)


@pytest.mark.parametrize(
    "name", ["../a-00000-of-00001.jsonl", "/a-00000-of-00001.jsonl", "_temp/a-00000-of-00001.jsonl"]
)
def test_a_name_that_leads_outside_is_refused(verify: Callable[..., Result], out: Path, name: str) -> None:
    assert not is_inside(name)
    forge(out, lambda d: d, lists={"_parts.jsonl": lambda text: text.replace(PART.encode(), name.encode())})
    for flags in ([], [FULL]):
        done = verify(out, *flags)
        assert (done.code, f"names '{name}', which is no part in it" in done.err) == (2, True)


def gap(text: bytes) -> bytes:
    first, *rest = text.splitlines(keepends=True)
    return b"".join([first, *rest[1:]])


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("_manifest.json", lambda d: d["totals"].update(rows=1), "_manifest.json: expected the totals of all parts"),
        ("_manifest.json", lambda d: d["files"].pop("_parts.jsonl"), "_manifest.json: expected size and crc32c of"),
        ("_manifest.json", lambda d: d.update(files=[]), "_manifest.json: expected size and crc32c of"),
        ("_parts.jsonl", gap, "_parts.jsonl: expected all bytes and rows of "),
        ("_parts.jsonl", lambda t: t.replace(b'"joined":8', b'"joined":9', 1), " dead of 10 rows"),
        ("_parts.jsonl", lambda t: t[: t.index(b"b.jsonl.gz")].rpartition(b"\n")[0] + b"\n", "_sources.jsonl: expected"),
        ("_parts.jsonl", lambda t: b"[]\n" + t, "_parts.jsonl: expected a receipt a line"),
        ("_parts.jsonl", lambda t: b"[" * 100_000 + t, "_parts.jsonl: expected a receipt a line"),
        ("_sources.jsonl", lambda t: t.replace(b'"rows":30', b'"rows":31', 1), "_sources.jsonl: expected the totals"),
        ("_sources.jsonl", lambda t: b"{}\n" + t, "_sources.jsonl: expected the sources of the parts"),
        ("_sources.jsonl", lambda t: b"[" * 100_000 + t, "_sources.jsonl: expected the sources of the parts"),
    ],
)  # fmt: skip
def test_what_does_not_add_up_is_noticed_whatever_the_checksums_say(
    verify: Callable[..., Result], out: Path, name: str, change: Any, said: str
) -> None:
    if name == "_manifest.json":
        forge(out, change, lists={})
    else:
        forge(out, lambda d: d, lists={name: change})
    done = verify(out, FULL)
    assert done.code == Exit.ALTERED, done.err
    assert said in done.out
    assert "--overwrite" in done.out.splitlines()[-1]


def test_many_findings_are_counted(verify: Callable[..., Result], out: Path) -> None:
    for number in range(30):
        (out / f"n{number:02}\n\x1b[1m.txt").write_bytes(b"")
    (out / PART).unlink()
    done = verify(out)
    lines = done.out.splitlines()
    assert done.code == Exit.MISSING
    assert lines[1] == "altered    n00\\n\\x1b[1m.txt: expected no such file; it has 0 bytes that no receipt names"
    assert lines[20:22] == ["and 11 more", f"{out} is not what was written: 1 missing, 30 altered"]


class TestWithoutSuccess:
    """Outputs that never were complete, or are none any more."""

    def test_a_run_that_is_not_finished_says_how_to_go_on(
        self, verify: Callable[..., Result], keyjoin: Callable[..., Result], made: list[str], monkeypatch: Any
    ) -> None:
        flags = made[:-1]
        monkeypatch.setattr(manifest, "write_lists", lambda *_: 1 / 0)
        output = Path(made[-1].partition("=")[2] + "-unfinished")
        with pytest.raises(ZeroDivisionError):
            keyjoin("run", *flags, f"--output={output}")
        monkeypatch.undo()
        done = verify(output)
        assert done.code == Exit.FAILED
        said, _, again = done.err.partition("; wait for it, or go on: ")
        assert said == f"keyjoin: error: {output} holds a run that is not finished"
        assert keyjoin(*shlex.split(again)[1:]).code == 0
        assert verify(output).code == 0
        for text in ("{", "[]", "{}", '{"options": 1}'):
            (output / "_job.json").write_text(text)
            (output / "_SUCCESS").unlink(missing_ok=True)
            assert "_job.json is damaged" in verify(output).err

    def test_a_run_with_too_many_bad_rows(
        self, verify: Callable[..., Result], keyjoin: Callable[..., Result], made: list[str]
    ) -> None:
        over = keyjoin("run", *made[:-2], "--chunk_bytes=100000", "--wave_bytes=1000000", "--max_bad_rows=1")
        done = verify(over.output)
        assert (done.code, "ended without _SUCCESS: over budget" in done.err) == (Exit.FAILED, True)

    def test_no_run_at_all(self, verify: Callable[..., Result], tmp_path: Path, out: Path) -> None:
        assert "holds no run of keyjoin" in verify(tmp_path / "nothing").err
        (out / "_manifest.json").unlink()
        assert "move it away, and give its keyjoin run command again" in verify(out).out
        (out / "_SUCCESS").unlink()
        assert verify(out).code == Exit.USAGE

    def test_another_version(self, verify: Callable[..., Result], out: Path) -> None:
        forge(out, lambda d: d.update(schema_version=2), lists={})
        done = verify(out)
        assert (done.code, "was written by another version of keyjoin" in done.err) == (2, True)

    def test_success_that_is_lost_is_written_again(
        self, verify: Callable[..., Result], keyjoin: Callable[..., Result], made: list[str]
    ) -> None:
        output = Path(made[-1].partition("=")[2])
        (output / "_SUCCESS").unlink()
        done = verify(output)
        assert (done.code, done.out.splitlines()[0]) == (
            Exit.MISSING, "missing    _SUCCESS: expected the sha256 of _manifest.json; it is not there",
        )  # fmt: skip
        assert done.out.splitlines()[-1] == "  the same keyjoin run command"
        assert keyjoin("run", *made).code == 0
        assert verify(output, FULL).code == 0


class TestRescore:
    """Rows that are scored again, alone."""

    def test_a_prediction_of_another_row_differs(
        self, verify: Callable[..., Result], out: Path, made: list[str]
    ) -> None:
        """Not to be seen by checksums: as if the run had got it wrong."""
        path = out / PART
        lines = path.read_bytes().splitlines(keepends=True)
        ends = [line.partition(b'"prediction"') for line in lines]
        swapped = [heads[0] + b"".join(tails[1:]) for heads, tails in zip(ends, [*ends[1:], ends[0]], strict=True)]
        path.write_bytes(b"".join(swapped))

        def receipt(text: bytes) -> bytes:
            receipts = [json.loads(line) for line in text.splitlines()]
            for one in receipts:
                if one["chunk"]["part"] == PART:
                    now = files.read_back(str(path))
                    assert now is not None
                    one["bytes"], one["checksum"] = now
            return b"".join(json.dumps(one).encode() + b"\n" for one in receipts)

        forge(out, lambda d: d, lists={"_parts.jsonl": receipt})
        assert verify(out, FULL).code == 0
        done = verify(out, FULL, "--rescore=1000", model_of(made), "--condemn")
        assert done.code == Exit.DIFFERING, done.out
        differing = [line for line in done.out.splitlines() if line.startswith("differing  ")]
        assert len(differing) == len(lines)
        assert "a.jsonl#" in differing[0]
        assert "expected prediction [" in differing[0]
        assert "; its part has prediction [" in differing[0]
        assert f"scored again: {48 - len(lines)} equal, {len(lines)} differing" in done.out
        assert "the model does not give the same each time" in done.out
        assert (out / "_SUCCESS").exists()

    def test_a_row_of_another_key_or_field_differs(
        self, keyjoin: Callable[..., Result], verify: Callable[..., Result], made: list[str], monkeypatch: Any
    ) -> None:
        flags = [*made[:-1], "--output_fields=key,prediction"]
        done = keyjoin("run", *flags)
        assert done.code == 0, done.err
        again = (done.output, "--rescore=5", model_of(made))
        assert "scored again: 5 equal" in verify(*again).out
        monkeypatch.setattr(verify_rows, "rescore", shifted(verify_rows.rescore))
        said = verify(*again)
        assert said.code == Exit.DIFFERING
        assert ": expected key " in said.out

    @pytest.mark.parametrize(
        ("build", "flags"),
        [
            (models.last_column, ["--prediction_prefix=p_"]),
            (models.named_key, ["--key_input=row_number", "--include_fields=x"]),
            (models.plain, ["--batch_size=1", "--exclude_fields=x"]),
        ],
    )
    def test_models_and_layouts(
        self,
        keyjoin: Callable[..., Result],
        verify: Callable[..., Result],
        made: list[str],
        model: Any,
        build: Any,
        flags: Any,
    ) -> None:
        chosen = f"--model={model(build)}"
        done = keyjoin("run", made[0], chosen, *made[2:-1], *flags)
        assert done.code == 0, done.err
        assert "scored again: 48 equal" in verify(done.output, "--rescore=99", chosen).out

    def test_many_dtypes(
        self, keyjoin: Callable[..., Result], verify: Callable[..., Result], lines: Any, model: Any
    ) -> None:
        row = {"image": [[[1], [2]], [[3], [0.1]]], "name": "é", "flag": True, "count": 255}
        other = {**row, "name": {"b64": "/w=="}, "flag": False, "count": 1}
        chosen = f"--model={model(models.many)}"
        done = keyjoin("run", f"--input={lines(row, other)}", chosen, "--prediction_prefix=p_")
        assert done.code == 0, done.err
        assert "scored again: 2 equal" in verify(done.output, "--rescore=2", chosen).out

    def test_tf_examples(
        self, keyjoin: Callable[..., Result], verify: Callable[..., Result], model: Any, tmp_path: Path
    ) -> None:
        records = [example(x=floats(n, 2, 0.1), nan=floats(float("nan"))) if n % 4 else b"bad" for n in range(20)]
        (tmp_path / "e.tfrecord").write_bytes(written(records))
        chosen = f"--model={model(models.keyed)}"
        flags = [f"--input={tmp_path / 'e.tfrecord'}", chosen, "--chunk_bytes=300", "--max_bad_rows=5"]
        for more in ([], ["--output_fields=prediction,key"]):
            done = keyjoin("run", *flags, *more)
            assert done.code == 0, done.err
            assert "scored again: 15 equal" in verify(done.output, "--rescore=20", chosen, FULL).out

    def test_damaged_parts_are_not_scored(self, verify: Callable[..., Result], out: Path, made: list[str]) -> None:
        flip(out / PART)
        done = verify(out, "--rescore=48", model_of(made))
        assert done.code == Exit.ALTERED
        assert "1 altered" in done.out
        assert "differing" not in done.out
        flip(out / "_SUCCESS", 30)
        assert (
            "scored again: no rows, since _manifest.json is not the one"
            in verify(out, "--rescore=1", model_of(made)).out
        )

    def test_the_model_has_to_be_named_and_that_of_the_run(
        self, verify: Callable[..., Result], out: Path, model: Any
    ) -> None:
        for flags, said in (
            (["--rescore=1"], "a model is code: name it with --model=DIR"),
            (["--rescore=0", "--model=m"], "--rescore=0 is no number of rows"),
            (["--rescore=1", "--model=nowhere"], "no model at nowhere; give the one of the run, "),
            (["--rescore=1", f"--model={model(models.plain)}"], "is not the model of the run, "),
            (["--model=m"], "--model is for --rescore=N"),
            *(
                ([f"--read_data={share}"], f"{share} is not a percentage")
                for share in ("5", "0%", "101%", "x%", "nan%")
            ),
        ):
            done = verify(out, *flags)
            assert (done.code, said in done.err) == (2, True), done.err

    def test_a_manifest_that_does_not_fit_its_model(
        self, verify: Callable[..., Result], out: Path, made: list[str]
    ) -> None:
        forge(out, lambda d: d["model"].update(inputs={"y": {}}), lists={})
        done = verify(out, "--rescore=1", model_of(made))
        assert (done.code, "does not fit" in done.err) == (2, True)


def shifted(original: Any) -> Any:
    """Looks for each row in the place of the next one."""

    def call(chunk: Any, data: bytes, part: bytes, *rest: Any) -> Any:
        first, *others = part.splitlines(keepends=True)
        return original(chunk, data, b"".join([*others, first]), *rest)

    return call


@given(st.lists(st.integers(0, 9), max_size=9), st.integers(1, 50))
def test_rows_are_picked_over_all_parts(joined: list[int], count: int) -> None:
    def part(number: int, rows: int) -> PartReceipt:
        return PartReceipt(Chunk("s", "", 0, 0, number, 0, f"{number}"), 0, rows, 0, rows, {}, 0, 0, 0, 0, 0)

    total = sum(joined)
    picked = list(pick(iter([part(*pair) for pair in enumerate(joined)]), total, count))
    rows = [sum(joined[: one.part.chunk.number]) + row for one in picked for row in one.rows]
    assert all(0 <= row < one.part.joined for one in picked for row in one.rows)
    assert len(rows) == len(set(rows)) == min(count, total)
    steps = np.diff([-1, *rows, total])
    assert not rows or steps.max() <= total / len(rows) + 1


EPS = float(np.finfo(np.float32).eps)


@pytest.mark.parametrize(
    ("scored", "found", "expected"),
    [
        (np.float32([[0.1, 0]]), [0.1, 0.0], Agreement.EQUAL),
        (np.float32([[0.1, 1]]), [0.1, 1 + EPS], Agreement.CLOSE),
        (np.float32([[1e-9, 1]]), [1.1e-9, 1.0], Agreement.CLOSE),
        (np.float32([1e-9]), 1.1e-9, Agreement.OTHER),
        (np.float32([1]), 1.001, Agreement.OTHER),
        (np.float32([[1, 2]]), [1.0], Agreement.OTHER),
        (np.float32([[1, 2]]), None, Agreement.OTHER),
        (np.float32([1]), "1.0", Agreement.OTHER),
        (np.float32([1]), {"a": 1.0}, Agreement.OTHER),
        (np.float32([np.nan]), None, Agreement.EQUAL),
        (np.float32([1]), None, Agreement.OTHER),
        (np.float32([np.inf]), 1.0, Agreement.OTHER),
        (np.float64([1]), 1 + 1e-9, Agreement.CLOSE),
        (np.float64([1]), 1 + 1e-7, Agreement.OTHER),
        (np.float16([0.1]), 0.099975586, Agreement.EQUAL),
        (np.array([1], ml_dtypes.bfloat16), 1.01, Agreement.CLOSE),
        (np.int64([[2**62 + 1]]), [2**62 + 1], Agreement.EQUAL),
        (np.int64([[2**62 + 1]]), [2**62], Agreement.OTHER),
        (np.array([True]), False, Agreement.OTHER),
        (np.array([b"\xff"], object), {"b64": "/w=="}, Agreement.EQUAL),
        (np.array([b"a"], object), "b", Agreement.OTHER),
    ],
)  # fmt: skip
def test_how_predictions_agree(scored: Any, found: Any, expected: Agreement) -> None:
    assert agree(scored, found, is_example=False) is expected


def test_what_an_example_cannot_hold_does_not_differ() -> None:
    assert agree(np.float64([1 / 3]), [float(np.float32(1 / 3))], is_example=True) is Agreement.EQUAL


# argparse itself loses a value that is -- and nothing else.
names = st.text("ab-=é '", min_size=1, max_size=4).map(str.strip).filter(lambda name: name not in ("", "--"))
FLAGS = {
    "input": st.lists(names, min_size=1, max_size=3),
    "features": st.lists(names, max_size=2),
    "input_map": st.dictionaries(
        names.map(lambda n: n.replace("=", "")).filter(lambda n: n not in ("", "--")), names, max_size=2
    ),
    "batch_size": st.none() | st.integers(1, 1 << 24),
    "chunk_bytes": st.integers(1, 1 << 30),
    "max_bad_rows": st.sampled_from([{"all": "0"}, {"all": "0.5", "null": "7"}]),
    "isolate": st.booleans(),
    "prediction_prefix": st.just("") | names,
    "output": names,
    "key_input": st.none() | names,
    "non_finite": st.sampled_from(["reject", "keep"]),
}


@given(st.fixed_dictionaries({}, optional=FLAGS))
def test_recorded_options_become_the_command_that_gives_them(changed: dict[str, Any]) -> None:
    start, _ = parse_run(["--input=i", "--model=m", "--output=o"], "run")
    asked = {**vars(start), "max_bad_rows": start.max_bad_rows.texts(), **changed}
    recorded = json.loads(json.dumps({**asked, "overwrite": True, "incremental": True}))
    again, left = parse_run(command(recorded)[2:], "run")
    found = {**vars(again), "max_bad_rows": again.max_bad_rows.texts()}
    assert left == []
    assert json.loads(json.dumps(found)) == {**recorded, "overwrite": False, "incremental": False}


def test_the_sample_is_the_same_each_time_and_grows(out: Path) -> None:
    from pipeline.verify_files import sample
    from transforms.receipts import read_list

    parts = list(read_list(str(out / "_parts.jsonl")))
    few, more = ({p.chunk.part for p in parts if is_in(p)} for is_in in (sample(str(out), 0.25), sample(str(out), 0.5)))
    assert (len(few), len(more)) == (-(-len(parts) // 4), -(-len(parts) // 2))
    assert few < more
    first = min((p.chunk.part for p in parts), key=lambda name: hashlib.sha256(name.encode()).digest())
    assert first in few
