"""Error limits: how a command line states them, when a run exceeds them, and when that is certain before its end."""

import collections
import contextlib
import json
import pickle
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.job import waves
from pipeline.job.stop_early import Watch
from pipeline.options.error_limits import ALL, ErrorLimits, Limit
from tests.conftest import Result
from tests.support import models
from tests.support.blocks import read
from transforms import columns
from transforms.errors import StoppedError, UsageError
from transforms.formats import jsonl, tfrecord
from transforms.reasons import Reason
from transforms.records import BadRow, Chunk, Feature, PartReceipt, Predictions, Receipt, Source, pack_bad
from transforms.storage.compression import GZIP

CODES = [reason.value for reason in Reason]
numbers = st.integers(0, 10**9).map(str)
ratios = st.decimals(0, 1, places=4).map(str)
limits = numbers | ratios

# The limits in a command line


def has_effect(text: str, whole: str) -> bool:
    return Limit(text).is_ratio != Limit(whole).is_ratio or Limit(text).value <= Limit(whole).value


@given(
    limits,
    st.dictionaries(st.sampled_from(CODES), limits),
    st.dictionaries(st.sampled_from(CODES), st.integers(1, 50)),
    st.integers(1, 100),
)
def test_raised_limits_allow_the_bad_rows_and_can_be_given(
    whole: str, reasons: dict[str, str], dead: dict[str, int], good: int
) -> None:
    reasons = {name: text for name, text in reasons.items() if has_effect(text, whole)}
    given_limits = ErrorLimits.parse([whole, *(f"{name}={text}" for name, text in reasons.items())])
    rows = good + sum(dead.values())
    exceeded = given_limits.exceeded(dead, rows)
    if exceeded is None:
        assert given_limits.raised(dead, rows).texts() == given_limits.texts()
        return
    raised = ErrorLimits.parse([exceeded.raised])
    assert raised.exceeded(dead, rows) is None
    for name, limit in given_limits.limits.items():
        if limit.allows(sum(dead.values()) if name == ALL else dead.get(name, 0), rows):
            assert raised.limits[name] in (limit, raised.limits[ALL])


@given(st.data(), limits, st.dictionaries(st.sampled_from(CODES), limits))
def test_limits_are_read_as_given_in_any_order_and_number_of_flags(
    data: st.DataObject, whole: str, reasons: dict[str, str]
) -> None:
    reasons = {name: text for name, text in reasons.items() if has_effect(text, whole)}
    items = data.draw(st.permutations([whole, *(f"{name}={text}" for name, text in reasons.items())]))
    flags = data.draw(st.integers(1, len(items)))
    texts = [",".join(items[at::flags]) for at in range(flags)]
    assert ErrorLimits.parse(texts).texts() == {ALL: whole, **reasons}


