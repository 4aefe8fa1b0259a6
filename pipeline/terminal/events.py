"""Defines the events of `--progress=json`, one JSON object a line on standard error.

docs/reference.md has a table of these classes. An event that loses a field, or gives one another meaning,
needs a new `SCHEMA`; a new field does not.
"""

import json
from typing import Any

import msgspec

from pipeline.job import progress as job
from pipeline.job.progress import Figures

SCHEMA = 1


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """The base of all events.

    Attributes:
        schema: The version of the events.
    """

    schema: int = SCHEMA


class RunEvent(Event, frozen=True, kw_only=True):
    """The base of events that are about one run.

    Attributes:
        run: `model` or `model_b` for the two runs of `compare`; null for a command with one run
    """

    run: str | None = None


class Start(RunEvent, frozen=True, kw_only=True, tag="start"):
    """The plan is made, and the run begins.

    Attributes:
        run: `model` or `model_b` for the two runs of `compare --model_b`; null otherwise
        output: the output folder
        sources: source files
        source_bytes: their size in bytes; `replay` counts only the parts with dead letters
    """

    output: str
    sources: int
    source_bytes: int

    @classmethod
    def of(cls, figures: Figures) -> "Start":
        """Makes the event of figures."""
        return cls(
            run=figures.run or None, output=figures.output, sources=figures.sources, source_bytes=figures.source_bytes
        )


class Progress(RunEvent, frozen=True, kw_only=True, tag="progress"):
    """Every two seconds.

    Attributes:
        run: `model` or `model_b` for the two runs of `compare --model_b`; null otherwise
        seconds: since the command started; for `compare --model_b`, since this run of it
        phase: what the command does: `starting`, `loading the model`, `scoring`, `comparing` and others
        scored: share of the sources, by bytes, that is scored
        written: share of the sources, by bytes, whose parts are on disk
        rows_written: rows whose parts are on disk; for `replay`, rescored dead letters
        done: share of the phase that is done, while `verify` or `compare` reads files or scores rows again; otherwise
            null
        parts: parts that are on disk; for `verify` and `compare`, parts that were read
        of_parts: parts that the run will write; for `verify` and `compare`, parts that they read
        rows_per_second: rows scored a second, smoothed
        seconds_left: estimate until all rows are scored, or `done` is 1
        seconds_idle: since a chunk was last read, scored or written
        stall: what the run waits for, if no chunk has finished for 20 seconds; on a remote runner, for 120
    """

    seconds: float
    phase: str
    scored: float | None
    written: float | None
    rows_written: int
    done: float | None = None
    parts: int
    of_parts: int | None
    rows_per_second: float | None
    seconds_left: float | None
    seconds_idle: float
    stall: str | None

    @classmethod
    def of(cls, figures: Figures) -> "Progress":
        """Makes the event of figures."""
        return cls(
            run=figures.run or None,
            seconds=round(figures.seconds, 3),
            phase=figures.phase.value,
            scored=_rounded(figures.scored, 6),
            written=_rounded(figures.written, 6),
            rows_written=figures.rows,
            done=_rounded(figures.done, 6),
            parts=figures.parts,
            of_parts=figures.of_parts,
            rows_per_second=_rounded(figures.rate, 1),
            seconds_left=_rounded(figures.left, 1),
            seconds_idle=round(figures.idle, 3),
            stall=figures.waits_for.value if figures.waits_for else None,
        )


class BadRows(RunEvent, frozen=True, kw_only=True, tag="bad_rows"):
    """The number of bad rows has changed.

    Attributes:
        run: `model` or `model_b` for the two runs of `compare --model_b`; null otherwise
        seconds: since the command started
        rows: bad rows so far
        reasons: bad rows so far, by reason code
    """

    seconds: float
    rows: int
    reasons: dict[str, int]

    @classmethod
    def of(cls, figures: Figures) -> "BadRows":
        """Makes the event of figures."""
        dead = dict(sorted(figures.dead.items()))
        return cls(run=figures.run or None, seconds=round(figures.seconds, 3), rows=sum(dead.values()), reasons=dead)


class Message(Event, frozen=True, kw_only=True, tag="message"):
    """A warning, or another line that keyjoin prints to standard error.

    Attributes:
        text: the line
    """

    text: str


class Complete(RunEvent, frozen=True, kw_only=True, tag="complete"):
    """The command succeeded. It is the last event, except of `compare` and `verify`.

    Attributes:
        run: `model` or `model_b` for the two runs of `compare --model_b`; null otherwise
        exit_code: 0
        output: the output folder; like the counts below, null for `check`, and if the command did not wait for the job
        rows: rows read
        joined: rows joined
        dead: dead letters by reason code
        seconds: duration of the command
        rows_per_second: rows read a second, without the start-up
    """

    exit_code: int = 0
    output: str | None
    rows: int | None
    joined: int | None
    dead: dict[str, int] | None
    seconds: float
    rows_per_second: float | None

    @classmethod
    def of(cls, progress: "job.Progress") -> "Complete":
        """Makes the event of a run that has ended."""
        result, seconds = progress.result, round(progress.seconds(), 3)
        if result is None:
            return cls(output=None, rows=None, joined=None, dead=None, seconds=seconds, rows_per_second=None)
        return cls(
            run=progress.run or None,
            output=result.output,
            rows=result.totals.rows,
            joined=result.totals.joined,
            dead=result.totals.dead,
            seconds=seconds,
            rows_per_second=_rounded(result.rate, 1),
        )


class Error(Event, frozen=True, kw_only=True, tag="error"):
    """The command ended without success. It is the last event.

    Attributes:
        exit_code: the exit code of the command
        message: the cause and the remedy, in one line
    """

    exit_code: int
    message: str


class Compared(Event, frozen=True, kw_only=True, tag="compared"):
    """The outputs of `compare` are compared. It is the last event.

    Attributes:
        exit_code: 0 if the predictions are the same, within the tolerances; 1 if they differ
        rows: rows with predictions of both models
    """

    exit_code: int
    rows: int


class Verified(Event, frozen=True, kw_only=True, tag="verified"):
    """The output of `verify` is checked. It is the last event.

    Attributes:
        exit_code: 0 if the output is what its run wrote; otherwise the code of the findings
        findings: findings by kind: `missing`, `altered` or `differing`
    """

    exit_code: int
    findings: dict[str, int]


EVENTS = (Start, Progress, BadRows, Message, Complete, Compared, Verified, Error)


def encode(event: Event) -> str:
    """Writes an event as one line of JSON, in ASCII."""
    found: dict[str, Any] = msgspec.to_builtins(event)
    return json.dumps(found)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
