"""Declares flags as fields of dataclasses: all that keyjoin knows of a flag is in its field.

The parser, the command that is printed, the Flex template's form and the comparison on resume read the fields. So
another flag is another field.
"""

# Own code: libraries that make parsers of dataclasses (tyro, jsonargparse, cyclopts, simple-parsing) bring rich, attrs
# or PyYAML, spell lists and switches their own way, and do not hand on flags that belong to Beam.

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
    """How the values of a flag are written.

    Attributes:
        parse: Reads the text of a value. Raises a ValueError that names the text.
        texts: Writes a value as the texts that give it again.
        empty: Makes the value of a flag that is not given and has no default of its own.
        collect: Makes one value of all that `parse` read, for a flag that takes several texts and may be repeated;
            None for a flag that takes one text. Raises a ValueError whose message follows the flag's name.
        choices: All texts there are; empty if they cannot be listed.
        check: What the Flex template lets through: a POSIX extended regular expression of the whole value.
        parameter: The Flex template's type of parameter.
        note: What the Flex template says of the form, after the help.
    """

    parse: Callable[[str], Any] = str
    texts: Callable[[Any], Sequence[str]] = _one_text
    empty: Callable[[], Any] = NoneType
    collect: Callable[[list[Any]], Any] | None = None
    choices: tuple[str, ...] = ()
    check: str | None = None
    parameter: str = "TEXT"
    note: str = ""


SWITCH = Kind(empty=bool, check="true|false", parameter="BOOLEAN")  # a flag without a value


@dataclasses.dataclass(frozen=True)
class Flag:
    """What is known of a flag besides its name and its type, which are those of its field.

    Attributes:
        kind: How its values are written.
        help: What it does, for `--help`; `%(default)s` stands for the default, `%%` for a percent sign.
        default: Its value where it is not given.
        required: Whether it has to be given.
        metavar: What stands for a value in `--help`.
        in_template: Whether the Flex template has it. Flags for runs on this machine are not in it, nor flags about
            who waits for a job: a template's launcher never waits.
        in_command: Whether the command that resumes a run repeats it.
        may_change: Whether a run may be resumed with another value: the value does not change the output, or what it
            names is compared itself, such as the model's files.
    """

    kind: Kind
    help: str
    default: Any
    required: bool = False
    metavar: str | None = None
    in_template: bool = True
    in_command: bool = True
    may_change: bool = False

    @property
    def help_text(self) -> str:
        """What it does, with its default."""
        return self.help % {"default": self.default}

    def words(self, name: str, value: Any) -> list[str]:
        """The words of a command line that give a value; none for the default."""
        if value == self.default and not self.required:
            return []
        return [f"--{name}"] if self.kind is SWITCH else [f"--{name}={text}" for text in self.kind.texts(value)]


def flag(kind: Kind, help: str, *, default: Any = None, required: bool = False, **about: Any) -> Any:
    """Makes the field of a flag, in a dataclass whose fields are given by name.

    Args:
        kind: How its values are written.
        help: What it does.
        default: Its value where it is not given; None for the empty value of its kind.
        required: Whether it has to be given.
        about: What else `Flag` takes.
    """
    empty = kind.empty if default is None else lambda: default
    metadata = {_METADATA: Flag(kind, help, empty(), required, **about)}
    if required:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default_factory=empty, metadata=metadata)


def flags_of(options: type[Any]) -> Mapping[str, Flag]:
    """The flags of a class of options by the names of their fields, in the order of `--help`.

    A class's own flags come first, then those of the groups that it is made of, from left to right.

    Args:
        options: A dataclass whose fields are made by `flag`.
    """
    made: dict[str, Flag] = {field.name: field.metadata[_METADATA] for field in dataclasses.fields(options)}
    order = (name for group in options.__mro__ for name in inspect.get_annotations(group))
    return {name: made[name] for name in order if name in made}


def words(options: Any) -> list[str]:
    """The words of a command line that give options again, but for those that a resumed run does not repeat."""
    flags = flags_of(type(options)).items()
    return [word for name, one in flags if one.in_command for word in one.words(name, getattr(options, name))]