def test_without_a_limit_for_all_it_is_one_in_a_hundred() -> None:
    assert ErrorLimits.parse([]).texts() == {"all": "0.01"}
    assert ErrorLimits.parse(["null=0"]).texts() == {"null": "0", "all": "0.01"}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["-1"], "-1 is neither a number of rows nor a ratio from 0.0 to 1.0"),
        (["1.5"], "1.5 is neither"), (["few"], "few is neither"), (["nan"], "nan is neither"), (["1/2"], "1/2 is"),
        (["1e-999999999"], "1e-999999999 is neither"), (["1__0"], "1__0 is neither"), ([""], "(nothing) is neither"),
        (["0.1,"], "(nothing) is neither"), (["null="], "(nothing) is neither"), (["null=-1"], "-1 is neither"), (["٣"], "٣ is neither"),
        (["modle_error=0"], "there is no reason modle_error (did you mean model_error?); there are not_utf8, not_json"),
        (["=1"], "there is no reason (empty)"), (["all=1"], "there is no reason all"), (["a=b=1"], "no reason a=b"),
        (["0.1", "0.2"], "--max_bad_rows limits all twice: 0.1 and 0.2; give one of them"),
        (["null=1,null=2"], "--max_bad_rows limits null twice"),
        (["null=0.5"], "null=0.5 has no effect, since all bad rows together may be 0.01; raise that too: --max_bad_rows 0.5,null=0.5"),
        (["3,null=4"], "null=4 has no effect"), (["1,000"], "write 1,000 as 1_000; a comma separates limits"),
    ],
)  # fmt: skip
def test_what_is_no_limit_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        ErrorLimits.parse(texts)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "bad", "rows", "allowed"),
    [("0", 0, 10, True), ("0", 1, 10, False), ("1", 1, 10, True), ("1", 2, 10, False), ("1.0", 10, 10, True),
     ("0.1", 1, 10, True), ("0.1", 2, 10, False), ("0.01", 0, 0, True), ("0.0", 1, 1000, False), ("1e-3", 1, 1000, True)],
)  # fmt: skip
def test_a_limit_is_a_number_or_a_ratio(text: str, bad: int, rows: int, allowed: bool) -> None:
    assert Limit(text).allows(bad, rows) is allowed


@given(st.integers(0, 10**6), st.integers(1, 10**9))
def test_ratios_are_exact(millionths: int, millions: int) -> None:
    limit = Limit(f"{millionths / 10**6:.6f}")
    assert limit.allows(millionths * millions, 10**6 * millions)
    assert not limit.allows(millionths * millions + 1, 10**6 * millions)


# At the end of a run


def test_each_limit_holds_by_itself_and_a_reasons_is_reported_first() -> None:
    limits = ErrorLimits.parse(["0.5,model_error=0,null=3"])
    assert limits.exceeded({"null": 3, "missing": 2}, 10) is None
    assert str(limits.exceeded({"null": 4, "missing": 1}, 10)) == (
        "4 of 10 rows are null, more than --max_bad_rows null=3 allows"
    )
    assert str(limits.exceeded({"null": 3, "missing": 4, "model_error": 1}, 20)) == (
        "1 of 20 rows is model_error, more than --max_bad_rows model_error=0 allows"
    )
    assert str(limits.exceeded({"null": 2, "missing": 4}, 10)) == (
        "6 of 10 rows are bad, more than --max_bad_rows=0.5 allows, most often missing"
    )


# Before the end of a run

rows_of_a_chunk = st.tuples(st.integers(0, 200), st.dictionaries(st.sampled_from(CODES[:3]), st.integers(0, 30)))
error_limits = st.tuples(limits, st.dictionaries(st.sampled_from(CODES[:3]), limits))


def limits_of(whole: str, reasons: dict[str, str]) -> ErrorLimits:
    items = [whole, *(f"{name}={text}" for name, text in reasons.items() if has_effect(text, whole))]
    return ErrorLimits.parse([",".join(items)])


def total_of(chunks: list[tuple[int, dict[str, int]]]) -> collections.Counter[str]:
    total = collections.Counter[str]()
    for _, dead in chunks:
        total.update(dead)
    return total


@given(error_limits, st.lists(rows_of_a_chunk, max_size=8), st.integers(2, 40), st.data())
def test_a_run_that_ends_within_its_error_limits_is_never_stopped(
    given_limits: tuple[str, dict[str, str]], chunks: list[tuple[int, dict[str, int]]], least: int, data: st.DataObject
) -> None:
    limits, total = limits_of(*given_limits), total_of(chunks)
    assume(limits.exceeded(total, sum(good + sum(dead.values()) for good, dead in chunks)) is None)
    # Good rows have at least `least` bytes; bad rows may be shorter.
    sizes = [good * data.draw(st.integers(least, 3 * least)) + 2 * sum(dead.values()) for good, dead in chunks]
    watch = Watch(limits, [Source("s", sum(sizes), "s", "")], least)
    at = 0
    for size, (good, dead) in zip(sizes, chunks, strict=True):
        assert watch.may_continue()
        pass_by(watch, Chunk("s", "s", at, at + size, 0, 1, "p"), good, dead)
        at += size
        assert watch.may_continue()
    assert watch.stopped() is None


