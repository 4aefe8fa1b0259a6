"""Writes dataflow/metadata.json, the form of the Flex template, from the options of `keyjoin run`.

python -m scripts.make_template                  writes the form
python -m scripts.make_template --image IMAGE    prints the template's specification; jobs start from it

A test compares dataflow/metadata.json with the options.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from pipeline.options.flag import FALSE, SWITCH, TRUE, Flag, flags_of
from pipeline.options.groups import ConfigOptions
from pipeline.options.run_options import RunOptions

METADATA = Path(__file__).parents[1] / "dataflow" / "metadata.json"
NAME = "keyjoin"
IN_A_FILE = ("model", "input")  # required flags that the file of `config` may have; each run has its own output
DESCRIPTION = "Scores rows in bulk with a TensorFlow model and joins each prediction to its row."


def metadata() -> dict[str, Any]:
    """Returns the name, the description and the parameters of the template."""
    groups = (RunOptions, ConfigOptions)
    flags = [(name, flag) for group in groups for name, flag in flags_of(group).items() if flag.in_template]
    flags.sort(key=lambda pair: not pair[1].required)
    parameters = [_parameter(name, flag) for name, flag in flags]
    return {"name": NAME, "description": DESCRIPTION, "parameters": parameters}


def _parameter(name: str, flag: Flag) -> dict[str, Any]:
    kind, text = flag.kind, flag.help_text.removesuffix("; may be repeated")
    if name in IN_A_FILE:
        text = f"{text}; required, unless the file of config has it"
    found: dict[str, Any] = {
        "name": name,
        "label": name.replace("_", " ").capitalize(),
        "helpText": f"{text[0].upper()}{text[1:]}. {kind.note}".strip(),
        "isOptional": not flag.required or name in IN_A_FILE,
        "paramType": kind.parameter,
    }
    # No parameter has a default value: a form would send it, and it would beat the file of `config`. The help names it.
    if choices := (TRUE, FALSE) if kind is SWITCH else kind.choices:
        found["enumOptions"] = [{"value": choice, "label": choice} for choice in choices]
    # The service refuses a value that does not match before it starts anything. keyjoin checks matching values again.
    return found if kind.check is None else {**found, "regexes": [f"^({kind.check})$"]}


def specification(image: str) -> dict[str, Any]:
    """Returns the specification that `gcloud dataflow flex-template build` would write, plus the workers' image."""
    return {
        "image": image,
        "sdkInfo": {"language": "PYTHON"},
        "metadata": metadata(),
        "defaultEnvironment": {"sdkContainerImage": image},
    }


def as_text(document: dict[str, Any]) -> str:
    """Returns a document as the JSON text that this script writes."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", help="with its digest: REGION-docker.pkg.dev/PROJECT/keyjoin/worker@sha256:…")
    if image := parser.parse_args().image:
        print(as_text(specification(image)), end="")
    else:
        METADATA.write_text(as_text(metadata()), encoding="utf-8")
