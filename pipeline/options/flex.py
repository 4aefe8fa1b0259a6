"""The Flex template's parameters as a command line; scripts/make_template.py makes the form that asks for them."""

from collections.abc import Sequence

from pipeline.options.flags import run_parser

# They are about runs on this machine, or about who waits for a job; a template's launcher never does.
LEFT_OUT = ("wave_bytes", "max_memory", "detach")


def command_line(parameters: Sequence[str]) -> list[str]:
    """The words of the `keyjoin` command that a template's parameters stand for.

    A parameter is one text: a switch is true or false, a list has spaces between its values, and what was left empty in
    a form was not given. What is wrong is left as it is, for the parser to tell.

    Args:
        parameters: What the launcher was called with, each `--name=value`: the template's parameters, and Beam's flags.

    Returns:
        The command and its flags.

    >>> command_line(["--input=gs://b/1.jsonl gs://b/2*", "--overwrite=true", "--isolate=false", "--format="])
    ['run', '--runner=DataflowRunner', '--input=gs://b/1.jsonl', '--input=gs://b/2*', '--overwrite']
    """
    actions = {flag: action for action in run_parser("")._actions for flag in action.option_strings}
    words = ["run", "--runner=DataflowRunner"]
    for word in parameters:
        flag, _, value = word.partition("=")
        action = actions.get(flag)
        if action is None or "=" not in word:
            words.append(word)
        elif action.nargs == 0 and value in ("true", "false"):
            words += [flag] if value == "true" else []
        elif action.nargs == "+":
            words += [f"{flag}={each}" for each in value.split()]
        elif value:
            words.append(word)
    return words
