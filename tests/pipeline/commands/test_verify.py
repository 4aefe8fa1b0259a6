"""`keyjoin verify` detects any change of an output, reports each in one line, and names the command that repairs it."""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.run_folder import manifest
from pipeline.run_folder.names import is_inside
from pipeline.run_folder.records import SCHEMA_VERSION
from pipeline.terminal.exit_codes import Exit
from tests.conftest import ROOT, Result
from tests.support.interrupted_run import content
from tests.support.verified_runs import DEAD_LETTERS, FULL, PACKED, PART, copied, flip, forge, model_of


def test_what_was_written_is_what_is_there(verify: Callable[..., Result], out: Path, made: list[str]) -> None:
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in out.rglob("*")}
    done = verify(out)
    assert (done.code, done.err) == (0, "")
    parts = len(list(out.glob("*-of-*")))
    counted = f"{parts} parts, 48 rows, 12 dead letters"
    expected = f"{out} is what was written (sizes only, contents not read): {counted}"
    assert done.out.splitlines() == [expected, "--read_data=100% reads the contents, too"]
    expected = f"{out} is what was written (sizes, and the contents of 100% of the parts): {counted}"
    read = verify(out, FULL, "--rescore=7", model_of(made))
    assert read.out.splitlines() == [
        expected,
        f"read: {parts} of {parts} parts, with their dead letters and their bytes of the sources",
        "scored again: 7 equal",
    ]
    some = verify(out, "--read_data=1%", "--discard")
    assert (some.code, f"read: 1 of {parts} parts, " in some.out) == (0, True)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in out.rglob("*")} == before


def test_it_loads_no_model_and_no_tensorflow(out: Path) -> None:
    code = (
        "import sys; from pipeline import cli; from pipeline.model import model_process; code = cli.main(sys.argv[1:]); "
        "print([m for m in sys.modules if m.split('.')[0] in ('tensorflow', 'keras', 'tfx_bsl')], "
        "model_process.process.cache_info().currsize, int(code))"
    )
    again = [sys.executable, "-c", code, "verify", f"--run={out}", FULL]
    said = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "[] 0 0"


OWN = [
    "_SUCCESS",
    "_keyjoin/manifest.json",
    "_keyjoin/parts.jsonl",
    "_keyjoin/sources.jsonl",
    "_keyjoin/statistics.json",
]


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
@pytest.mark.parametrize("name", [*OWN, PART, PACKED, DEAD_LETTERS])
def test_damage_is_detected(verify: Callable[..., Result], out: Path, name: str, damage: str) -> None:
    harm, code = DAMAGES[damage]
    harm(out / name)
    done = verify(out, FULL)
    assert done.code == code, done.out
    first, *rest = done.out.splitlines()
    assert first.startswith(f"{code.title:<9}  {name}: expected ") or (damage, name) == ("first byte", "_SUCCESS")
    assert f"{out} is not what was written: 1 {code.title}" in rest
    if damage not in ("first byte", "last byte") or name in OWN:
        assert verify(out).code == code  # the default, without reading parts, detects it too


