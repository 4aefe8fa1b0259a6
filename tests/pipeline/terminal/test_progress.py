"""The progress of a run: when lines are printed, what they say, what a terminal shows, and the events."""

import contextlib
import doctest
import json
import os
import pty
import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.commands import run
from pipeline.job.progress import Figures, Phase, Waits
from pipeline.terminal import events, messages, progress
from pipeline.terminal.messages import displayed, show, show_error
from pipeline.terminal.progress import Bar, bar_lines, is_due, line_of, mode_for
from tests.conftest import Result
from tests.support import models

SCORING = Figures(
    seconds=74.2,
    phase=Phase.SCORING,
    output="out",
    sources=2,
    source_bytes=1000,
    scored=0.62,
    written=0.4,
    rows=1_240_000,
    parts=4,
    of_parts=9,
    dead={"missing": 10, "wrong_type": 2},
    rate=58_000.4,
    left=42.0,
)
READING = Figures(seconds=9.6, phase=Phase.READING, done=0.38, parts=4, of_parts=9, left=15.2)
STALLED = SCORING._replace(idle=40.0, waits_for=Waits.COMPUTING)


def test_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(progress) == (0, 2)


def printed(times: list[float], share: Callable[[float], float]) -> list[float]:
    """The times at which a line is printed if figures come at `times`."""
    found, last = [], (0.0, 0.0)
    for seconds in times:
        if is_due(seconds, share(seconds), *last):
            found.append(seconds)
            last = seconds, share(seconds)
    return found


def test_lines_come_at_1_5_and_10_seconds_then_every_30_seconds_or_10_percent() -> None:
    every_second = [float(n) for n in range(1, 131)]
    assert printed(every_second, lambda _: 0.0) == [1, 5, 10, 40, 70, 100, 130]
    assert printed(every_second[:30], lambda seconds: min(seconds / 50, 1.0)) == [1, 5, 10, 15, 20, 25, 30]


@given(st.lists(st.floats(0.01, 50), max_size=60), st.floats(1, 1e5))
def test_a_run_has_few_lines(steps: list[float], length: float) -> None:
    times = [sum(steps[: n + 1]) for n in range(len(steps))]
    lines = printed(times, lambda seconds: min(seconds / length, 1.0))
    assert len(lines) <= 3 + 10 + sum(steps) / 30


def test_a_line_has_pairs_of_keys_and_values() -> None:
    assert line_of(STALLED) == (
        "keyjoin: progress seconds=74 phase=scoring scored=62.0% written=40.0% rows_written=1240000 parts=4 of_parts=9 "
        "rows_per_second=58000 seconds_left=42 bad_rows=12 bad_rows.missing=10 bad_rows.wrong_type=2 "
        'stall="no chunk finished for 40 s; the model\'s process is computing"'
    )
    assert line_of(Figures(3.2, Phase.LOADING)) == 'keyjoin: progress seconds=3 phase="loading the model"'
    assert line_of(READING) == (
        'keyjoin: progress seconds=10 phase="reading files" done=38.0% parts=4 of_parts=9 seconds_left=15'
    )


@pytest.mark.parametrize(
    "figures",
    [SCORING, STALLED, Figures(3.2, Phase.LOADING), READING, SCORING._replace(run="model_b")],
    ids=["scoring", "stalled", "loading", "reading", "second model"],
)
@pytest.mark.parametrize("width", [10, 20, 40, 79, 119, 200])
def test_no_line_of_the_bar_is_wider_than_the_terminal(figures: Figures, width: int) -> None:
    lines = bar_lines(figures, width)
    assert all(0 < line.cell_len <= width for line in lines), lines
    assert f"{figures.run}{figures.phase.value}"[:7] in lines[0].plain.replace(": ", "")


