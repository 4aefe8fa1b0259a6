"""Prints to the terminal: every line that keyjoin writes to standard output or standard error goes through here.

Names of files, rows and what models say come from strangers. A control character among them could move the cursor,
change the title of a window or hide text, so none reaches the terminal.
"""

import contextlib
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from typing import TextIO

_OTHER = re.compile(r"[^\n\t\x20-\x7e]")
_NEWLINES = re.compile(r"\s*[\r\n]+\s*")


def visible(text: str) -> str:
    r"""Text of strangers for a terminal, on one line: what is no letter, sign or space is written as an escape.

    >>> print(visible("é\x1b[2J\u202e"))
    é\x1b[2J\u202e
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def one_line(text: str) -> str:
    """A message in one line: the lines of the error of a library are put one behind the other."""
    return visible(_NEWLINES.sub(" ", text.strip()))


def quoted(words: Iterable[str]) -> str:
    r"""A command that can be pasted into a shell, whatever its words hold.

    >>> print(quoted(["keyjoin", "run", "--input=it's", "--output=a\x1bb"]))
    keyjoin run '--input=it'"'"'s' $'--output=a\033b'
    """
    return " ".join(shlex.quote(word) if word.isprintable() else f"$'{_in_dollar_quotes(word)}'" for word in words)


def _in_dollar_quotes(word: str) -> str:
    return "".join(c if c.isprintable() and c not in "\\'" else _octal(c) for c in word)


def _octal(character: str) -> str:
    # What Python made of a byte that is not UTF-8 is that byte again.
    errors = "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", errors))


def at_line(key: str, line: int | None) -> str:
    """A row's key, and the number of its line where that is known.

    >>> at_line("a.jsonl#1024", 43), at_line("a.tfrecord#16", None)
    ('a.jsonl#1024 (line 43)', 'a.tfrecord#16')
    """
    return key if line is None else f"{key} (line {line:,})"


def show(text: str = "") -> None:
    """Prints text to standard output, at once; where its reader is gone (`| head -1`) it is lost.

    Raises:
        OSError: Standard output does not take it.
    """
    with _reader_may_leave():
        print("\n".join(map(visible, text.split("\n"))), flush=True)  # noqa: T201


def show_json(text: str) -> None:
    """Prints JSON to standard output, as `show` does; what `visible` would escape is escaped as JSON has it.

    Raises:
        OSError: Standard output does not take it.
    """
    escaped = (c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
    with _reader_may_leave():
        print(text if text.isprintable() else "".join(escaped), flush=True)  # noqa: T201


@contextlib.contextmanager
def _reader_may_leave() -> Iterator[None]:
    """Discards standard output once its reader is gone: that reader has all that it wants, and no command failed."""
    try:
        yield
    except BrokenPipeError:
        _give_up(sys.stdout)


def show_error(text: str) -> None:
    """Prints a message to standard error, in one line; where nobody listens any more it is lost."""
    try:
        print(one_line(text), file=sys.stderr, flush=True)  # noqa: T201
    except (OSError, ValueError):
        _give_up(sys.stderr)


def flush_output() -> None:
    """Has standard output take what was printed; what it does not take is given up, so that nobody tries again.

    Raises:
        OSError: It does not take it, and has a reader.
    """
    try:
        with _reader_may_leave():
            sys.stdout.flush()
    except OSError:
        _give_up(sys.stdout)
        raise


def _give_up(stream: TextIO) -> None:
    """Sends what a stream still holds to nowhere: the end of the process would fail of it again."""
    with contextlib.suppress(OSError, ValueError):  # it is no file of the system, or closed
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class _Visible(io.TextIOWrapper):
    """A stream that lets no control character through, whoever writes to it: a library's log or a traceback."""

    def write(self, text: str) -> int:
        return super().write(text if text.isprintable() else _OTHER.sub(self._visible, text))

    @staticmethod
    def _visible(found: "re.Match[str]") -> str:
        return visible(found[0])


def open_streams() -> None:
    """Makes standard input, output and error safe to use, also where the process was started without them (`>&-`).

    Else the first file that is opened would take the number of standard output, and what is printed would go there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # The lowest number that is free is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  for the whole process
    sys.stdout, sys.stderr = _stream(1, sys.stdout), _stream(2, sys.stderr)


def _stream(number: int, found: TextIO | None) -> TextIO:
    if found is None:
        return _Visible(open(number, "wb", closefd=False), "utf-8", "backslashreplace", line_buffering=True)
    return _Visible(found.buffer, found.encoding, "backslashreplace", line_buffering=bool(found.line_buffering))
