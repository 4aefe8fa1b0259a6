"""Writes dataflow/metadata.json, the Flex template's form, from the parser of `keyjoin run`; a test compares the two.

python -m scripts.make_template                  writes it
python -m scripts.make_template --image IMAGE    prints the template's specification, which jobs are started from
"""

import argparse
import json
from pathlib import Path
from typing import Any

from pipeline.options.flags import run_parser
from pipeline.options.flex import LEFT_OUT
from transforms.formats import FORMATS

METADATA = Path(__file__).parents[1] / "dataflow" / "metadata.json"
NAME = "keyjoin"
DESCRIPTION = "Scores rows in bulk with a TensorFlow model and joins each prediction to its row."

# What the service refuses before anything is started, by the function that reads the flag. They are POSIX's extended
# regular expressions, of the whole value; what they let through is checked again by keyjoin.
CHECKS = {
    "_names": "[^,]+(,[^,]+)*|\\[.+\\]",
    "_modules": "[^,]+(,[^,]+)*",
    "_padding": "[^ =]+=[^ ]*( +[^ =]+=[^ ]*)*",
    "_pairs": "[^ =]+=[^ ]+( +[^ =]+=[^ ]+)*|\\{.+\\}",
    "_values": "[^ =]+=[^ ]*( +[^ =]+=[^ ]*)*|\\{.+\\}",
    "_constant": "[^ =]+=[^ ]*( +[^ =]+=[^ ]*)*",
    "_positive": "0*[1-9][0-9]*",
    "_seconds": "[0-9.eE+_-]+",
    "_sha256": "[0-9a-fA-F]{64}",
    "_accelerator": "type:[A-Za-z0-9_-]+;count:[1-9][0-9]*(;[A-Za-z0-9_:.-]+)*",
}
# Where a path has to lie so that Dataflow can reach it, and how the console helps to find it.
PATHS = {
    "input": ("gs://[^ ]+( +gs://[^ ]+)*", "TEXT"),
    "model": ("gs://[^/]+/.+", "TEXT"),
    "output": ("gs://[^/]+/.+", "GCS_WRITE_FOLDER"),
}
MORE_HELP = {
    "input": "Several have spaces between them; in place of a space in a name, write ?.",
    "pad": "Several have spaces between them.",
    "missing": "Several have spaces between them; JSON has none.",
    "input_map": "Several have spaces between them; JSON has none.",
    "constant": "Several have spaces between them.",
}


def metadata() -> dict[str, Any]:
    """The name, the description and the parameters of the template."""
    actions = [a for a in run_parser("keyjoin run")._actions if a.dest not in (*LEFT_OUT, "help")]
    actions.sort(key=lambda action: not action.required)
    return {"name": NAME, "description": DESCRIPTION, "parameters": [_parameter(action) for action in actions]}


def _parameter(action: argparse.Action) -> dict[str, Any]:
    help_text = (str(action.help) % {"default": action.default}).removesuffix("; may be repeated")
    found: dict[str, Any] = {
        "name": action.dest,
        "label": action.dest.replace("_", " ").capitalize(),
        "helpText": " ".join(filter(None, [f"{help_text[0].upper()}{help_text[1:]}.", MORE_HELP.get(action.dest)])),
        "isOptional": not action.required,
        "paramType": "TEXT",
    }
    if action.default and isinstance(action.default, (str, int)):
        found["defaultValue"] = str(action.default)
    if action.dest in PATHS:
        check, found["paramType"] = PATHS[action.dest]
    elif action.nargs == 0:
        check, found["paramType"] = "true|false", "BOOLEAN"
    elif choices := sorted(FORMATS) if action.dest == "format" else action.choices:
        found["paramType"] = "ENUM"
        found["enumOptions"] = [{"value": str(choice), "label": str(choice)} for choice in choices]
        check = "|".join(map(str, choices))
    elif action.type:
        kind = action.type.__qualname__.partition(".")[0]
        check, found["paramType"] = CHECKS[kind], "NUMBER" if kind == "_positive" else "TEXT"
    else:
        return found
    return {**found, "regexes": [f"^({check})$"]}


def specification(image: str) -> dict[str, Any]:
    """What `gcloud dataflow flex-template build` would write, with the image for the workers, too."""
    return {
        "image": image,
        "sdkInfo": {"language": "PYTHON"},
        "metadata": metadata(),
        "defaultEnvironment": {"sdkContainerImage": image},
    }


def as_text(document: dict[str, Any]) -> str:
    """A document as it is written."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", help="with its digest: REGION-docker.pkg.dev/PROJECT/keyjoin/worker@sha256:…")
    if image := parser.parse_args().image:
        print(as_text(specification(image)), end="")
    else:
        METADATA.write_text(as_text(metadata()), encoding="utf-8")
