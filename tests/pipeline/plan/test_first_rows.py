"""`--limit N` scores exactly the first N rows of the input, in each format and over several files."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan import first_rows as module
from pipeline.plan.first_rows import first_rows, limited
from tests.conftest import Result
from tests.support import models
from tests.transforms.formats.test_every_format import CASES, Row
from transforms import formats
from transforms.records import Source
from transforms.split_into_chunks import chunks_of, open_plain
from transforms.storage.compression import codec_of

FLAGS = {"csv": ["--features=x,y", "--rename=y=z"], "tsv": ["--features=x,y", "--rename=y=z"]}
words = st.text("abé", max_size=4)
files_of_rows = st.lists(st.lists(st.builds(Row, st.integers(-9, 9), words), max_size=12), min_size=1, max_size=3)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", formats.FORMATS)
@given(rows=files_of_rows, count=st.integers(1, 30), block=st.integers(1, 200), chunk=st.integers(1, 200))
def test_chunks_of_limited_sources_have_the_first_rows_and_no_others(
    name: str,
    rows: list[list[Row]],
    count: int,
    block: int,
    chunk: int,
    packed: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    reader, folder = formats.load(name).reader, tmp_path_factory.mktemp("limit")
    sources = []
    for number, some in enumerate(rows):
        content = CASES[name].file(some)
        stored = gzip.compress(content, 1, mtime=0) if packed else content
        path = folder / f"{number}.{name}{'.gz' * packed}"
        path.write_bytes(stored)
        sources.append(Source(str(path), len(stored), str(number), f".{name}{'.gz' * packed}"))
        assert (sources[-1].codec is codec_of(path.name)) or not packed
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "BLOCK_BYTES", block)
        patched.setattr(module, "SIZES", (block,))
        found = limited(sources, reader, count)
        blocks = list(first_rows(sources, reader, count))
    expected = [(source.path, row.text) for source, some in zip(sources, rows, strict=True) for row in some][:count]
    assert sum(len(some.block.positions) for some in blocks) == len(expected)
    texts = []
    for source in found:
        cut = list(chunks_of(source, reader, chunk, None, str(folder / "temp")))
        assert [one.start for one in cut] == [0, *(one.end for one in cut[:-1])]
        assert source.end is None or cut[-1].end == source.end
        with open_plain(source) as file:
            loaded = [reader.load(file, one) for one in cut]
        for one in loaded:
            fields = one.values()
            assert len(fields) == len(one.positions)
            texts += [(source.path, text_of(row["s"])) for row in fields]
    assert texts == expected


def text_of(value: Any) -> str:
    value = value[0] if isinstance(value, list) else value
    return (value.decode() if isinstance(value, bytes) else value or "").rstrip("\n")


@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_limited_run_has_the_first_rows_and_is_verified(
    name: str, keyjoin: Callable[..., Result], model: Any, tmp_path: Path
) -> None:
    for number in range(3):
        rows = [Row(row, "a") for row in range(number * 100, number * 100 + 100)]
        (tmp_path / f"{number}.{name}").write_bytes(CASES[name].file(rows))
    given = [f"--input={tmp_path}/*.{name}", f"--model={model(models.echoing, tf.float32, 2)}", *FLAGS.get(name, [])]
    done = keyjoin("run", *given, "--limit=150", "--chunk_bytes=1000")
    assert (done.code, done.err) == (0, "")
    assert "150  limited to the first 150 rows of the input" in done.out
    assert f"of {tmp_path}/1.{name}" in done.out
    totals = done.manifest()["totals"]
    assert (totals["rows"], totals["joined"]) == (150, 150)
    sources = [json.loads(line) for line in (done.output / "_keyjoin/sources.jsonl").read_text().splitlines()]
    assert [(Path(source["path"]).stem, source["rows"]) for source in sources] == [("0", 100), ("1", 50)]
    assert sources[0]["end"] is None
    assert sources[1]["end"] > 0
    verified = keyjoin("verify", f"--run={done.output}", "--read_data=100%", "--rescore=10", given[1])
    assert verified.code == 0, verified.out


ROWS = [{"x": [float(row), 0.0, 0.0]} for row in range(20)]


def test_a_limit_is_recorded_and_another_one_is_refused(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    given = [f"--input={lines(*ROWS)}", f"--model={model(models.plain)}"]
    output = keyjoin("run", *given, "--limit=7").output
    again = keyjoin("run", *given, "--limit=7", f"--output={output}")
    assert (again.code, "there is nothing to do" in again.out) == (0, True)
    for other in (["--limit=8"], []):
        refused = keyjoin("run", *given, *other, f"--output={output}")
        assert refused.code == 2
        assert f"--limit was 7, is now {other[0].partition('=')[2] if other else 'not given'}" in refused.err
    refused = keyjoin("run", *given, "--limit=7", "--incremental")
    assert (refused.code, "leave one out" in refused.err) == (2, True)


def test_a_limited_run_is_resumed_and_replayed(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    rows: list[Any] = [*ROWS[:5], b"", {"x": [666.0, 0.0, 0.0]}, *ROWS[6:]]
    given = [f"--input={lines(*rows)}", "--limit=8", "--max_bad_rows=1", "--chunk_bytes=60"]
    done = keyjoin("run", *given, f"--model={model(models.raising)}")
    assert (done.code, len(done.rows()), len(done.dead())) == (0, 7, 1)
    parts = {part.name: part.read_bytes() for part in done.parts()}
    (done.output / "_SUCCESS").unlink()
    done.parts()[1].unlink()
    again = keyjoin("run", *given, f"--model={model(models.raising)}", f"--output={done.output}")
    assert again.code == 0, again.err
    assert {part.name: part.read_bytes() for part in again.parts()} == parts
    replayed = keyjoin("replay", f"--run={done.output}", f"--model={model(models.plain)}")
    assert replayed.code == 0, replayed.err
    assert len(again.rows()) == 8
    assert keyjoin("verify", f"--run={done.output}", "--read_data=100%").code == 0


def test_a_limit_above_the_rows_is_the_whole_input(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    given = [f"--input={lines(*ROWS, end=b'')}", f"--model={model(models.plain)}"]
    found = keyjoin("run", *given, "--limit=1000")
    assert (found.code, found.lines()) == (0, keyjoin("run", *given).lines())


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_rows_after_the_limit_are_not_judged(keyjoin: Callable[..., Result], lines: Any, model: Any, name: str) -> None:
    path = Path(lines(*({"x": [n, 1, 2]} for n in range(5)), *[b"bad"] * 40))
    path.with_name(name).write_bytes(
        gzip.compress(path.read_bytes(), mtime=0) if name[-1] == "z" else path.read_bytes()
    )
    done = keyjoin("run", f"--input={path.with_name(name)}", f"--model={model(models.keyed)}", "--limit=5")
    assert (done.code, done.err, done.manifest()["totals"]["joined"]) == (0, "", 5)
    refused = keyjoin("run", f"--input={path.with_name(name)}", f"--model={model(models.keyed)}", "--limit=6")
    assert (refused.code, "1 of the first 6 rows is bad" in refused.err) == (1, True), refused.err
