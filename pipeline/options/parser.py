"""Makes the parser of a class of options, and reads command lines into instances of that class."""

import argparse
import difflib
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, Generic, NoReturn, TypeVar

from pipeline.options.flag import FALSE, SWITCH, TRUE, Flag, flags_of
from pipeline.options.groups import VerbosityOptions
from pipeline.options.help import help_text, usage
from pipeline.terminal.messages import show
from transforms.errors import UsageError, nearest

Options = TypeVar("Options")
ALL = "all"  # --help all


class Parser(argparse.ArgumentParser):
    """A parser that raises an error instead of ending the process, so that keyjoin reports all errors in one way."""

    def error(self, message: str) -> NoReturn:
        """Raises a UsageError with the message, where argparse would end the process."""
        raise UsageError(f"{message}; see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses arguments, and refuses the value `--`, which argparse would drop without an error."""
        for word in args or ():
            if word.startswith("--") and word.partition("=")[2] == "--":
                self.error(f"{word}: -- cannot be a value")
        return super().parse_known_args(args, namespace)


class _Help(argparse.Action):
    """Prints the short help of a command, or all of it for `--help all`, and ends the process."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:  # noqa: ARG002
        show(parser.help_text(everything=values == ALL))
        parser.exit()


class _Once(argparse.Action):
    """Takes a list such as `A,B`. Refuses a second list: the last one would replace the first in silence."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if getattr(namespace, self.dest, values) != values:
            parser.error(f"{option_string} is given twice; give it once, with all names: {option_string}=A,B")
        setattr(namespace, self.dest, values)


class OptionsParser(Parser, Generic[Options]):
    """The parser of a command.

    Attributes:
        options: The class of the command's options, see `pipeline.options.flag`.
    """

    def __init__(
        self,
        options: type[Options],
        prog: str,
        description: str,
        epilog: str = "",
        *,
        usage: str | None = None,
        also: Sequence[type[Any]] = (VerbosityOptions,),
        has_help: bool = True,
    ) -> None:
        """Makes the parser of a class of options.

        Args:
            options: The class of the command's options.
            prog: The name of the command in messages.
            description: What the command does, for `--help`.
            epilog: Lines that follow the flags in `--help`.
            usage: How to call the command, if its required flags do not show it.
            also: Classes of flags that other parsers read before this one; `--help` shows them.
            has_help: Whether the parser has `--help`.
        """
        super().__init__(
            prog=prog, allow_abbrev=False, description=description, add_help=False, epilog=epilog, usage=usage
        )
        self.options = options
        self.also = also
        if has_help:
            self.add_argument("-h", "--help", action=_Help, nargs="?", choices=[ALL], default=argparse.SUPPRESS)
        for name, flag in flags_of(options).items():
            self._add_flag(name, flag)

    def _add_flag(self, name: str, flag: Flag) -> None:
        spellings = [*filter(None, [flag.short]), f"--{name}"]
        if flag.kind is SWITCH:
            about: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS}
            self.add_argument(*spellings, f"--{name}={TRUE}", **about, action="store_true")
            self.add_argument(f"--{name}={FALSE}", **about, action="store_false")
        else:
            self.add_argument(*spellings, **_argument(flag))

    def help_text(self, *, everything: bool) -> str:
        """Returns the help: of the flags that most people need, or of all flags."""
        said = f"usage: {self.usage % {'prog': self.prog}}" if self.usage else usage(self.prog, self.options)
        groups = (self.options, *self.also)
        text = help_text(self.prog, self.description or "", groups, self.epilog or "", everything=everything)
        return f"{said}\n\n{text}"

    def read(self, argv: Sequence[str]) -> Options:
        """Reads a command line that has no other arguments than these flags.

        Raises:
            UsageError: A flag is missing, wrong, or unknown, or contradicts another.
        """
        given, rest = self._read(argv)
        for word in sorted(rest, key=lambda word: not word.startswith("-")):
            name = word.partition("=")[0]
            known = [f"--{name}" for name in flags_of(self.options)]
            if name.startswith("-"):
                self.error(f"there is no flag {name}{nearest(name, known)}")
            self.error(f"{word!r} belongs to no flag")
        return self._made(given)

    def read_known(self, argv: Sequence[str]) -> tuple[Options, list[str]]:
        """Reads a command line. Hyphens and underscores in the names of flags are alike.

        Returns:
            The options, and the arguments that are not flags of this parser.

        Raises:
            UsageError: A flag is missing or wrong, or contradicts another.
        """
        given, rest = self._read(argv)
        return self._made(given), rest

    def _read(self, argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        flags = flags_of(self.options)
        argv = with_underscores(argv, flags)
        _check_spelling(flags, argv)
        _check_switches(flags, argv)
        known, rest = self.parse_known_args(argv)
        given = vars(known)
        for name, flag in flags.items():
            if flag.positional:
                rest = self._take_word(name, flag, given, rest)
        for name in given:
            given[name] = collected(name, flags[name], given[name])
        return given, rest

    def _made(self, given: Mapping[str, Any]) -> Options:
        for name, flag in flags_of(self.options).items():
            if flag.required and name not in given:  # argparse reports the others
                self.error(f"no {flag.metavar} is given: {flag.help_text}")
        return self.options(**given)

    def _take_word(self, name: str, flag: Flag, given: dict[str, Any], rest: Sequence[str]) -> list[str]:
        """Takes the value of a positional flag from the words that belong to no flag. Returns the others."""
        if any(word.startswith("-") and word != "-" for word in rest):
            return list(rest)  # the caller refuses them; a word may be the value of a misspelt flag
        if len(rest) + (name in given) > 1:
            words = [*([str(given[name])] if name in given else []), *rest]
            self.error(f"several of {flag.metavar} are given: {', '.join(words)}; give one")
        for word in rest:
            try:
                given[name] = flag.kind.parse(word)
            except ValueError as error:
                self.error(str(error))
        return []


def with_underscores(argv: Sequence[str], names: Container[str]) -> list[str]:
    """Writes flags with underscores: `--max-bad-rows=1` becomes `--max_bad_rows=1`. Other words stay.

    Args:
        argv: The words of a command line.
        names: The flags, without dashes at the start.
    """
    return [_with_underscores(word, names) for word in argv]


def _with_underscores(word: str, names: Container[str]) -> str:
    flag, sign, value = word.partition("=")
    name = flag[2:].replace("-", "_")
    return f"--{name}{sign}{value}" if flag.startswith("--") and name in names else word


def _argument(flag: Flag) -> dict[str, Any]:
    """Returns the arguments of `add_argument` for a flag with a value."""
    kind = flag.kind
    found: dict[str, Any] = {"help": flag.help_text.replace("%", "%%"), "default": argparse.SUPPRESS}
    found["required"] = flag.required and not flag.positional
    found["metavar"] = flag.metavar or (f"{{{','.join(kind.choices)}}}" if kind.choices else None)
    if kind.collect is not None:
        found |= {"nargs": "+", "action": "extend"}
    if kind.is_list:
        found["action"] = _Once
    return {**found, "type": _reader(kind.parse)}


def _reader(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Wraps a parse function for argparse, which does not print the message of a ValueError."""

    def read(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def collected(name: str, flag: Flag, read: Any) -> Any:
    """Makes the value of a flag from what its kind read from each text.

    Raises:
        UsageError: The texts contradict each other.
    """
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
        if flag.required and not flag.positional and f"--{name}" not in given:
            close = difflib.get_close_matches(f"--{name}", unknown, 1, 0.7)
            if close:
                raise UsageError(f"there is no flag {close[0]}; did you mean --{name}?")


def _check_switches(flags: Mapping[str, Flag], argv: Sequence[str]) -> None:
    """Refuses another value of a switch than true and false; argparse would call it an ignored argument."""
    for word in argv:
        name, sign, value = word.partition("=")
        flag = flags.get(name.removeprefix("--"))
        if name.startswith("--") and sign and flag is not None and flag.kind is SWITCH and value not in (TRUE, FALSE):
            raise UsageError(f"{name}: {value!r} is not true or false; write {name} or {name}={FALSE}")
