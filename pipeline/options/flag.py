"""Declares flags as fields of dataclasses.

A field holds everything that keyjoin knows about its flag. Four places read the fields: the parser, the command that
keyjoin prints, the form of the Flex template, and the comparison of options on resume. To add a flag, add a field.
"""

# keyjoin does this itself. Libraries that make parsers from dataclasses (tyro, jsonargparse, cyclopts, simple-parsing)
# install rich, attrs or PyYAML. They also have their own syntax for lists and switches, and do not pass unknown flags
# on to Beam.

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any

_METADATA = "flag"


def _one_text(value: Any) -> list[str]:
    return [str(value)]


@dataclasses.dataclass(frozen=True)
class Kind:
    """How values of a flag are read and written.

    Attributes:
        parse: Reads one text. Raises a ValueError that names the text.
        texts: Converts a value back into texts. The parser reads the same value from them.
        empty: Makes the value of a flag that is not given and has no default of its own.
        collect: Makes one value from all results of `parse`, for a flag that takes several texts and may be repeated.
            None for a flag that takes one text. Raises a ValueError; the parser prints its message after the flag's
            name.
        choices: All valid texts; empty if they cannot be listed.
        check: A POSIX extended regular expression that the Flex template matches with the whole value.
        parameter: The Flex template's type of the parameter.
        note: What the Flex template adds to the help: how to write the value in its form.
    """

    parse: Callable[[str], Any] = str
    texts: Callable[[Any], Sequence[str]] = _one_text
    empty: Callable[[], Any] = NoneType
    collect: Callable[[list[Any]], Any] | None = None
    choices: tuple[str, ...] = ()
    check: str | None = None
    parameter: str = "TEXT"
    note: str = ""

    @property
    def is_list(self) -> bool:
        """Whether one text has all values, as in `A,B`."""
        return self.empty is tuple and self.collect is None


TRUE, FALSE = "true", "false"
# A flag without a value, or with `=true` or `=false`. The form of the Flex template lists both words and chooses none.
# A box to tick would send false for a flag that nobody touched, and that would beat a job file.
SWITCH = Kind(empty=bool, check="true|false", parameter="ENUM")


@dataclasses.dataclass(frozen=True)
class Flag:
    """The properties of a flag. Its name and type are those of its field.

    Attributes:
        kind: How its values are read and written.
        help: What the flag does, for `--help`; `%(default)s` stands for the default, `%%` for a percent sign.
        default: The value if the flag is not given.
        required: Whether the user must give the flag.
        metavar: The name of the value in `--help`.
        brief: The help in a few words. Only flags that have it are in the short `--help`.
        short: A second spelling, such as `-v`.
        positional: Whether a word without a flag gives the value, as in `keyjoin verify out/`.
        in_template: Whether the Flex template has the flag as a parameter. It has no flags for runs on this machine,
            and no flags about waiting for a job: a template's launcher never waits.
        in_command: Whether the command that resumes a run repeats the flag.
        may_change: Whether a run may be resumed with another value. It may if the value does not change the output, or
            if keyjoin compares what the value names, such as the model's files.
    """

    kind: Kind
    help: str
    default: Any
    required: bool = False
    metavar: str | None = None
    brief: str = ""
    short: str | None = None
    positional: bool = False
    in_template: bool = True
    in_command: bool = True
    may_change: bool = False

    @property
    def help_text(self) -> str:
        """The help, with the default filled in."""
        return self.help % {"default": self.default}

    def words(self, name: str, value: Any) -> list[str]:
        """Returns the command-line words that set the flag; none for the default of a flag that is not required.

        Args:
            name: The flag, without its dashes.
            value: Its value.
        """
        if value == self.default and not self.required:
            return []
        return [f"--{name}"] if self.kind is SWITCH else [f"--{name}={text}" for text in self.kind.texts(value)]


def flag(kind: Kind, help: str, *, default: Any = None, required: bool = False, **about: Any) -> Any:
    """Makes the field of a flag, for a dataclass with keyword-only fields.

    Args:
        kind: How the values of the flag are read and written.
        help: What the flag does.
        default: The value if the flag is not given; None for the empty value of its kind.
        required: Whether the user must give the flag.
        about: Other attributes of `Flag`, by name.
    """
    empty = kind.empty if default is None else lambda: default
    metadata = {_METADATA: Flag(kind, help, empty(), required, **about)}
    if required:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default_factory=empty, metadata=metadata)


def flags_of(options: type[Any]) -> Mapping[str, Flag]:
    """Returns the flags of a class of options by the names of their fields, in the order of `--help`.

    The class's own flags come first, then the flags of its base classes, from left to right.

    Args:
        options: A dataclass whose fields are made by `flag`.
    """
    made: dict[str, Flag] = {field.name: field.metadata[_METADATA] for field in dataclasses.fields(options)}
    order = (name for group in options.__mro__ for name in inspect.get_annotations(group))
    return {name: made[name] for name in order if name in made}


def topics_of(options: type[Any]) -> Mapping[str, Mapping[str, Flag]]:
    """Returns the flags of a class of options by topic, in the order of `--help`.

    The topic of a flag is the attribute `topic` of the class that declares its field.

    Args:
        options: A dataclass whose fields are made by `flag`.
    """
    made: dict[str, dict[str, Flag]] = {}
    topics = {
        name: vars(group).get("topic", "Flags")
        for group in reversed(options.__mro__)
        for name in inspect.get_annotations(group)
    }
    for name, one in flags_of(options).items():
        made.setdefault(topics[name], {})[name] = one
    return made


def words(options: Any) -> list[str]:
    """Returns the command-line words that set these options, without flags that a resumed run does not repeat."""
    flags = flags_of(type(options)).items()
    return [word for name, one in flags if one.in_command for word in one.words(name, getattr(options, name))]
