"""Turns the parameters of the Flex template into a command line.

`scripts/make_template.py` writes the template's form.
"""

from collections.abc import Sequence

from pipeline.options.flag import SWITCH, TRUE, flags_of
from pipeline.options.groups import ConfigOptions
from pipeline.options.run_options import RunOptions


def command_line(parameters: Sequence[str]) -> list[str]:
    """Returns the words of the `keyjoin` command for parameters of the template.

    The value of a parameter is one text. A switch is `true` or `false`, and the values of a list are separated by
    spaces. A parameter that is left empty in the form counts as not given. This function checks nothing: the parser of
    the command reports wrong values.

    Args:
        parameters: The arguments of the launcher, each `--name=value`: the template's parameters, and Beam's flags.

    Returns:
        The command and its flags.

    >>> command_line(["--input=gs://b/1.jsonl gs://b/2*", "--overwrite=true", "--isolate=false", "--format="])
    ['run', '--runner=DataflowRunner', '--input=gs://b/1.jsonl', '--input=gs://b/2*', '--overwrite', '--isolate=false']
    """
    kinds = {f"--{name}": flag.kind for group in (RunOptions, ConfigOptions) for name, flag in flags_of(group).items()}
    words = ["run", "--runner=DataflowRunner"]
    for word in parameters:
        name, _, value = word.partition("=")
        kind = kinds.get(name)
        if kind is None or "=" not in word:
            words.append(word)
        elif kind is SWITCH and value == TRUE:
            words.append(name)
        elif kind.collect is not None:
            words += [f"{name}={each}" for each in value.split()]
        elif value:
            words.append(word)
    return words