def test_a_wider_terminal_shows_more() -> None:
    narrow, normal = ([line.plain for line in bar_lines(STALLED, width)] for width in (39, 79))
    assert narrow[0].endswith("62% scored, 0:42 left")
    assert narrow[1:] == [
        "4 of 9 parts written, 12 bad rows",
        "no chunk finished for 40 s",
        "the model's process is computing",
    ]
    assert normal[0].endswith("62% scored, 40% written, 0:42 left")
    assert normal[1] == "4 of 9 parts written, 12 bad rows, 58,000 rows/s, 1,240,000 rows written"
    shares = [normal[0].count(one) / sum(normal[0].count(each) for each in "█▓░") for one in "█▓"]
    assert shares == pytest.approx([0.4, 0.22], abs=0.03)


@pytest.mark.parametrize("figures", [SCORING, READING], ids=["scoring", "reading"])
def test_a_very_narrow_bar_still_has_its_share(figures: Figures) -> None:
    share = f" {figures.scored or figures.done:.0%}"
    for width in range(20, 120):
        assert share in bar_lines(figures, width)[0].plain


def test_a_bar_of_what_is_read_has_one_colour() -> None:
    first, second = (line.plain for line in bar_lines(READING, 79))
    assert first.endswith(" 38%, 0:15 left")
    assert (first.startswith("reading files █"), "▓" in first) == (True, False)
    assert second == "4 of 9 parts read"


def stream(*, terminal: bool) -> Any:
    return SimpleNamespace(isatty=lambda: terminal)


@pytest.mark.parametrize(
    ("mode", "terminal", "environment", "found"),
    [
        ("auto", True, {"TERM": "xterm"}, "bar"),
        ("auto", False, {"TERM": "xterm"}, "lines"),
        ("auto", True, {"TERM": "xterm", "CI": "true"}, "lines"),
        ("auto", True, {"TERM": "dumb"}, "lines"),
        ("auto", True, {}, "lines"),
        ("auto", True, {"TERM": "xterm-color", "JPY_PARENT_PID": "7"}, "lines"),
        ("bar", True, {"TERM": "xterm", "CI": "true"}, "bar"),
        ("bar", False, {"TERM": "xterm"}, "lines"),
        ("json", True, {"TERM": "xterm"}, "json"),
        ("off", True, {"TERM": "xterm"}, "off"),
    ],
)
def test_the_display_fits_the_terminal(mode: str, terminal: bool, environment: dict[str, str], found: str) -> None:
    assert mode_for(mode, stream(terminal=terminal), environment) == found


class Screen:
    """A terminal that understands the movements of the cursor that a bar makes, and no others."""

    def __init__(self, columns: int) -> None:
        self.columns, self.lines, self.row, self.column = columns, [""], 0, 0

    def feed(self, text: str) -> None:
        for control, letter in re.findall(r"(\x1b\[\d*[A-Za-z]|[\r\n])|(.)", re.sub(r"\x1b\[[\d;]*m", "", text)):
            if letter:
                assert self.column < self.columns, "a line is wider than the terminal"
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + letter + line[self.column + 1 :]
                self.column += 1
            elif control == "\r":
                self.column = 0
            elif control == "\n":
                self.row += 1
                self.lines += [""] * (self.row == len(self.lines))
            elif control.endswith("A"):
                self.row -= int(control[2:-1])
            elif control.endswith("C"):
                self.column += 1
            elif control.endswith("K"):
                self.lines[self.row] = self.lines[self.row][: self.column]
            else:
                assert control == "\x1b[J", control
                self.lines[self.row :] = [self.lines[self.row][: self.column]]

    def text(self) -> list[str]:
        return [line.rstrip() for line in self.lines if line.strip()]


def drawn(columns: int, draw: Callable[[], None]) -> str:
    """Returns what a terminal receives while `draw` runs. It is both output streams of this process."""
    controller, device = pty.openpty()
    said = bytearray()

    def listen() -> None:
        with contextlib.suppress(OSError):  # the device is closed
            while True:
                said.extend(os.read(controller, 1 << 16))

    listener = threading.Thread(target=listen)
    listener.start()
    with (
        open(device, "wb") as opened,
        messages._Visible(opened, "utf-8", line_buffering=True) as stream,
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
        mock.patch("os.get_terminal_size", return_value=os.terminal_size((columns, 24))),
    ):
        draw()
    listener.join()
    os.close(controller)
    return said.decode()