@pytest.mark.parametrize("name", [PART, PACKED, DEAD_LETTERS])
@pytest.mark.parametrize("damage", ["missing", "last byte"])
def test_the_printed_commands_rebuild_wrong_files_and_nothing_else(
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
        Path(output, "a-00000-of-00009.jsonl").write_bytes(b"{}\n")
        said = verify(Path(output), FULL).out.splitlines()
        assert said[-3] == "to rebuild what is wrong, and nothing else:"
        discard, again = (shlex.split(line)[1:] for line in said[-2:])
        assert discard == ["verify", f"--run={output}", FULL, "--discard"]
        assert (main(discard) == 0, Path(output, "_SUCCESS").exists()) == (False, False)
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
    names = sorted(str(p.relative_to(output)) for p in output.rglob("*") if p.is_file() and p.suffix != ".html")
    path = output / data.draw(st.sampled_from(names))
    before = path.read_bytes()
    try:
        flip(path, data.draw(st.integers(0, len(before) - 1)), data.draw(st.integers(1, 255)))
        code = main(["verify", f"--run={output}", FULL])
        # With another digit in its version, the manifest is the record of another version of keyjoin, which is refused.
        other = (
            path.name == "manifest.json" and f'"schema_version": {SCHEMA_VERSION},'.encode() not in path.read_bytes()
        )
        assert code == Exit.ALTERED or (other and code == Exit.USAGE)
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("name", ["a.jsonl", "b.jsonl.gz"])
@pytest.mark.parametrize("damage", ["missing", "longer", "first byte", "last byte"])
def test_a_source_that_is_not_what_was_read_is_reported_apart(
    verify: Callable[..., Result], out: Path, made: list[str], name: str, damage: str
) -> None:
    source = Path(made[0].partition("=")[2], name)
    before = source.read_bytes()
    try:
        DAMAGES[damage][0](source)
        done = verify(out, FULL, "--discard")
        assert done.code == (Exit.MISSING if damage == "missing" else Exit.ALTERED)
        assert f"{source}: expected " in done.out.splitlines()[0]
        assert "the output is unchanged: put the source back" in done.out
        assert (out / "_SUCCESS").exists()  # no rescore: the changed source would give another output
        assert verify(out).code == 0
    finally:
        source.write_bytes(before)


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("a-00000-of-00099.jsonl", "to rebuild"),
        ("_keyjoin/dead_letters/b-00000-of-00099.jsonl.gz.jsonl", "to rebuild"),
        ("sub/x-00000-of-00001.jsonl.gz", "move them out"),  # belongs to no source of the run
        ("_keyjoin/dead_letters/x-00000-of-00001.jsonl", "move them out"),
        ("notes.txt", "move them out"),
        ("_keyjoin/dead_letters/sub/notes", "move them out"),
        ("_x.jsonl", None),
        (".hidden", None),
        ("_keyjoin/temp/receipts/a", None),
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


@pytest.mark.parametrize("name", [PART, DEAD_LETTERS, "_keyjoin/parts.jsonl"])
@pytest.mark.parametrize("harm", [link, fifo])
def test_links_and_pipes_are_not_followed(
    verify: Callable[..., Result], out: Path, name: str, harm: Callable[[Path], None]
) -> None:
    harm(out / name)
    done = verify(out, FULL)
    assert done.code == Exit.ALTERED
    assert f"{name}: expected a file; it is none" in done.out


@pytest.mark.parametrize("name", ["_SUCCESS", "_keyjoin/manifest.json"])
def test_a_record_behind_a_link_is_refused(verify: Callable[..., Result], out: Path, name: str) -> None:
    link(out / name)
    done = verify(out)
    assert (done.code, f"{name} is no file; move it away" in done.err) == (2, True)


@pytest.mark.parametrize(
    "name", ["../a-00000-of-00001.jsonl", "/a-00000-of-00001.jsonl", "_keyjoin/temp/a-00000-of-00001.jsonl"]
)
def test_a_name_that_leads_outside_is_refused(verify: Callable[..., Result], out: Path, name: str) -> None:
    assert not is_inside(name)
    forge(out, lambda d: d, lists={"_keyjoin/parts.jsonl": lambda text: text.replace(PART.encode(), name.encode())})
    for flags in ([], [FULL]):
        done = verify(out, *flags)
        assert (done.code, f"names '{name}', which is no part in it" in done.err) == (2, True)


def gap(text: bytes) -> bytes:
    first, *rest = text.splitlines(keepends=True)
    return b"".join([first, *rest[1:]])


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("_keyjoin/manifest.json", lambda d: d["totals"].update(rows=1), "_keyjoin/manifest.json: expected the totals of all parts"),
        ("_keyjoin/manifest.json", lambda d: d["files"].pop("_keyjoin/parts.jsonl"), "is damaged (Object missing required field `_keyjoin/par"),
        ("_keyjoin/manifest.json", lambda d: d.update(files=[]), "it is damaged (Expected `object`, got `array` - at `$.files"),
        ("_keyjoin/parts.jsonl", gap, "_keyjoin/parts.jsonl: expected all bytes and rows of "),
        ("_keyjoin/parts.jsonl", lambda t: t.replace(b'"joined":8', b'"joined":9', 1), " dead of 10 rows"),
        ("_keyjoin/parts.jsonl", lambda t: t[: t.index(b"b.jsonl.gz")].rpartition(b"\n")[0] + b"\n", "_keyjoin/sources.jsonl: expected"),
        ("_keyjoin/parts.jsonl", lambda t: b"[]\n" + t, "_keyjoin/parts.jsonl: expected a receipt a line"),
        ("_keyjoin/parts.jsonl", lambda t: b"[" * 100_000 + t, "_keyjoin/parts.jsonl: expected a receipt a line"),
        ("_keyjoin/statistics.json", lambda t: t.replace(b'"missing":0', b'"missing":1', 1), "_keyjoin/statistics.json: expected the"),
        ("_keyjoin/statistics.json", lambda t: b"[" * 100_000 + t, "_keyjoin/statistics.json: expected the"),
        ("_keyjoin/parts.jsonl", lambda t: t.replace(b'"statistics":["', b'"statistics":["AAAA', 1), "the statistics of a part are damaged"),
        ("_keyjoin/sources.jsonl", lambda t: t.replace(b'"rows":30', b'"rows":31', 1), "_keyjoin/sources.jsonl: expected the totals"),
        ("_keyjoin/sources.jsonl", lambda t: b"{}\n" + t, "_keyjoin/sources.jsonl: expected the sources of the parts"),
        ("_keyjoin/sources.jsonl", lambda t: b"[" * 100_000 + t, "_keyjoin/sources.jsonl: expected the sources of the parts"),
    ],
)  # fmt: skip
def test_a_ledger_that_does_not_add_up_is_detected_whatever_the_checksums(
    verify: Callable[..., Result], out: Path, name: str, change: Any, said: str
) -> None:
    if name == "_keyjoin/manifest.json":
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


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("name", [PART, "_keyjoin/parts.jsonl", "_SUCCESS"])
def test_the_advice_about_a_copy_works_on_the_copy(
    verify: Callable[..., Result],
    keyjoin: Callable[..., Result],
    made: list[str],
    tmp_path: Path,
    name: str,
    moved: bool,
) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    assert keyjoin("run", *made[:-1], f"--output={original}").code == 0
    if moved:
        original.rename(copy)
    else:
        shutil.copytree(original, copy)
    before = content(original)
    flip(copy / name, 5)
    said = verify(copy, FULL).out
    for command in (line for line in said.splitlines() if line.startswith("  keyjoin ")):
        keyjoin(*shlex.split(command)[1:])
    assert (content(original), original.exists()) == (before, not moved)
    if "  keyjoin run" in said:  # without this command, no record proves what the run was
        assert verify(copy, FULL).code == 0


