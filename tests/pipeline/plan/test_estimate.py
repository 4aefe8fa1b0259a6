"""The estimate of a run: its formula, and what `check` prints and the manifest keeps."""

import contextlib
import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan import trial as trials
from pipeline.plan.estimate import Cost, Work, seconds_of
from pipeline.plan.probe import ProbeError
from pipeline.plan.spread_sample import middles, rows_at
from pipeline.plan.trial import Calls, Trial
from tests.conftest import Result
from tests.support.models import plain
from tests.transforms.formats.test_every_format import CASES, Row
from transforms import formats
from transforms.records import Source, Unit

costs = st.builds(Cost, st.floats(0, 1e-3), st.floats(0, 1e-3), st.floats(0, 10))
works = st.builds(Work, st.floats(0, 1e15), st.integers(0, 10**6), st.integers(0, 10**6))
cores = st.integers(1, 128)


def sum_of(one: Work, other: Work) -> Work:
    return Work(*(a + b for a, b in zip(one, other, strict=True)))


@given(works, works, costs, cores)
def test_two_runs_take_as_long_as_one_of_both(one: Work, other: Work, cost: Cost, count: int) -> None:
    parts = seconds_of(one, cost, count) + seconds_of(other, cost, count)
    assert math.isclose(seconds_of(sum_of(one, other), cost, count), parts, rel_tol=1e-9, abs_tol=1e-9)


@given(works, works, costs, cores)
def test_more_work_never_takes_less_and_more_cores_never_take_longer(
    work: Work, more: Work, cost: Cost, count: int
) -> None:
    assert seconds_of(sum_of(work, more), cost, count) >= seconds_of(work, cost, count)
    assert seconds_of(work, cost, count + 1) <= seconds_of(work, cost, count)


@given(st.integers(1, 10**9), st.floats(1, 1e9), st.floats(1e-6, 1e3), st.floats(1e-6, 1e3), st.floats(1, 1e9))
def test_the_cost_of_all_sampled_bytes_is_what_they_took(
    rows: int, size: float, read: float, write: float, speed: float
) -> None:
    cost = Cost.of(Trial(rows, size, read, write, 2 * rows, (Calls(8, speed, None),), 1.0, "byte"))
    assert math.isclose(size * cost.processor, read + write)
    assert math.isclose(size * cost.model, rows / speed)
    assert math.isclose(size * cost.written, 2 * rows)


def test_compressed_sources_count_with_their_ratio() -> None:
    plain, packed = Source("a.jsonl", 100, "a", ".jsonl"), Source("b.jsonl.gz", 100, "b", ".jsonl.gz")
    assert Trial(1, 1, 1, 1, 1, (), 4.0, "byte").plain_bytes([plain, packed]) == 500


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_rows_after_the_limit_do_not_count(end: int, size: int) -> None:
    by_byte, by_row = (Trial(10, 70, 1, 1, 1, (), 4.0, unit) for unit in get_args(Unit))
    plain = Source("a", size, "a", ".jsonl", end=end)
    assert by_byte.plain_bytes([plain]) == min(size, end)
    assert by_row.plain_bytes([plain]) == min(size, 7 * end)
    assert by_byte.plain_bytes([plain._replace(suffix=".jsonl.gz")]) == min(4 * size, end)


LINE = '{"x": [%d.5, 2.25, 1], "name": "row %d"}\n'


@pytest.fixture
def flags(tmp_path: Path, model: Callable[..., str]) -> list[str]:
    (tmp_path / "rows.jsonl").write_text("".join(LINE % (n, n) for n in range(3_000)))
    return [f"--input={tmp_path}/rows.jsonl", f"--model={model(plain)}"]


def test_check_prints_it_and_the_manifest_keeps_it(keyjoin: Callable[..., Result], flags: list[str]) -> None:
    checked = keyjoin("check", *flags, f"--output={flags[0][8:]}.out")
    assert "estimate     about " in checked.out
    assert "rows a call  rows/s of all cores" in checked.out
    document = json.loads(keyjoin("check", *flags, f"--output={flags[0][8:]}.out", "--json").out)
    assert document["estimate"]["seconds"] > 0
    assert document["calls"][-1]["rows_a_second"] > 0
    done = keyjoin("run", *flags)
    found = done.manifest()["estimate"]
    size = sum(part.stat().st_size for part in done.parts())
    assert found["output_bytes"] == pytest.approx(size, rel=0.02)
    assert found["seconds"] > 0


@pytest.mark.parametrize(
    ("suffix", "limit"),
    [
        *((suffix, []) for suffix in (".csv", ".parquet", ".avro", ".jsonl.gz")),
        # A part of fewer rows of Parquet is larger a row, since each column is encoded as a whole.
        *((suffix, ["--limit=2000"]) for suffix in (".csv", ".avro", ".jsonl.gz")),
    ],
)
def test_the_size_of_the_output_is_that_of_each_format(
    keyjoin: Callable[..., Result], tmp_path: Path, model: Callable[..., str], suffix: str, limit: list[str]
) -> None:
    rows = [{"a": n + 0.5, "b": n / 7, "c": 1.0, "name": f"row {n % 997}"} for n in range(3_000)]
    path = tmp_path / f"rows{suffix}"
    write(path, rows)
    done = keyjoin("run", f"--input={path}", f"--model={model(plain)}", "--features=a,b,c", *limit)
    assert done.complete(), done.err
    size = sum(part.stat().st_size for part in done.parts())
    assert done.manifest()["estimate"]["output_bytes"] == pytest.approx(size, rel=0.1)