@pytest.fixture(autouse=True)
def terminal_with_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "NO_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_bar_leaves_only_messages(columns: int) -> None:
    def draw() -> None:
        bar = Bar()
        with displayed(bar):
            bar.update(Figures(3.2, Phase.LOADING))
            bar.update(STALLED)
            show("a line")
            bar.update(SCORING)
            show_error("keyjoin: warning: \x1b[2J")
            print("log of ", end="")
            bar.update(SCORING)  # in the middle of a line, nothing is drawn
            print("a library")
            bar.update(SCORING)
            bar.close(SCORING)
            bar.update(SCORING)
            show("the end")

    screen, said = Screen(columns), drawn(columns, draw)
    screen.feed(said)
    assert screen.text() == ["a line", "keyjoin: warning: \\x1b[2J", "log of a library", "the end"]
    assert said.count("62%") == 3


def test_check_shows_what_it_does_and_nothing_if_it_is_short(
    keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = threading.Event()
    scored, updated = run.score_spread, Bar.update

    def score(*args: Any) -> Any:
        if terminal:
            assert seen.wait(60)
        return scored(*args)

    def update(bar: Bar, figures: Figures) -> None:
        updated(bar, figures)
        if figures.phase is Phase.SAMPLING:
            seen.set()

    monkeypatch.setattr(progress, "SHORT_SECONDS", 0)
    monkeypatch.setattr(progress, "TICK_SECONDS", 0.001)
    monkeypatch.setattr(run, "score_spread", score)
    monkeypatch.setattr(Bar, "update", update)
    monkeypatch.delenv("CI", raising=False)
    flags = [f"--input={lines({'x': [1, 2, 3]})}", f"--model={model(models.keyed)}"]
    terminal = False
    monkeypatch.setattr(progress, "SHORT_SECONDS", 60)
    for mode in ("auto", "lines", "bar"):
        assert keyjoin("check", *flags, f"--progress={mode}").err == ""
    (last,) = keyjoin("check", *flags, "--progress=json").err.splitlines()
    assert (checked(last)["event"], checked(last)["exit_code"]) == ("complete", 0)
    monkeypatch.setattr(progress, "SHORT_SECONDS", 0)
    terminal = True

    def check() -> None:
        assert main(["check", *flags, "--output=none"]) == 0

    screen, said = Screen(120), drawn(120, check)
    screen.feed(said)
    assert "scoring sampled rows, " in said
    assert [line.split()[0] for line in screen.text()[:3]] == ["input", "key", "batch"]
    assert "scoring sampled rows" not in " ".join(screen.text())


@pytest.mark.parametrize("variable", ["NO_COLOR", "COLUMNS"])
def test_variables_of_the_environment(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "50")
    said = drawn(80, lambda: Bar().update(SCORING))
    assert ("\x1b[32m" in said) == (variable != "NO_COLOR")
    assert ("40% written" in said) == (variable != "COLUMNS")


def checked(line: str) -> dict[str, Any]:
    """An event of a line of standard error."""
    found: dict[str, Any] = json.loads(line)
    kinds = {kind.__struct_config__.tag: kind for kind in events.EVENTS}
    msgspec.convert(found, kinds[found["event"]])
    return found


def test_events_of_a_run(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    path = lines({"x": [1, 2, 3]}, {"x": "bad"}, {"x": [4, 5, 6]})
    done = keyjoin("run", f"--input={path}", f"--model={model(models.keyed)}", "--max_bad_rows=1", "--progress=json")
    found = [checked(line) for line in done.err.splitlines()]
    assert [each["event"] for each in found] == ["start", "bad_rows", "progress", "complete"]
    start, bad, last, end = found
    assert (start["sources"], start["source_bytes"]) == (1, Path(path).stat().st_size)
    assert (bad["rows"], bad["reasons"]) == (1, {"wrong_shape": 1})
    assert (last["scored"], last["written"], last["rows_written"], last["parts"], last["of_parts"]) == (1, 1, 3, 1, 1)
    assert (end["exit_code"], end["rows"], end["joined"], end["dead"]) == (0, 3, 2, {"wrong_shape": 1})
    assert {each["schema"] for each in found} == {events.SCHEMA}


def test_errors_are_events_with_their_exit_code(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    flags = (f"--model={model(models.keyed)}", "--progress", "json")
    wrong_flag = keyjoin("run", "--progress=json", "--batch_size=x")
    nothing = keyjoin("run", "--input=none.jsonl", *flags)
    too_many = keyjoin("run", f"--input={lines({'x': [1, 2, 3]}, {'x': 'bad'})}", *flags)
    for done, code, text in ((wrong_flag, 2, "--batch_size"), (nothing, 2, "none.jsonl"), (too_many, 1, "wrong_shape")):
        *_, last = (checked(line) for line in done.err.splitlines())
        assert (done.code, last["event"], last["exit_code"]) == (code, "error", code)
        assert text in done.err


def test_lines_have_no_control_character(
    keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "TICK_SECONDS", 0.001)
    monkeypatch.setattr(progress, "is_due", lambda *_: True)
    done = keyjoin("run", f"--input={lines({'x': [1, 2, 3]})}", f"--model={model(models.keyed)}", "--progress=lines")
    shown = done.err.splitlines()
    assert done.code == 0
    assert len(shown) > 1
    assert all(line.startswith("keyjoin: progress seconds=") and line.isprintable() for line in shown)


def test_off_shows_nothing(
    keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "TICK_SECONDS", 0.001)
    monkeypatch.setattr(progress, "is_due", lambda *_: True)
    done = keyjoin("run", f"--input={lines({'x': [1, 2, 3]})}", f"--model={model(models.keyed)}", "--progress=off")
    assert (done.code, done.err) == (0, "")


def test_next_commands_begin_with_the_program_that_was_typed(
    keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(messages.PROGRAM, "./run_local.sh")
    path = lines({"x": [1, 2, 3]}, {"x": "bad"})
    done = keyjoin("run", f"--input={path}", f"--model={model(models.keyed)}", "--max_bad_rows=1")
    assert f"./run_local.sh verify --run={done.output}\n" in done.out
    assert f"./run_local.sh replay --run={done.output}\n" in done.out
    assert main(["verify", f"--run={done.output}"]) == 0


def test_events_of_a_replay(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    good, bad = {"x": [1, 2, 3]}, {"x": "bad"}
    flags = (f"--input={lines(good, bad, good, good)}", f"--model={model(models.keyed)}", "--chunk_bytes=30")
    done = keyjoin("run", *flags, "--max_bad_rows=1")
    (letter,) = done.dead()
    rows = lines({"key": letter["key"], "row": {"x": [4, 5, 6]}}, name="fixed.jsonl")
    again = keyjoin("replay", str(done.output), f"--rows={rows}", "--progress=json")
    start, last, end = (checked(line) for line in again.err.splitlines())
    size = Path(lines(good, bad, good, good)).stat().st_size
    parts = done.manifest()["totals"]["parts"]
    assert parts > 1
    assert (start["event"], start["sources"], start["source_bytes"]) == ("start", 1, round(size / parts))
    assert (last["scored"], last["written"], last["rows_written"], last["parts"], last["of_parts"]) == (1, 1, 1, 1, 1)
    assert (end["exit_code"], end["rows"], end["joined"], end["dead"]) == (0, 4, 4, {})
    nothing = keyjoin("replay", str(done.output), "--progress=json")
    assert checked(nothing.err.splitlines()[-1])["joined"] == 4


def test_a_replay_shows_rows_that_are_still_bad(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    done = keyjoin(
        "run", f"--input={lines({'x': [1, 2, 3]}, {'x': 'bad'})}", f"--model={model(models.keyed)}", "--max_bad_rows=1"
    )
    again = keyjoin("replay", str(done.output), "--progress=json")
    events_of = {each["event"]: each for each in map(checked, again.err.splitlines())}
    assert events_of["bad_rows"]["reasons"] == {"wrong_shape": 1}
    assert (events_of["progress"]["written"], events_of["complete"]["dead"]) == (1, {"wrong_shape": 1})
    refused = keyjoin("replay", f"{done.output}-none", "--progress=json")
    assert (refused.code, checked(refused.err.splitlines()[-1])["exit_code"]) == (2, 2)


def test_verify_and_compare_show_what_they_read(
    keyjoin: Callable[..., Result], lines: Any, model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flags = [f"--input={lines(*({'x': [n, 0, 1]} for n in range(9)))}", f"--model={model(models.keyed)}"]
    one, other = (
        keyjoin("run", *flags, f"--output={tmp_path / name}", f"--chunk_bytes={size}").output
        for name, size in (("a", 40), ("b", 80))
    )
    parts = [len(list(folder.glob("*.jsonl"))) for folder in (one, other)]
    again = ("--rescore=5", flags[1])
    for words, phase, count, last in (
        (("verify", one), Phase.CHECKING, None, {"event": "verified", "findings": {}}),
        (("verify", one, "--read_data=100%"), Phase.READING, parts[0], {"event": "verified", "findings": {}}),
        (("verify", one, *again), Phase.AGAIN, None, {"event": "verified", "findings": {}}),
        (("compare", one, other), Phase.COMPARING, sum(parts), {"event": "compared", "rows": 9}),
    ):
        command = [*map(str, words), "--progress=json"]
        monkeypatch.setattr(progress, "SHORT_SECONDS", 0)
        found, end = map(checked, keyjoin(*command).err.splitlines())
        assert (found["phase"], found["done"]) == (phase.value, None if phase is Phase.CHECKING else 1)
        assert (found["parts"], found["of_parts"]) == (count or 0, count)
        assert end == {**last, "schema": events.SCHEMA, "exit_code": 0}
        monkeypatch.setattr(progress, "SHORT_SECONDS", 60)
        assert list(map(checked, keyjoin(*command).err.splitlines())) == [end]  # it was short


def test_the_last_event_of_verify_has_its_exit_code(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    output = keyjoin("run", f"--input={lines({'x': [1, 2, 3]})}", f"--model={model(models.keyed)}").output
    next(output.glob("*.jsonl")).unlink()
    done = keyjoin("verify", str(output), "--progress=json")
    (last,) = map(checked, done.err.splitlines())
    assert (done.code, last["event"], last["exit_code"], last["findings"]) == (3, "verified", 3, {"missing": 1})


def test_events_of_two_models_name_their_run(keyjoin: Callable[..., Result], lines: Any, model: Any) -> None:
    one = model(models.keyed)
    flags = (f"--input={lines({'x': [1, 2, 3]})}", f"--model={one}", f"--model_b={one}")
    done = keyjoin("compare", *flags, "--progress=json")
    *found, last = map(checked, done.err.splitlines())
    assert [each["run"] for each in found if each["event"] == "complete"] == ["model", "model_b"]
    assert {each["run"] for each in found if each["event"] != "message"} == {"model", "model_b"}  # then all is short
    assert last == {"event": "compared", "schema": events.SCHEMA, "exit_code": 0, "rows": 1}
    assert keyjoin("compare", *flags, "-q", "--progress=lines").err == ""
    named = SCORING._replace(run="model_b")
    assert line_of(named).startswith("keyjoin: progress run=model_b seconds=74 ")