class TestWithoutSuccess:
    """Outputs that never were complete, or are no longer."""

    def test_an_unfinished_run_prints_how_to_resume(
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
        said, _, again = done.err.partition("; wait for it, or resume it: ")
        assert said == f"keyjoin: error: {output} holds an unfinished run"
        moved = output.rename(f"{output}-moved")
        assert keyjoin(*shlex.split(verify(moved).err.partition("resume it: ")[2])[1:]).code == 0
        assert (verify(moved).code, output.exists()) == (0, False)
        moved.rename(output)
        assert keyjoin(*shlex.split(again)[1:]).code == 0
        assert verify(output).code == 0
        for text in ("{", "[]", "{}", '{"options": 1}'):
            (output / "_keyjoin/job.json").write_text(text)
            (output / "_SUCCESS").unlink(missing_ok=True)
            assert "_keyjoin/job.json is damaged" in verify(output).err

    def test_a_run_with_too_many_bad_rows(
        self, verify: Callable[..., Result], keyjoin: Callable[..., Result], made: list[str]
    ) -> None:
        over = keyjoin("run", *made[:-2], "--chunk_bytes=100000", "--wave_bytes=1000000", "--max_bad_rows=1")
        done = verify(over.output)
        assert (done.code, "ended without _SUCCESS: over the error limit" in done.err) == (Exit.FAILED, True)

    def test_no_run_at_all(self, verify: Callable[..., Result], tmp_path: Path, out: Path) -> None:
        assert "holds no run of keyjoin" in verify(tmp_path / "nothing").err
        (out / "_keyjoin/manifest.json").unlink()
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
            Exit.MISSING, "missing    _SUCCESS: expected the sha256 of _keyjoin/manifest.json; it is not there",
        )  # fmt: skip
        assert done.out.splitlines()[-1] == "  the same keyjoin run command"
        assert keyjoin("run", *made).code == 0
        assert verify(output, FULL).code == 0


def test_the_sample_is_the_same_each_time_and_grows(out: Path) -> None:
    from pipeline.run_folder import ledger
    from pipeline.verification.check_files import sample
    from transforms.write_receipts import read_list

    parts = list(read_list(str(out / "_keyjoin/parts.jsonl")))
    samples = [sample(str(out), share, ledger.total(parts)) for share in (0.25, 0.5, 1)]
    picked = [[part for part in parts if one.is_picked(part)] for one in samples]
    assert [(one.parts, one.bytes) for one in samples] == [
        (len(some), sum(part.bytes + part.chunk.nbytes for part in some)) for some in picked
    ]
    few, more, every = ({part.chunk.part for part in some} for some in picked)
    assert (len(few), len(more), len(every)) == (-(-len(parts) // 4), -(-len(parts) // 2), len(parts))
    assert few < more
    first = min((p.chunk.part for p in parts), key=lambda name: hashlib.sha256(name.encode()).digest())
    assert first in few