def texts(*lengths: int) -> list[dict[str, object]]:
    random = Random(7)  # texts that no codec makes much smaller
    return [{"x": [n, 2.25, 1], "name": random.randbytes(length).hex()[:length]} for n, length in enumerate(lengths)]


# The lengths of the texts of the rows of each file, by its name. Each text is in its row and not in the prediction.
UNLIKE = {
    "one large first row": {"a.jsonl": [20_000, *[20] * 1_500]},
    "one large row in the middle": {"a.jsonl": [*[20] * 700, 9_000, *[20] * 700]},
    "short rows, then long ones": {"a.jsonl": [*[5] * 500, *[300] * 500]},
    "sorted by length": {"a.jsonl": [n // 4 for n in range(1_500)]},
    "a file of long rows, then many small ones": {
        "a.jsonl": [500] * 20,
        **{f"b{n}.jsonl": [5] * 60 for n in range(30)},
    },
    "small files, then a large one": {**{f"a{n}.jsonl": [900] for n in range(30)}, "b.jsonl": [10] * 2_000},
    "an empty file, then rows": {"a.jsonl": [], "b.jsonl": [5] * 900},
    "gzip": {"a.jsonl.gz": [20] * 900},
    "Avro": {"a.avro": [*[5] * 900, *[100] * 900]},
    "Parquet": {"a.parquet": [*[5] * 900, *[100] * 900]},
}


@pytest.mark.parametrize("shape", UNLIKE)
def test_rows_that_differ_from_the_first_ones_count_too(
    keyjoin: Callable[..., Result],
    tmp_path: Path,
    model: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    shape: str,
) -> None:
    monkeypatch.setattr(trials, "BYTES", 1 << 13)
    for name, lengths in UNLIKE[shape].items():
        rows = texts(*lengths)
        if name.endswith((".jsonl", ".gz")):
            text = "".join(json.dumps(row) + "\n" for row in rows).encode()
            (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        else:
            write(tmp_path / name, [{"a": 1.5, "b": 2.5, "c": 3.5, "name": row["name"]} for row in rows])
    features = [] if "jsonl" in str(UNLIKE[shape]) else ["--features=a,b,c"]
    done = keyjoin("run", f"--input={tmp_path}/*.*", f"--model={model(plain)}", *features)
    assert done.complete(), done.err
    size = sum(part.stat().st_size for part in done.parts())
    assert done.manifest()["estimate"]["output_bytes"] == pytest.approx(size, rel=0.2)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_the_places_of_a_trial_are_whole_rows_in_the_middles_of_thirds(name: str, tmp_path: Path) -> None:
    reader = formats.load(name).reader
    path = tmp_path / f"a.{name}"
    path.write_bytes(CASES[name].file([Row(n, "b" * (n % 7)) for n in range(900)]))
    source = Source(str(path), path.stat().st_size, "a", path.suffix)
    with path.open("rb") as file:
        every = reader.sample(file, 1 << 20).positions.tolist()
    for part, (one, at) in enumerate(middles([source], 3, reader.unit)):
        with contextlib.ExitStack() as stack:
            place = rows_at(one, at, reader, 512, stack)
            assert place is not None
            found = reader.load(place.file, place.chunk).positions.tolist()
        first = every.index(found[0])
        assert every[first : first + len(found)] == found
        if name not in ("avro", "parquet"):  # which may have one block of rows
            assert abs(first / len(every) - (2 * part + 1) / 6) < 0.05
            assert len(found) < 100


def test_of_a_limited_input_the_places_are_before_its_end(
    keyjoin: Callable[..., Result], flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "BYTES", 1 << 10)
    done = keyjoin("run", *flags, "--limit=90")
    size = sum(part.stat().st_size for part in done.parts())
    assert done.manifest()["estimate"]["output_bytes"] == pytest.approx(size, rel=0.05)


def test_a_run_of_bad_rows_or_of_a_model_that_fails_has_none(
    keyjoin: Callable[..., Result], flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ProbeError

    monkeypatch.setattr(trials, "score", fail)
    done = keyjoin("run", *flags)
    assert done.complete()
    assert "estimate" not in done.manifest()


def write(path: Path, rows: list[dict[str, object]]) -> None:
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".avro":
        import fastavro

        fields = [{"name": name, "type": "string" if name == "name" else "double"} for name in rows[0]]
        with path.open("wb") as file:
            fastavro.writer(file, {"type": "record", "name": "row", "fields": fields}, rows, "deflate")
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    else:
        lines = [rows[0].keys(), *(map(str, row.values()) for row in rows)]
        path.write_text("".join(",".join(line) + "\n" for line in lines))
