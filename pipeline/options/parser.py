"""Makes the parser of a class of options, and reads command lines into instances of that class."""

import argparse
import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NoReturn, TypeVar

from pipeline.options.flag import SWITCH, Flag, flags_of
from pipeline.terminal.messages import show
from transforms.errors import UsageError

Options = TypeVar("Options")


class Parser(argparse.ArgumentParser):
    """A parser that raises an error instead of ending the process, so that keyjoin reports all errors in one way."""

    def print_help(self, file: object = None) -> None:  # noqa: ARG002
        """Prints the help.

        Raises:
            OSError: Standard output cannot be written.
        """
        show(self.format_help().rstrip())

    def error(self, message: str) -> NoReturn:
        """Raises a UsageError with the message, where argparse would end the process."""
        raise UsageError(f"{message}; see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses arguments, and refuses the value `--`, which argparse would drop without an error."""
        for word in args or ():
            if word.startswith("--") and word.partition("=")[2] == "--":
                self.error(f"{word}: -- cannot be a value")
        return super().parse_known_args(args, namespace)


class OptionsParser(Parser, Generic[Options]):
    """The parser of a command.

    Attributes:
        options: The class of the command's options, see `pipeline.options.flag`.
    """

    def __init__(self, options: type[Options], prog: str, description: str, **more: Any) -> None:
        """Makes the parser of a class of options.

        Args:
            options: The class of the command's options.
            prog: The name of the command in messages.
            description: What the command does, for `--help`.
            more: Other arguments of `argparse.ArgumentParser`.
        """
        super().__init__(prog=prog, allow_abbrev=False, description=description, **more)
        self.options = options
        for name, flag in flags_of(options).items():
            self.add_argument(f"--{name}", **_argument(flag))

    def read(self, argv: Sequence[str]) -> Options:
        """Reads a command line that has no other arguments than these flags.

        Raises:
            UsageError: A flag is missing, wrong, or unknown, or contradicts another.
        """
        options, rest = self.read_known(argv)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return options

    def read_known(self, argv: Sequence[str]) -> tuple[Options, list[str]]:
        """Reads a command line.

        Returns:
            The options, and the arguments that are not flags of this parser.

        Raises:
            UsageError: A flag is missing or wrong, or contradicts another.
        """
        flags = flags_of(self.options)
        _check_spelling(flags, argv)
        known, rest = self.parse_known_args(argv)
        given = vars(known)
        for name in given:
            given[name] = _collected(name, flags[name], given[name])
        return self.options(**given), rest


def _argument(flag: Flag) -> dict[str, Any]:
    """Returns the arguments of `add_argument` for a flag."""
    kind = flag.kind
    found: dict[str, Any] = {"help": flag.help_text.replace("%", "%%"), "default": argparse.SUPPRESS}
    found["required"] = flag.required
    if kind is SWITCH:
        return {**found, "action": "store_true"}
    found["metavar"] = flag.metavar or (f"{{{','.join(kind.choices)}}}" if kind.choices else None)
    if kind.collect is not None:
        found |= {"nargs": "+", "action": "extend"}
    return {**found, "type": _reader(kind.parse)}


def _reader(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Wraps a parse function for argparse, which does not print the message of a ValueError."""

    def read(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def _collected(name: str, flag: Flag, read: Any) -> Any:
    if flag.kind.collect is None:
        return read
    try:
        return flag.kind.collect(read)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"--{name} {error}") from error


def _check_spelling(flags: Mapping[str, Flag], argv: Sequence[str]) -> None:
    """Refuses a misspelt required flag by its name; argparse would only report the correct flag as missing."""
    given = {arg.partition("=")[0] for arg in argv if arg.startswith("--")}
    unknown = given - {f"--{name}" for name in flags}
    for name, flag in flags.items():
        if flag.required and f"--{name}" not in given:
            close = difflib.get_close_matches(f"--{name}", unknown, 1, 0.7)
            if close:
                raise UsageError(f"there is no flag {close[0]}; did you mean --{name}?")