def pass_by(watch: Watch, chunk: Chunk, good: int, dead: dict[str, int]) -> None:
    bad = [BadRow(0, "read", name, "") for name in sorted(dead) for _ in range(dead[name])]
    half = len(bad) // 2
    receipt = Receipt(chunk, 0, good + len(bad), 0, pack_bad(bad[:half]))
    element = (chunk.key, receipt), (chunk.key, Predictions(b"", good + len(bad) - half, pack_bad(bad[half:])))
    if chunk.start % 2:  # the two may arrive in any order
        assert (watch.read(element[0]), watch.scored(element[1])) == element
    else:
        assert (watch.scored(element[1]), watch.read(element[0])) == element[::-1]


@given(error_limits, st.lists(rows_of_a_chunk, min_size=1, max_size=8), st.integers(2, 40), st.data())
def test_nor_while_the_rows_of_a_chunk_fail_one_by_one(
    given_limits: tuple[str, dict[str, str]], chunks: list[tuple[int, dict[str, int]]], least: int, data: st.DataObject
) -> None:
    limits, total = limits_of(*given_limits), total_of(chunks)
    over = limits.exceeded(total, sum(good + sum(dead.values()) for good, dead in chunks)) is not None
    sizes = [good * data.draw(st.integers(least, 3 * least)) + 2 * sum(dead.values()) for good, dead in chunks]
    watch = Watch(limits, [Source("s", sum(sizes), "s", "")], least)
    # Several chunks are in work at the same time, and all of their bad rows fail in the model.
    work, at = [], 0
    for size, (good, dead) in zip(sizes, chunks, strict=True):
        chunk = Chunk("s", "s", at, at + size, 0, 1, "p")
        begins = watch.may_start(chunk)
        assert begins or over
        work += [(chunk, good + sum(dead.values()), name) for name, count in dead.items() for _ in range(count)]
        at += size
    stopped = False
    for chunk, rows, name in data.draw(st.permutations(work)) if work else []:
        try:
            watch.refused(chunk.key, rows, BadRow(0, "predict", name, "why"))
        except StoppedError:
            stopped = True
            break
    assert over or not stopped
    assert (watch.stopped() is None) is not stopped
    if stopped:
        assert str(watch.stopped()).endswith(" (why)")


@given(st.integers(0, 300))
def test_a_number_stops_scoring_at_the_first_row_beyond_it_and_beyond_a_hundred(number: int) -> None:
    watch = Watch(ErrorLimits.parse([f"1.0,null={number}"]), [Source("s", 1 << 40, "s", "")], 2)
    for _ in range(max(number, 100)):
        watch.refused("s#0", 1 << 30, BadRow(0, "predict", "null", ""))
    with pytest.raises(StoppedError):
        watch.refused("s#0", 1 << 30, BadRow(0, "predict", "null", ""))


def test_how_many_rows_a_chunk_has_is_known_while_it_is_scored() -> None:
    """One chunk has all 1,000 rows, and a tenth may be bad. By bytes alone there could be three times as many rows."""
    watch = Watch(ErrorLimits.parse(["0.1"]), [Source("s", 100_000, "s", "")], 34)
    watch.may_start(Chunk("s", "s", 0, 100_000, 0, 1, "p"))
    for number in range(100):
        watch.refused("s#0", 1_000, BadRow(number, "predict", "model_error", ""))
    with pytest.raises(StoppedError):
        watch.refused("s#0", 1_000, BadRow(100, "predict", "model_error", ""))


