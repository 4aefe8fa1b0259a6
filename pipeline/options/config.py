"""Reads the flags of a job from a file, or from the record of an earlier run, and writes flags as a file.

A file maps flags to values. Each value is kept as it is spelled, and the flag's own kind reads it: `no`, `1e5` and
`007` in YAML are these texts. A list or a mapping gives several values. `beam` has the flags of Beam.
"""

import contextlib
import importlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

import yaml

from pipeline.options import kinds
from pipeline.options.error_limits import ErrorLimits
from pipeline.options.flag import FALSE, SWITCH, TRUE, Flag, flags_of
from pipeline.options.groups import ConfigOptions, TrustOptions, VerbosityOptions
from pipeline.options.parser import OptionsParser, collected
from pipeline.options.run_options import RunOptions, parse_run
from pipeline.run_folder.names import JOB, MANIFEST, NEXT, TEMP
from pipeline.terminal.messages import quoted, typed
from transforms.errors import UsageError, nearest

Value: TypeAlias = "str | list[Value] | dict[str, Value]"
_PROG = "keyjoin run"
BEAM = "beam"  # the key of Beam's flags
YAML, JSON, TOML = (".yaml", ".yml"), ".json", ".toml"
LONGEST = 600  # characters of a command that people read: about seven lines of a terminal
DEEPEST = 20  # levels of lists and mappings in a file; no flag needs more than four
ONLY_TYPED = {name for group in (ConfigOptions, VerbosityOptions) for name in flags_of(group)}


class Config(NamedTuple):
    """The content of a job file.

    Attributes:
        path: The path as the user gave it, for messages.
        values: The values by flag, with underscores. The value of `beam` maps flags of Beam.
    """

    path: str
    values: Mapping[str, Value]


def expanded(argv: Sequence[str], prog: str) -> list[str]:
    """Replaces `--config=FILE` by the flags of the file. A flag of the command line beats the file's.

    Args:
        argv: The arguments of `run`, `check` or `config`.
        prog: The name of the command in messages.

    Raises:
        UsageError: The file cannot be read, or has an unknown flag or a wrong value.
    """
    given, rest = OptionsParser(ConfigOptions, prog, "", has_help=False).read_known(argv)
    if given.config is None:
        return list(argv)
    names = {word[2:].partition("=")[0].replace("-", "_") for word in rest if word.startswith("--")}
    path = given.config
    if path.endswith(YAML):
        config = Config(path, _checked(path, _from_yaml(path, _read(path))))
    elif path.endswith(JSON):
        config = Config(path, _checked(path, _from_json(path, _read(path))))
    elif path.endswith(TOML):
        config = Config(path, _checked(path, _from_toml(path, _read(path))))
    else:
        config = _from_run(path, names)
    return [*_words(config, names), *rest]


def shortened(words: Sequence[str]) -> list[str]:
    """Shortens a `keyjoin run` command that is too long to read, such as one with 500 inputs.

    The shorter command reads most flags from the record of the run, which its output folder has.

    Args:
        words: The words of the command, from `keyjoin` on.

    Returns:
        The words of a command with the same options. They are `words` if these are few, or if no record has them.
    """
    if not is_long(words):
        return list(words)
    with contextlib.suppress(UsageError):
        given = parse_run(expanded(words[2:], _PROG), _PROG)
        output = given[0].output
        for folder in (f"{output.rstrip('/')}/{TEMP}/{NEXT}", output):
            with contextlib.suppress(UsageError):
                made = _from_record(folder, *given)
                if parse_run(expanded(made, _PROG), _PROG) == given:
                    return [*words[:2], *made]
    return list(words)


def to_paste(words: Sequence[str]) -> str | None:
    """Writes a command for people to paste, shortened if it is that of a run; None if it is too long all the same.

    Args:
        words: The words of the command, from `keyjoin` on.
    """
    shorter = shortened(words) if words[1] == "run" else words
    return None if is_long(shorter) else typed(shorter)


def is_long(words: Sequence[str]) -> bool:
    """Returns whether a command is too long to read."""
    return len(quoted(words)) > LONGEST


def _from_record(folder: str, options: RunOptions, beam_args: Sequence[str]) -> list[str]:
    """Returns arguments of `run`: the folder of a record, and the flags that differ or that no record gives."""
    flags = flags_of(RunOptions)
    own = {"output", *flags_of(TrustOptions)}
    words = [f"--config={folder}"]
    words += [word for name in flags if name in own for word in flags[name].words(name, getattr(options, name))]
    recorded, _ = parse_run(expanded(words, _PROG), _PROG)
    other = [name for name in flags if name not in own and getattr(options, name) != getattr(recorded, name)]
    return [*words, *(word for name in other for word in flags[name].words(name, getattr(options, name))), *beam_args]


