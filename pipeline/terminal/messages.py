"""Prints to the terminal: keyjoin writes every line to standard output and standard error with these functions.

File names, rows and model messages are untrusted. A control character in them could move the cursor, change the title
of a window or hide text. The functions escape control characters, so none reaches the terminal.
"""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

_OTHER = re.compile(r"[^\n\t\x20-\x7e]")
_NEWLINES = re.compile(r"\s*[\r\n]+\s*")
PROGRAM = "KEYJOIN_PROGRAM"  # a variable with the name under which a script was called that starts keyjoin


class Display:
    """Decides how messages reach standard error: this class prints each as a line.

    The displays of `pipeline.terminal.progress` also show the progress of a run.
    """

    @contextlib.contextmanager
    def hidden(self, *, ends_line: bool) -> Iterator[None]:  # noqa: ARG002  for `Bar`
        """Makes room for text that the block prints to the terminal.

        Args:
            ends_line: Whether the text ends with a newline.
        """
        yield

    def message(self, text: str) -> None:
        """Prints a message, which is one line."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    def failed(self, text: str, code: int) -> None:  # noqa: ARG002  for `Events`
        """Prints why the command ends without success.

        Args:
            text: The message, one line.
            code: The exit code of the command.
        """
        self.message(text)

    def event(self, event: Any) -> None:
        """Shows an event of `pipeline.terminal.events`; this class shows nothing."""


_displays = [Display()]  # the last one is used


@contextlib.contextmanager
def displayed(display: Display) -> Iterator[None]:
    """Uses a display in the block."""
    _displays.append(display)
    try:
        yield
    finally:
        _displays.remove(display)


def current() -> Display:
    """Returns the display that is used now."""
    return _displays[-1]


def visible(text: str) -> str:
    r"""Makes untrusted text safe for a terminal: escapes each character that is not printable, newlines too.

    >>> print(visible("é\x1b[2J\u202e"))
    é\x1b[2J\u202e
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def one_line(text: str) -> str:
    """Makes a message of one line: joins the lines of a library's error with spaces, and escapes as `visible` does."""
    return visible(_NEWLINES.sub(" ", text.strip()))


def quoted(words: Iterable[str]) -> str:
    r"""Quotes the words of a command for a shell, so that the user can paste it whatever characters the words have.

    >>> print(quoted(["keyjoin", "run", "--input=it's", "--output=a\x1bb"]))
    keyjoin run '--input=it'"'"'s' $'--output=a\033b'
    """
    return " ".join(shlex.quote(word) if word.isprintable() else f"$'{_in_dollar_quotes(word)}'" for word in words)


def _in_dollar_quotes(word: str) -> str:
    return "".join(c if c.isprintable() and c not in "\\'" else _octal(c) for c in word)


def _octal(character: str) -> str:
    # Python decodes a byte that is not UTF-8 into a surrogate. surrogateescape encodes it into the same byte again.
    errors = "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", errors))


def typed(words: Iterable[str]) -> str:
    """Quotes a command of keyjoin, so that the user can paste it: it begins with the program that the user typed.

    Args:
        words: The words of the command, from `keyjoin` on.
    """
    program, *rest = words
    return quoted([os.environ.get(PROGRAM) or program, *rest])


def at_line(key: str, line: int | None) -> str:
    """Returns the key of a row, with its line number if that is known.

    >>> at_line("a.jsonl#1024", 43), at_line("a.tfrecord#16", None)
    ('a.jsonl#1024 (line 43)', 'a.tfrecord#16')
    """
    return key if line is None else f"{key} (line {line:,})"


def columns() -> int | None:
    """Returns the width of standard output, or of COLUMNS; None if it is no terminal, so that nothing need be cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


_quiet = False


def set_quiet(quiet: bool) -> None:
    """Sets whether `show` prints nothing, for --quiet."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Returns whether only warnings and errors are printed."""
    return _quiet


def show(text: str = "", *, is_result: bool = False) -> None:
    """Prints text to standard output and flushes it; with --quiet, prints nothing but a result.

    If the reader has closed the pipe (`| head -1`), the text is discarded without an error.

    Args:
        text: The text.
        is_result: Whether the text is what the command was called for, such as a file that the user redirects.

    Raises:
        OSError: Standard output cannot be written for another reason.
    """
    if _quiet and not is_result:
        return
    with _reader_may_leave():
        print("\n".join(map(visible, text.split("\n"))), flush=True)  # noqa: T201


def show_json(text: str) -> None:
    """Prints JSON to standard output as `show` does, but with JSON's escapes for the characters that are not printable.

    Raises:
        OSError: Standard output cannot be written, and its reader has not closed it.
    """
    escaped = (c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
    with _reader_may_leave():
        print(text if text.isprintable() else "".join(escaped), flush=True)  # noqa: T201


@contextlib.contextmanager
def _reader_may_leave() -> Iterator[None]:
    """Discards further output if the reader has closed the pipe.

    That is not an error: a reader such as `head` has all that it needs.
    """
    try:
        yield
    except BrokenPipeError:
        give_up(sys.stdout)


def show_error(text: str) -> None:
    """Prints a message to standard error, in one line. If standard error cannot be written, discards the message."""
    with error_may_be_lost():
        current().message(one_line(text))


def show_failure(text: str, code: int) -> None:
    """Prints why a command ends without success, as `show_error` does.

    Args:
        text: The message.
        code: The exit code of the command.
    """
    with error_may_be_lost():
        current().failed(one_line(text), code)


@contextlib.contextmanager
def error_may_be_lost() -> Iterator[None]:
    """Discards further output to standard error once it cannot be written."""
    try:
        yield
    except (OSError, ValueError):
        give_up(sys.stderr)


def flush_output() -> None:
    """Flushes standard output. If that fails, discards what is buffered, so that no later flush fails again.

    Raises:
        OSError: Standard output cannot be written, and its reader has not closed it.
    """
    try:
        with _reader_may_leave():
            sys.stdout.flush()
    except OSError:
        give_up(sys.stdout)
        raise


def give_up(stream: TextIO) -> None:
    """Redirects a stream to the null device, after writing to it failed.

    Otherwise Python would flush its buffer at exit, and fail again.
    """
    with contextlib.suppress(OSError, ValueError):  # the stream has no file descriptor, or is closed
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class _Visible(io.TextIOWrapper):
    """A text stream that escapes control characters in all that is written, library logs and tracebacks too."""

    def write(self, text: str) -> int:
        with current().hidden(ends_line=text.endswith("\n")):
            return super().write(text if text.isprintable() else _OTHER.sub(self._visible, text))

    @staticmethod
    def _visible(found: "re.Match[str]") -> str:
        return visible(found[0])


def open_streams() -> None:
    """Makes standard input, output and error safe to use, also if the process was started without them (`>&-`).

    Without this, the first file that the process opens would get the descriptor number of standard output. Printed text
    would then go into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # os.open takes the lowest free number, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  for the whole process
    sys.stdout, sys.stderr = _stream(1, sys.stdout), _stream(2, sys.stderr)


def _stream(number: int, found: TextIO | None) -> TextIO:
    if found is None:
        return _Visible(open(number, "wb", closefd=False), "utf-8", "backslashreplace", line_buffering=True)
    return _Visible(found.buffer, found.encoding, "backslashreplace", line_buffering=bool(found.line_buffering))