@pytest.mark.parametrize(("suffix", "end", "last"), [("", b"\n", 2_000), (".gz", b"\n", 2_999), ("", b"", 2_999)])
def test_how_many_rows_a_source_has_is_counted_once_many_fail(
    suffix: str, end: bytes, last: int, tmp_path: Path
) -> None:
    """Of 20,000 rows a tenth may be bad. The source's bytes could hold many more rows, so keyjoin counts its lines."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x" * 9 + b"\n" + (b"x" * 99 + b"\n") * 19_998 + b"no newline")
    source = Source(str(path), path.stat().st_size, "a", suffix)
    watch = Watch(ErrorLimits.parse(["0.1"]), [source], 34, end)
    for number in range(last):
        watch.refused("s#0", 3_000, BadRow(number, "predict", "model_error", ""))
    with pytest.raises(StoppedError) if last == 2_000 else contextlib.nullcontext():
        watch.refused("s#0", 3_000, BadRow(last, "predict", "model_error", ""))


@given(st.integers(1, 50), st.lists(st.integers(0, 20), min_size=1, max_size=10))
def test_a_number_stops_a_run_as_soon_as_it_is_passed(number: int, bad: list[int]) -> None:
    watch = Watch(ErrorLimits.parse([f"1.0,null={number}"]), [Source("s", 1 << 40, "s", "")], 2)
    count = 0
    for at, more in enumerate(bad):
        assert watch.may_continue() is (count <= number)
        pass_by(watch, Chunk("s", "s", at, at + 1, at, 99, "p"), 5, {"null": more})
        count += more
    assert watch.may_continue() is (count <= number)
    assert (watch.stopped() is None) is (count <= number)


def test_a_ratio_stops_a_run_whose_rows_are_all_bad_after_a_part_of_it() -> None:
    """A row has 100 bytes; a good row needs only 34. More than 1% are certain to be bad after a 34th of the input."""
    watch = Watch(ErrorLimits.parse(["0.01"]), [Source("s", 100 * 10_000, "s", "")], 34)
    begun = 0
    while watch.may_continue():
        pass_by(watch, Chunk("s", "s", begun * 10_000, (begun + 1) * 10_000, 0, 100, "p"), 0, {"null": 100})
        begun += 1
    assert begun == 3
    assert str(watch.stopped()) == (
        "300 of the first 300 rows are bad, more than --max_bad_rows=0.01 allows whatever follows, most often null"
    )


def test_of_a_gzip_source_far_more_may_follow() -> None:
    for suffix, stops in ((".jsonl", True), (".jsonl.gz", False)):
        name = "s" + suffix
        watch = Watch(ErrorLimits.parse(["0.5"]), [Source(name, 1000, "s", suffix)], 10)
        pass_by(watch, Chunk(name, "data", 0, 900, 0, 2, "p"), 0, {"null": 90})
        assert watch.may_continue() is not stops
    pass_by(watch, Chunk(name, "data", 900, 1000 * GZIP.ratio, 1, 2, "p"), 89, {})
    assert not watch.may_continue()


def test_counts_of_parts_replace_those_of_scoring_once_written() -> None:
    watch = Watch(ErrorLimits.parse(["1.0,collision=1,null=1"]), [Source("s", 1000, "s", "")], 10)
    chunk = Chunk("s", "s", 0, 100, 0, 9, "p")
    pass_by(watch, chunk, 9, {"null": 1})
    part = PartReceipt(chunk, 0, 10, 0, 7, {"null": 1, "collision": 2}, 0, 0, 0, 0, 0)
    assert watch.wrote(part) is part
    watch.end_wave()
    exceeded = watch.exceeded()
    assert exceeded is not None
    assert (exceeded.name, exceeded.bad, exceeded.rows) == ("collision", 2, 10)
    assert pickle.loads(pickle.dumps(watch)) is watch  # noqa: S301


names = st.text(st.characters(codec="utf-8"), max_size=4)
shapes = st.sampled_from([(), (1,), (3,), (2, 2), (1, 1)])
dtypes = st.sampled_from(["float32", "int64", "bool", "string"])


@given(st.lists(st.tuples(names, dtypes, shapes), min_size=1, max_size=4, unique_by=lambda field: field[0]))
def test_the_briefest_line_that_is_good_has_the_least_bytes(fields: list[tuple[str, str, tuple[int, ...]]]) -> None:
    features = [Feature(f"f{at}", dtype, shape, (name,)) for at, (name, dtype, shape) in enumerate(fields)]
    line = json.dumps(
        {n: value(d, () if s == (1,) else s) for n, d, s in fields}, ensure_ascii=False, separators=(",", ":")
    ).encode()
    inputs, bad = read(jsonl.FORMAT, line, features)
    assert (inputs.num_rows, bad) == (1, [])
    assert jsonl.FORMAT.reader.least_bytes(features) == len(line + b"\n")


def value(dtype: str, shape: tuple[int, ...]) -> Any:
    if not shape:
        return {"bool": True, "string": ""}.get(dtype, 0)
    return [value(dtype, shape[1:])] * shape[0]


def test_stacked_and_shared_fields_count_once() -> None:
    stacked = Feature("m", "float32", (2,), ("a", "b"))
    assert jsonl.FORMAT.reader.least_bytes([stacked, Feature("n", "float32", (), ("a",))]) == len('{"a":0,"b":0}\n')
    assert tfrecord.FORMAT.reader.least_bytes([stacked]) == 16 + len("ab") + 2


def test_an_example_takes_more_than_the_least_bytes() -> None:
    from tests.support.examples import example, ints, texts, written

    features = [Feature("x", "float32", (3,), ("x",)), Feature("s", "string", (2,), ("s",))]
    data = written([example(x=ints(0, 0, 0), s=texts(b"", b""))])
    inputs, bad = read(tfrecord.FORMAT, data, features)
    assert (inputs.num_rows, bad) == (1, [])
    assert isinstance(columns.to_array(inputs["x"], features[0]).tolist(), list)
    assert pa.types.is_binary(inputs["s"].type.value_type)
    assert tfrecord.FORMAT.reader.least_bytes(features) <= len(data)


# On real files

GOOD, RAISES, BAD = {"x": [1, 2, 3]}, {"x": [666, 0, 0]}, {"x": [1, 2]}


def part_numbers(done: Result) -> list[int]:
    return [int(part.name.split("-")[1]) for part in done.parts()]


def test_a_run_stops_early_and_keeps_finished_parts(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    path = lines(*[GOOD, GOOD, RAISES, GOOD] * 10)
    flags = (f"--input={path}", f"--model={model(models.raising)}", "--chunk_bytes=60")
    done = keyjoin("run", *flags, "--max_bad_rows", "1.0,model_error=2", "--max_bad_rows=null=0")
    assert (done.code, done.complete()) == (1, False)
    warned, *samples, error = done.err.splitlines()
    assert "10 of the first 40 rows are bad, and --max_bad_rows model_error=2 allows fewer" in warned
    assert (
        "rows are model_error, more than --max_bad_rows model_error=2 allows whatever follows; no _SUCCESS was written; see "
        in error
    )
    assert f"; see {done.output}/_keyjoin/dead_letters, then fix model or rows" in error
    again = shlex.split(error.rpartition("resume with: keyjoin ")[2])
    assert sum(word.startswith("--max_bad_rows") for word in again) == 1
    # Every started chunk has its dead letters and receipt; no file is half written.
    begun = part_numbers(done)
    assert begun == list(range(len(begun)))
    assert 3 <= len(done.dead()) <= 6
    assert len(begun) < 10
    assert len(samples) == 3
    for letter, sample in zip(done.dead(), samples, strict=False):
        assert sample.startswith(f"{letter['key']} (line {letter['line']:,})  model_error: ")
    assert not (done.output / "_keyjoin/manifest.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in done.parts()}
    resumed = keyjoin(*again)
    assert resumed.complete(), resumed.err
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in resumed.parts()}.items()
    assert (len(resumed.rows()), len(resumed.dead())) == (30, 10)


def test_between_waves_what_could_not_be_written_counts(
    keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lines(*[{**GOOD, "i": i} if i % 4 else {**GOOD, "prediction": i} for i in range(24)])
    flags = (f"--input={path}", f"--model={model(models.keyed)}", "--chunk_bytes=100", "--wave_bytes=500")
    assert keyjoin("run", *flags, "--max_bad_rows=6").complete()
    begun = []
    original = waves.build_chunks
    monkeypatch.setattr(waves, "build_chunks", lambda *a, **b: (begun.append(a), original(*a, **b))[1])
    done = keyjoin("run", *flags, "--max_bad_rows=1")
    assert done.code == 1
    assert "rows are bad, more than --max_bad_rows=1 allows whatever follows, most often collision" in done.err
    assert 1 < len(done.dead()) < 5
    assert len(begun) == 1  # no second wave starts


def test_at_the_end_the_count_is_exact_and_strangers_text_is_shown_escaped(
    keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    path = lines(*[GOOD] * 96, *[BAD] * 4, name="\x1b[2J\u202eé.jsonl")
    flags = (f"--input={path}", f"--model={model(models.keyed)}")
    assert keyjoin("run", *flags, "--max_bad_rows=0.04,wrong_shape=4").complete()
    done = keyjoin("run", *flags, "--max_bad_rows=0.5", "--max_bad_rows=wrong_shape=0.03,missing=0")
    assert (done.code, len(done.rows())) == (1, 96)
    assert done.err.count("\n") == 5
    assert done.err.startswith("keyjoin: warning: 4 of the first 100 rows are bad")
    assert (
        "4 of 100 rows are wrong_shape, more than --max_bad_rows wrong_shape=0.03 allows; no _SUCCESS was written; see"
        in done.err
    )
    assert all(c.isprintable() or c == "\n" for c in done.err)
    assert (
        f"/\\x1b[2J\\u202eé.jsonl#{17 * 96} (line 97)  wrong_shape: field x: a list of 2 where 3 are expected\n"
        in done.err
    )
    manifest = done.manifest()
    assert manifest["status"] == "over the error limit"
    assert manifest["options"]["max_bad_rows"] == {"all": "0.5", "wrong_shape": "0.03", "missing": "0"}
    kept = [path.stat().st_mtime_ns for path in done.parts()]
    again = keyjoin("run", *flags, "--max_bad_rows=0.5", f"--output={done.output}")
    assert again.complete(), again.err
    assert kept == [path.stat().st_mtime_ns for path in again.parts()]


@pytest.mark.parametrize("limit", ["0.05", "30", "1.0,model_error=20"])
def test_a_model_that_refuses_all_later_rows_is_not_called_with_each(
    limit: str, keyjoin: Callable[..., Result], lines: Any, model: Any
) -> None:
    rows = [{**GOOD, "n": n} for n in range(200)] + [{**RAISES, "n": n} for n in range(1_800)]
    flags = (f"--input={lines(*rows)}", f"--model={model(models.raising)}")
    done = keyjoin("run", *flags, f"--max_bad_rows={limit}", "--output_fields=row,prediction")
    assert (done.code, done.parts(), done.dead()) == (1, [], [])
    found = re.search(r"error: (\d+) of the first \1 rows are ", done.err)
    assert found
    assert int(found[1]) < 500
    assert "allows whatever follows" in done.err
    assert "the number of the beast" in done.err
    again = keyjoin("run", *flags, "--max_bad_rows=1.0", f"--output={done.output}", "--output_fields=row,prediction")
    assert again.complete(), again.err
    assert [row["n"] for row in again.rows()] == list(range(200))
    assert len(again.dead()) == 1_800