def as_yaml(options: RunOptions, beam_args: Sequence[str]) -> str:
    """Writes options as the text of a job file, from which `expanded` reads the same options.

    Args:
        options: The options.
        beam_args: The flags of Beam.

    Raises:
        UsageError: A word of Beam's flags belongs to no flag.
    """
    flags = flags_of(RunOptions)
    values = {name: (flag, getattr(options, name)) for name, flag in flags.items()}
    document = {name: _value(flag, value) for name, (flag, value) in values.items() if flag.words(name, value)}
    beam = _beam_values(beam_args)
    text: str = yaml.dump(
        {**document, **({BEAM: beam} if beam else {})}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000
    )
    return text


def _value(flag: Flag, value: Any) -> Value:
    """Returns the value of a flag as a file has it."""
    if flag.kind is SWITCH:
        return TRUE
    if isinstance(value, (Mapping, tuple)):
        found: Value = json.loads(json.dumps(value))  # lists instead of tuples
        return found
    return flag.kind.texts(value)[0]


def _beam_values(words: Sequence[str]) -> dict[str, Value]:
    """Returns Beam's flags by name: the value of a flag without one is `true`, and several values are a list."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, sign, value = word[2:].partition("=")
            found.setdefault(name, []).extend([value] if sign else [])
        elif not name:
            raise UsageError(f"{word!r} belongs to no flag; see keyjoin run --help")
        else:
            found[name].append(word)
    return {
        name: TRUE
        if not values
        else values[0]
        if values not in ([TRUE], [FALSE], [""]) and len(values) == 1
        else list(values)
        for name, values in found.items()
    }


def _words(config: Config, names: set[str]) -> Iterator[str]:
    """Yields the words of the flags of a file, except those in `names`.

    Raises:
        UsageError: A flag is unknown, or its value is wrong.
    """
    flags = flags_of(RunOptions)
    for name, value in config.values.items():
        if name == BEAM:
            yield from _beam_words(config.path, value, names)
        elif name in ONLY_TYPED:
            raise UsageError(f"{config.path}: a file cannot have {name}; give --{name} on the command line")
        elif name not in flags:
            known = [*flags, BEAM]
            raise UsageError(
                f"{config.path}: there is no flag {name}{nearest(name, known)}; flags of Beam stand below {BEAM}:"
            )
        elif name not in names:
            try:
                yield from _flag_words(name, flags[name], value)
            except (UsageError, ValueError) as error:
                raise UsageError(f"{config.path}: {name}: {error}") from error


def _flag_words(name: str, flag: Flag, value: Value) -> list[str]:
    if flag.kind is SWITCH:
        if value not in (TRUE, FALSE):
            raise ValueError(f"{value!r} is not true or false")
        return [f"--{name}"] if value == TRUE else []
    texts = _texts(flag, value)
    read = [flag.kind.parse(text) for text in texts]
    made = collected(name, flag, read if flag.kind.collect else read[0])
    if not isinstance(value, str) and isinstance(made, (tuple, Mapping)) and json.loads(json.dumps(made)) != value:
        raise ValueError(f"{value!r} cannot be written so; write it as on the command line, in quotes")
    return [f"--{name}={text}" for text in texts]


def _texts(flag: Flag, value: Value) -> list[str]:
    """Returns the texts that a user would type for a value."""
    kind = flag.kind
    if isinstance(value, str):
        return [value]
    if kind is kinds.ERROR_LIMITS and isinstance(value, dict) and value:
        return list(ErrorLimits.items({name: _text(number) for name, number in value.items()}))
    if kind.collect is not None and isinstance(value, list) and value:
        return [_text(each) for each in value]
    if kind.empty is dict and isinstance(value, dict) and value:
        nests = kind is kinds.FIELDS
        return list(kind.texts({name: _path(one) if nests else _text(one) for name, one in value.items()}))
    if kind.empty is tuple and isinstance(value, list) and value:
        nests = kind is kinds.COLUMNS
        return list(kind.texts(tuple(_path(one) if nests else _text(one) for one in value)))
    raise ValueError(f"{value!r} is not one text")


def _text(value: Value) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not one text")
    return value


def _path(value: Value) -> str | tuple[str, ...]:
    return tuple(map(_text, value)) if isinstance(value, list) else _text(value)


def _beam_words(path: str, value: Value, names: set[str]) -> Iterator[str]:
    if not isinstance(value, dict):
        raise UsageError(f"{path}: {BEAM}: {value!r} is not a mapping of flags of Beam, such as runner: DataflowRunner")
    for name, one in value.items():
        if name.replace("-", "_") in names or one == FALSE:
            continue
        if isinstance(one, dict) or not all(isinstance(text, str) for text in one):
            raise UsageError(f"{path}: {BEAM}: {name}: {one!r} is neither a text nor a list of texts")
        yield from (
            [f"--{name}"] if one == TRUE else [f"--{name}={text}" for text in ([one] if isinstance(one, str) else one)]
        )


# Files

_OPENING = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)


def _read(path: str) -> str:
    """Reads a file on this machine or in an object store."""
    try:
        if "://" in path:
            from transforms.storage import files  # imports Beam, which a file on this machine does not need

            content = files.read_small(path)
        else:
            with open(path, "rb") as file:
                content = file.read()
        if content is None:
            raise FileNotFoundError(f"there is no file {path}")
        return content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--config {path} cannot be read: {error}; check the path, and that it is text in UTF-8"
        ) from error


def _checked(path: str, document: Value) -> dict[str, Value]:
    """Returns the mapping of a file, with underscores in the names of flags."""
    if not isinstance(document, dict):
        raise UsageError(f"{path} is not a mapping of flags to values, such as model: model/")
    found: dict[str, Value] = {}
    for name, value in document.items():
        plain = name.replace("-", "_")
        if plain in found:
            raise UsageError(f"{path}: {name} is given twice; give it once")
        found[plain] = value
    return found


def _from_yaml(path: str, text: str) -> Value:
    try:
        depth = 0
        for token in yaml.scan(text):
            if isinstance(token, (yaml.AliasToken, yaml.TagToken)):
                raise UsageError(f"{path} has an alias (*) or a tag (!); write the value itself, or put it in quotes")
            depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
            if depth > DEEPEST:  # PyYAML takes minutes for a file of many levels
                raise UsageError(f"{path}, line {token.start_mark.line + 1}: more than {DEEPEST} levels of values")
        node = yaml.compose(text, Loader=yaml.BaseLoader)
        return {} if node is None else _from_node(path, node)
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {error}") from error


def _from_node(path: str, node: yaml.Node) -> Value:
    if isinstance(node, yaml.SequenceNode):
        return [_from_node(path, one) for one in node.value]
    where = f"{path}, line {node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Value] = {}
        for key, value in node.value:
            name = _from_node(path, key)
            if not isinstance(name, str) or name in found:
                line = key.start_mark.line + 1
                raise UsageError(f"{path}, line {line}: {name!r} is given twice, or is not a name; give it once")
            found[name] = _from_node(path, value)
        return found
    text: str = node.value
    if not text and not node.style:
        raise UsageError(f"{where}: a value is missing; write one, or '' for an empty text, or remove the key")
    return text


def _from_json(path: str, text: str) -> Value:
    def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise ValueError(f"{name!r} is given twice; give it once")
            found[name] = value
        return found

    try:
        return _plain(
            json.loads(text, parse_float=str, parse_int=str, parse_constant=str, object_pairs_hook=once)
            if text.strip()
            else {}
        )
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not a job file in JSON: {error}") from error


def _from_toml(path: str, text: str) -> Value:
    try:
        toml = importlib.import_module("tomllib")  # from Python 3.11 on
    except ImportError as error:
        raise UsageError(f"{path}: TOML needs Python 3.11; write the file as YAML, and call it job.yaml") from error
    try:
        return _plain(toml.loads(text, parse_float=str))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: {error}; see https://toml.io") from error


def _plain(value: Any) -> Value:
    """Writes the values of TOML and JSON as texts."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, bool):
        return TRUE if value else FALSE
    if isinstance(value, (str, int)):
        return str(value)
    value = "null" if value is None else value
    raise ValueError(f"{value} is neither text, a number, true or false; put it in quotes")


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no types
    """Writes texts without quotes wherever YAML can tell them from other syntax: the reader types no value."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Only double quotes keep what YAML takes for the end of a line, such as U+0085.
    style = "'" if not text else None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent)


# Earlier runs


def _from_run(path: str, names: set[str]) -> Config:
    """Returns the options that an output folder records.

    Raises:
        UsageError: The folder records no run, no other output is named, or the run trusts its model more than the
            command line does: trust settings are never read from an output folder.
    """
    record = next((found for name in (MANIFEST, JOB) if (found := _record(f"{path.rstrip('/')}/{name}"))), None)
    if record is None:
        raise UsageError(
            f"--config {path} is neither a file {', '.join((*YAML, JSON, TOML))} nor the output folder of a run"
        )
    flags = flags_of(RunOptions)
    kept = {name: value for name, value in record.items() if name not in flags or _is_set(flags[name], value)}
    if "output" not in names:
        raise UsageError(f"--config {path} repeats a run; name its output with --output, another folder than {path}")
    kept.pop("output", None)
    trusted = {name: kept.pop(name) for name in flags_of(TrustOptions) if name in kept}
    again = [word for name in trusted.keys() - names for word in _flag_words(name, flags[name], trusted[name])]
    if again:
        raise UsageError(
            f"the run of {path} had {quoted(sorted(again))}; trust in a model is never read from an output folder: "
            "add these flags if you trust the model"
        )
    return Config(path, kept)


def _is_set(flag: Flag, value: Value) -> bool:
    return flag.in_command and value not in (FALSE, [], {})


def _record(path: str) -> dict[str, Value] | None:
    """Returns the options of a record; None if it does not exist."""
    if "://" not in path and not os.path.exists(path):
        return None
    try:
        options = json.loads(_read(path), parse_float=str)["options"]
        return {name: _plain(value) for name, value in options.items() if value is not None}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} is damaged: {error}; give the flags, or a file") from error
