"""Shows the progress of a command on standard error: as a bar, as lines, as JSON, or not at all.

The figures come from `pipeline.job.progress`. A thread of its own shows them, so the run never waits for a terminal.
"""

import contextlib
import io
import itertools
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.job.progress import Figures, Phase, Progress
from pipeline.terminal import events
from pipeline.terminal.amounts import with_noun
from pipeline.terminal.messages import Display, current, displayed, error_may_be_lost, is_quiet

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

AUTO, BAR, LINES, JSON, OFF = "auto", "bar", "lines", "json", "off"
TICK_SECONDS = 0.2
FIRST_SECONDS, THEN_SECONDS, THEN_SHARE = (1.0, 5.0, 10.0), 30.0, 0.1  # when a line is printed
SHORT_SECONDS = 1.0  # a command that writes no parts and ends before shows no progress
EVENT_SECONDS = 2.0  # between events of progress
LEAST_BAR, MOST_BAR = 8, 40  # columns
WRITTEN, SCORED, LEFT = "█▓░"  # told apart without colours, too
ASCII_BAR = str.maketrans({WRITTEN: "#", SCORED: "=", LEFT: ".", "…": "~"})
ERASE_TO_END, ERASE_BELOW = "\x1b[K", "\x1b[J"  # ECMA-48: EL, ED
# The cursor goes one column to the right first: tmux copies the screen into its history if all of it is erased.
ERASE = f"\r{ERASE_TO_END}\x1b[C{ERASE_BELOW}\r"


class Shown(Display):
    """A display that shows figures; this class shows none of them."""

    def update(self, figures: Figures) -> None:
        """Shows the figures, if it is time to.

        Args:
            figures: The figures of this moment.
        """

    def close(self, figures: Figures) -> None:
        """Ends the display.

        Args:
            figures: The figures at the end.
        """

    def complete(self, progress: Progress) -> None:
        """Shows that the command succeeded, after `close`.

        Args:
            progress: Has the result.
        """


def mode_for(mode: str, stream: TextIO, environment: Mapping[str, str]) -> str:
    """Decides how progress is shown.

    Args:
        mode: The value of --progress.
        stream: Standard error.
        environment: The variables of the process.

    Returns:
        `mode`, except that `auto` becomes `bar` or `lines`, and `bar` becomes `lines` on a stream that can show none.
    """
    # A cell of a notebook is a terminal for `!keyjoin run`, and shows no movements of the cursor. Jupyter sets the
    # variable in its kernels.
    moves = stream.isatty() and environment.get("TERM", "dumb") != "dumb" and "JPY_PARENT_PID" not in environment
    if mode == BAR or (mode == AUTO and not environment.get("CI")):
        return BAR if moves else LINES
    return LINES if mode == AUTO else mode


@contextlib.contextmanager
def shown(mode: str, progress: Progress, *, is_run: bool = True) -> Iterator[None]:
    """Shows the progress of a command during the block; with --quiet, shows nothing.

    Args:
        mode: The value of --progress.
        progress: Has the figures.
        is_run: Whether the command writes parts. Another one shows nothing if it takes less than a second, and shows
            its last event itself, see `show_event`.
    """
    found = OFF if is_quiet() else mode_for(mode, sys.stderr, os.environ)
    if found == OFF:
        yield
        return
    display = {BAR: Bar, LINES: Lines, JSON: Events}[found]()
    ended, is_shown = threading.Event(), threading.Event()

    def show() -> None:
        if ended.wait(0.0 if is_run else SHORT_SECONDS):
            return
        is_shown.set()
        while not ended.wait(TICK_SECONDS):
            with error_may_be_lost():
                display.update(progress.figures())

    thread = threading.Thread(target=show, name="keyjoin-progress", daemon=True)
    with displayed(display):
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with error_may_be_lost():
                if is_run or is_shown.is_set():
                    display.close(progress.figures())
        with error_may_be_lost():
            if is_run:
                display.complete(progress)


def as_events() -> contextlib.AbstractContextManager[None]:
    """Prints messages and errors in the block as events."""
    return displayed(Events())


def show_event(event: events.Event) -> None:
    """Prints an event, where a program follows the command."""
    with error_may_be_lost():
        current().event(event)


def duration(seconds: float) -> str:
    """Formats a number of seconds.

    >>> duration(7.2), duration(62), duration(3_723)
    ('0:07', '1:02', '1:02:03')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def stall(figures: Figures) -> str:
    """Returns what the run waits for, as a sentence; empty if chunks finish."""
    if figures.waits_for is None:
        return ""
    return f"no chunk finished for {figures.idle:.0f} s; {figures.waits_for.value}"


class Lines(Shown):
    """Prints a line of `key=value` pairs from time to time, without any control character."""

    def __init__(self) -> None:
        """Starts without a line."""
        self._seconds = self._share = 0.0

    def update(self, figures: Figures) -> None:
        """Prints a line if it is due."""
        share = figures.scored or figures.done or 0.0
        if is_due(figures.seconds, share, self._seconds, self._share):
            self._seconds, self._share = figures.seconds, share
            self.message(line_of(figures))


def is_due(seconds: float, share: float, last_seconds: float, last_share: float) -> bool:
    """Decides whether a line of progress is printed: at 1, 5 and 10 seconds, then every 30 seconds or 10 %.

    Args:
        seconds: Seconds since the start.
        share: The share that is done: of the input that is scored, or of what a phase reads.
        last_seconds: `seconds` of the last line; 0 if there was none.
        last_share: `share` of the last line.

    >>> is_due(1.1, 0.0, 0.0, 0.0), is_due(4.9, 0.9, 1.1, 0.0), is_due(12.0, 0.3, 10.0, 0.2)
    (True, False, True)
    """
    if any(last_seconds < mark <= seconds for mark in FIRST_SECONDS):
        return True
    if seconds <= FIRST_SECONDS[-1]:
        return False
    return seconds - last_seconds >= THEN_SECONDS or share - last_share >= THEN_SHARE - 1e-9


def line_of(figures: Figures) -> str:
    """Writes figures as `key=value` pairs. A value with spaces is in quotes. Unknown figures are absent."""
    pairs: dict[str, Any] = {"run": figures.run or None, "seconds": round(figures.seconds)}
    pairs["phase"] = figures.phase.value
    if figures.scored is not None and figures.written is not None:
        pairs |= {"scored": f"{figures.scored:.1%}", "written": f"{figures.written:.1%}"}
    if figures.done is not None:
        pairs |= {"done": f"{figures.done:.1%}", "parts": figures.parts if figures.of_parts else None}
    elif figures.rows or figures.parts:
        pairs |= {"rows_written": figures.rows, "parts": figures.parts}
    pairs |= {
        "of_parts": figures.of_parts,
        "rows_per_second": None if figures.rate is None else round(figures.rate),
        "seconds_left": None if figures.left is None else round(figures.left),
        "bad_rows": sum(figures.dead.values()) or None,
        **{f"bad_rows.{reason}": rows for reason, rows in sorted(figures.dead.items())},
        "stall": stall(figures) or None,
    }
    words = (
        f"{key}={json.dumps(value) if ' ' in str(value) else value}"
        for key, value in pairs.items()
        if value is not None
    )
    return " ".join(("keyjoin: progress", *words))


class Events(Shown):
    """Prints one JSON object a line, see `pipeline.terminal.events`."""

    def __init__(self) -> None:
        """Starts without an event."""
        self._started = False
        self._last = -EVENT_SECONDS
        self._dead: Mapping[str, int] = {}

    def update(self, figures: Figures) -> None:
        """Prints the events that are due."""
        if figures.seconds - self._last >= EVENT_SECONDS:
            self.close(figures)

    def close(self, figures: Figures) -> None:
        """Prints an event of progress. Before it, prints events of what has changed since the last one."""
        self._last = figures.seconds
        if figures.output and not self._started:
            self._started = True
            self.event(events.Start.of(figures))
        if figures.dead != self._dead:
            self._dead = figures.dead
            self.event(events.BadRows.of(figures))
        self.event(events.Progress.of(figures))

    def complete(self, progress: Progress) -> None:
        """Prints the last event of a command that succeeded."""
        self.event(events.Complete.of(progress))

    def message(self, text: str) -> None:
        """Prints a warning or another message as an event."""
        self.event(events.Message(text=text))

    def failed(self, text: str, code: int) -> None:
        """Prints the error that ends the command, with its exit code, as an event."""
        self.event(events.Error(message=text, exit_code=code))

    def event(self, event: events.Event) -> None:
        """Prints an event."""
        super().message(events.encode(event))


class Bar(Shown):
    """Draws a bar at the end of the terminal's text, and draws it again below each text that is printed.

    Between two drawings the cursor stays where the bar begins. So erasing "from the cursor on" removes all of the bar,
    also after the terminal has wrapped its lines because the window became narrower.
    """

    def __init__(self) -> None:
        """Takes standard error as the terminal."""
        self._lock = threading.RLock()
        self._console: Console | None = None  # imported and made when it is first used
        self._is_drawn = self._is_closed = self._in_line = False

    @contextlib.contextmanager
    def hidden(self, *, ends_line: bool) -> Iterator[None]:
        """Erases the bar before text is printed. The next update draws it again, once the text's line has ended."""
        with self._lock:
            self._erase()
            self._in_line = not ends_line
            yield

    def update(self, figures: Figures) -> None:
        """Draws the bar, in the present width of the terminal."""
        with self._lock:
            if self._in_line or self._is_closed:
                return
            columns, rows = _size(sys.stderr.fileno(), os.environ)
            lines = self._rendered(bar_lines(figures, columns - 1), columns)[: max(rows - 1, 1)]
            up = f"\x1b[{len(lines) - 1}A" if len(lines) > 1 else ""
            text = "\r\n".join(line + ERASE_TO_END for line in lines)
            _write(f"\r{text}{ERASE_BELOW}{up}\r")
            self._is_drawn = True

    def close(self, figures: Figures) -> None:  # noqa: ARG002  for `Events`
        """Erases the bar."""
        with self._lock:
            self._is_closed = True
            self._erase()

    def _erase(self) -> None:
        if self._is_drawn:
            _write(ERASE)
            self._is_drawn = False

    def _rendered(self, lines: "Sequence[Text]", columns: int) -> list[str]:
        """Renders lines for the terminal: with colours if it has them and NO_COLOR is not set."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(file=io.StringIO(), force_terminal=True, highlight=False)
        self._console.width = columns
        plain = not (sys.stderr.encoding or "").lower().startswith("utf")
        with self._console.capture() as captured:
            for line in lines:
                self._console.print(line, no_wrap=True, overflow="crop", crop=True)
        return captured.get().translate(ASCII_BAR if plain else {}).splitlines()


def _write(text: str) -> None:
    """Writes to the terminal itself. The stream of `messages.open_streams` would escape the movements of the cursor."""
    sys.stderr.flush()
    data = text.encode(sys.stderr.encoding or "ascii", "replace")
    while data:
        data = data[os.write(sys.stderr.fileno(), data) :]


def _size(terminal: int, environment: Mapping[str, str]) -> tuple[int, int]:
    """Returns the columns and rows of a terminal; COLUMNS may make it narrower."""
    columns, rows = os.get_terminal_size(terminal)
    given = environment.get("COLUMNS", "")
    columns = columns or 80
    return min(columns, int(given)) if given.isdecimal() and int(given) else columns, rows or 24


def bar_lines(figures: Figures, width: int) -> "list[Text]":
    """Writes figures as one to four lines, none of them wider than a width.

    Args:
        figures: The figures.
        width: The most columns of a line.
    """
    from rich.text import Text

    if figures.done is None and (figures.scored is None or figures.phase is not Phase.SCORING):
        text = f"{_label(figures)}, {figures.seconds:.0f} s"
        lines = [Text(text, "bold")]
    else:
        lines = [_bar(figures, width)]
    pieces = _pieces(figures)
    if pieces:
        fitting = itertools.accumulate(pieces, lambda line, piece: f"{line}, {piece}")
        lines.append(Text(([line for line in fitting if len(line) <= width] or pieces[:1])[-1]))
    if figures.waits_for is not None:
        text = stall(figures)
        lines += [Text(each, "yellow") for each in ([text] if len(text) <= width else text.split("; "))]
    for line in lines:
        line.truncate(max(width, 1), overflow="ellipsis")
    return lines


def _bar(figures: Figures, width: int) -> "Text":
    from rich.text import Text

    scored, written = figures.scored or 0.0, min(figures.written or 0.0, figures.scored or 0.0)
    label = f"{_label(figures)} "
    left = "" if figures.left is None else f", {duration(figures.left)} left"
    if figures.done is not None:
        scored = written = figures.done
        ends = [f" {scored:.0%}{left}", f" {scored:.0%}"]
    else:
        ends = [f" {scored:.0%} scored, {written:.0%} written{left}", f" {scored:.0%} scored{left}"]
        ends += [f" {scored:.0%}{left}", f" {scored:.0%}"]
    end = next((end for end in ends if width - len(label) - len(end) >= LEAST_BAR), ends[-1])
    columns = min(max(width - len(label) - len(end), 1), MOST_BAR)
    done = round(columns * written)
    ahead = max(round(columns * scored) - done, 0)
    parts = [(label, "bold"), (WRITTEN * done, "green"), (SCORED * ahead, "cyan")]
    return Text.assemble(*parts, (LEFT * (columns - done - ahead), "dim"), end)


def _label(figures: Figures) -> str:
    return f"{figures.run}: {figures.phase.value}" if figures.run else figures.phase.value


def _pieces(figures: Figures) -> list[str]:
    """Returns the texts of the second line, the most important first."""
    pieces = []
    if figures.scored is not None or figures.parts or figures.of_parts:
        done, of = "written" if figures.done is None else "read", figures.of_parts
        parts = with_noun(figures.parts, "part") if of is None else f"{figures.parts:,} of {with_noun(of, 'part')}"
        pieces.append(f"{parts} {done}")
    if figures.dead:
        total = sum(figures.dead.values())
        pieces.append(with_noun(total, "bad row"))
    if figures.rate is not None:
        pieces.append(f"{figures.rate:,.0f} rows/s")
    if figures.rows:
        pieces.append(f"{with_noun(figures.rows, 'row')} written")
    pieces += [f"{rows:,} {reason}" for reason, rows in sorted(figures.dead.items(), key=lambda item: -item[1])]
    return pieces
